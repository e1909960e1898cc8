"""Add the words of a domain to a WordPiece vocabulary: those that it cuts into the most frequent long rows of
pieces. Of a word that has a piece of its own a model reads, masks and predicts the whole.

Hong et al. (2021), AVocaDo, and Koto et al. (2021), IndoBERTweet, extend BERT's vocabulary with words of a
domain, chosen in other ways. Here they are the most frequent words of three pieces and more.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.json_files import parse_json
from data_pipelines.tokenizers.adopt import files_of_model, place_tokenizer, tokenizer_files
from data_pipelines.tokenizers.directory import META_FILE, MODEL_FILES, SpecialIds, check_free, read_meta
from data_pipelines.tokenizers.huggingface import FORMAT, TOKENIZER_FORM, HuggingFaceTokenizer
from data_pipelines.tokenizers.trained import count_words, first_characters
from data_pipelines.tokenizers.wordpiece import INSIDE

MIN_PIECES = 3  # of a word to add
MIN_COUNT = 2  # how often it is in the text, at least
NUM_SHOWN = 8  # words on the terminal
CUT_AT_ONCE = 10_000  # words; bounds the memory, a cut word takes more than 1 kB in the library
META_FORM = {"special_ids": dict.fromkeys(SpecialIds._fields, int)}
MODEL_FORM = {**TOKENIZER_FORM, "model": {**TOKENIZER_FORM["model"], "type": str}}


class AddedWords(NamedTuple):
    """What `add_words` did."""

    words: list[str]  # the most frequent first
    num_candidates: int  # words that it could have added
    num_occurrences: int  # of `words` in the text
    num_words: int  # in the text
    pieces_before: int  # of the whole text, by the old tokenizer
    pieces_after: int
    num_lost: int  # words in the text that became unknown


def add_words(
    source: str,
    directory: str,
    documents: Iterable[str],
    *,
    max_words: int,
    max_chars: int,
    lowercase: bool | None,
) -> AddedWords:
    """Make the tokenizer directory `directory` of the tokenizer in `source` and words of a text.

    Words are those of the normalised text between which the tokenizer cuts in any case, at least MIN_COUNT
    times in the first `max_chars` characters, with a letter, and cut into MIN_PIECES or more pieces, none of
    them unknown. The `max_words` most frequent of them get the ids after the highest one, so that all other
    ids stay. WordPiece takes the longest piece, so a new word is also the start of longer ones. These can
    become unknown, if the vocabulary lacks pieces of single letters for the rest of them.

    Memory holds every different word of the text once.

    Args:
      source, lowercase: as of `adopt_tokenizer`.

    Raises:
      FileNotFoundError, FileExistsError, LetterCaseError: as `adopt_tokenizer`.
      ValueError: also if the tokenizer is not WordPiece, or the text has no such word.
    """
    target = Path(directory)
    if read_meta(target) is None:
        check_free(target)  # before the text is read
    files = tokenizer_files(Path(source), lowercase)
    described = _wordpiece_of(files, source)
    special = SpecialIds(**parse_json(files[META_FILE], META_FORM, META_FILE)["special_ids"])
    old = HuggingFaceTokenizer(directory, files[MODEL_FILES[FORMAT]], special)
    counts = count_words(first_characters(documents, max_chars), old.normalize, old.pre_tokenizer)
    candidates = _long_words(old, counts, described["model"].get("continuing_subword_prefix", INSIDE))
    if not candidates:
        raise ValueError(
            f"{source}: got a text in which no word occurs {MIN_COUNT} times and is cut into {MIN_PIECES} "
            "pieces or more, expected words to add; give more text, or use the tokenizer as it is"
        )
    chosen = candidates[:max_words]
    pieces = described["model"]["vocab"]
    # Tokens beside the model's vocabulary would otherwise get the ids that follow it.
    pieces |= {token["content"]: token["id"] for token in described.get("added_tokens", [])}
    pieces |= {word: old.num_pieces + place for place, word in enumerate(chosen)}
    model_bytes = json.dumps(described, ensure_ascii=False).encode()
    new = HuggingFaceTokenizer(directory, model_bytes, special)
    place_tokenizer(
        files_of_model(model_bytes, new.num_pieces, special), target, f"{source} with these words"
    )
    return AddedWords(
        chosen,
        len(candidates),
        sum(counts[word] for word in chosen),
        counts.total(),
        *_compare(old, new, counts),
    )


def added_lines(added: AddedWords) -> list[str]:
    """Lines for the terminal."""
    shown = ", ".join(added.words[:NUM_SHOWN])
    lines = [
        f"added words      {len(added.words):,} of {added.num_candidates:,} that were cut into {MIN_PIECES} "
        f"pieces or more: {shown}{', …' if len(added.words) > NUM_SHOWN else ''}",
        f"they are         {added.num_occurrences / added.num_words:.3%} of the {added.num_words:,} words",
        f"pieces per word  {added.pieces_after / added.num_words:.4f}, before "
        f"{added.pieces_before / added.num_words:.4f} (signs are words here)",
    ]
    if added.num_lost:
        lines.append(
            f"WARNING: {added.num_lost:,} words of the text became unknown: they start with a new word, and "
            "the vocabulary has no pieces for the rest of them; add fewer words"
        )
    return lines


def _wordpiece_of(files: Mapping[str, bytes], source: str) -> dict:
    """The contents of a tokenizer.json; ValueError if it is not WordPiece that cuts text into words first."""
    advice = "train a tokenizer on the text of the domain; `convert import --new_tokenizer` takes any"
    if MODEL_FILES[FORMAT] not in files:
        raise ValueError(f"{source}: got a SentencePiece model, expected WordPiece; {advice}")
    described = parse_json(files[MODEL_FILES[FORMAT]], MODEL_FORM, source)
    kind = described["model"]["type"]
    if kind != "WordPiece" or not described.get("pre_tokenizer"):
        found = kind if kind != "WordPiece" else "WordPiece without a pre_tokenizer"
        raise ValueError(f"{source}: got {found}, expected WordPiece that cuts text into words; {advice}")
    return described


def _long_words(tokenizer: HuggingFaceTokenizer, counts: Mapping[str, int], inside: str) -> list[str]:
    """The words to add, the most frequent first, in the order of the alphabet if equally frequent.

    A special token ("[MASK]", where brackets are not cut off) keeps its id, and a word that starts with
    `inside` would become a piece inside words.
    """
    spelled = set(tokenizer.vocabulary())
    words = sorted(
        word
        for word, count in counts.items()
        if count >= MIN_COUNT
        and any(map(str.isalpha, word))
        and word not in spelled
        and not (inside and word.startswith(inside))
    )
    # An unknown word is one piece, [UNK].
    long_words = [
        word for word, ids in zip(words, _cut(tokenizer, words), strict=True) if len(ids) >= MIN_PIECES
    ]
    return sorted(long_words, key=lambda word: -counts[word])


def _compare(
    old: HuggingFaceTokenizer, new: HuggingFaceTokenizer, counts: Mapping[str, int]
) -> tuple[int, int, int]:
    """How many pieces the text has by each tokenizer, and how many words became unknown."""
    words = list(counts)
    before = after = lost = 0
    for word, old_ids, new_ids in zip(words, _cut(old, words), _cut(new, words), strict=True):
        before += counts[word] * len(old_ids)
        after += counts[word] * len(new_ids)
        lost += counts[word] * (new.special.unk in new_ids and old.special.unk not in old_ids)
    return before, after, lost


def _cut(tokenizer: HuggingFaceTokenizer, words: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each word."""
    for start in range(0, len(words), CUT_AT_ONCE):
        yield from tokenizer.encode_batch(words[start : start + CUT_AT_ONCE])
