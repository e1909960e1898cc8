"""The communication in a compiled program, read from its HLO text.

The text has no specification. tests/golden/hlo holds a recorded program of each compiler that this reads.
"""

import collections
import math
import re
from typing import NamedTuple

import numpy as np

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
# The groups of devices that exchange data, in the three forms in which HLO writes them; each group a row.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(.*?channel_id=(\d+)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


class Collective(NamedTuple):
    """The operations of one kind and dtype in one step."""

    kind: str  # one of KINDS
    dtype: str  # as HLO writes it, a key of BITS
    number: int
    num_bytes: int  # of their results on one device, all together
    group: tuple[int, ...] | None = None  # positions in the mesh of devices that exchange; None: all devices


def read_collectives(text: str) -> list[Collective]:
    """All collectives of a program, those in loops once per iteration; the largest first."""
    computations, entry = _computations(text)
    # By channel, since a TPU's compiler repeats an operation in each part of the program that overlaps it.
    by_channel: dict[str, Collective] = {}

    def walk(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            if operation := _OPERATION.search(line):
                shapes, kind, start, channel = operation.groups()
                dtype, num_bytes = _result(shapes, has_operands=start is not None and kind != "all-reduce")
                found = Collective(kind, dtype, times, times * num_bytes, read_group(line))
                by_channel.setdefault(channel, found)
            trip_count = _trip_count(line, computations) if " while(" in line else 1
            for called in _called_computations(line):
                walk(called, times * trip_count)

    walk(entry, 1)
    totals: dict[tuple, list[int]] = collections.defaultdict(lambda: [0, 0])
    for each in by_channel.values():
        total = totals[each.kind, each.dtype, each.group]
        total[0] += each.number
        total[1] += each.num_bytes
    summed = [Collective(kind, dtype, *total, group) for (kind, dtype, group), total in totals.items()]
    return sorted(summed, key=lambda each: -each.num_bytes)


def read_group(line: str) -> tuple[int, ...] | None:
    """Positions in the mesh of the devices in an operation's first group; None: all, or not understood."""
    if listed := _LISTED.search(line):
        return _numbers(listed[1])
    if iota := _IOTA.search(line):
        shape, sizes = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        ids = ids.transpose(_numbers(iota[3])) if iota[3] else ids
        return tuple(ids.reshape(shape)[0].tolist())
    mesh = _MESH.search(line)
    axes = dict(_AXIS.findall(mesh[1])) if mesh else {}
    wanted = re.findall(r"'([^']+)'", mesh[2]) if mesh else []
    if not wanted or not set(wanted) <= set(axes) or "':(" in mesh[2]:  # a part of an axis
        return None
    ids = np.arange(math.prod(map(int, axes.values()))).reshape([int(size) for size in axes.values()])
    index = tuple(slice(None) if axis in wanted else 0 for axis in axes)
    return tuple(ids[index].ravel().tolist())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by its name, and the name of the entry computation."""
    lines_of: dict[str, list[str]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = lines_of.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None:
            current.append(line)
    return lines_of, entry


def _called_computations(line: str) -> list[str]:
    called = _CALLED.findall(line)
    for names in _BRANCHES.findall(line):
        called += names.split(", ")
    return [name.removeprefix("%") for name in called]


def _trip_count(line: str, computations: dict[str, list[str]]) -> int:
    """Iterations of a loop: the compiler's annotation, else the only constant in the loop's condition."""
    if known := _TRIP_COUNT.search(line):
        return int(known[1])
    condition = "\n".join(computations[_CONDITION.search(line)[1]])
    bounds = _BOUND.findall(condition)
    return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in condition else 1


def _result(shapes: str, *, has_operands: bool) -> tuple[str, int]:
    """dtype and bytes of an operation's result; an asynchronous start may list its operands before it."""
    arrays = [(dtype, dims) for dtype, dims in _ARRAY.findall(shapes) if dtype in BITS]
    if has_operands:
        arrays = arrays[len(arrays) // 2 :]
    num_bytes = 0
    for dtype, dims in arrays:
        size = math.prod(map(int, dims.split(","))) if dims else 1
        num_bytes += BITS[dtype] // 8 * size
    return arrays[0][0], num_bytes
