"""Token views: held-out sentences, what the generator wrote into them, and what the discriminator believed,
at several checkpoints.

They are computed once and kept in the run's TOKENS_FILE: a page is written again without a model, and shows
checkpoints that have been removed since.
"""

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.json_files import misread, read_json, write_json
from data_pipelines.progress import make_progress
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.distributed.mesh import make_mesh
from electra_jax.prediction.demonstration import Demonstrator
from electra_jax.prediction.models import load
from electra_jax.prediction.tokens import TokenPredictor
from electra_jax.reports.curves import evenly
from electra_jax.reports.run_view import RunView
from electra_jax.reports.sentences import Sentences, held_out_sentences, own_sentences
from electra_jax.runs.bucket_checkpoints import open_checkpoints
from electra_jax.runs.trained import dataset_paths

TOKENS_FILE = "token_views.json"
MAX_KEPT = 1 << 28  # bytes of it that are read
SETS_KEPT = 8  # of sentences; those that were computed longest ago are dropped
SEED = 0  # of the masks and of what is drawn: the same at every checkpoint
UNREADABLE = (ValueError, OSError, KeyError, TypeError, ImportError)


class TokenSettings(NamedTuple):
    """What to show."""

    texts: str  # a file of the user's; "": held-out rows
    num_sentences: int
    num_checkpoints: int  # 0: none


class TokenView(NamedTuple):
    """The sentences at one checkpoint."""

    step: int
    sentences: list[list[dict[str, Any]]]  # for each a record for each token, as `Demonstrator.demonstrate`


class TokenViews(NamedTuple):
    """The sentences at several checkpoints, oldest first."""

    source: str  # where the sentences come from
    views: list[TokenView]


NOTHING = TokenViews("", [])


def token_views(run: RunView, settings: TokenSettings, problems: list[str]) -> TokenViews:
    """The views of a run: those that it keeps, and those that are computed now, which it then keeps, too.

    What cannot be computed becomes a sentence in `problems`.

    Raises:
      ValueError, OSError: the user's file of texts cannot be read.
    """
    if not settings.num_checkpoints:
        return NOTHING
    kept = _read_kept(run.path / TOKENS_FILE, problems)
    sentences = _sentences(run, settings, problems)
    if sentences is None:
        return _chosen(list(kept.values())[-1], settings) if kept else NOTHING
    digest = _digest(run, sentences)
    known = kept.pop(digest)["views"] if digest in kept else {}
    stamps = _checkpoints(run, known, problems)
    # A step that was trained again, after a rollback for example, has another checkpoint.
    valid = {
        step: view
        for step, view in known.items()
        if stamps.get(step, view["checkpoint"]) == view["checkpoint"] and (step in stamps or step <= run.step)
    }
    missing = [
        step for step in evenly(sorted({*valid, *stamps}), settings.num_checkpoints) if step not in valid
    ]
    computed = _compute(run, missing, sentences, problems) if missing else {}
    views = valid | {step: {"checkpoint": stamps[step], "sentences": one} for step, one in computed.items()}
    found = {"source": sentences.source, "views": dict(sorted(views.items()))}
    if computed:
        _keep(run, kept | {digest: found})  # the newest last
    return _chosen(found, settings)


def _sentences(run: RunView, settings: TokenSettings, problems: list[str]) -> Sentences | None:
    """None, and a problem, if the run has no sentences."""
    try:
        tokenizer: Tokenizer = load_tokenizer(str(run.path / "tokenizer"))
    except UNREADABLE as error:
        problems.append(f"Token view: the run's tokenizer could not be read: {error}")
        return None
    if settings.texts:
        return own_sentences(settings.texts, settings.num_sentences, tokenizer)
    try:
        with misread("config.json", ""):
            paths = dataset_paths(run.path, run.config, run.step)
        return held_out_sentences(paths, settings.num_sentences, tokenizer)
    except UNREADABLE as error:
        problems.append(f"Token view: no held-out sentences: {error}. --texts=FILE gives some.")
        return None


