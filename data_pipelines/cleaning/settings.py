"""Everything that determines what a cleaning keeps."""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from data_pipelines.cleaning.languages import known_languages
from data_pipelines.cleaning.masking import KINDS, PHONE
from data_pipelines.cleaning.rules import C4, GROUPS, RULES
from data_pipelines.cleaning.unicode_repair import FORMS
from data_pipelines.documents import (
    DOCUMENT_SEPARATORS,
    MAX_RECORD_BYTES,
    check_document_separator,
    check_max_record_bytes,
    check_on_invalid_utf8,
)
from data_pipelines.installation import install_command
from data_pipelines.json_files import read_bytes
from data_pipelines.problems import Problems

UNICODE_FORMS = ("none", *FORMS)
DUPLICATES = ("none", "exact", "near")
OFF = "off"
VERSION = 2  # of the filters that compare words: another one keeps other documents with the same settings
MAX_WORD_LIST_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class CleaningSettings:
    """The settings of a cleaning, which are also its flags; checks itself.

    Raises:
      ValueError: settings are out of range; names their flags.
      ImportError: a package that they need is not installed.
    """

    input: tuple[str, ...]  # sources, see `read_pieces`
    text_field: str = "text"
    document_separator: str = DOCUMENT_SEPARATORS[0]
    on_invalid_utf8: str = "error"
    max_record_bytes: int = MAX_RECORD_BYTES
    repair_unicode: bool = False
    unicode_form: str = "none"
    languages: tuple[str, ...] = ()  # that are kept; all without looking at them if there are none
    language_threshold: float = 0.5  # the least probability
    rules: tuple[str, ...] = GROUPS  # of GROUPS
    set: tuple[str, ...] = ()  # NAME=NUMBER or NAME=off, instead of the published bounds
    bad_words: str = ""  # a file with a word or phrase a line
    duplicates: str = "near"  # one of DUPLICATES; near ones include exact ones
    similarity: float = 0.7  # of near duplicates, or more
    decontaminate: tuple[str, ...] = ()  # sources of evaluation text
    evaluation_fields: tuple[str, ...] = ("text",)
    shared_words: int = 13  # consecutive words that must be the same
    min_shared: int = 1  # places where they are, or all of a text that has fewer
    mask: tuple[str, ...] = ()  # of masking.KINDS
    phone_regions: tuple[str, ...] = ()
    piece_chars: int = 4_000_000  # characters of text that become one file, or a little more

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if str(field.type).startswith("tuple"):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        problems = Problems()
        for check in (check_packages, self._check_reading, self._check_numbers, self._check_words):
            with problems.kept():
                check()
        problems.report()
        self.bounds  # noqa: B018 — whose errors are those of --set

    def _check_reading(self) -> None:
        check_on_invalid_utf8(self.on_invalid_utf8)
        check_document_separator(self.document_separator)
        check_max_record_bytes(self.max_record_bytes)

    def _check_numbers(self) -> None:
        for name, least, most in (
            ("language_threshold", 0, 1),
            ("similarity", 0.3, 1),
            ("shared_words", 1, 1000),
            ("min_shared", 1, 1_000_000),
            ("piece_chars", 1, 1 << 30),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"--{name}: got {value}, expected {least} to {most:,}.")

    def _check_words(self) -> None:
        import phonenumbers

        for name, allowed in (
            ("rules", ("none", *GROUPS)),
            ("mask", KINDS),
            ("duplicates", DUPLICATES),
            ("unicode_form", UNICODE_FORMS),
            ("phone_regions", sorted(phonenumbers.SUPPORTED_REGIONS)),
            ("languages", known_languages() if self.languages else ()),
        ):
            given = getattr(self, name)
            for word in (given,) if isinstance(given, str) else given:
                if word not in allowed:
                    raise ValueError(f"--{name}: got {word!r}, expected of {', '.join(allowed)}.")
        if self.phone_regions and PHONE not in self.mask:
            raise ValueError(f"--phone_regions: got it without --mask {PHONE}; give both, or neither.")

    @functools.cached_property
    def bounds(self) -> Mapping[str, float]:
        """Name → bound of every rule that is on. Raises ValueError for a wrong --set."""
        bounds = {name: rule.bound for name, rule in RULES.items() if rule.group in self.rules}
        for word in self.set:
            name, _, value = word.partition("=")
            try:
                number = None if value == OFF else float(value)
            except ValueError:
                number = float("nan")
            if name not in RULES or (number is not None and not abs(number) < float("inf")):
                raise ValueError(
                    f"--set: got {word!r}, expected NAME=NUMBER or NAME={OFF}, with NAME one of "
                    f"{', '.join(RULES)}."
                )
            bounds.pop(name, None)
            if number is not None:
                bounds[name] = number
        return bounds

    @property
    def removes_lines(self) -> bool:
        """Whether rules of lines are on."""
        return any(name in self.bounds and name.startswith("c4_line") for name in RULES)

    def read_bad_words(self) -> tuple[str, ...]:
        """The lines of `bad_words`, lower-cased. Raises OSError or ValueError if it cannot be read."""
        if not self.bad_words:
            return ()
        data = read_bytes(self.bad_words, MAX_WORD_LIST_BYTES, "Give a text file with a word a line.")
        try:
            lines = data.decode("utf-8-sig").lower().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--bad_words: {self.bad_words} is not UTF-8 ({error}); convert it") from error
        words = tuple(sorted({line.strip() for line in lines} - {""}))
        if not words:
            raise ValueError(f"--bad_words: got {self.bad_words} without words, expected one a line.")
        return words

    def recorded(self) -> dict[str, Any]:
        """The settings as JSON, the version of the filters, and those of the packages that matter. Two
        cleanings that agree in them are the same cleaning."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return values | {"version": VERSION, "packages": check_packages()}


PACKAGES = ("datasketch", "ftfy", "phonenumbers", "py3langid")


def check_packages() -> dict[str, str]:
    """Name → version of the packages of the extra `clean`. Raises ImportError if one is not installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise ImportError(
                f"cleaning needs the package {name}, which is not installed; run {install_command('clean')}"
            ) from error
    return versions


C4_BAD_WORDS = f"{C4}_bad_words"
