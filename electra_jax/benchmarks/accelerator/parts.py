"""The parts of the check in the order of their worth, their time limits, and what each is given."""

from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.benchmarks.accelerator.results import PASSED, CannotRunError, Recorder, Result, read_result

FOLDER = "electra_jax.benchmarks.accelerator"


class Part(NamedTuple):
    """One part. It runs in a process of its own."""

    name: str
    title: str  # what it shows, for people
    module: str  # has run_part(job)
    seconds: float  # time limit on an accelerator
    seconds_on_cpu: float
    case: str = ""  # which of the module's cases
    # Whether it measures something to compare with. It is reported, but no failure, if that is missing or
    # takes too long.
    is_peer: bool = False


def _part(name: str, title: str, module: str, *limits: float, **more: Any) -> Part:
    return Part(name, title, f"{FOLDER}.{module}", *limits, **more)


# The limits on an accelerator add up to eight minutes. A part may also use what those before it left over.
PARTS = (
    _part("device", "what JAX sees", "device", 60, 120),
    _part("learning", "debug recipe, 300 steps, beside the CPU's losses", "learning", 60, 300),
    _part("parity", "float32 beside transformers, exports that verify", "parity", 60, 240),
    *(
        _part(f"step_{case}", f"training step of {title}", "speed", 40, 240, case=case)
        for case, title in (
            ("electra_small_128", "ELECTRA-small, rows of 128"),
            ("electra_base_128", "ELECTRA-base, rows of 128"),
            ("electra_base_512", "ELECTRA-base, rows of 512"),
            ("deberta_v3_base_512", "DeBERTaV3-base, rows of 512"),
        )
    ),
    _part("kernels", "our kernels beside plain references", "kernels", 45, 240),
    _part("torch", "the same steps in PyTorch", "torch_speed", 75, 420, is_peer=True),
    _part("plan", "memory that plan predicts", "planned", 20, 180, is_peer=True),
)


class Job(NamedTuple):
    """What a part is given."""

    part: Part
    directory: Path  # of the whole check
    data: str  # a dataset for the debug recipe; "": the text of corpus.py
    recorder: Recorder

    @property
    def work(self) -> Path:
        """Directory of runs, rows and exports."""
        return self.directory / "work"

    def result_of(self, part: str) -> Result | None:
        """What another part found; None if it has not run."""
        return read_result(result_path(self.directory, part))

    @property
    def device(self) -> dict[str, Any]:
        """The figures of the part "device".

        Raises:
          CannotRunError: that part did not pass.
        """
        found = self.result_of("device")
        if found is None or found.status != PASSED:
            raise CannotRunError("the part device did not pass")
        return found.figures


def find_parts(names: list[str]) -> list[Part]:
    """The parts of these names, and the part "device" before them, which the others need; [] means all.

    Raises:
      ValueError: there is no such part.
    """
    known = [part.name for part in PARTS]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"--parts: got {', '.join(wrong)}, expected some of {', '.join(known)}.")
    return [part for part in PARTS if not names or part.name in names or part is PARTS[0]]


def result_path(directory: Path, part: str) -> Path:
    """The file of a part's result."""
    return directory / "parts" / f"{part}.json"


def log_path(directory: Path, part: str) -> Path:
    """The file with what a part printed."""
    return directory / "parts" / f"{part}.log"
