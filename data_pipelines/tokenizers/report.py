"""Lines that describe a tokenizer on the terminal."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.tokenizers.directory import SpecialIds
from data_pipelines.tokenizers.load import Tokenizer

HIGH_UNKNOWN_SHARE = 0.01  # of the tokens; a tokenizer that was made for a text leaves far less
INSIDE = "##"  # before the pieces of WordPiece that continue a word
HIGH_LOST_SHARE = 0.01  # of the pieces that start words; published vocabularies have a few odd ones


def size_lines(tokenizer: Tokenizer) -> list[str]:
    """Directory, vocabulary size and special ids."""
    special_ids = ", ".join(f"{role} {number}" for role, number in tokenizer.special._asdict().items())
    return [
        f"tokenizer        {tokenizer.directory}",
        f"vocabulary       {tokenizer.num_pieces} pieces, {tokenizer.vocab_size} embedding rows",
        f"special ids      {special_ids}",
    ]


def quality_lines(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Pieces per word, share of unknown pieces and a sample, measured on `texts`; [] if they hold no text."""
    words = sum(len(text.split()) for text in texts)
    ids = [i for row in tokenizer.encode_batch(texts) for i in row]
    if not ids:
        return []
    sample = next(text for text in texts if text.strip())[:120]
    return [
        f"pieces per word  {len(ids) / max(words, 1):.3f}   ({len(texts)} documents)",
        f"unknown pieces   {ids.count(tokenizer.special.unk) / len(ids):.4%}",
        f"sample           {' '.join(tokenizer.pieces(sample))}",
    ]


def unknown_warning(rows: Sequence[np.ndarray], special: SpecialIds) -> str:
    """A warning that much of the text in these rows of ids is [UNK], "" if little is."""
    ids = np.concatenate([np.zeros(0, np.int32), *rows])
    num_unknown = int((ids == special.unk).sum())
    num_tokens = int(np.isin(ids, (special.pad, special.cls, special.sep), invert=True).sum())
    if num_unknown <= HIGH_UNKNOWN_SHARE * num_tokens:
        return ""
    return (
        f"WARNING: {num_unknown / num_tokens:.1%} of {num_tokens:,} tokens are [UNK]: the tokenizer does not "
        "know this text. Is it for another language, letter case or script?"
    )


def misfit_lines(tokenizer: Tokenizer) -> list[str]:
    """Warnings that the normalisation and the pieces of a WordPiece vocabulary do not belong together: the
    wrong letter case, or accents stripped that the pieces have. [] if they fit, or for another vocabulary."""
    vocabulary = tokenizer.vocabulary()
    if not any(piece.startswith(INSIDE) for piece in vocabulary):
        return []
    words = {
        piece: number
        for number, piece in enumerate(vocabulary)
        if any(map(str.isalpha, piece)) and not piece.startswith((INSIDE, "[", "<"))
    }
    encoded = tokenizer.encode_batch(list(words))
    lost = [piece for (piece, number), ids in zip(words.items(), encoded, strict=True) if ids != [number]]
    lines = []
    if len(lost) > HIGH_LOST_SHARE * len(words):
        lines.append(
            f"WARNING: no text becomes {len(lost):,} of the {len(words):,} pieces that start words "
            f"({shorten(lost)}); is the vocabulary cased (--no-lowercase), or are accents to be kept "
            '({"strip_accents": false} in tokenizer_config.json)?'
        )
    small = next((piece for piece in words if piece.upper() != piece), "")
    lower, upper = tokenizer.encode_batch([small, small.upper()])
    if lower != upper and all(piece == piece.lower() for piece in words):
        lines.append(
            "WARNING: no piece has a capital letter, and text is not lower-cased: words with capitals become "
            "[UNK]; is the vocabulary uncased (--lowercase)?"
        )
    return lines
