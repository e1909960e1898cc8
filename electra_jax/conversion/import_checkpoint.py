"""Imports a checkpoint of another project as a run directory at step 0. `pretrain` can continue from it, and
`convert export` can read it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.directory_lock import only_maker
from data_pipelines.json_files import misread, write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer, declared_length
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from data_pipelines.whole_files import unfinished_directory
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.stages import last_stage
from electra_jax.huggingface import restore
from electra_jax.huggingface.configuration import RELATIVE_BIAS_TYPE
from electra_jax.huggingface.export import TRAINING_FILE
from electra_jax.huggingface.modernbert import MODEL_TYPE
from electra_jax.huggingface.published_models import Params, from_published, to_published
from electra_jax.huggingface.restore import Source
from electra_jax.huggingface.training_settings import SECTIONS
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import NOT_PUBLISHED, OWN_KEYS, make_objective, objective_row
from electra_jax.runs.continued_settings import continued_sections
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.state import unbox

# model_type → recipe for the settings that the imported files do not contain.
RECIPES = {
    "electra": "configs/electra.py:size=base",
    "bert": "configs/electra.py:size=base",
    "deberta-v2": "configs/deberta_v3.py:size=base",
    RELATIVE_BIAS_TYPE: "configs/mcl.py:size=base",
    MODEL_TYPE: "configs/modernbert.py:size=base",
}

Leaves = dict[str, Any]  # path → array


class ImportOptions(NamedTuple):
    """How to import a checkpoint."""

    source_format: str  # one of restore.SOURCE_FORMATS
    generator: Path | None  # its file or directory, if it is not beside the discriminator
    recipe: str | None  # a configuration file with its argument; None: that of RECIPES
    tokenizer: Path | None  # of the checkpoint; None: beside the weights
    new_tokenizer: Path | None  # to replace the checkpoint's tokenizer with
    missing_generator: str  # one of restore.MISSING_GENERATOR
    embedding_sharing: str | None  # None: as the files show
    seed: int  # for newly initialised parameters


def import_checkpoint(path: Path, out: Path, options: ImportOptions) -> list[str]:
    """Make the run directory `out` from the checkpoint at `path`.

    Returns:
      Notes: which parameters were read, newly initialised and not used, in sentences.
    Raises:
      ValueError: another type of model, or parts that do not belong together.
      OSError: a file cannot be read, `out` exists, or another process makes it.
      ImportError: a library that reads the format is not installed.
    """
    with only_maker(out) as check:
        return _import(path, out, options, check)


def _import(path: Path, out: Path, options: ImportOptions, check: Callable[[], None]) -> list[str]:
    if out.exists():
        raise FileExistsError(f"{out} exists. Choose another --out, or remove it.")
    source = restore.read_source(path, options.source_format, options.generator)
    with misread(path, "Fetch the model again."):
        config, source, objective_notes = _make_config(source, options)
        make_pretraining_config(config["model"])
    with unfinished_directory(out) as unfinished:
        tokenizer = _adopt(_tokenizer_of(path, options.tokenizer), unfinished)
        _check_vocabulary(tokenizer, config["model"]["vocab_size"])
        separate = _with_in_model(config, embedding_sharing="none")
        found, fresh = _find_or_initialise(source, separate, tokenizer, options.seed)
        published, notes = restore.complete_params(found, fresh, options.missing_generator)
        notes += objective_notes
        family = make_pretraining_config(config["model"]).discriminator.family
        sharing = restore.choose_sharing(source, published, family.ties_whole_embeddings)
        sharing = options.embedding_sharing or sharing or config["model"]["embedding_sharing"]
        config = _with_in_model(config, embedding_sharing=sharing)
        notes.append(f"embeddings: {sharing}")
        if options.new_tokenizer is not None:
            (unfinished / "tokenizer").rename(unfinished / "old_tokenizer")
            new = _adopt(options.new_tokenizer, unfinished)
            config = _with_in_model(config, vocab_size=new.vocab_size)
            # The directory of the old one has another name now.
            old = load_tokenizer(str(unfinished / "old_tokenizer"))
            published, note = restore.resize_vocabulary(published, old, new, options.seed)
            notes.append(note)
        unpublished = {name: unflatten_dict(fresh[name], sep="/") for name in NOT_PUBLISHED if name in fresh}
        notes += [f"{name}: newly initialised (exports do not contain it)" for name in unpublished]
        params = from_published(published, make_pretraining_config(config["model"])) | unpublished
        origin = {"imported_from": str(path), "imported": notes}
        length = declared_length(_tokenizer_of(path, None))
        origin["trained_length"] = length or config["model"]["max_position_embeddings"]
        _write_run(unfinished, params, config, **origin)
        check()
        os.replace(unfinished, out)
    return notes


def _make_config(source: Source, options: ImportOptions) -> tuple[dict[str, Any], Source, list[str]]:
    """The run's configuration, the source with the roles that its objective needs, and notes.

    The configuration's embedding_sharing is still the recipe's.
    """
    recipe = load_config(options.recipe or own_recipe(RECIPES[_model_type(source)])).to_dict()
    recipe = with_assumed_sizes(last_stage(upgrade_config(recipe)))
    if source.training is not None:
        recipe = _with_training(recipe, source.training)
    objective, notes = restore.plain_objective(recipe["objective"])
    if source.training is None:
        recipe = recipe | continued_sections(recipe)
        optimizer, train = recipe["optimizer"], recipe["train"]
        notes.append(
            f"to continue: learning rate {optimizer['learning_rate']:g}, warming up for "
            f"{optimizer['warmup_steps']:,} of {train['num_steps']:,} steps of {train['batch_size']} rows, "
            f"as in Microsoft's rtd.sh; schedule {optimizer['schedule']}"
        )
    recipe = recipe | {"objective": objective}
    is_alone = list(source.models) == ["discriminator"] or source.has_generator_beside
    if objective["name"] == "mlm" and is_alone:
        # An encoder without a head, which will learn to predict tokens.
        source = source._replace(models={"generator": source.models["discriminator"]})
    section = restore.model_section(recipe, source, options.missing_generator)
    _check_new_generator(source, section, options.recipe)
    length = min(recipe["data"]["sequence_length"], section["max_position_embeddings"])
    config = recipe | {
        "model": section | {"embedding_sharing": recipe["model"]["embedding_sharing"]},
        "data": recipe["data"] | {"sequence_length": length},
        "checkpoint": recipe["checkpoint"] | {"init_from": ""},
    }
    if source.training is not None:
        notes.append("of training_config.json: model, objective, optimizer, row length; the rest of a recipe")
    return config, source, notes


def _with_training(recipe: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the settings of an export.

    Raises:
      ValueError: the export has settings that this version does not know, or lacks some.
    """
    settings = objective_row(training["objective"]).settings
    known = {
        "objective": recipe["objective"].keys() - OWN_KEYS.keys() | settings.keys(),
        "optimizer": recipe["optimizer"].keys(),
    }
    for section, keys in known.items():
        if training[section].keys() != keys:
            differing = sorted(training[section].keys() ^ keys)
            raise ValueError(
                f"{TRAINING_FILE}: config.{section} lacks or adds {', '.join(differing)}: another version "
                "wrote it. Remove the file: the settings then come from the recipe."
            )
    changes = {section: training[section] for section in SECTIONS}
    return recipe | changes | {"data": recipe["data"] | training["data"]}


