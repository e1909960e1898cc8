"""Results of the parts of a check of an accelerator, as on an imagined GPU."""

from electra_jax.benchmarks.accelerator.results import FAILED, NOT_RUN, PASSED, TIME_LIMIT, Result

GIB = 2**30
DEVICE = {
    "date": "2026-01-02 03:04 UTC",
    "platform": "gpu",
    "device_kind": "NVIDIA H100 80GB HBM3",
    "num_devices": 1,
    "memory_limit": 72 * GIB,
    "chip": "h100",
    "peak_flops": 989e12,
    "processor": "A CPU",
    "num_processors": 16,
    "gpus": ["NVIDIA H100 80GB HBM3, 580.1, 81559 MiB, 700.00 W"],
    "product_flops": 700e12,
    "conditions": {
        "devices": "1 × NVIDIA H100 80GB HBM3",
        "platform_version": "cuda 13000",
        "versions": {"python": "3.12.3", "jax": "0.11.2", "torch": "2.11.0"},
        "commit": "0123abc",
    },
}
CHECK = {"name": "sum", "passed": True, "got": "4", "expected": "4"}
LOSSES = {name: {"1": 7.0, "20": 6.5, "81-100": 6.0} for name in ("mlm_loss", "loss")}


def step(rows, tokens_per_second, **more):
    """Figures of a training step of a second, half of which the device computes."""
    return {
        "batch_size": rows,
        "layers": [12, 12],
        "vocab_size": 30522,
        "is_reduced": False,
        "tokens_per_second": tokens_per_second,
        "utilization": 0.25,
        "utilization_of": "peak",
        "utilization_peak": 989e12,
        "step_seconds": 1.0,
        "compute_seconds": 0.5,
        "input_wait_seconds": 0.001,
        "peak_bytes": 40 * GIB,
        "peak_host_bytes": GIB,
        "compiled_bytes": 41 * GIB,
        **more,
    }


ATTENTION = {"batch_size": 32, "length": 512}
ATTENTION |= {"skew_milliseconds": 3.25, "skew_temporary_mib": 2_048.0, "gather_over_skew": 2.0}
ATTENTION |= {"pallas_milliseconds": 1.5, "pallas_temporary_mib": 64.0}


def results():
    """Part → result: one failed, one was stopped, one could not run."""
    reduced = step(8, 10.0, is_reduced=True, layers=[2, 2], vocab_size=8192, peak_bytes=None)
    reduced |= {"utilization_of": "product", "utilization_peak": 2e11}
    figures = {
        "device": DEVICE,
        "learning": {
            "losses": {"mlm_loss": LOSSES["mlm_loss"], "loss": LOSSES["loss"] | {"1": 9.0}},
            "recorded": LOSSES,
            "made": {"date": "2026-01-01", "processor": "A CPU", "versions": {"jax": "0.10.2"}},
        },
        "step_electra_small_128": step(1024, 1_234_567.0),
        "step_electra_base_128": reduced,
        "kernels": {
            "kernels": {"LayerNorm, float32": {"output": 1e-7, "gradient": 2e-7}},
            "attention": ATTENTION,
        },
        "torch": {
            "electra_small_128 eager": {"batch_size": 512, "tokens_per_second": 1_000_000.0},
            "electra_small_128 sdpa": {"missing": "does not fit"},
        },
        "plan": {"electra_small_128": 42 * GIB},
    }
    found = {name: Result(name, PASSED, "", 12.3, {}, [CHECK], part) for name, part in figures.items()}
    found["learning"].status = FAILED
    found["learning"].checks.append(
        {"name": "loss up to step 5", "passed": False, "got": "9.0 | a relative 3e-1", "expected": "7.0"}
    )
    found["torch"].status, found["torch"].note = TIME_LIMIT, "stopped after 90 s"
    found["parity"] = Result("parity", NOT_RUN, "torch not installed: 3 exports were written.", 5.0)
    return found
