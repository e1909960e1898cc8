"""Lines that describe a tokenizer on the terminal."""

import collections
import heapq
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.tokenizers.directory import SpecialIds
from data_pipelines.tokenizers.load import Tokenizer
from data_pipelines.tokenizers.lost_marks import lost_marks_lines
from data_pipelines.tokenizers.unknown_characters import (
    HIGH_UNKNOWN_SHARE,
    count_in_words,
    swallowed_lines,
    unknown_share,
)
from data_pipelines.tokenizers.wordpiece import INSIDE

SAMPLE_DOCUMENTS, SAMPLE_CHARS = 200, 1_000_000  # at most; pieces per word are measured on them
MAX_UNKNOWN = 8  # characters that are shown
NUM_LONGEST = 3
MAX_WORD = 40  # characters that are shown of a word
HIGH_LOST_SHARE = 0.01  # of the pieces that start words; published vocabularies have a few odd ones


def size_lines(tokenizer: Tokenizer) -> list[str]:
    """Directory, vocabulary size and special ids."""
    special_ids = ", ".join(f"{role} {number}" for role, number in tokenizer.special._asdict().items())
    return [
        f"tokenizer        {tokenizer.directory}",
        f"vocabulary       {tokenizer.num_pieces} pieces, {tokenizer.vocab_size} embedding rows",
        f"special ids      {special_ids}",
    ]


def normalization_lines(tokenizer: Tokenizer) -> list[str]:
    """What becomes of the letters of a text before it is cut into pieces."""
    example = "Ä É ö é ﬁ"
    return [f"normalisation    {example} becomes {tokenizer.normalize(example)}"]


def quality_lines(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """How well the tokenizer fits `texts`: characters without a piece, pieces per word, the longest pieces
    and words, a sample. [] if they hold no text.

    All of the texts are read; memory holds every different word once. Pieces are counted in the first ones.
    """
    words: collections.Counter[str] = collections.Counter()
    first, left = [], SAMPLE_CHARS
    for text in texts:
        words.update(text.split())
        if len(first) < SAMPLE_DOCUMENTS and left > 0:
            first.append(text)
            left -= len(text)
    ids = [i for row in tokenizer.encode_batch(first) for i in row]
    if not ids:
        return []
    num_words = sum(len(text.split()) for text in first)
    sample = next(text for text in first if text.strip())[:120]
    return [
        _coverage_line(tokenizer, words),
        f"pieces per word  {len(ids) / max(num_words, 1):.3f}   ({_counted(len(first), 'document')})",
        f"unknown pieces   {ids.count(tokenizer.special.unk) / len(ids):.4%} of them",
        f"longest pieces   {', '.join(_longest(_text_pieces(tokenizer)))}",
        f"longest words    {', '.join(_longest(words))}",
        f"sample           {' '.join(tokenizer.pieces(sample))}",
        *_loss_lines(tokenizer, words, is_adopted=False),
    ]


def loss_lines(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """What an adopted tokenizer loses of `texts`: the characters that become [UNK], and warnings.

    Memory holds every different word once.
    """
    words = collections.Counter(word for text in texts for word in text.split())
    return _loss_lines(tokenizer, words, is_adopted=True)


def _coverage_line(tokenizer: Tokenizer, words: Mapping[str, int]) -> str:
    """The share of the characters that are not [UNK], and the commonest that are."""
    counts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for character in tokenizer.normalize(word):
            counts[character] += count
    characters = [character for character in counts if not character.isspace()]
    total = sum(counts[character] for character in characters)
    unknown = {
        character: counts[character]
        for character, ids in zip(characters, tokenizer.encode_batch(characters), strict=True)
        if tokenizer.special.unk in ids
    }
    line = f"characters       {1 - sum(unknown.values()) / max(1, total):.4%} of {total:,} have a piece"
    if not unknown:
        return line
    commonest = sorted(unknown, key=lambda character: (-unknown[character], character))
    shown = shorten([f"{_named(character)} {unknown[character]:,}" for character in commonest], MAX_UNKNOWN)
    return f"{line}; those without: {shown}"


def _loss_lines(tokenizer: Tokenizer, words: Mapping[str, int], *, is_adopted: bool) -> list[str]:
    """The share of the characters that are in unknown words, unless the tokenizer has an [UNK] only for
    characters; warnings if it is high, or if letters lose marks."""
    lines, counted = [], count_in_words(tokenizer, words)
    if counted is not None:
        share = unknown_share(counted[0]._asdict())
        lines = [
            f"unknown words    {share:.4%} of the characters are in words that become [UNK]",
            *swallowed_lines(*counted),
        ]
    return [*lines, *lost_marks_lines(tokenizer, words, is_adopted=is_adopted)]


def _named(character: str) -> str:
    code = f"U+{ord(character):04X}"
    return f"{character} ({code})" if character.isprintable() else code


def _text_pieces(tokenizer: Tokenizer) -> list[str]:
    """The spelling of every piece that text can become."""
    special = set(tokenizer.special)
    return [piece for number, piece in enumerate(tokenizer.vocabulary()) if number not in special]


def _longest(words: Iterable[str]) -> list[str]:
    """The longest ones, the first of equal length; very long ones are cut, with their length beside them."""
    found = heapq.nlargest(NUM_LONGEST, words, key=len)
    return [
        word if len(word) <= MAX_WORD else f"{word[:MAX_WORD]}… ({len(word):,} characters)" for word in found
    ]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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
