"""Places where a command cannot write its results are found before its work, which may take days.

Each command but pre-training has its `Results` in the module that writes them.
"""

import os
from pathlib import Path
from typing import NamedTuple


class Results(NamedTuple):
    """What a command writes in its directory during its work or at the end. Other names are the user's."""

    files: tuple[str, ...]
    directories: tuple[str, ...]


PRETRAINING = Results(("summary.json", "plots/curves.png"), ("plots",))


def check_result_places(place: str | os.PathLike, results: Results) -> None:
    """Raises OSError if a directory has the name of a file of results, or a file that of a directory."""
    directory = Path(place)
    files = [name for name in results.files if (directory / name).is_dir()]
    wrong = [f"{name} is a directory, expected a file" for name in files]
    wrong += [
        f"{name} is a file, expected a directory"
        for name in results.directories
        if os.path.lexists(directory / name) and not (directory / name).is_dir()
    ]
    if wrong:
        raise OSError(
            f"{directory}: {'; '.join(wrong)}: results could not be written there. Move it away, or choose "
            "another --workdir."
        )
