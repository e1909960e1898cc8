"""Import of somebody's checkpoint: a run directory at step 0, which `pretrain` can start from and `convert
export` can read."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.stages import last_stage
from electra_jax.huggingface import restore
from electra_jax.huggingface.configuration import RELATIVE_BIAS_TYPE
from electra_jax.huggingface.published_models import Params, from_published, to_published
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import NOT_PUBLISHED, make_objective
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.state import unbox

# Whose settings an imported model gets for what its files do not say.
RECIPES = {
    "electra": "configs/electra.py:size=base",
    "bert": "configs/electra.py:size=base",
    "deberta-v2": "configs/deberta_v3.py:size=base",
    RELATIVE_BIAS_TYPE: "configs/mcl.py:size=base",
}


class ImportOptions(NamedTuple):
    """generator: its file or directory. recipe: a configuration file with its argument, None for the
    family's. tokenizer: the checkpoint's, where none lies beside it. new_tokenizer: one to change over to.
    embedding_sharing: None for what the files show. seed: of what is made anew."""

    kind: str
    generator: Path | None
    recipe: str | None
    tokenizer: Path | None
    new_tokenizer: Path | None
    missing_generator: str
    embedding_sharing: str | None
    seed: int


def import_checkpoint(path: Path, out: Path, choices: ImportOptions) -> list[str]:
    """Make the run directory `out`; returns what was taken, made and left, in sentences.

    Raises: ValueError: the checkpoint is of another kind of model, or its parts do not fit. OSError: it
      cannot be read, or `out` exists. ImportError: a library that its format needs is not installed.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists. Choose another --out, or remove it.")
    source = restore.read_source(path, choices.kind, choices.generator)
    kind = next(iter(source.models.values())).config["model_type"]
    config = source.training or load_config(choices.recipe or RECIPES[kind]).to_dict()
    config = last_stage(upgrade_config(config))
    config["checkpoint"]["init_from"] = ""
    config["objective"], objective_notes = restore.plain_objective(config["objective"])
    if config["objective"]["name"] == "mlm" and list(source.models) == ["discriminator"]:
        source = source._replace(
            models={"generator": source.models["discriminator"]}
        )  # an encoder that shall predict tokens
    # With every table its own; how they are shared shows once they are read.
    section = restore.model_section(config, source, choices.missing_generator)
    recipe_sharing, config["model"] = (
        config["model"]["embedding_sharing"],
        section | {"embedding_sharing": "none"},
    )
    config["data"]["sequence_length"] = min(
        config["data"]["sequence_length"], section["max_position_embeddings"]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        unfinished = Path(temporary, out.name)
        adopt_tokenizer(_tokenizer_of(path, choices.tokenizer), unfinished / "tokenizer", lowercase=None)
        _check_vocabulary(load_tokenizer(str(unfinished / "tokenizer")), section["vocab_size"])
        fresh = _fresh_params(config, unfinished, choices.seed)
        fresh_trees = {
            role: model.params
            for role, model in to_published(fresh, make_pretraining_config(config["model"])).items()
        }
        trees, notes = restore.load_trees(source, fresh_trees, choices.missing_generator)
        notes += objective_notes
        seen_sharing = restore.choose_sharing(source, trees, kind == "deberta-v2")
        config["model"]["embedding_sharing"] = choices.embedding_sharing or seen_sharing or recipe_sharing
        notes.append(f"embeddings: {config['model']['embedding_sharing']}")
        if choices.new_tokenizer is not None:
            trees, note = _change_tokenizer(
                unfinished, choices.new_tokenizer, trees, config["model"], choices.seed
            )
            notes.append(note)
        unpublished = {name: fresh[name] for name in NOT_PUBLISHED if name in fresh}
        notes += [f"{name}: made anew, since exports do not have it" for name in unpublished]
        params = from_published(trees, make_pretraining_config(config["model"])) | unpublished
        description = {"config": config, "data": [], "imported_from": str(path), "imported": notes}
        with contextlib.closing(Checkpointer(str(unfinished / "checkpoints"), keep=1)) as checkpointer:
            checkpointer.save_params(jax.tree.map(jax.numpy.asarray, params), description)
        write_json(unfinished / "config.json", description)
        os.replace(unfinished, out)
    return notes


def _tokenizer_of(path: Path, tokenizer: Path | None) -> Path:
    """Where the checkpoint's tokenizer is: as said, or beside the weights."""
    if tokenizer is not None:
        return tokenizer
    directory = path if path.is_dir() else path.parent
    folders = [directory / role for role in ("discriminator", "generator") if (directory / role).is_dir()]
    return folders[0] if folders else directory


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    if tokenizer.num_pieces > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.num_pieces:,} entries, but the model embeddings for "
            f"{vocab_size:,}: they do not belong together. Give the checkpoint's own with --tokenizer, and "
            "the one to change over to with --new_tokenizer."
        )


def _fresh_params(config: dict[str, Any], workdir: Path, seed: int) -> Params:
    """Parameters as training would start."""
    model = make_pretraining_config(config["model"])
    special = load_tokenizer(str(workdir / "tokenizer")).special
    objective = make_objective(config, model, SpecialTokens.from_ids(special))
    init = jax.jit(lambda key: unbox(objective.init(key, config["data"]["sequence_length"])))
    return jax.device_get(init(jax.random.key(seed)))


def _change_tokenizer(
    workdir: Path, new_tokenizer: Path, trees: dict[str, Params], section: dict[str, Any], seed: int
) -> tuple[dict[str, Params], str]:
    """Put another tokenizer in the place of the checkpoint's, with rows for its pieces."""
    directory = workdir / "tokenizer"
    old = load_tokenizer(str(directory)).vocabulary()
    directory.rename(workdir / "old_tokenizer")
    adopt_tokenizer(new_tokenizer, directory, lowercase=None)
    new = load_tokenizer(str(directory))
    section["vocab_size"] = new.vocab_size
    return restore.resize_vocabulary(trees, old, new.vocabulary(), new.vocab_size, seed)
