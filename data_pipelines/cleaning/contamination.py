"""Evaluation text in training text: documents that share n consecutive words with it.

Brown et al. 2020, Language Models are Few-Shot Learners (GPT-3), appendix C: 13 words, of shorter evaluation
examples all, but no fewer than 8. GPT-3 cuts 200 characters around the place; here the document goes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.cleaning.words import ngram_numbers, word_numbers
from data_pipelines.document_formats import is_plain_text
from data_pipelines.documents import MissingFieldError, read_documents, read_field
from data_pipelines.whole_files import written_whole

FEWEST_WORDS = 8


def write_index(
    path: Path, sources: Sequence[str], fields: Sequence[str], n: int, document_separator: str
) -> int:
    """Write the hashes of all n-grams of evaluation files, int64 lengths beside uint64 hashes, sorted.

    Args:
      fields: of their records, each read as a text of its own; of a source those that it has. A .txt file
        has none, and is read whole.

    Returns:
      The number of evaluation texts that are too short to be looked for.

    Raises:
      OSError, ValueError: as `read_documents`; a source without any of the fields, or a field of no source
        unless all are .txt files; or no text is long enough.
    """
    grams: dict[int, list[np.ndarray]] = {}
    num_short = 0
    for text in _texts(sources, fields, document_separator):
        numbers = word_numbers(text)
        length = min(n, len(numbers))
        if length < min(n, FEWEST_WORDS):
            num_short += 1
        else:
            grams.setdefault(length, []).append(ngram_numbers(numbers, length))
    if not grams:
        raise ValueError(
            f"--decontaminate: got {', '.join(sources)} with {num_short:,} texts, expected one of "
            f"{min(n, FEWEST_WORDS)} words or more; check the files and --evaluation_fields"
        )
    unique = {length: np.unique(np.concatenate(parts)) for length, parts in grams.items()}
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{str(length): hashes for length, hashes in unique.items()})
    return num_short


def _texts(sources: Sequence[str], fields: Sequence[str], document_separator: str) -> Iterator[str]:
    """The evaluation texts, those of a field after another; arguments and errors as of `write_index`."""
    records = [source for source in sources if not is_plain_text(source)]
    plain = [source for source in sources if is_plain_text(source)]
    yield from read_documents(plain, document_separator=document_separator)
    found: set[str] = set()
    for source in records:
        missing, has_any = None, False
        for field in fields:
            try:
                yield from read_field(source, field)
                has_any = True
                found.add(field)
            except MissingFieldError as error:
                missing = missing or error
            except ValueError as error:
                raise _with_own_flag(error) from error
        if missing and not has_any:
            raise _with_own_flag(missing) from missing
    unknown = [field for field in fields if field not in found]
    if records and unknown:
        raise ValueError(
            f"--evaluation_fields: got {', '.join(unknown)}, expected fields of {', '.join(records)}: none "
            "has it; correct the name, or leave it out"
        )


def _with_own_flag(error: ValueError) -> ValueError:
    """The error of a reader, which names the flag of the text to clean."""
    return ValueError(str(error).replace("--text_field", "--evaluation_fields"))


class Index:
    """What `write_index` wrote."""

    def __init__(self, path: str | Path):
        with np.load(path) as file:
            self._hashes = {int(length): file[length] for length in file.files}

    def shared(self, numbers: np.ndarray) -> int:
        """How many n-grams of a text, given as the numbers of its words, are in evaluation texts."""
        return sum(self._shared_of(numbers, length) for length in self._hashes)

    def has_whole_text(self, numbers: np.ndarray, n: int) -> bool:
        """Whether an evaluation text of fewer than `n` words, the n of `write_index`, is in a text."""
        return any(self._shared_of(numbers, length) for length in self._hashes if length < n)

    def _shared_of(self, numbers: np.ndarray, length: int) -> int:
        hashes, grams = self._hashes[length], ngram_numbers(numbers, length)
        places = np.minimum(np.searchsorted(hashes, grams), len(hashes) - 1)
        return int((hashes[places] == grams).sum())
