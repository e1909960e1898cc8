"""From other people's checkpoints to parameters of ours: what is there is taken, what is missing is made, and
both are said.

Shapes: V vocab, E embedding_size.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from electra_jax.huggingface.configuration import RELATIVE_BIAS_PREFIX, from_config_json
from electra_jax.huggingface.export import TRAINING_FILE
from electra_jax.huggingface.names import flatten, from_file, unflatten
from electra_jax.huggingface.published_models import ROLES, Params, shares_embeddings
from electra_jax.huggingface.readers import SourceModel, merge_deltas, read_directory, read_google
from electra_jax.objectives.registry import find_row, own_settings

KINDS = ("huggingface", "microsoft", "google")
MISSING_GENERATOR = ("first_layers", "fresh")
_OF_ONE_ENCODER = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
VOCABULARY_LEAVES = ("embeddings/word_embeddings/embedding", "head/bias")  # [V, E] and [V]
MAX_SHOWN = 6


class Source(NamedTuple):
    """Role → model, and what was noticed while reading. `training` is the run's configuration, of an export
    of ours."""

    models: dict[str, SourceModel]
    notes: list[str]
    training: dict[str, Any] | None


def read_source(path: Path, kind: str, generator: Path | None) -> Source:
    """Read a discriminator (or an encoder without a head) and, where there is one, its generator.

    `path` may be a directory with folders "discriminator" and "generator", as the export makes them.

    Raises:
      ValueError, OSError, ImportError: see `read_directory`, `read_google`, `merge_deltas`.
    """
    if kind == "google":
        return Source(read_google(path), [], None)
    folders = {role: path / role for role in ROLES if (path / role).is_dir()} or {_role_of(path): path}
    if generator is not None:
        folders["generator"] = generator
    models, notes = {role: read_directory(folder) for role, folder in folders.items()}, []
    if "discriminator" in models:
        models["discriminator"], notes = merge_deltas(models["discriminator"], models.get("generator"))
    training = next(
        (
            json.loads((folder / TRAINING_FILE).read_text())["config"]
            for folder in folders.values()
            if (folder / TRAINING_FILE).is_file()
        ),
        None,
    )
    return Source(models, notes, training)


def _role_of(path: Path) -> str:
    """A masked language model of ELECTRA or DeBERTa is a generator; all else is taken for an encoder to go on
    with."""
    config_file = (path if path.is_dir() else path.parent) / "config.json"
    architectures = (
        json.loads(config_file.read_text()).get("architectures") if config_file.is_file() else None
    )
    is_generator = architectures in (
        ["ElectraForMaskedLM"],
        [f"{RELATIVE_BIAS_PREFIX}ForMaskedLM"],
        ["DebertaV2ForMaskedLM"],
    )
    return "generator" if is_generator or "generator" in path.name else "discriminator"


def plain_objective(objective: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """config.objective for training that continues from an exported model, and notes of what changed: where
    exports leave out modules that an objective trains, its row names the objective that continues."""
    continued_by = find_row(objective["name"]).continues_as or objective["name"]
    plain = own_settings(objective | {"name": continued_by, "generator": "model"})
    return plain, [
        f"objective.{key}: {plain[key]!r} in the place of {objective[key]!r}, of which not all is exported"
        for key in ("name", "generator")
        if plain[key] != objective[key]
    ]


def model_section(recipe: dict[str, Any], source: Source, missing_generator: str) -> dict[str, Any]:
    """config.model, but for embedding_sharing, for what was read: shapes from the files, the rest from the
    recipe's section.

    Raises: ValueError: the two models do not fit together, or only a generator was given where a
      discriminator is needed.
    """
    models = source.models
    is_mlm = recipe["objective"]["name"] == "mlm"
    if ("discriminator" in models) == is_mlm:
        raise ValueError(
            f"got {' and '.join(models)} for a recipe with objective {recipe['objective']['name']!r}, "
            "expected "
            + (
                "a masked language model alone."
                if is_mlm
                else "a discriminator, or an encoder to become one, in "
                "--from. Give a generator with --generator beside it, or choose a recipe with objective=mlm."
            )
        )
    template = recipe["model"]
    ours = template["disentangled"] or {"enhanced_mask_decoder": False}
    has_decoder = (
        _has_decoder(models["generator"]) if "generator" in models else ours["enhanced_mask_decoder"]
    )
    fields = {
        role: from_config_json(
            model.config,
            enhanced_mask_decoder=has_decoder,
            dtype=template["dtype"],
        )
        for role, model in models.items()
    }
    main = fields["generator" if is_mlm else "discriminator"]
    own = {role: {key: values[key] for key in _OF_ONE_ENCODER} for role, values in fields.items()}
    if not is_mlm and "generator" in fields:
        differing = [
            f"{key}: {fields['generator'][key]!r} and {value!r}"
            for key, value in main.items()
            if key not in _OF_ONE_ENCODER and fields["generator"][key] != value
        ]
        if differing:
            raise ValueError(
                f"generator and discriminator differ in {'; '.join(differing)}. They do not belong together."
            )
    if "generator" not in own:
        own["generator"] = {key: template["generator"][key] for key in _OF_ONE_ENCODER}
        if missing_generator == "first_layers":
            num_layers = max(
                own["discriminator"]["num_layers"] // 2, 1 + has_decoder
            )  # a decoder takes the last one
            own["generator"] = own["discriminator"] | {"num_layers": num_layers}
    if is_mlm:
        own["discriminator"] = own["generator"]
    shared = {key: value for key, value in main.items() if key not in _OF_ONE_ENCODER}
    return shared | own


def _has_decoder(generator: SourceModel) -> bool:
    """Only the enhanced mask decoder reads a position table that the input does not."""
    return not generator.config.get("position_biased_input", True) and any(
        name.endswith("position_embeddings.weight") for name in generator.arrays
    )


def load_trees(
    source: Source, fresh: dict[str, Params], missing_generator: str
) -> tuple[dict[str, Params], list[str]]:
    """Parameters of each published model that the files hold, on top of `fresh` ones (role → parameters); and
    what was done.

    A missing generator takes the discriminator's embeddings and, for "first_layers", its first layers. Heads
    may be missing.

    Raises:
      ValueError: an array of an encoder is missing or of another size.
    """
    trees, notes = {}, list(source.notes)
    for role, model in source.models.items():
        leaves = flatten(fresh[role])
        found = from_file(
            model.family, role, model.arrays, {path: leaf.shape for path, leaf in leaves.items()}
        )
        lacking = [path for path in found.missing if not path.startswith("head/")]
        if lacking:
            raise ValueError(
                f"{model.path}: the file has no arrays for {_some(lacking)}; it holds "
                f"{_some(sorted(model.arrays))}."
            )
        trees[role] = unflatten(leaves | found.leaves)
        notes.append(f"{role}: {len(found.leaves)} arrays from {model.path}")
        if found.missing:
            notes.append(f"{role}: made anew, since the file lacks them: {_some(found.missing)}")
        if found.unused and not model.family.prefix.endswith("/"):
            notes.append(f"{role}: not used: {_some(found.unused)}")
    if "generator" not in trees:
        trees["generator"], note = _make_generator(
            trees["discriminator"], fresh["generator"], missing_generator
        )
        notes.append(note)
    return trees, notes


def _make_generator(discriminator: Params, fresh: Params, missing_generator: str) -> tuple[Params, str]:
    leaves = flatten(fresh)
    prefixes = ("embeddings/", "encoder/") if missing_generator == "first_layers" else ("embeddings/",)
    taken = {
        path: leaf
        for path, leaf in flatten(discriminator).items()
        if path in leaves and path.startswith(prefixes) and leaf.shape == leaves[path].shape
    }
    layers = sum(path.endswith("attention/query/kernel") for path in leaves)
    what = (
        f"{layers} layers, the discriminator's first"
        if missing_generator == "first_layers"
        else f"{layers} fresh layers"
    )
    return unflatten(
        leaves | taken
    ), f"generator: made here: the discriminator's embeddings, {what}, a fresh head"


def choose_sharing(source: Source, trees: dict[str, Params], is_deberta: bool) -> str | None:
    """How the embeddings of what was read are shared; None where the recipe decides."""
    if source.training is not None:
        return source.training["model"]["embedding_sharing"]
    if len(source.models) < len(ROLES):
        return None
    return "tied" if shares_embeddings(trees, is_deberta) else "gdes" if is_deberta else "none"


def resize_vocabulary(
    trees: dict[str, Params], old_pieces: list[str], new_pieces: list[str], vocab_size: int, seed: int
) -> tuple[dict[str, Params], str]:
    """Rows for a new vocabulary, and what was done. A piece spelled as an old one keeps its row and output
    bias; every other row starts at the mean of the old table plus normal noise of a tenth of its standard
    deviation, its bias at the mean."""
    place = {piece: row for row, piece in enumerate(old_pieces)}
    kept = [(row, place[piece]) for row, piece in enumerate(new_pieces) if piece in place]
    new_rows, old_rows = (np.array(rows, int) for rows in zip(*kept, strict=True))
    # The same noise for both models: tables that are the same stay the same.
    draw = lambda shape: np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    def resize(x: np.ndarray) -> np.ndarray:
        old = np.asarray(x)[: len(old_pieces)]
        rows = old.mean(axis=0) + (
            0.1 * old.std(axis=0) * draw((vocab_size, *old.shape[1:])) if old.ndim > 1 else 0.0
        )
        rows = np.broadcast_to(rows, (vocab_size, *old.shape[1:])).astype(np.float32).copy()
        rows[new_rows] = old[old_rows]
        return rows

    resized = {}
    for role, tree in trees.items():
        leaves = flatten(tree)
        leaves |= {path: resize(leaves[path]) for path in VOCABULARY_LEAVES if path in leaves}
        resized[role] = unflatten(leaves)
    return resized, (
        f"vocabulary: {len(kept):,} of {len(new_pieces):,} pieces keep their rows, the others start near "
        f"the mean of the old table (it had {len(old_pieces):,})"
    )


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - MAX_SHOWN} more" if len(items) > MAX_SHOWN else ""
    return ", ".join(items[:MAX_SHOWN]) + rest
