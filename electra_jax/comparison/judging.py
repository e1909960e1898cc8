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

    def judge(
        self,
        results: Sequence[Result],
        workdir: Path,
        num_seeds: int,
        random_starts: Mapping[str, str],
        check: Check,
    ) -> tuple[list[Result], list[str]]:
        """The results of runs with their metrics on pairs and tasks, then those of newly initialised weights
        on the tasks; and notes on the pairs.

        Args:
          results: each of the run MODEL/seed_SEED in `workdir`, of all the same seeds.
          random_starts: name of newly initialised weights → the model whose shapes they have.

        Raises:
          ValueError, OSError, FloatingPointError: see `add_pair_metrics`, `add_downstream_metrics`.
        """
        judged, notes = add_pair_metrics(results, self.pairs, self.max_pairs, workdir, check)
        if self.tasks:
            judged = add_downstream_metrics(judged, self.tasks, workdir, num_seeds, random_starts)
        return judged, notes
