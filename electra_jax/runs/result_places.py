"""What is in the way of a command's results is found before its work, which may take days."""

import os
from pathlib import Path
from typing import NamedTuple


class Results(NamedTuple):
    """What a command writes in its directory at the end of its work. Other names are the user's."""

    files: tuple[str, ...]
    directories: tuple[str, ...]


PRETRAINING = Results(("summary.json", "plots/curves.png"), ("plots",))
FINE_TUNING = Results(("results.json", "plots/results.png"), ("plots", "predictions", "models"))
COMPARISON = Results(("comparison.json", "comparison.png", "reference.json"), ("finetuning",))
EVALUATION = Results(("evaluation.json",), ("plots", "finetuning"))
MINIMAL_PAIRS = Results(("minimal_pairs.json", "plots/minimal_pairs.png"), ("plots", "scores"))


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
