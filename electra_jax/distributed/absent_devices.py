"""Devices to compile for that are not attached: memory and program text are exact, but nothing can run.

The compilers are separate packages: libtpu for TPUs; jax-cuda13-plugin and nvidia-cuda-nvcc for GPUs.
`launch/compile_only.sh` installs them into .venv/compilers, where no other command sees them.
"""

import contextlib
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies


class GpuTarget(NamedTuple):
    """What XLA's compiler must know of a GPU. Sizes in bytes."""

    name: str
    compute_capability: str
    multiprocessors: int
    cores_each: int  # float32 units of a multiprocessor
    threads_each: int
    shared_memory_each: int
    shared_memory_of_block: int  # the most that a block can ask for
    clock_ghz: float
    bandwidth: int  # a second
    l2_cache: int
    memory: int


# XLA's own target configurations (xla/backends/gpu/target_config/specs). For those that it lacks, L4, L40S
# and RTX 4090: NVIDIA's data sheets, and the limits of compute capability 8.9 in the CUDA programming guide.
_SHARED_80, _SHARED_89, _SHARED_90 = (167936, 166912), (102400, 101376), (233472, 232448)
GPUS = {
    "a100-40": GpuTarget(
        *("NVIDIA A100-SXM4-40GB", "8.0", 108, 64, 2048, *_SHARED_80),
        *(1.41, 1555200000000, 41943040, 42331013120),
    ),
    "a100-80": GpuTarget(
        *("NVIDIA A100-SXM4-80GB", "8.0", 108, 64, 2048, *_SHARED_80),
        *(1.41, 2039040000000, 41943040, 85100068864),
    ),
    "h100": GpuTarget(
        *("NVIDIA H100 80GB HBM3", "9.0", 132, 128, 2048, *_SHARED_90),
        *(1.98, 3352320000000, 52428800, 84978434048),
    ),
    "h200": GpuTarget(
        *("NVIDIA H200", "9.0", 132, 128, 2048, *_SHARED_90),
        *(1.98, 4800000000000, 52428800, 150109880320),
    ),
    "b200": GpuTarget(
        *("NVIDIA B200", "10.0", 148, 128, 2048, *_SHARED_90),
        *(1.965, 7672320000000, 132644864, 191514411008),
    ),
    "l4": GpuTarget(
        *("NVIDIA L4", "8.9", 58, 128, 1536, *_SHARED_89),
        *(2.04, 300000000000, 50331648, 23654531399),
    ),
    "l40s": GpuTarget(
        *("NVIDIA L40S", "8.9", 142, 128, 1536, *_SHARED_89),
        *(2.52, 864000000000, 100663296, 47674137000),
    ),
    "rtx4090": GpuTarget(
        *("NVIDIA GeForce RTX 4090", "8.9", 128, 128, 1536, *_SHARED_89),
        *(2.52, 1008000000000, 75497472, 25383256719),
    ),
}
GPUS_OF_A_HOST = 8  # unless given, as in h100:2x4
# Without these, libtpu asks the network which TPU it is on, and two processes cannot load it at once.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def target_config(gpu: GpuTarget) -> str:
    """The text protobuf that XLA takes in place of an attached GPU."""
    major, minor = gpu.compute_capability.split(".")
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {gpu.threads_each}
  shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_memory_each}
  shared_memory_per_block_optin: {gpu.shared_memory_of_block}
  core_count: {gpu.multiprocessors} fpus_per_core: {gpu.cores_each} clock_rate_ghz: {gpu.clock_ghz}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth} l2_cache_size: {gpu.l2_cache} device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 }}
device_description_str: "{gpu.name}"
"""


def absent_devices(name: str) -> list[jax.Device]:
    """The devices named "h100:8" or by a TPU topology: "v5e:2x4", "v5p:2x2x1", "v6e:4x4".

    "h100:16" are GPUs of hosts with eight each, "h100:2x4" those of two hosts with four each. "cpu:8" is this
    machine as 8 devices.

    Call it before JAX starts its back ends, which it restricts to the CPU.

    Raises:
      ValueError: unknown device or topology, or its compiler is not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    chip, _, shape = name.partition(":")
    expected = (
        f"Expected {', '.join(GPUS)} or cpu with a number (h100:8; h100:2x8 on two hosts), or a TPU's "
        "topology (v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:4x4, tpu7x:2x2x1)."
    )
    try:
        topology = _topology(chip, shape)
    except ValueError as error:
        raise ValueError(f"--device: got {name!r}: {error}. {expected}") from error
    try:
        if chip == "cpu":
            return _cpu_devices(int(topology))
        if chip in GPUS:
            more: dict[str, Any] = {"target_config": target_config(GPUS[chip]), "topology": topology}
            return list(topologies.get_topology_desc(platform="cuda", topology_name="", **more).devices)
        for variable, value in TPU_ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        # A TPU v4 is one device, as JAX uses it on Google's machines; by default libtpu makes two of it.
        options: dict[str, Any] = {"chip_config_name": "megacore"} if chip == "v4" else {}
        if set(shape.split("x")) == {"1"}:  # a single chip is less than the host that libtpu assumes
            options["chips_per_host_bounds"] = [1, 1, 1]
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:
        raise ValueError(
            f"--device: got {name!r}, which cannot be compiled for here: {error}. {expected} In a checkout, "
            "run the command through bash launch/compile_only.sh, which installs the compilers. Without one, "
            f"install them into an environment of their own: `pip install 'jax[tpu]=={jax.__version__}'`, or "
            f"for GPUs `pip install jax-cuda13-plugin=={jax.__version__} nvidia-cuda-nvcc`."
        ) from error


def _topology(chip: str, shape: str) -> str:
    """What stands behind the colon, in the form that the compiler of `chip` takes."""
    if chip == "cpu":
        return str(_count(shape))
    if chip in GPUS:
        return "1x{}x{}".format(*_gpu_hosts(shape))
    if not re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*){1,2}", shape):  # libtpu would crash with a 0
        raise ValueError(f"got {shape!r} behind the colon, expected a topology")
    return shape


def _gpu_hosts(text: str) -> tuple[int, int]:
    """(number of hosts, GPUs of each) of "2x8", or of "16"."""
    hosts, times, each = text.partition("x")
    if times:
        return _count(hosts or "0"), _count(each or "0")
    number = _count(text)
    if number <= GPUS_OF_A_HOST:
        return 1, number
    if number % GPUS_OF_A_HOST:
        raise ValueError(
            f"got {text} behind the colon, expected at most {GPUS_OF_A_HOST} GPUs (those of one host), a "
            f"multiple of {GPUS_OF_A_HOST}, or the number of hosts and the GPUs of each, as in 3x4"
        )
    return number // GPUS_OF_A_HOST, GPUS_OF_A_HOST


def _count(text: str) -> int:
    """A number of devices from 1; one if there is no text."""
    if not re.fullmatch("([1-9][0-9]{0,4})?", text):
        raise ValueError(f"got {text!r} behind the colon, expected a number of devices from 1")
    return int(text or 1)


def _cpu_devices(number: int) -> list[jax.Device]:
    with contextlib.suppress(RuntimeError):  # JAX has started and has its number of devices
        jax.config.update("jax_num_cpu_devices", number)
    if len(jax.devices()) < number:
        raise ValueError(f"JAX has started with {len(jax.devices())} devices")
    return jax.devices()[:number]
