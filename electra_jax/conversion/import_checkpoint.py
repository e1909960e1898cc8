"""Imports a checkpoint of another project as a run directory at step 0. `pretrain` can continue from it, and
`convert export` can read it."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.directory_lock import only_maker
from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.stages import last_stage
from electra_jax.huggingface import restore
from electra_jax.huggingface.configuration import RELATIVE_BIAS_TYPE
from electra_jax.huggingface.published_models import Params, from_published, to_published
from electra_jax.huggingface.restore import Source
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import NOT_PUBLISHED, make_objective
from electra_jax.runs.continued_settings import CONTINUED
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.state import unbox

# model_type → recipe for the settings that the imported files do not contain.
RECIPES = {
    "electra": "configs/electra.py:size=base",
    "bert": "configs/electra.py:size=base",
    "deberta-v2": "configs/deberta_v3.py:size=base",
    RELATIVE_BIAS_TYPE: "configs/mcl.py:size=base",
}


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
    config, source, objective_notes = _make_config(source, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        unfinished = Path(temporary, out.name)
        tokenizer = _adopt(_tokenizer_of(path, options.tokenizer), unfinished)
        _check_vocabulary(tokenizer, config["model"]["vocab_size"])
        separate = _with_in_model(config, embedding_sharing="none")
        fresh = _fresh_params(separate, tokenizer, options.seed)
        published, notes = _load_published(source, separate, fresh, options.missing_generator)
        notes += objective_notes
        sharing = restore.choose_sharing(source, published, _model_type(source) == "deberta-v2")
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
        unpublished = {name: fresh[name] for name in NOT_PUBLISHED if name in fresh}
        notes += [f"{name}: newly initialised (exports do not contain it)" for name in unpublished]
        params = from_published(published, make_pretraining_config(config["model"])) | unpublished
        _write_run(unfinished, params, config, imported_from=str(path), imported=notes)
        check()
        os.replace(unfinished, out)
    return notes


def _make_config(source: Source, options: ImportOptions) -> tuple[dict[str, Any], Source, list[str]]:
    """The run's configuration, the source with the roles that its objective needs, and notes.

    The configuration's embedding_sharing is still the recipe's.
    """
    recipe = source.training
    if recipe is None:
        recipe = load_config(options.recipe or own_recipe(RECIPES[_model_type(source)])).to_dict()
    recipe = with_assumed_sizes(last_stage(upgrade_config(recipe)))
    objective, notes = restore.plain_objective(recipe["objective"])
    if source.training is None:
        recipe = recipe | {section: recipe[section] | values for section, values in CONTINUED.items()}
        optimizer, train = CONTINUED["optimizer"], CONTINUED["train"]
        notes.append(
            f"to continue: learning rate {optimizer['learning_rate']:g}, warming up for "
            f"{optimizer['warmup_steps']:,} of {train['num_steps']:,} steps of {train['batch_size']} rows, "
            "as in Microsoft's rtd.sh"
        )
    recipe = recipe | {"objective": objective}
    if objective["name"] == "mlm" and list(source.models) == ["discriminator"]:
        # An encoder without a head, which will learn to predict tokens.
        source = source._replace(models={"generator": source.models["discriminator"]})
    section = restore.model_section(recipe, source, options.missing_generator)
    length = min(recipe["data"]["sequence_length"], section["max_position_embeddings"])
    config = recipe | {
        "model": section | {"embedding_sharing": recipe["model"]["embedding_sharing"]},
        "data": recipe["data"] | {"sequence_length": length},
        "checkpoint": recipe["checkpoint"] | {"init_from": ""},
    }
    return config, source, notes


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


def _fresh_params(config: dict[str, Any], tokenizer: Tokenizer, seed: int) -> Params:
    """Newly initialised parameters, as training would start with."""
    model = make_pretraining_config(config["model"])
    objective = make_objective(config, model, SpecialTokens.from_ids(tokenizer.special))
    init = jax.jit(lambda key: unbox(objective.init(key, config["data"]["sequence_length"])))
    return jax.device_get(init(jax.random.key(seed)))


def _load_published(
    source: Source, config: dict[str, Any], fresh: Params, missing_generator: str
) -> tuple[dict[str, Params], list[str]]:
    """Role → parameters of the published models, and notes."""
    models = to_published(fresh, make_pretraining_config(config["model"]))
    fresh_models = {role: model.params for role, model in models.items()}
    return restore.load_params(source, fresh_models, missing_generator)


def _write_run(workdir: Path, params: Params, config: dict[str, Any], **origin: Any) -> None:
    """Write checkpoint and config.json of the run directory."""
    description = {"config": config, "data": [], **origin}
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(jax.tree.map(jax.numpy.asarray, params), description)
    write_json(workdir / "config.json", description)
