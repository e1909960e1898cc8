"""Which pieces of a tokenizer begin a word, and which are parts of names in source code."""

import re
from typing import NamedTuple

import numpy as np

from data_pipelines.tokenizers.huggingface import SPACE_MARKS
from data_pipelines.tokenizers.load import Tokenizer

LINE_MARKS = ("Ċ", "ĉ")  # a line break and a tabulator in byte-level BPE
NAME = re.compile("[A-Za-z0-9_]*")


class NamePart(NamedTuple):
    """What a piece adds to a name of source code."""

    text: str  # letters, digits and underscores at its beginning, of ASCII; "": it belongs to no name
    begins: bool  # whether white space lies before it
    ends: bool  # whether other characters follow, which end the name


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
            f"some that start with {' or '.join(SPACE_MARKS)}, or WordPiece's mark inside words. Take "
            "'tokens' in place of 'words' in config.objective.denoisers, or use another tokenizer."
        )
    starts = np.array(starts)
    starts[list(tokenizer.special)] = True
    return starts


def name_parts(tokenizer: Tokenizer) -> list[NamePart]:
    """For every id [num_pieces] what it adds to a name.

    Raises:
      ValueError: the pieces do not show white space. WordPiece cuts "my_name" as it cuts "my _ name".
    """
    vocabulary, marks = tokenizer.vocabulary(), (*SPACE_MARKS, *LINE_MARKS)
    if tokenizer.inside_mark or not any(piece.startswith(marks) for piece in vocabulary):
        raise ValueError(
            f"{tokenizer.directory}: got a tokenizer whose pieces do not show where white space lies, "
            f"expected some that start with {' or '.join(SPACE_MARKS)}, as with SentencePiece and byte-level "
            "BPE. Take 'tokens' in place of 'identifiers' in config.objective.denoisers, or use another "
            "tokenizer."
        )
    parts = []
    for piece in vocabulary:
        begins = piece.startswith(marks)
        bare = piece[1:] if begins else piece
        text = NAME.match(bare)[0]
        parts.append(NamePart(text, begins, len(text) < len(bare)))
    for number in tokenizer.special:
        parts[number] = NamePart("", begins=True, ends=True)
    return parts
