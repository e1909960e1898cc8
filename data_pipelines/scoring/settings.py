"""Everything that determines the scores of documents."""

import dataclasses
import importlib.util

from data_pipelines.documents import (
    DOCUMENT_SEPARATORS,
    MAX_RECORD_BYTES,
    PIECE_OF,
    check_document_separator,
    check_max_record_bytes,
    check_on_invalid_utf8,
)
from data_pipelines.installation import install_command
from data_pipelines.problems import Problems
from data_pipelines.scoring.strength import Models

PACKAGES = ("sklearn", "threadpoolctl")


@dataclasses.dataclass(frozen=True)
class ScoringSettings:
    """The settings of a scoring, which are also its flags; checks itself.

    Raises:
      ValueError: settings are out of range; names their flags.
      ImportError: a package that they need is not installed.
    """

    input: tuple[str, ...]  # sources, see `read_pieces`
    positive: tuple[str, ...] = ()  # sources of documents that should score high
    negative: tuple[str, ...] = ()  # and of those that should score low
    examples: tuple[str, ...] = ()  # in their place, sources of documents with the losses of several models
    losses: tuple[tuple[str, float], ...] = ()  # field with the losses of a model, its score downstream
    example_share: float = 0.0  # of `examples` that become those of each side; 0: as in the paper
    field: str = "score"  # that each document gets
    ngrams: int = 2  # words of the longest n-gram
    max_training_chars: int = 20_000_000  # characters of the examples of each side
    text_field: str = "text"
    document_separator: str = DOCUMENT_SEPARATORS[0]
    on_invalid_utf8: str = "error"
    max_record_bytes: int = MAX_RECORD_BYTES
    piece_chars: int = 1_000_000  # characters of text that are scored at once, or a little more

    def __post_init__(self):
        problems = Problems()
        for check in (_check_packages, self._check_reading, self._check_examples, self._check_values):
            with problems.kept():
                check()
        problems.report()

    def _check_reading(self) -> None:
        check_on_invalid_utf8(self.on_invalid_utf8)
        check_document_separator(self.document_separator)
        check_max_record_bytes(self.max_record_bytes)

    def _check_examples(self) -> None:
        is_given = [bool(getattr(self, name)) for name in ("positive", "negative", "examples", "losses")]
        if is_given not in ([True, True, False, False], [False, False, True, True]):
            names = [
                f"--{name}" for name in ("positive", "negative", "examples", "losses") if getattr(self, name)
            ]
            raise ValueError(
                f"the examples: got {', '.join(names) or 'none'}, expected --positive and --negative, or "
                "--examples and --losses; give one of the two pairs."
            )
        if not 0 <= self.example_share <= 0.5 or (self.example_share and not self.losses):
            raise ValueError(
                f"--example_share: got {self.example_share:g}, expected up to 0.5, with --losses."
            )
        if self.losses:
            Models.of(self.losses)

    @property
    def strength_field(self) -> str:
        """The field that each document with losses gets beside `field`."""
        return f"{self.field}_strength"

    def _check_values(self) -> None:
        own = (self.field, self.strength_field) if self.losses else (self.field,)
        if self.field in ("", "source", "document", "record", PIECE_OF) or self.text_field in own:
            raise ValueError(
                f"--field: got {self.field!r}, expected a name that no other field of a document has; "
                "choose another, such as score."
            )
        for name, most in (("ngrams", 5), ("max_training_chars", 1 << 40), ("piece_chars", 1 << 30)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ValueError(f"--{name}: got {value}, expected 1 to {most:,}.")


def _check_packages() -> None:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"scoring needs the package {name}, which is not installed; run {install_command('finetune')}"
            )
