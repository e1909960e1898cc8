"""Turns checkpoints of other projects into our parameters. Notes for the user list the parameters that were
read and those that were newly initialised because the files lack them.

Shapes: V vocab, E embedding_size.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import misread, read_json
from data_pipelines.tokenizers.correspondence import find_correspondence, find_parts
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.huggingface.configuration import RELATIVE_BIAS_PREFIX, from_config_json
from electra_jax.huggingface.export import CONFIG_FILE, TRAINING_FILE
from electra_jax.huggingface.names import from_file
from electra_jax.huggingface.published_models import ROLES, Params, shares_embeddings
from electra_jax.huggingface.readers import (
    SourceModel,
    generator_beside,
    merge_deltas,
    read_directory,
    read_google,
)
from electra_jax.huggingface.sizes import check_layers
from electra_jax.huggingface.training_settings import read_training_settings
from electra_jax.models.published_sizes import half_depth
from electra_jax.objectives.registry import find_row, own_settings

SOURCE_FORMATS = ("huggingface", "microsoft", "google")
MASKED_LM = "ForMaskedLM"  # at the end of the names of classes
MISSING_GENERATOR = ("first_layers", "fresh")
# Fields of config.model that each of the two encoders has; all others are shared.
_OF_ONE_ENCODER = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
VOCABULARY_LEAVES = ("embeddings/word_embeddings/embedding", "head/bias")  # [V, E] and [V]
MAX_SHOWN = 6  # names that a note or an error lists


class Source(NamedTuple):
    """A checkpoint as read from files."""

    models: dict[str, SourceModel]  # by role
    notes: list[str]  # about the files, for the user
    training: dict[str, Any] | None  # what is believed of the run's configuration (training_settings.py)
    has_generator_beside: bool = False  # found in the discriminator's directory, and not asked for


def read_source(path: Path, source_format: str, generator: Path | None) -> Source:
    """Read a discriminator (or an encoder without a head) and its generator, if there is one.

    `path` may be a directory with folders "discriminator" and "generator", as the export writes them, or one
    with both files, as Microsoft publishes them.

    Raises:
      ValueError: `generator` for google, whose files hold it.
      ValueError, OSError, ImportError: see `read_directory`, `read_google`, `merge_deltas`.
    """
    if source_format == "google":
        if generator is not None:
            raise ValueError(
                f"--generator: got {generator} with --kind=google, expected none: the generator of a "
                "checkpoint of Google's is in the same files. Leave the flag out."
            )
        return Source(read_google(path), [], None)
    folders = {role: path / role for role in ROLES if (path / role).is_dir()} or {_role_of(path): path}
    beside = generator_beside(folders["discriminator"]) if list(folders) == ["discriminator"] else None
    if generator or beside:
        folders["generator"] = generator or beside
    models, notes = {role: read_directory(folder) for role, folder in folders.items()}, []
    if "discriminator" in models:
        models["discriminator"], notes = merge_deltas(models["discriminator"], models.get("generator"))
    training = _training_config(list(folders.values()))
    return Source(models, notes, training, generator is None and beside is not None)


def _training_config(folders: list[Path]) -> dict[str, Any] | None:
    """Settings of the run that was exported, from the first folder that has them."""
    for folder in folders:
        if (folder / TRAINING_FILE).is_file():
            return read_training_settings(folder / TRAINING_FILE)
    return None


def _role_of(path: Path) -> str:
    """A masked language model of ELECTRA or DeBERTa is a generator, and so is every one that this project
    exported; anything else becomes a discriminator, also someone else's masked language model of another
    family."""
    directory = path if path.is_dir() else path.parent
    config_file = directory / CONFIG_FILE
    config = read_json(config_file, dict) if config_file.is_file() else {}
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    generators = [f"{prefix}{MASKED_LM}" for prefix in ("Electra", RELATIVE_BIAS_PREFIX, "DebertaV2")]
    is_own = (directory / TRAINING_FILE).is_file() and isinstance(name, str) and name.endswith(MASKED_LM)
    return "generator" if is_own or name in generators or "generator" in path.name else "discriminator"


def plain_objective(objective: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """config.objective for continuing from an exported model, and notes about what changed.

    Some objectives train modules that exports leave out. Their rows name the objective that continues.
    """
    continued_by = find_row(objective["name"]).continues_as or objective["name"]
    plain = own_settings(objective | {"name": continued_by, "generator": "model"})
    return plain, [
        f"objective.{key}: {plain[key]!r} instead of {objective[key]!r}, which is not exported completely"
        for key in ("name", "generator")
        if plain[key] != objective[key]
    ]


def model_section(recipe: dict[str, Any], source: Source, missing_generator: str) -> dict[str, Any]:
    """config.model for the models that were read, without embedding_sharing: shapes from the files, the rest
    from the recipe.

    Raises:
      ValueError: the two models do not belong together, or there is no discriminator where the recipe needs
        one.
    """
    template, models = recipe["model"], source.models
    is_mlm = recipe["objective"]["name"] == "mlm"
    _check_roles(list(models), recipe["objective"]["name"])
    has_decoder = (template["disentangled"] or {"enhanced_mask_decoder": False})["enhanced_mask_decoder"]
    if "generator" in models:
        has_decoder = stores_decoder(models["generator"])
    output_dropout = (template["rotary"] or {"attention_output_dropout": 0.0})["attention_output_dropout"]
    fields = {}
    for role, model in models.items():
        with misread(model.path):
            fields[role] = from_config_json(
                model.config,
                enhanced_mask_decoder=has_decoder,
                dtype=template["dtype"],
                attention_output_dropout=output_dropout,
            )
            check_layers(model.config["num_hidden_layers"], arrays_of_encoder(model))
    if len(fields) == len(ROLES):
        _check_belong_together(fields["discriminator"], fields["generator"])
    encoders = {role: _of_one_encoder(values) for role, values in fields.items()}
    if is_mlm:
        encoders["discriminator"] = encoders["generator"]
    elif "generator" not in encoders:
        encoders["generator"] = _of_one_encoder(template["generator"])
        if missing_generator == "first_layers":
            least = 1 + has_decoder  # a decoder uses the last layer
            num_layers = max(_generator_layers(fields["discriminator"]), least)
            encoders["generator"] = encoders["discriminator"] | {"num_layers": num_layers}
    main = fields["generator" if is_mlm else "discriminator"]
    shared = {key: value for key, value in main.items() if key not in _OF_ONE_ENCODER}
    return shared | encoders


def _generator_layers(discriminator: dict[str, Any]) -> int:
    """About half as many layers. ModernBERT's last layer stays a global one."""
    num_layers, rotary = discriminator["num_layers"], discriminator["rotary"]
    return half_depth(num_layers, rotary["global_attention_every"]) if rotary else num_layers // 2