def _check_new_generator(source: Source, section: dict[str, Any], recipe: str | None) -> None:
    """Raises ValueError if there is no generator in the files and the one of the recipe, or of an export that
    names a larger one than its discriminator, does not fit the discriminator."""
    if "generator" in source.models:
        return
    usual = RECIPES[_model_type(source)]
    width, own = (section[role]["hidden_size"] for role in ("generator", "discriminator"))
    if source.training is None and width != own and (section["disentangled"] or section["rotary"]):
        raise ValueError(
            f"got --missing_generator=fresh and a model of width {own}, but the generator of "
            f"{recipe or usual} has width {width}, expected one width: both models have embeddings as wide "
            f"as their hidden states. Give the recipe of this size, --config={usual.partition('=')[0]}=…, or "
            "--missing_generator=first_layers."
        )
    larger = [key for key, size in section["discriminator"].items() if section["generator"][key] > size]
    if source.training is not None and larger and list(source.models) == ["discriminator"]:
        raise ValueError(
            f"{TRAINING_FILE}: config.model.generator has larger {', '.join(larger)} than the discriminator, "
            "and the files have no generator. Give --missing_generator first_layers, or its files with "
            "--generator."
        )


def _with_in_model(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The configuration with other values in its section "model"."""
    return config | {"model": config["model"] | values}


def _model_type(source: Source) -> str:
    """model_type of the checkpoint's config.json."""
    return next(iter(source.models.values())).config["model_type"]


def _tokenizer_of(path: Path, tokenizer: Path | None) -> Path:
    """The path of the checkpoint's tokenizer: the given one, or beside the weights."""
    if tokenizer is not None:
        return tokenizer
    directory = path if path.is_dir() else path.parent
    folders = [directory / role for role in ("discriminator", "generator") if (directory / role).is_dir()]
    return folders[0] if folders else directory


def _adopt(source: Path, workdir: Path) -> Tokenizer:
    """Make the tokenizer directory of a run from any tokenizer."""
    adopt_tokenizer(source, workdir / "tokenizer", lowercase=None)
    return load_tokenizer(str(workdir / "tokenizer"))


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    if tokenizer.num_pieces > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.num_pieces:,} entries, but the model has embeddings for "
            f"{vocab_size:,}: they do not belong together. Give the checkpoint's tokenizer with --tokenizer, "
            "and one to replace it with --new_tokenizer."
        )


