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
WHOLE = "whole_"  # before the length in names of arrays with the hashes of whole texts


def write_index(
    path: Path,
    sources: Sequence[str],
    fields: Sequence[str],
    n: int,
    document_separator: str,
    min_shared: int = 1,
) -> int:
    """Write the hashes of all n-grams of evaluation files, and those of whole texts with fewer than
    `min_shared` n-grams: for each length an array, uint64, sorted.

    Args:
      fields: of their records, each read as a text of its own; of a source those that it has. A .txt file
        has none, and is read whole.

    Returns:
      The number of evaluation texts that are too short to be looked for.

    Raises:
      OSError, ValueError: as `read_documents`; a source without any of the fields, or a field of no source
        unless all are .txt files; or no text is long enough.
    """
    grams: dict[str, list[np.ndarray]] = {}
    num_short = 0
    for text in _texts(sources, fields, document_separator):
        numbers = word_numbers(text)
        length = min(n, len(numbers))
        if length < min(n, FEWEST_WORDS):
            num_short += 1
            continue
        grams.setdefault(str(length), []).append(ngram_numbers(numbers, length))
        if len(numbers) < n + min_shared - 1:
            grams.setdefault(f"{WHOLE}{len(numbers)}", []).append(ngram_numbers(numbers, len(numbers)))
    if not grams:
        raise ValueError(
            f"--decontaminate: got {', '.join(sources)} with {num_short:,} texts, expected one of "
            f"{min(n, FEWEST_WORDS)} words or more; check the files and --evaluation_fields"
        )
    unique = {name: np.unique(np.concatenate(parts)) for name, parts in grams.items()}
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **unique)
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
            hashes = {name: file[name] for name in file.files}
        self._places = {int(name): of for name, of in hashes.items() if not name.startswith(WHOLE)}
        self._whole = {
            int(name.removeprefix(WHOLE)): of for name, of in hashes.items() if name.startswith(WHOLE)
        }

    def shared(self, numbers: np.ndarray) -> int:
        """How many n-grams of a text, given as the numbers of its words, are in evaluation texts."""
        return sum(_count(numbers, length, hashes) for length, hashes in self._places.items())

    def has_whole_text(self, numbers: np.ndarray) -> bool:
        """Whether a whole evaluation text with fewer n-grams than the min_shared of `write_index` is in a
        text."""
        return any(_count(numbers, length, hashes) for length, hashes in self._whole.items())


def _count(numbers: np.ndarray, length: int, hashes: np.ndarray) -> int:
    """How many n-grams of this length a text has among sorted hashes."""
    grams = ngram_numbers(numbers, length)
    places = np.minimum(np.searchsorted(hashes, grams), len(hashes) - 1)
    return int((hashes[places] == grams).sum())
