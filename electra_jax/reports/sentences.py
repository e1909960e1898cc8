"""The sentences of a token view: held-out text of the run's datasets, or the user's own.

Shapes: n tokens of a sentence, L tokens of a row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.dataset_cache import local_dataset
from data_pipelines.mixture import DatasetSource, make_sequential
from data_pipelines.tasks.unlabelled import Source, Wanted, read_unlabelled
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.prediction.spelling import Spelled, Speller

MAX_TOKENS = 40  # of a sentence; the rest is left out
MIN_TOKENS = 8  # of a held-out sentence
ROWS_READ = 12  # for each sentence, to find one that is long enough


class Sentences(NamedTuple):
    """What is masked, filled in and judged."""

    spelled: list[Spelled]
    source: str  # for people


def own_sentences(file: str, count: int, tokenizer: Tokenizer) -> Sentences:
    """The first `count` lines of a file that are not blank.

    Raises:
      ValueError, OSError: the file cannot be read or has no text.
    """
    texts: list[str] = []
    for one in read_unlabelled(Source(file, "text"), Wanted("text", "")):
        if one.text.strip():
            texts.append(one.text)
        if len(texts) == count:
            break
    spelled = [one for one in Speller(tokenizer).spell(texts, with_masks=False) if len(one.ids)]
    if not spelled:
        raise ValueError(f"--texts: {file} has no text, expected a text on each line.")
    return Sentences([_cut(one) for one in spelled], file)


def held_out_sentences(paths: Sequence[str], count: int, tokenizer: Tokenizer) -> Sentences:
    """Beginnings of held-out documents, from rows that are evenly spread over the datasets.

    Raises:
      ValueError, OSError: the datasets cannot be read, are of another tokenizer, or hold nothing out.
    """
    here = [path for path in paths if Path(local_dataset(path)).is_dir()]
    if not here:
        raise FileNotFoundError(f"its datasets ({', '.join(paths) or 'none'}) are not on this machine")
    mixture = make_sequential([DatasetSource(path, split="validation") for path in here])
    if mixture.infos[0].tokenizer_fingerprint != tokenizer.fingerprint:
        raise ValueError("its datasets have been built with another tokenizer since")
    places = np.unique(np.linspace(0, mixture.num_examples - 1, ROWS_READ * count).astype(int))
    rows = [mixture.read(*mixture.rows_at(place, place + 1))[0] for place in places]
    found = [one for one in (_first_sentence(row, tokenizer) for row in rows) if len(one.ids) >= MIN_TOKENS]
    if not found:
        raise ValueError("its datasets hold out no text of a few tokens")
    chosen = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).astype(int))
    return Sentences([found[place] for place in chosen], ", ".join(here))


def _first_sentence(row_L: np.ndarray, tokenizer: Tokenizer) -> Spelled:
    """The tokens between the first two special tokens of a row."""
    special = tokenizer.special
    (ends,) = np.nonzero(np.isin(row_L, [special.cls, special.sep, special.pad]))
    start = int(ends[0]) + 1 if len(ends) and ends[0] == 0 else 0
    stop = next((int(end) for end in ends if end > start), len(row_L))
    ids = row_L[start:stop].astype(np.int32)
    return _cut(Spelled(ids, np.zeros((len(ids), 2), np.int32), np.zeros(len(ids), bool)))


def _cut(spelled: Spelled) -> Spelled:
    return Spelled(*(side[:MAX_TOKENS] for side in spelled))
