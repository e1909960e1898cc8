"""Peaks, memory and network of TPUs and GPUs: the one table for plans and for model-FLOP utilisation.

Figures are those of one JAX device, which is one chip except on TPU7x, where it is half of one. Sources, read
on 2026-11-28:

TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. Usable memory: what libtpu 0.0.52 states when it
refuses a program. A float32 product at the highest precision, the only one used here (models/layers.py), is
six bfloat16 products on a TPU (BF16_BF16_F32_X6 in docs.jax.dev).

GPUs: NVIDIA's data sheets (A100, H100, H200, HGX B200, L4, L40S), and its white paper on Ada for the RTX
4090, which is half as fast with float32 sums, which XLA uses, as with float16 sums. Peaks are without
sparsity; float32's is that of the CUDA cores, since the highest precision excludes TF32. Memory is what CUDA
reports: XLA's target configurations for A100, H100 and B200, and messages of PyTorch about full memory for
the others.

Network: links of TPUs (ICI) are half of the bidirectional figures on Google's pages, v4's from a former one
of 2,400 Gbit/s; they are those of a torus, which small slices lack. NVLink and PCIe are half of NVIDIA's
bidirectional figures. Between hosts: the adapters of NVIDIA's DGX (A100 200 Gbit/s a GPU; H100, H200 and B200
400) and, for L4 and L40S, the 100 and 400 Gbit/s of a host with eight at Google (g2-standard-96) and Amazon
(g6e.48xlarge). Clouds differ: what your hosts have was not checked, and that of the RTX 4090, 10 Gbit/s for a
host of eight, is an assumption.

Not read again but from memory of these sources: the float32 peaks of GPUs but B200's, and the network of all
but v5e, v5p and v6e. `plan --peak_flops` and `--network_gbps` take the place of a figure.
"""

from typing import NamedTuple

GIB = 2**30
GPU_MEMORY_FRACTION = 0.9  # that programs can use; JAX gets it by configuration/process_setup.py


class Chip(NamedTuple):
    """What one device can do."""

    peak_flops: float  # of dense bfloat16 matrix products, FLOPs a second
    peak_flops_float32: float  # of float32 products at the highest precision
    # Bytes that a program can use; None: not checked. TPU: as its compiler states when it refuses a program.
    # GPU: GPU_MEMORY_FRACTION of it, since the CUDA context and libraries take the rest.
    memory: int | None
    bandwidth: float  # of the memory, bytes a second
    device_kinds: tuple[str, ...]  # what JAX calls it: `device_kind` of a jax.Device
    link: float  # bytes a second that a device sends to others of its host or TPU slice
    # Bytes a second that it sends to other hosts; None: its links connect the hosts, too.
    between_hosts: float | None = None
    devices_per_chip: int = 1  # clouds sell chips

    def peak_of(self, dtype: str) -> float:
        """FLOPs a second of matrix products in `dtype`: "bfloat16" or "float32"."""
        return {"bfloat16": self.peak_flops, "float32": self.peak_flops_float32}[dtype]


# Bytes a second to devices of the same host, and to those of other hosts.
_NVLINK_3, _NVLINK_4, _NVLINK_5 = (300e9, 25e9), (450e9, 50e9), (900e9, 50e9)
_PCIE_4 = 32e9


def _tpu(
    peak_flops: float, memory_gib: float, bandwidth: float, link: float, *device_kinds: str, **more
) -> Chip:
    return Chip(peak_flops, peak_flops / 6, int(memory_gib * GIB), bandwidth, device_kinds, link, **more)


def _gpu(
    peaks: tuple[float, float],
    memory: int,
    bandwidth: float,
    network: tuple[float, float],
    *device_kinds: str,
) -> Chip:
    return Chip(*peaks, int(GPU_MEMORY_FRACTION * memory), bandwidth, device_kinds, *network)


A100 = (312e12, 19.5e12)
H100 = (989e12, 67e12)
CHIPS = {
    "v4": _tpu(275e12, 30.75, 1.2e12, 300e9, "TPU v4"),
    "v5e": _tpu(197e12, 15.75, 0.819e12, 200e9, "TPU v5 lite", "TPU v5e"),
    "v5p": _tpu(459e12, 95.73, 2.765e12, 600e9, "TPU v5", "TPU v5p"),
    "v6e": _tpu(918e12, 31.24, 1.638e12, 400e9, "TPU v6 lite", "TPU v6e"),
    "tpu7x": _tpu(2307e12 / 2, 94.74, 7.38e12 / 2, 600e9 / 2, "TPU7x", devices_per_chip=2),
    "a100-40": _gpu(A100, 42331013120, 1.555e12, _NVLINK_3, "NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    "a100-80": _gpu(A100, 85100068864, 2.039e12, _NVLINK_3, "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    "h100": _gpu(H100, 84978434048, 3.35e12, _NVLINK_4, "NVIDIA H100 80GB HBM3"),
    "h200": _gpu(H100, int(139.8 * GIB), 4.8e12, _NVLINK_4, "NVIDIA H200", "NVIDIA H200 141GB HBM3e"),
    "b200": _gpu((2250e12, 80e12), 191514411008, 7.7e12, _NVLINK_5, "NVIDIA B200"),
    "l4": _gpu((121e12, 30.3e12), int(22.03 * GIB), 0.3e12, (_PCIE_4, 100e9 / 8 / 8), "NVIDIA L4"),
    "l40s": _gpu((362e12, 91.6e12), int(44.4 * GIB), 0.864e12, (_PCIE_4, 400e9 / 8 / 8), "NVIDIA L40S"),
    "rtx4090": _gpu(
        (165.2e12, 82.6e12), int(23.64 * GIB), 1.008e12, (_PCIE_4, 10e9 / 8 / 8), "NVIDIA GeForce RTX 4090"
    ),
    "cpu": Chip(1e11, 1e11, None, 2e10, (), 2e10),  # an assumption, for trying things out
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """FLOPs a second of matrix products on one device; None: it is not in the table.

    Args:
      device_kind: what JAX calls the device.
      dtype: "bfloat16", or "float32" at the highest precision: config.model.dtype.
    """
    chip = chip_of(device_kind)
    return None if chip is None else chip.peak_of(dtype)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None: not in the table.

    A name must match as a whole: "NVIDIA H100 PCIe", "NVIDIA L40" and parts of a GPU ("… MIG 3g.20gb") are
    other devices, with other peaks. Drivers before 470 leave out the word NVIDIA.
    """
    return _BY_KIND.get(_plain(device_kind))


def _plain(device_kind: str) -> str:
    return device_kind.strip().casefold().removeprefix("nvidia ")


_BY_KIND = {_plain(kind): chip for chip in CHIPS.values() for kind in chip.device_kinds}
