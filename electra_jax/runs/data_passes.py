"""How often a run has read the rows of its datasets."""

from collections.abc import Sequence

from data_pipelines.mixture import examples_of_each
from electra_jax.runs.inputs import StageInputs


def examples_read(stages: Sequence[StageInputs], step: int) -> dict[str, tuple[int, int]]:
    """Dataset → (examples read of it by `step`, its rows), in the stages begun by then."""
    read: dict[str, tuple[int, int]] = {}
    for stage in stages:
        if stage.first_step and stage.first_step >= step:
            break
        sources, infos = stage.mixture.sources, stage.mixture.infos
        num_examples = (min(step, stage.end) - stage.first_step) * stage.config["train"]["batch_size"]
        counts = examples_of_each([source.weight for source in sources], num_examples)
        for source, info, count in zip(sources, infos, counts, strict=True):
            read[source.path] = (source.start + count, info.splits[source.split]["rows"])
    return read


def most_passes(stages: Sequence[StageInputs], step: int) -> float:
    """Passes over the dataset that is read most often, by `step`."""
    return max(examples / rows for examples, rows in examples_read(stages, step).values())
