"""Minimal pairs during pre-training: config.probe.kind="minimal_pairs".

It works on copies of the parameters and compiles functions apart from the run's, so the run's results are
bitwise the same with and without it.
"""

import math
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from data_pipelines.tasks.minimal_pairs import load_pairs
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.configuration.flags import split_words
from electra_jax.finetuning.probes import check_one_process
from electra_jax.minimal_pairs.scoring import SentenceScorer, rules_of
from electra_jax.minimal_pairs.summary import summarize
from electra_jax.models.config import PretrainingConfig
from electra_jax.prediction.models import of_run
from electra_jax.runs.trained import TrainedRun

KEY = "config.probe.minimal_pairs"


class MinimalPairProbe:
    """Parameters of a run → minimal_pairs_SCORE, the accuracy by each score that its encoders give."""

    def __init__(self, config: dict[str, Any], model: PretrainingConfig, tokenizer: Tokenizer, mesh: Mesh):
        """Read the pairs.

        Raises:
          ValueError, FileNotFoundError: there are no pairs, or they cannot be read; or there are several
            processes.
        """
        check_one_process(config, "Score the checkpoints instead: python -m electra_jax.evaluate.")
        probe = config["probe"]
        places = split_words(probe["minimal_pairs"])
        if not places:
            raise ValueError(
                f"{KEY}: got {probe['minimal_pairs']!r} with config.probe.kind='minimal_pairs', expected "
                "files of minimal pairs, or directories of them, separated by commas."
            )
        try:
            files = load_pairs(places, probe["max_pairs"])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{KEY}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{KEY}: {error}") from error
        self._pairs = [pair for file in files for pair in file.pairs]
        self._run = TrainedRun(Path(), {"config": config}, model, tokenizer, 0, None)
        self._mesh = mesh

    def __call__(self, params: Any) -> dict[str, float]:
        """The accuracies of a run's parameters, which may be on its devices; NaN if they are not finite."""
        pretrained = of_run("probe", self._run._replace(params=params))
        sentences = [sentence for pair in self._pairs for sentence in (pair.good, pair.bad)]
        try:
            by_rule = SentenceScorer(pretrained, self._mesh).score(sentences).by_rule
        except FloatingPointError:
            return {f"minimal_pairs_{rule}": math.nan for rule in rules_of(pretrained)}
        return {
            f"minimal_pairs_{rule}": summarize(self._pairs, *scores.reshape(-1, 2).T).total.accuracy
            for rule, scores in by_rule.items()
        }
