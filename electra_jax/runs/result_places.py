"""What is in the way of a command's results is found before its work, which may take days."""

import os
from pathlib import Path

# Of pretrain, finetune, compare and evaluate: what they write in their directories at the end of their work.
FILES = (
    "summary.json",
    "results.json",
    "comparison.json",
    "comparison.png",
    "evaluation.json",
    "plots/curves.png",
)
DIRECTORIES = ("plots", "predictions", "models", "finetuning")


def check_result_places(place: str | os.PathLike) -> None:
    """Raises OSError if a directory has the name of a file of results, or a file that of a directory."""
    directory = Path(place)
    wrong = [f"{name} is a directory, expected a file" for name in FILES if (directory / name).is_dir()]
    wrong += [
        f"{name} is a file, expected a directory"
        for name in DIRECTORIES
        if os.path.lexists(directory / name) and not (directory / name).is_dir()
    ]
    if wrong:
        raise OSError(
            f"{directory}: {'; '.join(wrong)}: results could not be written there. Move it away, or choose "
            "another --workdir."
        )
