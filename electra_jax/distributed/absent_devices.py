"""Devices to compile for that are not attached: memory and program text are exact, but nothing can run.

The compilers are separate packages: libtpu for TPUs; jax-cuda13-plugin and nvidia-cuda-nvcc for GPUs.
`launch/compile_only.sh` installs them into .venv/compilers, where no other command sees them.
"""

import contextlib
import os

import jax
from jax.experimental import topologies

# Text protobuf of the device, as XLA writes it for an attached one.
GPUS = {
    "h100": """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
}
# Without these, libtpu asks the network which TPU it is on, and two processes cannot load it at once.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def absent_devices(name: str) -> list[jax.Device]:
    """The devices named "h100:8" (GPUs of one host), or by a TPU topology: "v5e:2x4", "v5p:2x2x1", "v6e:4x4".
    "cpu:8" is this machine as 8 devices.

    Call it before JAX starts its back ends, which it restricts to the CPU.

    Raises:
      ValueError: unknown device or topology, or its compiler is not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    chip, _, shape = name.partition(":")
    try:
        if chip == "cpu":
            with contextlib.suppress(RuntimeError):  # JAX has started and has its number of devices
                jax.config.update("jax_num_cpu_devices", int(shape or 1))
            if len(jax.devices()) < int(shape or 1):
                raise ValueError(f"JAX has started with {len(jax.devices())} devices")
            return jax.devices()[: int(shape or 1)]
        if chip in GPUS:
            topology = topologies.get_topology_desc(
                platform="cuda", topology_name="", target_config=GPUS[chip], topology=f"1x1x{int(shape or 1)}"
            )
        else:
            for variable, value in TPU_ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
            topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:
        raise ValueError(
            f"device: got {name!r}, which cannot be compiled for here: {error}. Expected {sorted(GPUS)} "
            "with a number of GPUs (h100:8) or a TPU topology (v5e:2x4, v6e:4x4, v5p:2x2x1). Run the command "
            "through bash launch/compile_only.sh, which installs the compilers."
        ) from error
    return list(topology.devices)
