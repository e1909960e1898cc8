"""Every kind of damage to every file of the newest checkpoint: the run ends the same, from an earlier one."""

from support.fault_runs import flags, flip, newest, truncate, zero
from support.faults import EXACT, FELL_BACK, Fault

SAMPLE = 2
# Files of a checkpoint. Of a folder whose files have random names, the largest (0) or the one after it.
FILES = {
    "_CHECKPOINT_METADATA": 0,
    "commit_success.txt": 0,
    "run/metadata": 0,
    "state/_METADATA": 0,
    "state/_sharding": 0,
    "state/manifest.ocdbt": 0,
    "state/array_metadatas/*": 0,
    "state/d/*": 0,
    "state/ocdbt.process_0/manifest.ocdbt": 0,
    "state/ocdbt.process_0/d/*": 0,
    "state/ocdbt.process_0/d/* ": 1,
    "verification/*": 0,
}
DAMAGES = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: truncate(path, 0),
    "half of it": lambda path: truncate(path, 0.5),
    "without its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "with a byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "64 zeros": lambda path: zero(path, 0.5, 64),
    **{
        f"a bit at {place:.0%}": lambda path, place=place: flip(path, place)
        for place in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    },
}
LARGEST = "state/ocdbt.process_0/d/*"


def damaged(name, damage):
    """Damage a file of the newest checkpoint."""

    def do(run):
        found = [path for path in newest(run).glob(name.strip()) if path.is_file()]
        damage(sorted(found, key=lambda path: -path.stat().st_size)[min(FILES[name], len(found) - 1)])

    return do


FAULTS = [
    Fault(f"{name} {what}", damaged(name, damage), (EXACT, FELL_BACK))
    for name in FILES
    for what, damage in DAMAGES.items()
] + [
    Fault(
        f"bit {place % 8} at {place / 100:.0%} of the arrays",
        damaged(LARGEST, lambda path, place=place: flip(path, place / 100, place % 8)),
        (EXACT, FELL_BACK),
    )
    for place in range(0, 100, 2)
]


def test_a_damaged_checkpoint_is_set_aside(fault, stopped, data, forks, settle):
    fault.do(stopped)
    settle(fault, stopped, forks.run("electra_jax.pretrain", *flags(stopped, data)))
