"""The table of chips: which device JAX means, and figures that its sources state."""

import pytest

from electra_jax.distributed.chips import CHIPS, GIB, chip_of, peak_flops


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("A100-SXM4-40GB", "a100-40"),  # drivers before 470
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_a_device_kind_finds_its_chip(device_kind, name):
    assert chip_of(device_kind) is CHIPS[name]


@pytest.mark.parametrize(
    "device_kind",
    [
        "cpu",
        "",
        "TPU v3",
        "TPU v4 lite",
        "NVIDIA L40",  # begins as the L4 does
        "NVIDIA H100 PCIe",  # 756 TFLOP/s
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GB200",
    ],
)
def test_another_device_is_not_taken_for_one_with_a_similar_name(device_kind):
    assert chip_of(device_kind) is None


def test_figures_are_those_of_one_jax_device():
    # A TPU7x chip has 2,307 TFLOP/s and 192 GiB, and is two JAX devices.
    chip = CHIPS["tpu7x"]
    assert chip.peak_flops * chip.devices_per_chip == 2307e12
    assert 94 * GIB < chip.memory < 96 * GIB
    # The data sheets' figures with sparsity are twice as large; the RTX 4090's with float16 sums as well.
    peaks = {name: CHIPS[name].peak_flops / 1e12 for name in ("a100-40", "a100-80", "h200", "l4", "rtx4090")}
    assert peaks == {"a100-40": 312, "a100-80": 312, "h200": 989, "l4": 121, "rtx4090": 165.2}
    assert CHIPS["a100-40"].memory < 40 * GIB < CHIPS["a100-80"].memory < 80 * GIB


def test_no_two_chips_share_a_name_of_jax():
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds)) == len({kind.casefold() for kind in kinds})


def test_the_peak_of_a_device_is_that_of_the_dtype():
    # True float32, without TF32, on GPUs; six bfloat16 products on TPUs.
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_flops("TPU v5 lite", "float32") == pytest.approx(197e12 / 6)
    assert peak_flops("TPU v3", "bfloat16") is None and peak_flops("cpu", "float32") is None
    assert all(chip.peak_flops_float32 <= chip.peak_flops for chip in CHIPS.values())
