"""Recorded results in tests/golden: compared with, or rewritten by `pytest --update-golden`.

A table of parameters repeats one layer up to 24 times; its recorded form has each row once, as
`encoder/layer_{0…23}/output/bias`. A layer that differs in any row stays apart.
"""

import difflib
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from support.paths import ROOT

LAYER = re.compile(r"(?P<above>.*?)layer_(?P<index>\d+)/(?P<below>.*)")


class Golden:
    """The recorded results of one test.

    Args:
      update: write what the test got instead of comparing.
      test_file: path of the test, named in the instructions of a failure.
      folder: where the recorded files lie.
    """

    def __init__(self, update: bool, test_file: str, folder: Path = ROOT / "tests" / "golden"):
        self.update, self.test_file, self.folder = update, test_file, folder

    def check_text(self, name: str, text: str, *, what: str) -> None:
        """Compare `text` with the file `name`; `what` completes "If you did not intend to change …"."""
        path = self.folder / name
        if self.update:
            path.write_text(text, encoding="utf-8")
            return
        recorded = path.read_text(encoding="utf-8") if path.is_file() else ""
        if recorded != text:
            lines = difflib.unified_diff(
                recorded.splitlines(), text.splitlines(), f"recorded {name}", "got", lineterm=""
            )
            self._fail("\n".join(lines), what)

    def check_numbers(self, name: str, key: str, numbers: dict, *, rtol: float, what: str) -> None:
        """Compare nested dictionaries of floats with the entry `key` of the JSON file `name`."""
        path = self.folder / name
        recorded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if self.update:
            text = json.dumps(recorded | {key: numbers}, indent=2, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
            return
        got, expected = (flatten_dict(each, sep="/") for each in (numbers, recorded.get(key, {})))
        wrong = [
            f"{key}/{place}: got {got.get(place)}, recorded {expected.get(place)}"
            for place in sorted(got.keys() | expected.keys())
            if place not in got
            or place not in expected
            or got[place] != pytest.approx(expected[place], rel=rtol, abs=0)
        ]
        if wrong:
            self._fail("\n".join(wrong), what)

    def _fail(self, difference: str, what: str) -> None:
        pytest.fail(
            f"{difference}\nIf you did not intend to change {what}, find out why; "
            f"if you did: python -m pytest --update-golden {self.test_file}",
            pytrace=False,
        )


def collapse_layers(lines: list[str]) -> list[str]:
    """A parameter table, its header first and its totals last, with equal layers of an encoder as one."""
    *table, totals = lines
    rows = [re.split(r"\s{2,}", line) for line in table]
    layers = defaultdict(lambda: defaultdict(list))  # encoder → layer → its rows
    for path, *cells in rows:
        if found := LAYER.fullmatch(path):
            layers[found["above"]][int(found["index"])].append((found["below"], *cells))
    collapsed = []
    for path, *cells in rows:
        found = LAYER.fullmatch(path)
        if found is None:
            collapsed.append([path, *cells])
            continue
        of_encoder, index = layers[found["above"]], int(found["index"])
        equal = sorted(other for other, content in of_encoder.items() if content == of_encoder[index])
        if index == equal[0]:
            name = f"layer_{{{_ranges(equal)}}}" if len(equal) > 1 else f"layer_{index}"
            collapsed.append([f"{found['above']}{name}/{found['below']}", *cells])
    widths = [max(map(len, column)) for column in zip(*collapsed, strict=True)]
    justified = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in collapsed]
    return [*("  ".join(row).rstrip() for row in justified), totals]


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers as "0,2…5"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("…".join(map(str, ends)) for ends in ranges)
