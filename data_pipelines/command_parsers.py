"""The parser of a command that takes its flags with argparse."""

import argparse

DEFAULT = "(default %(default)s)"  # at the end of a flag's help


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, without flags yet. The description, the module's docstring, keeps its
    lines in --help."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
