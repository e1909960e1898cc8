"""The estimate of a plan: time, price, input rate, and what they rest on, beside figures by hand."""

import math
import re

import pytest

from electra_jax.distributed.chips import CHIPS, GIB
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops
from electra_jax.planning.chips import plan_devices
from electra_jax.planning.collectives import Collective
from electra_jax.planning.compiled import CompiledStep
from electra_jax.planning.estimate import FIXED_SECONDS, Assumptions, Work, estimate
from electra_jax.planning.network import LATENCY, LATENCY_BETWEEN, Range, network_seconds
from electra_jax.planning.report import report_lines
from electra_jax.planning.stages import StagePlan
from electra_jax.planning.utilization import BFLOAT16, Utilization, read_utilization, utilization_of
from electra_jax.training.step_memory import Memory
from support.paths import ROOT
from support.tiny import LENGTH
from support.training_steps import config

ASSUMPTIONS = Assumptions(None, 2.0, 0.5)
WORK = Work(1000, 4, 2, 1e9, Range(0.25, 0.5), Range(0.1, 2.0), Range(2.0, 3.0), 2 * GIB, 1.0)


def model_flops(full):
    forward = forward_flops(full, make_pretraining_config(full["model"]))
    return 3 * forward * full["train"]["batch_size"] * LENGTH


def test_an_estimate_agrees_with_one_by_hand():
    full = config(train={"batch_size": 64})
    figures = estimate(full, WORK, ASSUMPTIONS)
    flops = model_flops(full)
    assert figures.model_flops == flops
    assert figures.compute_seconds == pytest.approx((flops / 2e9, flops / 1e9))
    low, high = flops / 2e9 + 0.001, flops / 1e9 + 2.0 + 0.005
    assert flops / 2e9 > 0.1  # or the network would be the limit
    assert figures.step_seconds == pytest.approx((low, high))
    assert figures.tokens_per_second == pytest.approx((64 * LENGTH / high, 64 * LENGTH / low))
    assert figures.hours == pytest.approx((low / 3.6, high / 3.6))
    assert figures.dollars == pytest.approx((low / 3.6 * 4 * 2, high / 3.6 * 4 * 3))
    assert figures.dollars_per_day == pytest.approx((24 * 4 * 2, 24 * 4 * 3))
    # Of each of two hosts; ids of a small vocabulary take two bytes.
    assert figures.rows_per_second == pytest.approx((32 / high, 32 / low))
    assert figures.bytes_per_second == pytest.approx((32 * LENGTH * 2 / high, 32 * LENGTH * 2 / low))
    every = math.sqrt(2 * 4.0 * 7200) / math.sqrt(low * high)
    assert figures.checkpoint_every == pytest.approx(every, rel=0.05)


def test_recomputation_takes_time_and_is_no_work_of_the_model():
    full = config(train={"batch_size": 64})
    figures = estimate(full, WORK._replace(recomputation=1.25), ASSUMPTIONS)
    assert figures.model_flops == model_flops(full)
    assert figures.compute_seconds == pytest.approx((model_flops(full) / 1.6e9, model_flops(full) / 0.8e9))
    for times, said in ((1.25, ["  times 1.25"]), (1.0, [])):
        lines = lines_of("h100:16", recomputation=times)
        assert [line.partition(":")[0] for line in lines if line.startswith("  times ")] == said


def test_a_slow_network_is_the_limit_of_a_step():
    full = config(train={"batch_size": 64})
    seconds = estimate(full, WORK._replace(network=Range(1e4, 2e4)), ASSUMPTIONS).step_seconds
    assert seconds.low == pytest.approx(1e4 + FIXED_SECONDS.low)
    assert estimate(full, WORK._replace(network=None), ASSUMPTIONS).step_seconds.high < seconds.low


def test_ids_of_a_large_vocabulary_take_four_bytes():
    full = config(train={"batch_size": 64})
    large = full | {"model": full["model"] | {"vocab_size": 2**16 + 1}}
    small, large = (estimate(each, WORK, ASSUMPTIONS) for each in (full, large))
    assert small.bytes_per_second.high / small.rows_per_second.high == pytest.approx(2 * LENGTH)
    assert large.bytes_per_second.high / large.rows_per_second.high == pytest.approx(4 * LENGTH)


def lines_of(device, memory=(GIB, GIB, 0, GIB, 0), *, first_step=0, stages=(), **changes):
    """The lines of a plan of a small model."""
    mesh = {"data": 8, "fsdp": 1, "tensor": 2}
    full = config(train={"batch_size": 64}, mesh=mesh) | {"stages": stages}
    devices = plan_devices(device, str(ROOT / "configs" / "prices.json"))
    step = CompiledStep(Memory(*memory), 1e9, None, [], (0,) * 8 + (1,) * 8)
    work = WORK._replace(dollars_per_hour=devices.dollars_per_hour, **changes)
    used = Utilization(0.25, 0.5, "a source")
    figures = estimate(full, work, ASSUMPTIONS)
    return report_lines(StagePlan(full, devices, step, figures, [], used, 1000, first_step))


def test_a_report_gives_ranges_with_their_sources():
    text = "\n".join(lines_of("h100:16"))
    flops = model_flops(config(train={"batch_size": 64}))
    minutes = [flops / 2e9 * 1000 / 60, flops / 1e9 * 1000 / 60]
    assert minutes[0] > 2 and "1,000 steps in" in text
    assert "25% to 50% of float32's peak, 67 TFLOP/s a device (a source)" in text
    assert "GB/s a device, 50 GB/s between hosts (--network_gbps)" in text
    assert "at $2.69 to $12.29 an hour and device" in text and "not checked" in text
    assert "MB/s on each of 2 hosts" in text and "save a checkpoint every" in text
    assert "0.0 days" not in text and "(the same, to one percent)" not in text


