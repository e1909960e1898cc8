"""Loads an exported model with `transformers` and compares it with what the export recorded (reference.py).

The model's directory contains everything that is needed, so this runs anywhere, with any version of
`transformers`.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file

from data_pipelines.command_errors import shorten
from electra_jax.huggingface import pretraining_checks, task_checks
from electra_jax.huggingface.checks import Check, Reference, check_states, compare_config
from electra_jax.huggingface.code_cache import temporary_code_cache
from electra_jax.huggingface.export import CONFIG_FILE, REFERENCE_FILE, WEIGHTS_FILE
from electra_jax.huggingface.published_models import ROLES
from electra_jax.huggingface.reference import digests

Lines = Sequence[tuple[str, list[int]]]  # texts and their ids, with [CLS] and [SEP]


def find_models(directory: Path) -> list[Path]:
    """The directories of exported models: `directory` itself, or its folders.

    Raises:
      FileNotFoundError: there are none.
    """
    candidates = (directory, *(directory / role for role in ROLES))
    found = [path for path in candidates if (path / REFERENCE_FILE).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{directory}: no {REFERENCE_FILE} in it or in its folders discriminator and generator; "
            "expected a directory made by `python -m electra_jax.convert export`."
        )
    return found


def verify(directory: Path, lines: Lines = ()) -> list[Check]:
    """Run every check of one model. If the model cannot be loaded, that is the last check.

    Args:
      directory: of the model.
      lines: texts and their ids on which its tokenizer is checked beside those that it contains.

    Raises:
      ImportError: PyTorch or transformers is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{error}: verification needs PyTorch and transformers. `pip install torch transformers`."
        ) from error

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with temporary_code_cache(transformers):
        return _all_checks(torch, transformers, directory, lines)


def _all_checks(torch, transformers, directory: Path, lines: Lines) -> list[Check]:
    reference = read_reference(directory)
    own_checks = task_checks if "kind" in reference.notes else pretraining_checks
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    checks = [
        compare_config(config, own_checks.wanted_config(directory, reference.notes)),
        *check_arrays(directory, reference),
    ]
    try:
        model, loading = load_model(transformers, directory, config)
    except Exception as error:  # any error that a user of `transformers` would get
        return [*checks, Check("transformers loads it", False, f"{type(error).__name__}: {error}")]
    checks.append(check_loading(transformers, model, loading))
    with torch.no_grad():
        output = model(**model_inputs(torch, config, reference), output_hidden_states=True)
        checks.append(check_states([state.numpy() for state in output.hidden_states], reference.arrays))
        checks += own_checks.check_outputs(torch, model, output, directory, reference)
    checks.append(check_saved_again(directory, model))
    has_code = "auto_map" in config
    return checks + check_tokenizer(transformers, directory, reference, lines, has_code=has_code)


def check_loading(transformers, model, loading: dict[str, Any]) -> Check:
    """Whether the file's arrays are exactly the model's parameters."""
    problems = []
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[problem]:
            problems.append(f"{problem}: {shorten(sorted(map(str, loading[problem])))}")
    name = f"{type(model).__name__} of {transformers.__version__}"
    detail = ", ".join(problems) or f"{name}: no missing, unexpected or mismatched parameters"
    return Check("transformers loads it", not problems, detail)


def read_reference(directory: Path) -> Reference:
    """The content of verification.safetensors."""
    path = directory / REFERENCE_FILE
    with safe_open(path, framework="np") as file:
        notes = json.loads(file.metadata()["notes"])
    return Reference(load_file(path), notes)


def check_arrays(directory: Path, reference: Reference) -> list[Check]:
    """For each weights file: whether it holds the arrays that were exported, and no others."""
    checks = []
    for file, wanted in reference.notes["digests"].items():
        if not (directory / file).is_file():
            checks.append(Check(file, False, "missing"))
            continue
        found = digests(load_file(directory / file))
        problems = []
        for name in sorted(found.keys() | wanted.keys()):
            if name not in found:
                problems.append(f"{name} is missing")
            elif name not in wanted:
                problems.append(f"{name} is new")
            elif found[name] != wanted[name]:
                problems.append(f"{name} is not what was exported")
        checks.append(Check(file, not problems, shorten(problems) or f"{len(wanted)} arrays as exported"))
    return checks


def load_model(transformers, directory: Path, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and the loading report of `transformers`."""
    architecture, options = config["architectures"][0], {}
    name = architecture
    if "auto_map" in config:
        classes = config["auto_map"].items()
        name = next(auto for auto, place in classes if place.endswith(f".{architecture}"))
        options = {"trust_remote_code": True}
    loader = getattr(transformers, name)
    model, loading = loader.from_pretrained(directory, output_loading_info=True, **options)
    return model.float().eval(), loading


def model_inputs(torch, config: dict[str, Any], reference: Reference) -> dict[str, Any]:
    """The recorded rows, as arguments of the model."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if config["type_vocab_size"] else [])]
    return {name: torch.from_numpy(reference.arrays[name]) for name in names}


def check_saved_again(directory: Path, model) -> Check:
    """Whether `save_pretrained` writes every parameter, so that none has a name unknown to the class."""
    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        saved, exported = (set(load_file(Path(path) / WEIGHTS_FILE)) for path in (again, directory))
    # DebertaV2Model saves itself without the prefix that its parameters have in the task models.
    strip = lambda names: {name.removeprefix("deberta.") for name in names}
    problems = sorted(strip(saved) ^ strip(exported))
    return Check("saved again", not problems, shorten(problems) or f"the same {len(exported)} parameters")


def check_tokenizer(
    transformers, directory: Path, reference: Reference, lines: Lines, *, has_code: bool
) -> list[Check]:
    """Token ids of the recorded lines, of `lines`, and of the recorded words of a tagger. `has_code`: no
    tokenizer has code, but AutoTokenizer asks for trust if the model has."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=has_code)
    except Exception as error:
        return [Check("tokenizer", False, f"{type(error).__name__}: {error}")]
    words = reference.notes.get("words")
    return [
        check_lines(tokenizer, reference.notes["lines"]),
        *([check_lines(tokenizer, lines, "tokenizer on held-out text")] if lines else []),
        *([task_checks.check_words(tokenizer, words)] if words else []),
    ]


def check_lines(tokenizer, lines: Lines, name: str = "tokenizer") -> Check:
    """Token ids of texts."""
    if not lines:
        return Check(name, True, "loads; its ids are not compared, since the export contains no text")
    for text, wanted in lines:
        got = tokenizer(text)["input_ids"]
        if got != wanted:
            pairs = enumerate(zip(got, wanted, strict=False))
            place = next((index for index, (a, b) in pairs if a != b), min(len(got), len(wanted)))
            detail = (
                f"ids of {text[:60]!r} differ from token {place} on: got {got[place : place + 8]}, "
                f"expected {wanted[place : place + 8]}"
            )
            return Check(name, False, detail)
    return Check(name, True, f"the ids of {len(lines)} lines")


def report(name: str, checks: list[Check]) -> bool:
    """Print one line for each check; returns whether all passed."""
    print(name)
    for check in checks:
        print(f"  {'ok    ' if check.is_passed else 'FAILED'} {check.name:30s} {check.detail}")
    return all(check.is_passed for check in checks)
