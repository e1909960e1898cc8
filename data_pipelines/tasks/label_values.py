"""Which values of a task's labels are classes, and which mean that there is no label.

Sources without a label spell that in many ways: null, NaN and "" in files from pandas, -1 in test sets of
Hugging Face, -100 for words that are not to be scored, "-" in SNLI. The same values can be classes, so the
other labels decide. Labels that config.task.labels lists are always classes.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.tasks.records import NEVER_LABELS, as_text

CODES = ("-1", "-100")
# Words that are classes beside other words ("none" of stance detection), and no labels beside numbers.
WORDS = ("none", "na", "n/a", "?", "_", "-")
PLACEHOLDERS = frozenset((*CODES, *NEVER_LABELS, *WORDS))
# A class of which this many examples are expected in held-out splits is absent by a chance of 5 %.
MIN_EXPECTED = 3
MIN_COUNT = 2  # examples that tell anything
CLASS_SHARE, RARE_SHARE = 2 / 3, 1 / 20  # of the smallest other class


class Classes(NamedTuple):
    """The classes or tags of a task."""

    names: tuple[str, ...]
    numbers: dict[str, int]  # `identity` of a name → its index
    not_labels: frozenset[str]  # in lower case: what means "no label" in a split that has labels
    doubtful: frozenset[str]  # identities that were taken for classes and could mean "no label"

    def has(self, label: str) -> bool:
        """Whether a label is a class."""
        return identity(label) in self.numbers

    def means_no_label(self, label: str) -> bool:
        """Whether a label means, in a split with labels, that there is none."""
        return not self.has(label) and identity(label).lower() in self.not_labels


def spelling(label: Any, where: str) -> str | None:
    """A label of a file or dataset as text, None for null, NaN and blanks.

    Raises:
      ValueError: it is a list or an object, or not valid UTF-8.
    """
    if isinstance(label, (list, dict)):
        raise ValueError(
            f"{where}: label is a {type(label).__name__}, expected a string or number; check "
            "config.task.label"
        )
    if label is None or label != label:
        return None
    if isinstance(label, bool):
        return str(label).lower()
    return as_text(label, "label", where).strip() or None if isinstance(label, (str, bytes)) else str(label)


def identity(label: str) -> str:
    """What two spellings of one class have in common: 1 and 1.0, true and True, two Unicode forms of é."""
    label = unicodedata.normalize("NFC", label.strip())
    whole = re.fullmatch(r"([+-]?\d+)\.0+", label)
    if whole:
        return whole[1]
    lower = label.lower()
    return lower if label in ("True", "False") or lower in NEVER_LABELS else label


def is_placeholder(label: str) -> bool:
    """Whether a label may mean that there is none."""
    return identity(label).lower() in PLACEHOLDERS


def listed_classes(labels: Sequence[str], *, tagging: bool) -> Classes:
    """The classes that the configuration or a dataset lists, in this order.

    Raises:
      ValueError: a label occurs twice.
    """
    numbers = {identity(label): number for number, label in enumerate(labels)}
    if len(numbers) < len(labels):
        raise ValueError(f"config.task.labels: got {tuple(labels)!r}, expected each label once")
    return Classes(tuple(labels), numbers, _not_labels(set(numbers), tagging=tagging), frozenset())


def found_classes(counts: Mapping[str, Counter[str]], *, tagging: bool) -> Classes:
    """The classes of the training split, sorted, numbers by value. Of Unicode forms of a name the first is
    taken.

    Args:
      counts: split → spelling → how often it occurs, in the order of the rows; "train" must be among them.

    Raises:
      ValueError: -1 may be a class or mean that there is no label.
    """
    spellings: dict[str, list[str]] = {}
    for label in counts["train"]:
        spellings.setdefault(identity(label), []).append(label)
    others = {label for label in spellings if not is_placeholder(label)}
    not_labels, doubtful = _not_labels(others, tagging=tagging), set()
    for label in set(spellings) - others:
        if label in CODES and others == {"0", label.removeprefix("-")}:
            if _is_class(label, counts):
                doubtful.add(label)
                not_labels -= {label}
        elif label not in CODES and label.lower() not in not_labels:
            doubtful.add(label)
    names = [
        min(same, key=_plainness)
        for label, same in spellings.items()
        if label in others or label.lower() not in not_labels
    ]
    are_numbers = all(map(_is_number, names))
    names.sort(key=lambda name: (float(name), name) if are_numbers else name)
    numbers = {identity(name): number for number, name in enumerate(names)}
    return Classes(tuple(names), numbers, not_labels, frozenset(doubtful))


def _plainness(name: str) -> tuple[int, str]:
    """Sorts 1 before 1.0, and leaves Unicode forms of one name in their order."""
    composed = unicodedata.normalize("NFC", name)
    return len(composed), composed


def _is_number(label: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?", label) is not None


def _not_labels(others: Collection[str], *, tagging: bool) -> frozenset[str]:
    """The placeholders that mean, beside the classes `others`, that there is no label."""
    are_numbers = bool(others) and all(map(_is_number, others))
    found = set(NEVER_LABELS)
    for code in CODES:
        # Beside other negative numbers, or 1 alone, it is one of them.
        has_negatives = are_numbers and any(float(other) < 0 for other in others)
        if not has_negatives and set(others) != {code.removeprefix("-")}:
            found.add(code)
    if are_numbers:
        found.update(WORDS)
    if others and not tagging and "+" not in others:
        found.add("-")
    return frozenset(found)


def _is_class(code: str, counts: Mapping[str, Counter[str]]) -> bool:
    """Whether −c is a class beside 0 and c, by how often they occur; ValueError if that does not tell."""
    train = _by_identity(counts["train"])
    count, least = train[code], min(number for label, number in train.items() if not is_placeholder(label))
    held_out: Counter[str] = Counter()
    for split, labels in counts.items():
        if split != "train" and not all(map(is_placeholder, labels)):
            held_out += _by_identity(labels)
    is_absent = held_out.total() > 0 and not held_out[code]
    if is_absent and held_out.total() * count / train.total() >= MIN_EXPECTED:
        return False
    if not is_absent and count >= max(MIN_COUNT, CLASS_SHARE * least):
        return True
    if count <= RARE_SHARE * least:
        return False
    found = ", ".join(f"{label!r} ({number})" for label, number in sorted(train.items()))
    classes = f"0,{code.removeprefix('-')}"
    raise ValueError(
        f"config.task.labels: got () and in train the labels {found}, expected a list of the classes, "
        f"since {code!r} may be one or mean that there is no label. Pass "
        f"--config.task.labels={code},{classes} or --config.task.labels={classes}"
    )


def _by_identity(counts: Mapping[str, int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for label, number in counts.items():
        total[identity(label)] += number
    return total
