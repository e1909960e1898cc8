"""What a run's objective knows of the tokenizer of its datasets."""

import itertools
import re

import jax
import numpy as np
import pytest

from data_pipelines.mixture import DatasetSource, make_mixture
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.reserved_words import RESERVED_WORDS
from electra_jax.runs.inputs import make_run_objective, tokenizer_of
from support.tiny_run import VOCAB
from support.training_steps import config


@pytest.mark.parametrize("units", ["words", "tokens", True], ids=["words", "tokens", "old"])
def test_whole_words_are_those_of_its_tokenizer(units, data):
    mixture = make_mixture([DatasetSource(str(data / "corpus"))], seed=0)
    full = config(objective={"denoisers": ((1.0, 0.3, 1.0, units),)}, model={"vocab_size": VOCAB})
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
    assert (is_masked[:, 1:] == is_masked[:, :-1])[together].all() == (units != "tokens")


def test_identifiers_are_those_of_its_tokenizer(data):
    """All occurrences of a word in a row are masked, or none."""
    mixture = make_mixture([DatasetSource(str(data / "corpus"))], seed=0)
    full = config(objective={"denoisers": ((1.0, 0.3, 1, "identifiers"),)}, model={"vocab_size": VOCAB})
    objective = make_run_objective(full, make_pretraining_config(full["model"]), mixture)
    rows = mixture.read(*mixture.rows_at(0, 512)).astype(np.int32)
    batch = jax.device_get(jax.jit(objective.prepare)(jax.random.key(0), rows))
    pieces = load_tokenizer(str(tokenizer_of(mixture))).vocabulary()
    num_repeated = 0
    for row, masked, segments in zip(rows, batch.masked_ids_BL, batch.inputs.segments_BL, strict=True):
        masks = {}
        words = [[place] for place in range(len(row)) if pieces[row[place]].startswith("▁")]
        ends = [*itertools.chain(*words[1:]), len(row)]
        for (start,), end in zip(words, ends, strict=True):
            word = "".join(pieces[number] for number in row[start:end]).removeprefix("▁")
            if re.fullmatch("[A-Za-z]{4,}", word) and word not in RESERVED_WORDS:
                start += pieces[row[start]] == "▁"  # a mark alone belongs to no name
                is_masked = (masked[start:end] == mixture.special.mask).tolist()
                masks.setdefault((segments[start], word), []).append(is_masked)
        for found in masks.values():
            assert len({*itertools.chain(*found)}) == 1
            num_repeated += len(found) > 1 and found[0][0]
    assert num_repeated > 10
