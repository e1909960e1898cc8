"""Bytes → text, and a report of what reading changed."""

import dataclasses

ON_INVALID_UTF8 = ("error", "skip", "replace")
# The longest record that is read whole: a line of JSON, or a value of Parquet and TFDS. Long books have a
# tenth of that.
MAX_RECORD_BYTES = 1 << 26
MAX_DOCUMENT_CHARS = 1_000_000


@dataclasses.dataclass
class ReadReport:
    """Counts of what was read, skipped and changed."""

    documents: int = 0
    characters: int = 0
    bytes_read: int = 0  # of the source files, before decompression; of a tfds source, not counted
    skipped_empty: int = 0  # documents of white space only, and null in place of a text
    without_field: int = 0  # JSON records that lack the text field
    first_without_field: str = ""  # where the first of them is
    invalid_utf8: int = 0  # lines (of a Parquet or tfds source: values) that were not UTF-8
    first_invalid: str = ""  # where the first of them is
    duplicates: int = 0  # documents left out since their text occurred before; not among `documents`
    low_scores: int = 0  # documents left out by their score; not among `documents`
    low_score_characters: int = 0
    without_score: int = 0  # of them, documents that have none
    first_without_score: str = ""  # where the first of them is
    copies: int = 0  # added by --copies; among `documents`, as their text is among `characters`
    copied_characters: int = 0
    cut: int = 0  # cuts made in documents longer than max_document_chars; each adds one document
    first_cut: str = ""  # the source of the first of them
    too_long: int = 0  # records of more than max_record_bytes, which were passed over
    first_too_long: str = ""  # where the first of them is

    @property
    def amount_read(self) -> int:
        """The bytes of the source files that were read, or the characters of all documents if those are more:
        a file may be compressed, and the bytes of a tfds source are not counted."""
        chosen = self.characters - self.copied_characters
        return max(self.bytes_read, chosen + self.low_score_characters)

    def note_bytes(self, number: int) -> None:
        """Count bytes of a source file."""
        self.bytes_read += number

    def note_without_field(self, where: str) -> None:
        """Count a record that lacks the text field."""
        self.without_field += 1
        self.first_without_field = self.first_without_field or where

    def note_without_score(self, where: str) -> None:
        """Count a document that has no score."""
        self.without_score += 1
        self.first_without_score = self.first_without_score or where

    def note_cut(self, source: str) -> None:
        """Count a cut in a document of `source`."""
        self.cut += 1
        self.first_cut = self.first_cut or source

    def note_too_long(self, where: str) -> None:
        """Count a record that was passed over since it is too long."""
        self.too_long += 1
        self.first_too_long = self.first_too_long or where

    def add(self, other: "ReadReport") -> None:
        """Add the counts of another report, of text that follows this one's."""
        for name, value in dataclasses.asdict(other).items():
            mine = getattr(self, name)
            setattr(self, name, mine + value if isinstance(value, int) else mine or value)

    def lines(self, on_invalid_utf8: str) -> list[str]:
        """Lines for people about what was skipped and changed; [] if nothing was."""
        lines = []
        if self.invalid_utf8:
            lines.append(
                f"{self.invalid_utf8:,} lines were not UTF-8 (--on_invalid_utf8 {on_invalid_utf8}); "
                f"the first: {self.first_invalid}"
            )
        if self.without_field:
            lines.append(
                f"{self.without_field:,} records without the text field skipped; the first: "
                f"{self.first_without_field}"
            )
        if self.too_long:
            lines.append(
                f"{self.too_long:,} records passed over (--max_record_bytes), which are too long to be read "
                f"whole; the first: {self.first_too_long}"
            )
        if self.duplicates:
            lines.append(
                f"{self.duplicates:,} documents left out (--deduplicate), whose text occurred before"
            )
        if self.low_scores:
            lines.append(
                f"{self.low_scores:,} training documents left out by their score (--score_field), "
                f"{self.low_score_characters:,} characters"
            )
        if self.without_score:
            lines.append(
                f"{self.without_score:,} of them have no score; the first: {self.first_without_score}"
            )
        if self.copies:
            lines.append(
                f"{self.copies:,} copies of training documents added (--copies), "
                f"{self.copied_characters:,} characters"
            )
        if self.skipped_empty or self.cut:
            lines.append(
                f"{self.skipped_empty:,} empty documents skipped, {self.cut:,} cuts in documents of more "
                "than --max_document_chars"
                + (
                    f" (in .txt a blank line ends a document), the first in {self.first_cut}"
                    if self.cut
                    else ""
                )
            )
        return lines


def check_on_invalid_utf8(on_invalid_utf8: str) -> None:
    """Raises ValueError for an unknown treatment of invalid UTF-8."""
    if on_invalid_utf8 not in ON_INVALID_UTF8:
        raise ValueError(
            f"on_invalid_utf8: got {on_invalid_utf8!r}, expected one of {', '.join(ON_INVALID_UTF8)}"
        )


def check_max_document_chars(max_document_chars: int) -> None:
    """Raises ValueError for a limit below 1."""
    if max_document_chars < 1:
        raise ValueError(f"max_document_chars: got {max_document_chars}, expected 1 or more")


def check_max_record_bytes(max_record_bytes: int) -> None:
    """Raises ValueError for a limit below 1."""
    if max_record_bytes < 1:
        raise ValueError(f"max_record_bytes: got {max_record_bytes}, expected 1 or more")


class Decoder:
    """Decodes UTF-8 with the chosen treatment of invalid lines, and passes over records that are too long; a
    line is counted as invalid at most once."""

    def __init__(self, on_invalid: str, report: ReadReport, max_record_bytes: int = MAX_RECORD_BYTES):
        self.on_invalid, self.report, self.max_record_bytes = on_invalid, report, max_record_bytes

    def is_too_long(self, num_bytes: int, where: str) -> bool:
        """Whether a record is too long to be read; such a record is counted."""
        if num_bytes <= self.max_record_bytes:
            return False
        self.report.note_too_long(f"{where} ({num_bytes:,} bytes)")
        return True

    def note(self, where: str, error: Exception) -> None:
        """Count an invalid line, or raise ValueError."""
        if self.on_invalid == "error":
            raise ValueError(
                f"{where}: not valid UTF-8 ({error}); convert the file, or choose on_invalid_utf8 'skip' "
                "(drop the line) or 'replace' (write U+FFFD)"
            ) from error
        self.report.invalid_utf8 += 1
        self.report.first_invalid = self.report.first_invalid or where

    def text(self, data: bytes, where: str) -> str | None:
        """The text of `data`, None if it is to be dropped."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.note(where, error)
            return data.decode("utf-8", "replace") if self.on_invalid == "replace" else None

    def string(self, value: str, where: str) -> str | None:
        """`value`, unless it holds lone surrogates: JSON can spell them, but UTF-8 cannot."""
        try:
            value.encode("utf-8")
            return value
        except UnicodeEncodeError as error:
            self.note(where, error)
            if self.on_invalid == "skip":
                return None
            return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
