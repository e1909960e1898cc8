"""Checks of the fields of a model's configuration."""


class InvalidModelError(ValueError):
    """More than one field of a model is wrong. `errors`: an error for each."""

    def __init__(self, errors: list[ValueError]):
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


class FieldChecks:
    """Errors of several fields, which are raised together."""

    def __init__(self):
        self._errors: dict[str, ValueError] = {}  # by message: both encoders may have the same

    def require(self, condition: bool, field: str, got, expected: str) -> None:
        """Keep the error that `require` raises."""
        try:
            require(condition, field, got, expected)
        except ValueError as error:
            self.add(error)

    def add(self, error: ValueError) -> None:
        """Keep an error, or those of an `InvalidModelError`."""
        for one in error.errors if isinstance(error, InvalidModelError) else [error]:
            self._errors[str(one)] = one

    def report(self) -> None:
        """Raise what was found."""
        errors = list(self._errors.values())
        if errors:
            raise errors[0] if len(errors) == 1 else InvalidModelError(errors)


def require(condition: bool, field: str, got, expected: str) -> None:
    """Raises ValueError, which names a field of config.model, unless the condition holds."""
    if not condition:
        raise ValueError(f"model.{field}: got {got!r}, expected {expected}. Change config.model.{field}.")
