"""The argument of a configuration file: what follows the colon of --config=FILE.py:key=value,key=value."""


def parse_recipe_argument(arg: str | None, **defaults: str) -> dict[str, str]:
    """The values of the argument; a key that it does not name keeps its default.

    Raises:
      ValueError: a key that has no default.
    """
    chosen = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, _, value = item.partition("=")
        if key not in defaults:
            raise ValueError(
                f"config argument: got {item!r}, expected {', '.join(f'{k}=…' for k in defaults)}."
            )
        chosen[key] = value
    return chosen
