"""What a run says before its first step, and against which peak it is measured."""

import types

import jax
import pytest

from configs import debug
from data_pipelines.mixture import DatasetSource
from electra_jax.distributed.mesh import make_mesh
from electra_jax.runs.pretraining import peak_of_devices
from electra_jax.runs.start_report import memory_line, start_lines
from electra_jax.training.step_memory import Memory

NO_STATE = types.SimpleNamespace(params={}, opt_state={})


def stage(first, end, datasets, batch_size=128, stages=(), **optimizer):
    """A stage on (path, weight, rows, examples read before) of each dataset."""
    sources = [DatasetSource(path, weight, start=start) for path, weight, _, start in datasets]
    infos = [types.SimpleNamespace(splits={"train": {"rows": rows}}) for _, _, rows, _ in datasets]
    config = {
        "train": {"batch_size": batch_size, "num_steps": end},
        "data": {"sequence_length": 128},
        "optimizer": debug.get_config().optimizer.to_dict() | optimizer,
        "stages": stages,
    }
    mixture = types.SimpleNamespace(sources=sources, infos=infos)
    return types.SimpleNamespace(first_step=first, end=end, config=config, mixture=mixture)


def lines(*stages, dtype="float32"):
    mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 1}, jax.devices()[:2])
    inputs = types.SimpleNamespace(config={"model": {"dtype": dtype}}, mesh=mesh, stages=stages)
    return start_lines(inputs, NO_STATE)


def test_a_run_on_little_text_is_warned():
    found = lines(stage(0, 1_000_000, [("data/corpus", 1.0, 45_014, 0)]))
    assert found[0] == "devices: 8 × cpu; mesh: data 2, fsdp 1, tensor 1"
    assert found[1] == "precision: float32 everywhere"
    assert found[2:5] == [
        "steps 1 … 1,000,000: 128 rows of 128 tokens = 16,384 tokens a step, 16,384,000,000 in all",
        "learning rate: 0.002 at its peak, warmup_times_decay over the steps 1 … 1,000,000, "
        "100 of warm-up; adam",
        "data: 1,000,000 steps = 2,844 passes over the 45,014 rows of data/corpus",
    ]
    assert found[5].startswith("WARNING: 2,844 passes over the same rows. Beyond 100 ")
    assert "--config.train.num_steps=14067. Or build a dataset from more text." in found[5]


@pytest.mark.parametrize(("num_steps", "is_warned"), [(999, False), (1001, True)])
def test_a_hundred_passes_are_the_limit(num_steps, is_warned):
    found = lines(stage(0, num_steps, [("c", 1.0, 1280, 0)]))
    assert any(line.startswith("WARNING") for line in found) == is_warned


def test_passes_are_counted_over_stages_and_by_weight():
    changes = ((100, {"train.batch_size": 96, "optimizer.schedule": "warmup_constant_sqrt"}),)
    decay = {"schedule": "warmup_constant_sqrt", "warmup_steps": 0, "decay_share": 0.5, "name": "muon"}
    found = lines(
        stage(0, 100, [("a", 3.0, 9600, 0), ("b", 1.0, 32_000, 0)], stages=changes, warmup_steps=10),
        stage(100, 200, [("a", 1.0, 9600, 9600)], batch_size=96, stages=changes, **decay),
        dtype="bfloat16",
    )
    assert found[1:8] == [
        "precision: bfloat16 matrix products; parameters, optimizer and losses in float32",
        "steps 1 … 100: 128 rows of 128 tokens = 16,384 tokens a step, 1,638,400 in all",
        "steps 101 … 200: 96 rows of 128 tokens = 12,288 tokens a step, 1,228,800 in all",
        "learning rate: 0.002 at its peak, warmup_times_decay over the steps 1 … 100, 10 of warm-up; adam",
        "learning rate: 0.002 at its peak, warmup_constant_sqrt over the steps 101 … 200, 0 of warm-up, "
        "the last 50 of decay to 0 of the peak; muon",
        "data: 200 steps = 2.0 passes over the 9,600 rows of a",
        "data: 200 steps = 0.1 of a pass over the 32,000 rows of b",
    ]


def test_memory_is_compared_with_a_known_chip():
    memory = Memory(2**30, 2 * 2**30, 0, 5 * 2**29, 0)
    count = "on each device by the compiler's count, 2.50 GiB of it while a step runs"
    assert memory_line(memory, "cpu") == f"expected memory: 5.50 GiB {count}"
    assert memory_line(memory, "TPU v5 lite") == f"expected memory: 5.50 GiB of 15.75 GiB {count}"


@pytest.mark.parametrize(
    ("kind", "dtype", "stated", "peak"),
    [
        ("TPU v5 lite", "bfloat16", 0.0, 8 * 197e12),
        ("TPU v5 lite", "float32", 0.0, 8 * 197e12 / 6),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 0.0, 8 * 989e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 1e12, 8e12),
        ("cpu", "float32", 0.0, None),
        ("cpu", "float32", 1e9, 8e9),
    ],
)
def test_the_peak_is_that_of_the_chip_unless_it_is_stated(kind, dtype, stated, peak):
    config = {"model": {"dtype": dtype}, "log": {"peak_flops": stated}}
    assert peak_of_devices(config, [types.SimpleNamespace(device_kind=kind)] * 8) == pytest.approx(peak)
