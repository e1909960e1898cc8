"""What a run's objective knows of the tokenizer of its datasets."""

import jax
import numpy as np
import pytest

from data_pipelines.mixture import DatasetSource, make_mixture
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.models.config import make_pretraining_config
from electra_jax.runs.inputs import make_run_objective, tokenizer_of
from support.tiny_run import VOCAB
from support.training_steps import config


@pytest.mark.parametrize("whole_words", [True, False], ids=["words", "pieces"])
def test_whole_words_are_those_of_its_tokenizer(whole_words, data):
    mixture = make_mixture([DatasetSource(str(data / "corpus"))], seed=0)
    full = config(objective={"denoisers": ((1.0, 0.3, 1.0, whole_words),)}, model={"vocab_size": VOCAB})
    objective = make_run_objective(full, make_pretraining_config(full["model"]), mixture)
    rows = mixture.read(*mixture.rows_at(0, 64)).astype(np.int32)
    batch = jax.device_get(jax.jit(objective.prepare)(jax.random.key(0), rows))
    pieces = np.array(load_tokenizer(str(tokenizer_of(mixture))).vocabulary())[rows]
    begins, special = np.char.startswith(pieces, "▁"), np.isin(rows, mixture.special)
    is_masked = batch.masked_ids_BL == mixture.special.mask
    assert is_masked.sum() == batch.weights_BP.sum() > 64
    # Two neighbours of one word are masked together.
    together = ~begins[:, 1:] & ~special[:, 1:] & ~special[:, :-1]
    assert together.sum() > 500
    assert (is_masked[:, 1:] == is_masked[:, :-1])[together].all() == whole_words
