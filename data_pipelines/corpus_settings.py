"""The settings that determine a dataset's rows."""

import dataclasses
from typing import Any

from data_pipelines.copies import Curve
from data_pipelines.documents import (
    DOCUMENT_SEPARATORS,
    MAX_DOCUMENT_CHARS,
    MAX_RECORD_BYTES,
    ReadReport,
    check_document_separator,
    check_max_document_chars,
    check_max_record_bytes,
    check_on_invalid_utf8,
)
from data_pipelines.packing import check_packing
from data_pipelines.selection import HIGHEST, Choice

# Settings that datasets of earlier versions do not record, and their values there. They are left out if they
# have these, so that the entry `sources` stays the same.
NEW_SETTINGS = {
    "document_separator": DOCUMENT_SEPARATORS[0],
    "deduplicate": False,
    "max_document_chars": MAX_DOCUMENT_CHARS,
    "max_record_bytes": MAX_RECORD_BYTES,
    "score_field": "",
    "min_score": None,
    "max_score": None,
    "keep_fraction": 1.0,
    "best": HIGHEST,
    "copies": (),
}


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Everything that determines the rows of a dataset; checks itself.

    Held-out documents come from `validation`, or are the share `validation_fraction` of `train`, chosen by a
    hash of their text, so that equal documents are in the same split.

    Raises:
      ValueError: a setting is out of range; names its flag.
      TypeError: a string in place of a list of sources.
    """

    train: tuple[str, ...]  # sources, see `read_documents`
    tokenizer: str  # directory
    sequence_length: int  # ids in a row, special ones included
    packing: str  # one of packing.PACKERS
    validation: tuple[str, ...] = ()  # sources of held-out documents
    validation_fraction: float = 0.0
    seed: int = 0  # of the random choices of packing "electra" and of `copies`
    text_field: str = "text"
    on_invalid_utf8: str = "error"
    document_separator: str = DOCUMENT_SEPARATORS[0]  # of .txt files
    deduplicate: bool = False  # leave out documents whose whole text occurred before
    max_document_chars: int = MAX_DOCUMENT_CHARS  # longer documents are cut
    max_record_bytes: int = MAX_RECORD_BYTES  # longer records are passed over
    score_field: str = ""  # by whose numbers training documents are chosen, see `Choice`
    min_score: float | None = None
    max_score: float | None = None
    keep_fraction: float = 1.0
    best: str = HIGHEST
    copies: Curve = ()  # points: score, times that a document with it is packed
    chunk_chars: int = 8_000_000  # characters of text that become one file, or a little more

    def __post_init__(self):
        for name in ("train", "validation"):
            sources = getattr(self, name)
            if isinstance(sources, str):
                raise TypeError(f"{name}: got the string {sources!r}, expected a list; write [{sources!r}]")
            object.__setattr__(self, name, tuple(sources))
        if bool(self.validation) == bool(self.validation_fraction) or not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"held-out text: got --validation {list(self.validation)} and --validation_fraction "
                f"{self.validation_fraction}, expected either sources or a fraction between 0 and 1; give "
                "one of the two."
            )
        if self.chunk_chars < 1:
            raise ValueError(f"chunk_chars: got {self.chunk_chars}, expected at least 1.")
        if self.seed < 0:
            raise ValueError(f"--seed: got {self.seed}, expected 0 or more.")
        check_packing(self.packing, self.sequence_length)
        check_on_invalid_utf8(self.on_invalid_utf8)
        check_document_separator(self.document_separator)
        check_max_document_chars(self.max_document_chars)
        check_max_record_bytes(self.max_record_bytes)
        self.choice  # noqa: B018 — whose errors are those of its flags

    @property
    def choice(self) -> Choice:
        """Which training documents are kept."""
        names = ("min_score", "max_score", "keep_fraction", "best", "copies", "seed")
        return Choice(self.score_field, **{name: getattr(self, name) for name in names})

    @property
    def all_sources(self) -> list[str]:
        """Sources of both splits."""
        return [*self.train, *self.validation]

    def no_text(self, split: str, report: ReadReport) -> ValueError:
        """The error of a split without rows. `report`: of what was read."""
        read = self.validation if split == "validation" and self.validation else self.train
        return ValueError(
            f"split {split!r}: got no text from {list(read)}, expected at least one document. Check the "
            "files and --text_field, or change --validation_fraction. In a .txt file a blank line ends a "
            "document; --document_separator=line makes each line one."
            + (
                f" Passed over: {report.too_long:,} records of more than --max_record_bytes "
                f"{self.max_record_bytes}, the first {report.first_too_long}."
                if report.too_long
                else ""
            )
            + (f" By their score {report.low_scores:,} documents were left out." * bool(report.low_scores))
        )

    @property
    def sources(self) -> dict[str, Any]:
        """The entry `sources` of corpus.json: sources, and how they are read and divided."""
        return {
            "train": list(self.train),
            "validation": list(self.validation),
            "validation_fraction": self.validation_fraction,
            "seed": self.seed,
            "text_field": self.text_field,
            "on_invalid_utf8": self.on_invalid_utf8,
            "chunk_chars": self.chunk_chars,
            **{
                # Points are lists, as they are after they were written to a file of JSON.
                key: [list(point) for point in value] if key == "copies" else value
                for key, default in NEW_SETTINGS.items()
                if (value := getattr(self, key)) != default
            },
        }

    def recorded(self, tokenizer_fingerprint: str) -> dict[str, Any]:
        """The settings as corpus.json records them. Two builds that agree in them are the same build."""
        return {
            "tokenizer_fingerprint": tokenizer_fingerprint,
            "sequence_length": self.sequence_length,
            "packing": self.packing,
            "sources": self.sources,
        }
