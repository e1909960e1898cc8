"""Typos and character noise in a text.

    swap      a letter and the next one of its word change places
    drop      a letter is left out
    insert    another letter of the text follows
    repeat    a letter is doubled

The first three are the errors of Pruthi et al. 2019 (arXiv:1905.11268), without their neighbours
on a keyboard, which only some scripts have; Belinkov and Bisk 2018 (arXiv:1711.02173) showed what such noise
does to models. What is inserted comes from the text itself and so is of its script.

A letter is a grapheme cluster of Unicode that begins with a letter or a digit: it keeps its accents and vowel
signs. Emoji, blanks and punctuation stay as they are.
"""

import hashlib

import numpy as np
from tokenizers import Regex, pre_tokenizers

KINDS = ("swap", "drop", "insert", "repeat")
_CLUSTERS = pre_tokenizers.Split(Regex(r"\X"), "isolated")


def add_noise(text: str, kind: str, rate: float) -> str:
    """The text with noise, which depends on the arguments alone.

    Args:
      kind: one of KINDS.
      rate: the probability of an error at each letter. A swap also needs a next letter in the word, and one
        that it has moved is not moved again.
    """
    clusters = clusters_of(text)
    is_letter = [cluster[0].isalnum() for cluster in clusters]
    letters = [cluster for cluster, is_one in zip(clusters, is_letter, strict=True) if is_one]
    seed = hashlib.sha256(f"{kind}\0{text}".encode()).digest()
    source = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    has_error = (source.random(len(clusters)) < rate) & np.array(is_letter, bool)
    drawn = source.integers(max(1, len(letters)), size=len(clusters))
    changed, place = [], 0
    while place < len(clusters):
        here = clusters[place]
        if not has_error[place]:
            changed.append(here)
        elif kind == "swap" and is_letter[place + 1 : place + 2] == [True]:
            place += 1
            changed += [clusters[place], here]
        elif kind == "insert":
            changed += [here, letters[drawn[place]]]
        elif kind != "drop":
            changed += [here] if kind == "swap" else [here, here]
        place += 1
    return "".join(changed)


def clusters_of(text: str) -> list[str]:
    """The grapheme clusters of a text, Unicode Standard Annex 29."""
    return [text[start:end] for _, (start, end) in _CLUSTERS.pre_tokenize_str(text)]
