"""The communication in a compiled program, read from its HLO text."""

import collections
import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {
    "pred": 8,
    "s8": 8,
    "u8": 8,
    "bf16": 16,
    "f16": 16,
    "s16": 16,
    "u16": 16,
    "f32": 32,
    "s32": 32,
    "u32": 32,
    "f64": 64,
    "s64": 64,
    "u64": 64,
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(.*?channel_id=(\d+)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


class Collective(NamedTuple):
    """Operations of a kind and dtype in one step: how many, and the bytes of their results on one device."""

    kind: str
    dtype: str
    number: int
    num_bytes: int


def read_collectives(text: str) -> list[Collective]:
    """All collectives of a program, in loops as often as these turn; the largest first."""
    computations, entry = _computations(text)
    found: dict[
        str, Collective
    ] = {}  # by channel, since a TPU's compiler writes one down in each part that it overlaps with

    def walk(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            if operation := _OPERATION.search(line):
                shapes, kind, start, channel = operation.groups()
                dtype, num_bytes = _result(shapes, has_operands=start is not None and kind != "all-reduce")
                found.setdefault(channel, Collective(kind, dtype, times, times * num_bytes))
            turns = _turns(line, computations) if " while(" in line else 1
            for called in [
                *_CALLED.findall(line),
                *(name for names in _BRANCHES.findall(line) for name in names.split(", ")),
            ]:
                walk(called.removeprefix("%"), times * turns)

    walk(entry, 1)
    totals: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for each in found.values():
        total = totals[each.kind, each.dtype]
        total[0] += each.number
        total[1] += each.num_bytes
    return sorted(
        (Collective(*key, *total) for key, total in totals.items()), key=lambda each: -each.num_bytes
    )


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name → lines of each computation, and the name of the one that is run."""
    found: dict[str, list[str]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None:
            current.append(line)
    return found, entry


def _turns(line: str, computations: dict[str, list[str]]) -> int:
    """Of a loop: as the compiler noted them down, else the one number that its condition compares with."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = "\n".join(computations[_CONDITION.search(line)[1]])
    bounds = _BOUND.findall(condition)
    return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in condition else 1


def _result(shapes: str, *, has_operands: bool) -> tuple[str, int]:
    """dtype and bytes of what an operation returns, which begun in the background may be preceded by its
    operands."""
    arrays = [
        (dtype, math.prod(map(int, dims.split(","))) if dims else 1) for dtype, dims in _ARRAY.findall(shapes)
    ]
    arrays = [(dtype, size) for dtype, size in arrays if dtype in BITS]
    if has_operands:
        arrays = arrays[len(arrays) // 2 :]
    return arrays[0][0], sum(BITS[dtype] // 8 * size for dtype, size in arrays)