def _digest(run: RunView, sentences: Sentences) -> str:
    """What a view depends on beside the checkpoint."""
    started = run.sessions[0].get("started") if run.sessions else ""
    ids = [one.ids.tolist() for one in sentences.spelled]
    return hashlib.sha256(json.dumps([str(started), SEED, ids]).encode()).hexdigest()


def _checkpoints(run: RunView, known: dict[int, Any], problems: list[str]) -> dict[int, str]:
    """Step → what tells one checkpoint of that step from another. None is no problem if views are known."""
    try:
        with contextlib.closing(open_checkpoints(run.path, keep=None)) as checkpointer:
            steps = checkpointer.all_steps()
    except UNREADABLE as error:
        problems.append(f"Token view: the checkpoints could not be listed: {error}")
        return {}
    if not steps and not known:
        problems.append("Token view: the run has no checkpoint yet.")
    return {step: _stamp(run.path / "checkpoints" / str(step)) for step in steps}


def _stamp(directory: Path) -> str:
    try:
        return str(directory.stat().st_mtime_ns)
    except OSError:  # in a bucket
        return ""


def _compute(
    run: RunView, steps: list[int], sentences: Sentences, problems: list[str]
) -> dict[int, list[list[dict[str, Any]]]]:
    """Step → sentences; a checkpoint that cannot be read is left out."""
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    batch_size = -(-len(sentences.spelled) // mesh.size) * mesh.size
    computed = {}
    with make_progress(len(steps), "token views", unit="checkpoint") as progress:
        for done, step in enumerate(steps, 1):
            try:
                predictor = TokenPredictor(load(run.place, step), batch_size, 1, mesh)
                computed[step] = Demonstrator(predictor, SEED).demonstrate(sentences.spelled)
            except (*UNREADABLE, FloatingPointError) as error:
                problems.append(f"Token view: checkpoint {step} is left out: {error}")
            progress.update(done)
    return computed


def _read_kept(path: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """What earlier reports kept: digest of some sentences → their "source" and "views"; the newest last."""
    kept = {}
    try:
        for digest, found in read_json(path, dict, max_bytes=MAX_KEPT).items():
            views = {int(step): view for step, view in found["views"].items()}
            for view in views.values():
                _check_sentences(view["sentences"], view["checkpoint"])
            kept[digest] = {"source": str(found["source"]), "views": views}
    except FileNotFoundError:
        return {}
    except (*UNREADABLE, AttributeError):
        problems.append(f"{path.name} could not be read, and is computed again.")
        return {}
    return kept


def _check_sentences(sentences: Any, stamp: Any) -> None:
    """Raises ValueError unless a kept view has the form of a computed one."""
    forms = {"token": str, "drawn": str, "probability": float, "is_replaced": bool}
    forms |= {"replaced": float, "energy": float}
    tokens = [token for sentence in sentences for token in sentence]
    are_right = all(
        "token" in token
        and all(isinstance(value, forms[name]) and value == value for name, value in token.items())
        for token in tokens
    )
    if not are_right or not isinstance(stamp, str):
        raise ValueError("another form")


def _keep(run: RunView, kept: dict[str, Any]) -> None:
    """Write the last SETS_KEPT to TOKENS_FILE, of long ones as many as are read again, unless the run may not
    be written or is in a bucket."""
    chosen: dict[str, Any] = {}
    size = 0
    for digest, found in reversed(list(kept.items())[-SETS_KEPT:]):
        size += len(json.dumps({digest: found}, indent=2))
        if size > MAX_KEPT:
            break
        chosen = {digest: found} | chosen
    if run.is_local and not chosen:
        print(f"{TOKENS_FILE}: more than {MAX_KEPT:,} bytes are not kept. Show less of it.", file=sys.stderr)
    elif run.is_local:
        try:
            write_json(run.path / TOKENS_FILE, chosen)
        except OSError as error:
            print(f"{run.path / TOKENS_FILE}: not written ({error.strerror}).", file=sys.stderr)


def _chosen(found: dict[str, Any], settings: TokenSettings) -> TokenViews:
    views = found["views"]
    steps = evenly(sorted(views), settings.num_checkpoints)
    return TokenViews(found["source"], [TokenView(step, views[step]["sentences"]) for step in steps])
