"""Show how far the training of a tokenizer is: first it reads text, then the library works in silence."""

import contextlib
from collections.abc import Iterable, Iterator

from data_pipelines.documents import ReadReport
from data_pipelines.progress import Progress, make_progress, waiting


@contextlib.contextmanager
def watched(
    documents: Iterable[str],
    max_chars: int,
    report: ReadReport,
    num_bytes: int | None,
    then: str = "training the vocabulary",
) -> Iterator[Iterator[str]]:
    """Context that gives the documents to a trainer and shows how far it is; nothing if it reads none.

    Args:
      documents: as read; `report` counts them.
      max_chars: how many characters the trainer takes.
      num_bytes: size of all sources, None if it is not known.
      then: what the trainer does with the text.
    """
    with contextlib.ExitStack() as stack:
        yield _watch(documents, max_chars, report, num_bytes, stack, then)


def _watch(
    documents: Iterable[str],
    max_chars: int,
    report: ReadReport,
    num_bytes: int | None,
    stack: contextlib.ExitStack,
    then: str,
) -> Iterator[str]:
    last = None  # the document that fills the cap: the trainer asks for none after it
    with _reading(max_chars, num_bytes) as (shown, total, in_bytes):
        for document in documents:
            done = report.bytes_read if in_bytes else report.characters
            # Files are read in blocks, so all bytes can be read before the last document.
            shown.update(min(done, total - 1), {"documents": f"{report.documents:,}"})
            if report.characters >= max_chars:
                last = document
                break
            yield document
    stack.enter_context(waiting(then))
    if last is not None:
        yield last


@contextlib.contextmanager
def _reading(max_chars: int, num_bytes: int | None) -> Iterator[tuple[Progress, int, bool]]:
    """The progress of reading, how much there is, and whether it counts bytes: of all sources if they are
    shorter than the cap, else characters up to it."""
    in_bytes = num_bytes is not None and 0 < num_bytes <= max_chars
    total, unit = (num_bytes, "B") if in_bytes else (max_chars, " characters")
    with make_progress(total, "reading text", unit=unit, is_scaled=True) as shown:
        yield shown, total, in_bytes
