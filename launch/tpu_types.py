"""The accelerator types that the Cloud TPU API offers, and their VM images."""

import re

from tpu_machine import LauncherError

RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}


def check_type(accelerator_type: str) -> None:
    """Raises LauncherError for TPU7x (Ironwood) and newer types, in any spelling."""
    if re.match("(tpu-?)?v?([7-9]|[1-9][0-9])|ironwood", accelerator_type.casefold()):
        raise LauncherError(
            f"--type: got {accelerator_type!r}, which the Cloud TPU API does not offer (`gcloud compute "
            f"tpus`, which this launcher uses; it gets no new types), expected one of {_known_types()}. "
            "TPU7x (Ironwood) and newer types are in GKE 1.34.0-gke.2201000 or newer: bash launch/gke.sh "
            "create --tpu_type=tpu7x-2x2x1 …; or as VMs of Compute Engine (a managed instance group with the "
            "workload policy HIGH_THROUGHPUT), on each of which you start the run yourself: "
            "https://docs.cloud.google.com/tpu/docs/tpus-in-compute-engine"
        )


def _known_types() -> str:
    return ", ".join(f"{name}-N" for name in RUNTIMES)


def runtime_version(accelerator_type: str) -> str:
    """The VM image for an accelerator type. Raises LauncherError for an unknown type."""
    family, _, size = accelerator_type.partition("-")
    if family not in RUNTIMES or not size.isdigit():
        raise LauncherError(
            f"--type: got {accelerator_type!r}, expected one of {_known_types()} with a number, for example "
            "v5litepod-16 (a v5e). For a type that is not in this list, give --runtime_version as well."
        )
    return RUNTIMES[family]