def arrays_of_encoder(model: SourceModel) -> list[str]:
    """Names of the arrays of one encoder. Google's files hold two."""
    is_alone = not model.family.prefix.endswith("/")
    return [name for name in model.arrays if is_alone or name.startswith(model.family.prefix)]


def _check_roles(roles: list[str], objective: str) -> None:
    """A masked language model needs a generator alone, every other objective a discriminator."""
    if objective == "mlm" and "discriminator" in roles:
        expected = "a masked language model alone."
    elif objective != "mlm" and "discriminator" not in roles:
        expected = (
            "a discriminator in --from, or an encoder that can become one. Give a generator with --generator "
            "beside it, or choose a recipe with objective=mlm."
        )
    else:
        return
    raise ValueError(
        f"got {' and '.join(roles)} for a recipe with objective {objective!r}, expected {expected}"
    )


def _check_belong_together(discriminator: dict[str, Any], generator: dict[str, Any]) -> None:
    differing = [
        f"{key}: {generator[key]!r} and {value!r}"
        for key, value in discriminator.items()
        if key not in _OF_ONE_ENCODER and generator[key] != value
    ]
    if differing:
        raise ValueError(
            f"generator and discriminator differ in {'; '.join(differing)}. They do not belong together."
        )


def _of_one_encoder(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: fields[key] for key in _OF_ONE_ENCODER}


