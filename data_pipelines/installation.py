"""The command that installs an extra of setup.py, for error messages about missing packages."""

import importlib.metadata
import re
import shlex
from pathlib import Path

PROJECT = "electra_jax"
FOLDER = Path(__file__).parents[1]  # a checkout, or the site-packages of an installed package


def install_command(extra: str) -> str:
    """`pip install …` for the packages of an extra: in a checkout by the name of the extra, elsewhere by
    their own names, since pip knows no source of an installed package."""
    requirements = []
    if not (FOLDER / "setup.py").is_file():
        for line in importlib.metadata.requires(PROJECT) or []:
            requirement, _, marker = line.partition(";")
            requirements += [requirement.strip()] * bool(re.search(rf"""extra == ['"]{extra}['"]""", marker))
    words = shlex.join(requirements) if requirements else f"-e '.[{extra}]'"
    return f"`pip install {words}`" + ("" if requirements else " in the checkout")
