"""What the trainers of all kinds of tokenizers share: the text they read and the directory they leave."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from data_pipelines.tokenizers.directory import (
    META_FILE,
    check_free,
    format_of,
    meta_bytes,
    read_meta,
    write_directory,
)
from data_pipelines.tokenizers.load import Tokenizer
from data_pipelines.tokenizers.wordpiece import LONGEST_WORD

READING = ("text_field", "on_invalid_utf8", "max_record_bytes")  # settings by which sources are read


def first_characters(documents: Iterable[str], max_chars: int) -> Iterator[str]:
    """The documents, cut where they have `max_chars` characters together."""
    left = max_chars
    for document in documents:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return


def count_words(
    texts: Iterable[str], normalize: Callable[[str], str], splitter: pre_tokenizers.PreTokenizer
) -> collections.Counter[str]:
    """How often each word of the normalised text occurs; words that WordPiece will not split are left out.

    Raises:
      ValueError: the texts have no word.
    """
    between_spaces: collections.Counter[str] = collections.Counter()
    for part in texts:
        between_spaces.update(part.split())
    words: collections.Counter[str] = collections.Counter()
    for written, count in between_spaces.items():
        for word, _ in splitter.pre_tokenize_str(normalize(written)):
            if len(word) <= LONGEST_WORD:
                words[word] += count
    if not words:
        raise ValueError(
            f"no word in the text: every document is empty, or all words have more than {LONGEST_WORD} "
            "characters; check the input files"
        )
    return words


def check_text_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that trainers of all kinds have and that is out of range."""
    if not 0.98 <= options["character_coverage"] <= 1.0:
        raise ValueError(f"character_coverage: got {options['character_coverage']}, expected 0.98 to 1.0")
    if options["max_training_chars"] < 1:
        raise ValueError(f"max_training_chars: got {options['max_training_chars']}, expected at least 1")


class NamedDocuments:
    """Documents with the paths of their sources and the settings by which they are read, setting of READING →
    value. These and the names of the sources are options of what is trained on them."""

    def __init__(self, documents: Iterable[str], sources: Sequence[str], reading: Mapping[str, Any]):
        self._documents, self.sources, self.reading = documents, sources, reading

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)


def source_options(documents: Iterable[str]) -> dict[str, Any]:
    """What a meta file records of `NamedDocuments`, {} of others: how they are read, and the sources' names
    without directories.

    So the same texts in another place are the same, and meta files do not tell where a user keeps them.
    """
    if not isinstance(documents, NamedDocuments):
        return {}
    return {"input": [Path(source).name for source in documents.sources], **documents.reading}


def has_trained(directory: Path, tokenizer_format: str, options: Mapping[str, Any]) -> bool:
    """Whether `directory` holds a tokenizer that was trained with `options`.

    A meta file of an earlier version does not say which text was read, and how; both may then be any.

    Raises:
      FileExistsError: it holds a tokenizer of another format or of other options, or something else.
    """
    meta = read_meta(directory)
    if meta is None:
        check_free(directory)
        return False
    if format_of(meta) != tokenizer_format:
        raise FileExistsError(
            f"{directory}: holds a tokenizer of format {format_of(meta)!r}, asked for {tokenizer_format!r}; "
            "choose another directory, or remove it"
        )
    differing = [
        f"{key} is {meta.get(key)!r}, asked for {value!r}"
        for key, value in options.items()
        if meta.get(key) != value and (key in meta or key not in ("input", *READING))
    ]
    if differing:
        raise FileExistsError(
            f"{directory}: holds a tokenizer trained with other options ({'; '.join(differing)}); "
            "choose another directory, or use the same options"
        )
    return True


def write_trained(
    tokenizer: Tokenizer, tokenizer_format: str, files: Mapping[str, bytes], options: Mapping[str, Any]
) -> None:
    """Make the directory of a tokenizer that was trained with `options`, complete or not at all.

    Args:
      files: name → contents of every file but the meta file.

    Raises:
      FileExistsError: as `has_trained`. OSError: it cannot be written.
    """
    meta = {
        "kind": tokenizer_format,
        **options,
        "num_pieces": tokenizer.num_pieces,
        "vocab_size": tokenizer.vocab_size,
        "special_ids": tokenizer.special._asdict(),
        "fingerprint": tokenizer.fingerprint,
    }
    target = Path(tokenizer.directory)
    try:
        write_directory(target, {**files, META_FILE: meta_bytes(meta)})
    except OSError:
        if not has_trained(target, tokenizer_format, options):  # another process may have finished first
            raise
