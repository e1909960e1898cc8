"""Models of this device beside those of `transformers` on the CPU, in float32, through exports that verify.

Each export is made and verified by the functions of `python -m electra_jax.convert export`. Outputs of our
model are computed on the device; hidden states and logits of `transformers` may differ from them by 1e-4.
"""

import contextlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax

from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.benchmarks.accelerator.corpus import build_rows
from electra_jax.benchmarks.accelerator.learning import RUN
from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.benchmarks.accelerator.results import CannotRunError
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.conversion.export import export
from electra_jax.conversion.export_run import ExportOptions
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.verify import find_models, verify
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import make_objective
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.state import unbox

LENGTH = 128
NOISE = 0.02  # standard deviation, so that biases and LayerNorms are not at their initial 0 and 1
OPTIONS = ExportOptions(
    "float32", inexact_generator=False, custom_code=False, publication=Publication(None, None, None)
)


# Published widths with random parameters, and few layers, since each of them is compiled several times.
RECIPES = {
    "electra_small": "configs/electra.py:size=small",
    "deberta_v3_xsmall": "configs/deberta_v3.py:size=xsmall",
}
NUM_LAYERS = {"generator": 2, "discriminator": 4}
PEERS = ("torch", "transformers")


def run_part(job: Job) -> None:
    """Export the run of the part "learning" and the models of RECIPES; verify them where PyTorch is."""
    absent = [name for name in PEERS if importlib.util.find_spec(name) is None]
    rows = build_rows(job.work / "text", LENGTH)
    runs = {name: make_run(job.work / name, recipe, rows) for name, recipe in RECIPES.items()}
    if (trained := job.work / RUN).is_dir():
        runs[RUN] = trained
    else:
        job.recorder.remark("There is no run of the part learning to export.")
    for name, workdir in runs.items():
        check_export(job, name, workdir, is_verified=not absent)
    if absent:
        raise CannotRunError(
            f"{' and '.join(absent)} not installed: {len(runs)} exports were written and not verified."
        )


def check_export(job: Job, name: str, workdir: Path, *, is_verified: bool) -> None:
    """Export a run, and record every check of its verification."""
    out = job.work / "exports" / name
    shutil.rmtree(out, ignore_errors=True)
    try:
        export(workdir, None, out, OPTIONS)
    except ValueError as error:  # its report, with the check that failed, is in the log
        job.recorder.check(f"export of {name}", False, got=error, expected="an export that verifies")
        return
    job.recorder.check(f"export of {name}", out.is_dir(), got="written", expected="written")
    for model in find_models(out) if is_verified else []:
        for check in verify(model):
            job.recorder.check(
                f"{name} {model.name}: {check.name}", check.is_passed, got=check.detail, expected="agreement"
            )


def make_run(workdir: Path, recipe: str, rows: Path) -> Path:
    """A run directory at step 0 with random parameters of a recipe's model, whose vocabulary is that of
    `rows`."""
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    tokenizer = shutil.copytree(rows / "tokenizer", workdir / "tokenizer")
    loaded = load_tokenizer(str(tokenizer))
    config = exact_config(recipe, str(rows), loaded.vocab_size)
    objective = make_objective(
        config, make_pretraining_config(config["model"]), SpecialTokens.from_ids(loaded.special)
    )
    params = jax.jit(lambda: _random(unbox(objective.init(jax.random.key(0), LENGTH))))()
    write_json(workdir / "config.json", {"config": config, "data": []})
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(params, {})
    return workdir


def exact_config(recipe: str, rows: str, vocab_size: int) -> dict[str, Any]:
    """A recipe with a generator that `transformers` can compute exactly."""
    config = without_decoder(with_assumed_sizes(load_config(own_recipe(recipe)).to_dict()))
    config["model"] |= {"vocab_size": vocab_size, "dtype": "float32"}
    for encoder, number in NUM_LAYERS.items():
        config["model"][encoder] |= {"num_layers": number}
    config["data"] |= {"datasets": (rows,), "sequence_length": LENGTH}
    return json.loads(json.dumps(config))  # as read from a file


def without_decoder(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without an enhanced mask decoder, which `transformers` does not have."""
    section = config["model"]["disentangled"]
    if section is None:
        return config
    return config | {"model": config["model"] | {"disentangled": section | {"enhanced_mask_decoder": False}}}


def _random(params: Any) -> Any:
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + NOISE * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)
