"""What JAX sees: devices, memory, driver and versions; and the fastest matrix product measured here."""

import contextlib
import importlib.metadata
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.distributed.chips import CHIPS, chip_of
from electra_jax.distributed.processor import processor_name
from electra_jax.models.layers import einsum_f32
from electra_jax.runs.provenance import commit, describe_devices, installed_versions

PEERS = ("torch", "transformers", "triton")
MATMUL_SIZES = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
NUM_PRODUCTS = 10
GPU_QUERY = ("name", "driver_version", "memory.total", "power.limit")


def run_part(job: Job) -> None:
    """Record the device, and check that it computes."""
    devices = jax.devices()
    first = devices[0]
    memory = (first.memory_stats() or {}).get("bytes_limit")
    chip = chip_of(first.device_kind)
    conditions = {
        "devices": describe_devices(),
        "platform_version": first.client.platform_version.splitlines()[0],
        "versions": versions(),
        "commit": commit(),
    }
    job.recorder.add(
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        platform=first.platform,
        device_kind=first.device_kind,
        num_devices=len(devices),
        memory_limit=memory,
        chip=next((name for name, known in CHIPS.items() if known is chip), None),
        peak_flops=chip and chip.peak_flops,
        processor=processor_name(),
        num_processors=os.cpu_count(),
        gpus=gpus(),
        conditions=conditions,
    )
    product = measure_product(MATMUL_SIZES.get(first.platform, 2048))
    job.recorder.add(product_flops=product)
    total = float(jnp.sum(jnp.arange(1000.0)))
    job.recorder.check("a sum computed on the device", total == 499500.0, got=total, expected=499500.0)


def versions() -> dict[str, str]:
    """Name → version, of what computes and of what is measured beside it."""
    found = installed_versions()
    for name in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def gpus(run: Callable[..., Any] = subprocess.run) -> list[str]:
    """A line of nvidia-smi for each GPU: GPU_QUERY; [] without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader"]
    try:
        outcome = run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in outcome.stdout.splitlines() if line.strip()]


def measure_product(size: int) -> float:
    """FLOPs a second of bfloat16 products of square matrices on one device, the best of three turns."""
    # Of random numbers: with equal ones a GPU draws less power and is faster than it will be in training.
    x = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(jnp.bfloat16)
    product = jax.jit(lambda x, y: einsum_f32("MK,KN->MN", "bfloat16", x, y).astype(jnp.bfloat16))
    y = product(x, x).block_until_ready()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(NUM_PRODUCTS):
            y = product(x, y)
        y.block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 * NUM_PRODUCTS / min(seconds)