def _find_or_initialise(
    source: Source, config: dict[str, Any], tokenizer: Tokenizer, seed: int
) -> tuple[restore.Found, dict[str, Leaves]]:
    """The parameters that the files have, and newly initialised ones for those that they lack, by role or
    unpublished module.

    Nothing of the sizes in a configuration is made before the files' arrays are known to have them. What the
    files have is not initialised: the compiler leaves out what is not returned.
    """
    model = make_pretraining_config(config["model"])
    objective = make_objective(config, model, SpecialTokens.from_ids(tokenizer.special))

    def initial(key: jax.Array) -> dict[str, Leaves]:
        params = unbox(objective.init(key, config["data"]["sequence_length"]))
        trees = {role: weights.params for role, weights in to_published(params, model).items()}
        trees |= {name: params[name] for name in NOT_PUBLISHED if name in params}
        return {name: flatten_dict(tree, sep="/") for name, tree in trees.items()}

    key = jax.random.key(seed)
    abstract = jax.eval_shape(initial, key)
    shapes = {name: {path: leaf.shape for path, leaf in leaves.items()} for name, leaves in abstract.items()}
    found = restore.find_params(source, shapes)

    def missing(key: jax.Array) -> dict[str, Leaves]:
        return {
            name: {path: leaf for path, leaf in leaves.items() if path not in found.leaves.get(name, {})}
            for name, leaves in initial(key).items()
        }

    return found, jax.device_get(jax.jit(missing)(key))


def _write_run(workdir: Path, params: Params, config: dict[str, Any], **origin: Any) -> None:
    """Write checkpoint and config.json of the run directory."""
    description = {"config": config, "data": [], **origin}
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(jax.tree.map(jax.numpy.asarray, params), description)
    write_json(workdir / "config.json", description)
