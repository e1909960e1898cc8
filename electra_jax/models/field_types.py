"""Types of the fields of frozen configurations. Their values also come from files that others wrote."""

import dataclasses
import numbers
from typing import Any

from data_pipelines.problems import Problems

# Annotation of a field → the values it takes, and their name for people.
TYPES: dict[Any, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "True or False"),
    str: (str, "a text"),
}


class FieldError(ValueError):
    """A field of an encoder's configuration has a value that it cannot have.

    Attributes:
      field: its path below config.model, as "disentangled.position_buckets".
      got: the value.
      expected: what it can be, in words.
    """

    def __init__(self, field: str, got: Any, expected: str):
        super().__init__(field, got, expected)
        self.field, self.got, self.expected = field, got, expected

    def __str__(self) -> str:
        field, got = self.field, self.got
        return f"model.{field}: got {got!r:.80}, expected {self.expected}. Change config.model.{field}."


def check_types(section: Any, prefix: str = "") -> None:
    """Check the values of a dataclass against the annotations of its fields.

    Args:
      prefix: before the names of fields in messages, as "disentangled.".

    Raises:
      FieldError: a value of another type. SeveralProblemsError: several, of FieldErrors.
    """
    problems = Problems()
    for field in dataclasses.fields(section):
        if field.type in TYPES:
            expected, name = TYPES[field.type]
            value = getattr(section, field.name)
            if not isinstance(value, expected) or isinstance(value, bool) != (field.type is bool):
                problems.add(FieldError(f"{prefix}{field.name}", value, name))
    problems.report()


def from_fields(make: type, fields: Any, name: str) -> Any:
    """`make(**fields)` for a dataclass.

    Raises:
      ValueError: `fields` is not a dictionary with exactly its fields; names the section `name`.
    """
    known = {field.name for field in dataclasses.fields(make)}
    if not isinstance(fields, dict) or fields.keys() != known:
        got = sorted(map(str, fields)) if isinstance(fields, dict) else repr(fields)[:80]
        raise ValueError(f"{name}: got {got}, expected the keys {sorted(known)}.")
    return make(**fields)