def stores_decoder(generator: SourceModel) -> bool:
    """Only an enhanced mask decoder reads a position table that the input does not read."""
    return not generator.config.get("position_biased_input", True) and any(
        name.endswith("position_embeddings.weight") for name in generator.arrays
    )


def check_output_table(role: str, model: SourceModel, leaves: Collection[str]) -> None:
    """Raises ValueError if the head that fills in masks is among `leaves`, the paths that the file has, and
    multiplies by a table of its own: ours multiplies by the word embeddings. An encoder without this head is
    the same either way."""
    has_head = role == "generator" and any(path.startswith("head/") for path in leaves)
    tied = model.config.get("tie_word_embeddings", True)
    if has_head and tied is not True:
        raise ValueError(
            f"{model.path}: got tie_word_embeddings={tied!r} in its config.json, expected True: our head for "
            "masks has no output table but the word embeddings. Set it to true if the two tables are equal. "
            "For the encoder alone, save it with AutoModel of `transformers`, which leaves the head out."
        )


class Found(NamedTuple):
    """What the files have of the models' parameters."""

    leaves: dict[str, dict[str, np.ndarray]]  # role → our path → array
    notes: list[str]


def find_params(source: Source, shapes: dict[str, dict[str, tuple[int, ...]]]) -> Found:
    """The arrays of the files for the parameters of `shapes`, role → our path → shape. A head may be missing.

    Raises:
      ValueError: an array of an encoder is missing, its size differs, or a head has another output table.
    """
    leaves, notes = {}, list(source.notes)
    for role, model in source.models.items():
        with misread(model.path):
            found = from_file(model.family, role, model.arrays, shapes[role])
        lacking = [path for path in found.missing if not path.startswith("head/")]
        if lacking:
            raise ValueError(
                f"{model.path}: the file has no arrays for {shorten(lacking, MAX_SHOWN)}; it holds "
                f"{shorten(sorted(model.arrays), MAX_SHOWN)}."
            )
        check_output_table(role, model, found.leaves)
        leaves[role] = found.leaves
        notes.append(f"{role}: {len(found.leaves)} arrays from {model.path}")
        if found.missing:
            notes.append(f"{role}: newly initialised (not in the file): {shorten(found.missing, MAX_SHOWN)}")
        if found.unused and not model.family.prefix.endswith("/"):  # Google's file holds both models
            notes.append(f"{role}: not used: {shorten(found.unused, MAX_SHOWN)}")
    return Found(leaves, notes)


def complete_params(
    found: Found, fresh: dict[str, dict[str, np.ndarray]], missing_generator: str
) -> tuple[dict[str, Params], list[str]]:
    """Role → parameters, and notes: the arrays of the files, and `fresh` ones (role → path → array) where
    they lack them.

    A missing generator takes the discriminator's embeddings and, for "first_layers", its first layers.
    """
    leaves, notes = {role: fresh[role] | own for role, own in found.leaves.items()}, found.notes
    if "generator" not in leaves:
        leaves["generator"], note = _make_generator(
            leaves["discriminator"], fresh["generator"], missing_generator
        )
        notes = [*notes, note]
    return {role: unflatten_dict(own, sep="/") for role, own in leaves.items()}, notes


