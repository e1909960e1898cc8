"""Scores of a soup: metrics of a run's own evaluation on held-out rows, or of its probe on a task."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from data_pipelines.json_files import misread
from data_pipelines.loader import EvaluationLoader
from data_pipelines.mixture import DatasetSource, make_sequential
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.foreign_code import is_own_recipe
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.runs.inputs import check_mixture_sizes
from electra_jax.runs.probes import open_probe
from electra_jax.soups.ingredients import Ingredient
from electra_jax.training.evaluation import evaluate
from electra_jax.training.metrics import Metrics
from electra_jax.training.step import make_evaluation_step

HELD_OUT, PROBE = "heldout_", "probe_"  # prefixes of the metrics' names, as in summary.json
# Last words of the held-out metrics that rank models.
LOWER_IS_BETTER, HIGHER_IS_BETTER = ("loss",), ("accuracy", "auc")


class Score(NamedTuple):
    """A metric by which soups are compared."""

    name: str
    measure: Callable[[Any], float]  # parameters → value
    is_lower_better: bool

    def is_as_good(self, value: float, other: float) -> bool:
        """Whether `value` is not worse than `other`; False for NaN."""
        return value <= other if self.is_lower_better else value >= other

    def rank(self, value: float) -> float:
        """A sort key: the best value first, NaN last."""
        return math.inf if math.isnan(value) else value if self.is_lower_better else -value


def check_name(name: str) -> None:
    """Raises ValueError when `name` cannot be the name of a score."""
    is_held_out = name.startswith(HELD_OUT) and name.endswith(LOWER_IS_BETTER + HIGHER_IS_BETTER)
    if not is_held_out and not name.startswith(PROBE):
        raise ValueError(
            f"--score: got {name!r}, expected {HELD_OUT}METRIC, a loss, accuracy or AUC as summary.json has "
            f"them (heldout_mlm_loss, heldout_rtd_auc), or {PROBE}METRIC (probe_frozen_accuracy, "
            "probe_finetuned_f1)."
        )


@contextlib.contextmanager
def open_score(
    name: str,
    ingredient: Ingredient,
    mesh: Mesh,
    *,
    datasets: Sequence[str],
    probe: dict[str, str],
    directory: Path,
) -> Iterator[Score]:
    """Context with the score `name`, measured as the run of `ingredient` would measure it on `mesh`.

    Args:
      name: of the metric, as in summary.json.
      ingredient: whose settings are used.
      mesh: the devices to measure on.
      datasets: directories whose held-out rows are read for a HELD_OUT metric.
      probe: values that replace those of config.probe, for a PROBE metric.
      directory: where the probe downloads its task, if it is a sample.
    Raises:
      ValueError, OSError: the data do not fit the run or cannot be read, or there is no such metric.
    """
    check_name(name)
    prefix = HELD_OUT if name.startswith(HELD_OUT) else PROBE
    metrics = (
        held_out(ingredient, mesh, datasets)
        if prefix == HELD_OUT
        else _probe(ingredient, mesh, probe, directory)
    )
    with metrics as compute:

        def measure(params: Any) -> float:
            numbers = compute(params)
            if name.removeprefix(prefix) not in numbers:
                raise ValueError(
                    f"--score: got {name!r}, which {ingredient.workdir} does not measure; expected one of "
                    f"{', '.join(prefix + metric for metric in sorted(numbers))}."
                )
            return numbers[name.removeprefix(prefix)]

        yield Score(name, measure, prefix == HELD_OUT and name.endswith(LOWER_IS_BETTER))


@contextlib.contextmanager
def held_out(
    ingredient: Ingredient, mesh: Mesh, datasets: Sequence[str]
) -> Iterator[Callable[[Any], Metrics]]:
    """Context with a function: parameters → metrics of the run's own evaluation, on the same masked rows.

    Raises:
      ValueError, OSError: the data do not fit the run or cannot be read.
    """
    config = ingredient.config
    absent = [path for path in datasets if not Path(path).is_dir()]
    if absent:
        raise FileNotFoundError(
            f"--score: there is no directory {', '.join(absent)}, expected the datasets of "
            f"{ingredient.workdir}, whose held-out rows are scored. Give their place: --datasets=DIR,DIR."
        )
    mixture = make_sequential([DatasetSource(path, split="validation") for path in datasets])
    check_mixture_sizes(config, mixture)
    theirs, ours = mixture.infos[0].tokenizer_fingerprint, ingredient.tokenizer.fingerprint
    if theirs != ours:
        raise ValueError(
            f"--datasets: {datasets[0]} was built with another tokenizer ({theirs[:16]}…) than the runs' "
            f"({ours[:16]}…). Build it with --tokenizer {ingredient.workdir / 'tokenizer'}."
        )
    step = jax.jit(
        make_evaluation_step(
            ingredient.objective, seed=config["eval"]["seed"], vocab_size=config["model"]["vocab_size"]
        )
    )
    with (
        axis_context(mesh),
        EvaluationLoader(
            mixture,
            batch_size=config["eval"]["batch_size"],
            sharding=batch_sharding(mesh),
            max_batches=config["eval"]["max_batches"],
        ) as batches,
    ):
        yield lambda params: evaluate(step, params, batches)


@contextlib.contextmanager
def _probe(
    ingredient: Ingredient, mesh: Mesh, values: dict[str, str], directory: Path
) -> Iterator[Callable[[Any], Metrics]]:
    """Context with the run's probe."""
    settings = ingredient.config["probe"]
    unknown = [key for key in values if key not in settings]
    if unknown:
        raise ValueError(
            f"--probe: got {', '.join(unknown)}, expected keys of {', '.join(sorted(settings))}."
        )
    if "config" not in values and not is_own_recipe(settings["config"]):
        raise ValueError(
            f"--probe: the recipe of {ingredient.workdir}, {settings['config']}, is code that this project "
            f"does not have. Pass --probe=config={settings['config']} if you trust it."
        )
    with misread("--probe"):
        chosen = {key: type(settings[key])(value) for key, value in values.items()}
    config = ingredient.config | {"probe": settings | chosen}
    check_values(config)
    yield open_probe(config, ingredient.model, ingredient.tokenizer, mesh, directory)
