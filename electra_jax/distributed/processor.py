"""This machine's processor, as Linux describes it."""

import platform
from pathlib import Path

import jax

CPUINFO = Path("/proc/cpuinfo")
# Names in "flags" (x86) and "Features" (Arm) of instructions that multiply bfloat16 numbers.
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def processor_name() -> str:
    """Its name; what kind it is where Linux gives none."""
    names = [line.partition(":")[2].strip() for line in processor_lines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def faster_dtype() -> str:
    """The dtype with which matrix products are faster on JAX's default device, as far as that is known."""
    return "float32" if jax.default_backend() == "cpu" and lacks_bfloat16() else "bfloat16"


def lacks_bfloat16() -> bool:
    """Whether it has no instructions for products of bfloat16 numbers; False if that is not known."""
    instructions = {
        name
        for line in processor_lines()
        if line.startswith(("flags", "Features"))
        for name in line.partition(":")[2].split()
    }
    return bool(instructions) and not instructions & BFLOAT16


def processor_lines() -> list[str]:
    """The lines of /proc/cpuinfo with names and instructions, sorted and each once; [] if it cannot be
    read."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