def _make_generator(
    discriminator: dict[str, np.ndarray], leaves: dict[str, np.ndarray], missing_generator: str
) -> tuple[dict[str, np.ndarray], str]:
    """A generator, path → array, of the discriminator's arrays and of `leaves`, new ones."""
    takes_layers = missing_generator == "first_layers"
    prefixes = ("embeddings/", "encoder/") if takes_layers else ("embeddings/",)
    taken = {
        path: leaf
        for path, leaf in discriminator.items()
        if path in leaves and path.startswith(prefixes) and leaf.shape == leaves[path].shape
    }
    num_layers = len({path.split("/")[1] for path in leaves if path.startswith("encoder/layer_")})
    layers = "1 layer" if num_layers == 1 else f"{num_layers} layers"
    layers = f"its first {layers}" if takes_layers else f"{layers} newly initialised"
    note = f"generator: not in the files; made of the discriminator's embeddings, {layers}, and a new head"
    return leaves | taken, note


def choose_sharing(source: Source, params: dict[str, Params], ties_whole_embeddings: bool) -> str | None:
    """The embedding sharing that the checkpoint shows; None if the recipe has to decide.
    `ties_whole_embeddings` is that of the family."""
    if source.training is not None:
        return source.training["model"]["embedding_sharing"]
    if len(source.models) < len(ROLES):
        return None
    if shares_embeddings(params, ties_whole_embeddings):
        return "tied"
    return "none" if ties_whole_embeddings else "gdes"


def resize_vocabulary(
    params: dict[str, Params], old: Tokenizer, new: Tokenizer, seed: int
) -> tuple[dict[str, Params], str]:
    """Parameters for a new vocabulary, and a note.

    A piece that stands for the same as an old one (`find_correspondence`) takes its row and its output bias.
    Any other row is the mean of those of the old pieces that its letters are cut into (`find_parts`); Koto et
    al. (2021), IndoBERTweet, found this better than random rows. A row without such pieces starts at the
    mean of the old table plus normal noise of a tenth of its standard deviation. The output
    bias of all of them is the mean of the old biases. Short pieces are frequent and have higher ones: their
    means made new pieces too likely (configs/README.md has the losses).

    Args:
      params: role → parameters.
      old, new: the tokenizers of both vocabularies.
      seed: of the noise.
    """
    kept, vocab_size = find_correspondence(old, new), new.vocab_size
    new_rows, old_rows = np.array([*kept.rows], int), np.array([*kept.rows.values()], int)
    parts = find_parts(old, new, [number for number in range(new.num_pieces) if number not in kept.rows])
    # The same noise for both models, so that equal tables stay equal.
    draw = lambda shape: np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    def resize(x: np.ndarray) -> np.ndarray:
        table = np.asarray(x)[: old.num_pieces]
        rows = table.mean(axis=0)
        if table.ndim > 1:
            rows = rows + 0.1 * table.std(axis=0) * draw((vocab_size, *table.shape[1:]))
        rows = np.broadcast_to(rows, (vocab_size, *table.shape[1:])).astype(np.float32).copy()
        rows[new_rows] = table[old_rows]
        if table.ndim > 1:
            for number, pieces in parts.items():
                rows[number] = table[pieces].mean(axis=0)
        return rows

    resized = {}
    for role, tree in params.items():
        leaves = flatten_dict(tree, sep="/")
        leaves |= {path: resize(leaves[path]) for path in VOCABULARY_LEAVES if path in leaves}
        resized[role] = unflatten_dict(leaves, sep="/")
    return resized, (
        f"vocabulary: {len(kept.rows):,} of {new.num_pieces:,} pieces keep their rows, those of old pieces "
        "with the same letters in the same place, at the start of a word or inside "
        f"({kept.num_respelled:,} are spelled otherwise, {kept.num_other_forms:,} have another letter case "
        f"or Unicode form); {len(parts):,} start at the mean of the old pieces that spell them; the others, "
        f"{new.num_pieces - len(kept.rows) - len(parts):,}, near the mean of the old table (it had "
        f"{old.num_pieces:,})"
    )
