"""What this machine's processor can do, by Linux' description of it."""

import types

import jax
import numpy as np
import pytest

from electra_jax.distributed import processor
from electra_jax.training.program import dtype_note

CPU = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="cpu")]))


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Puts another text in the place of /proc/cpuinfo."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPUINFO", path)
    return path.write_text


@pytest.mark.parametrize(
    ("description", "lacks"),
    [
        ("flags\t\t: fpu avx2 f16c\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu avx512f amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("Features\t: fp asimd\n", True),
        ("model name\t: bf1\n", False),  # no list of instructions: not known
    ],
    ids=["avx2", "avx512", "amx", "arm", "old_arm", "unknown"],
)
def test_float32_is_advised_where_bfloat16_has_no_instructions(describe, monkeypatch, description, lacks):
    describe(f"processor\t: 0\n{description}")
    assert processor.lacks_bfloat16() == lacks
    assert processor.faster_dtype() == ("float32" if lacks else "bfloat16")
    assert ("--config.model.dtype=float32" in dtype_note("bfloat16", CPU)) == lacks
    assert dtype_note("float32", CPU) == ""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert processor.faster_dtype() == "bfloat16"


def test_lines_of_several_cores_are_one_and_the_name_is_found(describe):
    describe(
        "processor\t: 0\nmodel name\t: A B\nflags\t\t: x\n\nprocessor\t: 1\nmodel name\t: A B\nflags\t\t: x\n"
    )
    assert processor.processor_lines() == ["flags\t\t: x", "model name\t: A B"]
    assert processor.processor_name() == "A B"


def test_without_the_file_nothing_is_known(describe):
    assert processor.processor_lines() == [] and not processor.lacks_bfloat16()
    assert processor.processor_name()
