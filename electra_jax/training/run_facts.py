"""What alarms know of a run beside its rows of metrics: its configuration and its data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from electra_jax.objectives.denoisers import mean_mask_prob
from electra_jax.objectives.metrics import Detection
from electra_jax.objectives.registry import find_row, has_generator, objective_row, settings_not_read

# A block of training rows, whose means are judged: this share of the run, at most this number of steps.
BLOCK_SHARE, LONGEST_BLOCK = 0.05, 5_000


class RunFacts(NamedTuple):
    """What does not change during a run."""

    settings: Mapping[str, Any]  # the configuration, flat: "objective.mask_prob" → its value
    stage_settings: tuple[Mapping[str, Any], ...]  # the same for each stage, without what it does not read
    detections: tuple[Detection, ...]  # tasks of the objective
    # For each stage: detection → the share of its tokens that the generator draws.
    drawn: tuple[Mapping[str, float], ...]
    trains_generator: tuple[bool, ...]  # for each stage: whether there is a generator that learns
    minimizes_mlm: bool  # whether the objective minimises mlm_loss
    held_out: tuple[str, ...]  # losses of which the first that a run has should fall on held-out text
    stage_starts: tuple[int, ...]  # first steps of the stages, the first of which is 0
    warmup_ends: tuple[int, ...]  # for each stage: the last step of the warm-up of its schedule
    passes: Callable[[int], float]  # step → how often the run has read the rows of a dataset by then, at most

    @property
    def block_steps(self) -> int:
        """Steps whose training rows are judged together."""
        return max(1, min(int(BLOCK_SHARE * self.settings["train.num_steps"]), LONGEST_BLOCK))

    def block_end(self, step: int) -> int:
        """The last step of the block that a step belongs to. No block is of two stages."""
        length = self.block_steps
        whole = -(-step // length) * length
        return min([whole, *(start for start in self.stage_starts if start >= step)])

    def limit(self, name: str) -> float:
        """A threshold of config.health."""
        return self.settings[f"health.{name}"]

    def stage_of(self, step: int) -> int:
        """Number of the stage of the step'th update, counted from 0; before the first update that is 0."""
        return sum(start < step for start in self.stage_starts[1:])

    def settings_at(self, step: int) -> Mapping[str, Any]:
        """The configuration of the step'th update, flat."""
        return self.stage_settings[self.stage_of(step)]

    def late_at(self, step: int) -> int:
        """The step from which on something should have been learnt, in the stage of the step'th update."""
        share = int(self.limit("late_share") * self.settings["train.num_steps"])
        return max(min(share, int(self.limit("late_steps"))), self.beginning_at(step))

    def beginning_at(self, step: int) -> int:
        """The last step of which little is expected, in the stage of the step'th update: small blocks are
        noisy, and a warm-up changes much, also that of a stage with a schedule of its own."""
        return max(int(self.limit("early_steps")), self.warmup_ends[self.stage_of(step)])

    def drawn_at(self, step: int) -> Mapping[str, float]:
        """Detection → the share of its tokens that the generator draws, at the step'th update."""
        return self.drawn[self.stage_of(step)]

    def trains_generator_at(self, step: int) -> bool:
        """Whether a generator learns in the step'th update."""
        return self.trains_generator[self.stage_of(step)]


def make_facts(
    config: Mapping[str, Any],
    *,
    stage_starts: Sequence[int] = (0,),
    stage_configs: Sequence[Mapping[str, Any]] = (),
    schedule_starts: Sequence[int] = (),
    passes: Callable[[int], float],
) -> RunFacts:
    """The facts of a run with this whole configuration.

    Args:
      stage_configs: the whole configuration of each stage; (): that of the run.
      schedule_starts: for each stage, the first step of its learning-rate schedule; (): that of the run.

    Raises:
      ValueError: there is no such objective.
    """
    row, configs = objective_row(config["objective"]), stage_configs or [config] * len(stage_starts)
    starts = schedule_starts or [0] * len(stage_starts)
    detections = tuple(metrics.detection for metrics in row.metrics if metrics.detection)
    drawn = tuple(
        {
            detection.name: 1.0 if row.judges_masked_only else section[detection.drawn]
            for detection in detections
            if detection.drawn and has_generator(section)
        }
        for section in (one["objective"] | {"mask_prob": mean_mask_prob(one["objective"])} for one in configs)
    )
    return RunFacts(
        flatten_dict(dict(config), sep="."),
        tuple(map(_settings_in_use, configs)),
        detections,
        drawn,
        tuple(_trains_generator(one["objective"]) for one in configs),
        row.minimizes_mlm,
        row.held_out,
        tuple(stage_starts),
        tuple(start + one["optimizer"]["warmup_steps"] for start, one in zip(starts, configs, strict=True)),
        passes,
    )


def _trains_generator(objective: Mapping[str, Any]) -> bool:
    """Whether there is a generator that learns, and is not the finished one of a first stage."""
    return has_generator(objective) and find_row(objective["name"]).first_stage is None


def _settings_in_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's configuration, flat, without what it does not read, which no alarm may advise to change: the
    share of masked tokens if denoisers replace it, and the shape of a generator that is not trained."""
    settings = flatten_dict(dict(config), sep=".")
    for key in settings_not_read(config["objective"]):
        settings.pop(f"objective.{key}", None)
    if config["objective"]["denoisers"]:
        del settings["objective.mask_prob"]
    if _trains_generator(config["objective"]):
        return settings
    return {key: value for key, value in settings.items() if not key.startswith("model.generator.")}
