"""What the pre-trained runs of a comparison are judged by, beside held-out text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.comparison.downstream import add_downstream_metrics
from electra_jax.comparison.pairs import add_pair_metrics
from electra_jax.finetuning.results import Result
from electra_jax.runs.only_writer import Check


class Judges(NamedTuple):
    """Minimal pairs and tasks; without both, held-out text alone."""

    tasks: Mapping[str, dict[str, Any]]  # name → configuration of fine-tuning
    pairs: Sequence[str]  # files or directories
    max_pairs: int  # of each phenomenon; 0: all

    def on_pairs(
        self, results: Sequence[Result], workdir: Path, check: Check
    ) -> tuple[list[Result], list[str]]:
        """The results of the runs MODEL/seed_SEED in `workdir` with their accuracies on pairs, and notes.

        Raises:
          ValueError, OSError, FloatingPointError: see `add_pair_metrics`.
        """
        return add_pair_metrics(results, self.pairs, self.max_pairs, workdir, check)

    def on_tasks(
        self, results: Sequence[Result], workdir: Path, num_seeds: int, random_starts: Mapping[str, str]
    ) -> tuple[list[Result], tuple[str, ...]]:
        """The results of the runs MODEL/seed_SEED in `workdir` with their metrics on tasks, then those of
        newly initialised weights; and the causes for `raise_diverged`.

        Args:
          results: of the seeds that each run has; only from these fine-tuning starts.
          random_starts: name of newly initialised weights → the model whose shapes they have.

        Raises:
          ValueError, OSError: see `add_downstream_metrics`.
        """
        if not self.tasks or not results:
            return list(results), ()
        return add_downstream_metrics(results, self.tasks, workdir, num_seeds, random_starts)
