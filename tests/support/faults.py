"""What became of a run after something was done to it, and the table of all such faults."""

import collections
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from support.run_records import comparable

EXACT = "survived exactly"
REFUSED = "refused clearly"
FELL_BACK = "fell back"
LOST = "lost"
DIFFERENT = "silently different"
UNCLEAR = "unclear message"
TRACEBACK = "traceback"
DIED = "died or hung"
GOOD = (EXACT, REFUSED, FELL_BACK)
BAD = (LOST, DIFFERENT, UNCLEAR, TRACEBACK, DIED)
PROPERTY = "fault"  # among the properties of a test's report: [kind, name, outcome]
# A clear message has one of these words, with which it tells what to do; not "because" for "use".
ADVICE = (
    r"\b([Ee]xpected|[Ff]etch|[Gg]ive|[Rr]emove|[Rr]epair|[Rr]estore|[Ff]ree|[Mm]ake|[Mm]ove|[Rr]un|[Uu]se|"
    r"[Cc]heck|[Ss]et|[Cc]hoose|[Ll]ower|[Cc]opy|[Bb]uild|Did you mean|[Rr]aise|[Aa]dd|[Nn]ame the)\b"
)
MAX_MESSAGE = 1_600  # characters
# What a start may change although it is refused.
ACCOUNTS = ("sessions.jsonl", "events.jsonl", ".lock", "lock", "parameters.txt")


class Fault(NamedTuple):
    """Something that is done to a run, and what may come of it.

    Attributes:
      name: unique within its module.
      do: (directory) → None: the damage.
      allowed: outcomes.
      names: what a refusal must name.
      flags: of the command that follows.
    """

    name: str
    do: Callable[[Any], object] = lambda directory: None
    allowed: tuple[str, ...] = GOOD
    names: str = ""
    flags: tuple[str, ...] = ()


class Ended(NamedTuple):
    """What `judge` asks of a process."""

    code: int
    text: str  # that it printed


def sample(faults, number):
    """`number` of the faults, which their names choose."""
    return sorted(faults, key=lambda fault: hashlib.sha256(fault.name.encode()).digest())[:number]


def clear(code, text, names=""):
    """REFUSED, or what is wrong with the end of a command that was not successful."""
    if "Traceback (most recent call last)" in text:
        return TRACEBACK
    if code != 1:
        return DIED
    lines = f"\n{text}"
    message = lines[lines.rfind("\nerror: ") :] if "\nerror: " in lines else ""
    is_clear = message and names in message and re.search(ADVICE, message) and len(message) < MAX_MESSAGE
    return REFUSED if is_clear else UNCLEAR


def contents(directory):
    """Path → digest of every file below, without those that every start writes."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ACCOUNTS
    }


def judge(directory, reference, started, *, names="", before=None):
    """The outcome of a run in `directory`.

    Args:
      reference: directory of the undisturbed run.
      started: the process at its end.
      names: what a refusal must name.
      before: `contents` before the start, which a refusal must leave.
    """
    if started.code:
        outcome = clear(started.code, started.text, names)
        return (
            LOST if outcome == REFUSED and before is not None and contents(directory) != before else outcome
        )
    if "Traceback (most recent call last)" in started.text:
        return TRACEBACK
    found, expected = comparable(directory), comparable(reference)
    if found == expected:
        return FELL_BACK if fell_back(directory) else EXACT
    steps = {(row["step"], len(row)) for row in found}
    return LOST if {(row["step"], len(row)) for row in expected} - steps else DIFFERENT


def fell_back(directory):
    """Whether the run restored an earlier checkpoint than its newest."""
    path = directory / "events.jsonl"
    events = map(json.loads, path.read_text().splitlines()) if path.is_file() else ()
    return any(event["kind"] == "fell_back" for event in events)


def table(records):
    """Lines: how many faults of each kind had which outcome, and which had a bad one."""
    counts = collections.Counter((kind, outcome) for kind, _, outcome in records)
    kinds = sorted({kind for kind, _ in counts})
    shown = [*GOOD, LOST, DIFFERENT, *(name for name in BAD[2:] if any(counts[kind, name] for kind in kinds))]
    width = max(map(len, [*kinds, "all"]))
    lines = ["  ".join([" " * width, f"{'faults':>8s}", *(f"{name:>18s}" for name in shown)])]
    for kind in [*kinds, "all"]:
        of = [counts[kind, name] if kind != "all" else sum(counts[k, name] for k in kinds) for name in shown]
        lines.append("  ".join([f"{kind:{width}s}", f"{sum(of):8d}", *(f"{count:18d}" for count in of)]))
    return lines + [f"{outcome}: {kind}, {name}" for kind, name, outcome in records if outcome in BAD]