def test_the_settings_of_a_later_stage_are_no_flags_for_the_first():
    stages = ((500, {"train.batch_size": 64}),)
    whole_run = "--config.model.dtype=float32 --config.train.layers=unrolled --config.train.remat=none"
    mesh = "--config.mesh.data=8 --config.mesh.fsdp=1 --config.mesh.tensor=2"
    (alone,) = (line for line in lines_of("h100:16") if "--config." in line)
    assert alone == (
        f"give pretrain, or a launcher after --: {whole_run} --config.train.batch_size=64 "
        f"--config.train.num_microbatches=1 {mesh}"
    )
    first, same = lines_of("h100:16", stages=stages)[-2:]
    assert first == alone and "are the same in all stages: take those of the stage that needs most" in same
    *before, own, planned_with, again = lines_of("h100:16", first_step=500, stages=stages)
    assert own == "for the stage from step 500 on, in config.stages: 'train.num_microbatches': 1"
    assert planned_with.endswith(f"whole run: {whole_run} {mesh}") and again == same
    assert not any("batch_size" in line for line in [*before, own, planned_with, again])


def test_nothing_is_reported_of_a_step_that_is_too_small():
    text = "\n".join(lines_of("h100:16", peak_flops=989e12))
    assert "not meaningful: too small to estimate" in text
    assert "a step takes at least about 1 ms to 5 ms" in text
    assert not any(word in text for word in ("tokens/s", "$", "days", "hours", "rows/s", "checkpoint"))


def test_small_sizes_have_a_unit_that_shows_them():
    text = "\n".join(lines_of("h100:1", memory=(100 * GIB, 200 * 2**20, 1536, 40 * 2**20, 0)))
    sizes = dict(
        re.findall(
            r"^  (parameters|optimizer state|batch and metrics|while it runs|program|left) +"
            r"(.*?)(?: of .*)?$",
            text,
            re.M,
        )
    )
    assert sizes == {
        "parameters": "100.00 GiB",
        "optimizer state": "0.20 GiB",
        "batch and metrics": "1.50 KiB",
        "while it runs": "40.00 MiB",
        "program": "0",
        "left": "-29.01 GiB",
    }


HOSTS = (0,) * 8 + (1,) * 8


@pytest.mark.parametrize(
    ("collective", "within", "between"),
    [
        # 8 devices a host, two hosts: scattered and gathered within each, between them an eighth each.
        (("all-reduce", "f32", 3, 8e9), 2 * 8e9 * 7 / 8, 2 * 1e9 / 2),
        (("all-gather", "bf16", 2, 8e9), 8e9 * 7 / 8, 1e9 / 2),
        (("reduce-scatter", "f32", 1, 1e9), 16e9 * 7 / 8, 2e9 / 2),
        (("all-to-all", "f32", 1, 16e9), 7e9, 8e9),
        (("collective-permute", "f32", 1, 1e9), 1e9, 1e9),
        # Within one host.
        (("all-reduce", "f32", 1, 8e9, tuple(range(8))), 2 * 8e9 * 7 / 8, None),
        # Of two devices with the same place on two hosts.
        (("all-reduce", "f32", 1, 8e9, (0, 8)), 0, 2 * 8e9 / 2),
    ],
)
def test_the_network_time_of_a_collective(collective, within, between):
    chip, each = CHIPS["h100"], Collective(*collective)
    seconds = within / (0.9 * 450e9) + each.number * LATENCY
    if between is not None:
        seconds += between / (0.9 * 50e9) + each.number * LATENCY_BETWEEN
    found = network_seconds([each], HOSTS, chip)
    assert found.low == pytest.approx(seconds) and found.high > found.low
    assert network_seconds([each, each], HOSTS, chip).low == pytest.approx(2 * seconds)
    # The links of a TPU slice span its hosts.
    assert network_seconds([Collective("all-reduce", "f32", 1, 1e9)], HOSTS, CHIPS["v5e"]).low == (
        pytest.approx(2 * 1e9 * 15 / 16 / (0.9 * 200e9) + LATENCY)
    )


def test_every_chip_has_a_range_with_a_source():
    assert set(BFLOAT16) == set(CHIPS)
    for chip in CHIPS:
        for dtype in ("bfloat16", "float32"):
            found = utilization_of(chip, dtype, "absolute")
            assert 0 < found.low < found.high < 1 and found.source
            slower = utilization_of(chip, dtype, "disentangled")
            assert slower.low < found.low and slower.high < found.high
    assert utilization_of("a100-80", "bfloat16", "absolute").high == 0.24  # NVIDIA's 23.9 %
    assert "none published for this" in utilization_of("h200", "bfloat16", "absolute").source


def test_a_utilization_is_one_share_or_two():
    assert read_utilization(["0.2"]) == (0.2, 0.2) and read_utilization(["0.1", "0.3"]) == (0.1, 0.3)
    for words in ([], ["0.3", "0.1"], ["0"], ["35"], ["a"], ["0.1", "0.2", "0.3"], ["nan"]):
        with pytest.raises(ValueError, match=r"--utilization: got .*, expected a share of the peak"):
            read_utilization(words)
