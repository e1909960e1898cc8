"""Which pieces of a tokenizer begin a word."""

import numpy as np

from data_pipelines.tokenizers.huggingface import SPACE_MARKS
from data_pipelines.tokenizers.load import Tokenizer

LINE_MARKS = ("Ċ", "ĉ")  # a line break and a tabulator in byte-level BPE


def word_starts(tokenizer: Tokenizer) -> np.ndarray:
    """Bool [num_pieces]: True for the ids that begin a word, special ones included.

    With WordPiece a word is what BERT cuts a text into: punctuation is a word of its own. With SentencePiece
    and byte-level BPE it reaches from one white space to the next, punctuation included. In languages written
    without spaces that is a long way.

    Raises:
      ValueError: the pieces show neither where words begin nor what is inside them.
    """
    pieces, inside = tokenizer.vocabulary(), tokenizer.inside_mark
    if inside:
        starts = [not piece.startswith(inside) for piece in pieces]
    else:
        starts = [piece.startswith((*SPACE_MARKS, *LINE_MARKS)) for piece in pieces]
    if not any(starts) or (inside and all(starts)):
        raise ValueError(
            f"{tokenizer.directory}: got a tokenizer whose pieces do not show where a word begins, expected "
            f"some that start with {' or '.join(SPACE_MARKS)}, or WordPiece's mark inside words. Set "
            "whole_words to False in config.objective.denoisers, or use another tokenizer."
        )
    starts = np.array(starts)
    starts[list(tokenizer.special)] = True
    return starts
