"""The steps of speed.py in PyTorch with `transformers`, on the same device: eager, with sdpa, and compiled.

It is what a careful user of `transformers` would write (torch_step.py), under bfloat16 autocast, on as many
rows of one device as ours. What does not fit is measured with half as many rows. It runs without a batch from
a loader: compare it with our time on a batch that is on the device already.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.benchmarks.accelerator.results import CannotRunError
from electra_jax.benchmarks.accelerator.speed import CASES, choose_rows, make_config
from electra_jax.benchmarks.training_step import random_rows
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.corruption import max_predictions_per_seq
from electra_jax.planning.compiled import SPECIAL

VARIANTS = ("eager", "sdpa", "compiled")
WITHOUT_SDPA = "DebertaV2 of transformers has no sdpa"
NUM_WINDOWS, SECONDS_OF_WINDOW, MAX_STEPS_OF_WINDOW = 3, 1.0, 30


def run_part(job: Job) -> None:
    """Measure every case of speed.py in each variant, the quickest to start first."""
    device = torch_device(job.device["platform"])
    for variant in VARIANTS:
        for name in CASES:
            job.recorder.add(**{f"{name} {variant}": measure_case(job, name, variant, device)})


def torch_device(platform: str) -> str:
    """The name that PyTorch has for the device of JAX.

    Raises:
      CannotRunError: PyTorch or transformers is missing, or does not see that device.
    """
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        raise CannotRunError(f"{' and '.join(absent)} not installed.")
    import torch

    if platform == "cpu":
        return "cpu"
    if platform == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise CannotRunError(f"PyTorch {torch.__version__} does not see the device of JAX, a {platform}.")


def measure_case(job: Job, name: str, variant: str, device: str) -> dict[str, Any]:
    """Tokens a second of one case and variant, or why there are none."""
    import torch

    case = CASES[name]
    found = job.result_of(f"step_{name}")
    num_devices = job.device["num_devices"]
    rows = (found and found.figures.get("batch_size")) or choose_rows(case, job.device)
    rows //= num_devices
    while True:
        config = make_config(case, job.device, rows)
        if variant == "sdpa" and config["model"]["position"] == "disentangled":
            return {"missing": WITHOUT_SDPA}
        try:
            return {"batch_size": rows, **_time_variant(config, variant, device)}
        except torch.OutOfMemoryError:
            if rows == 1:
                return {"missing": "does not fit"}
            rows //= 2
        except Exception as error:  # of a compiler that is missing, for one
            print(f"{name} {variant}: {type(error).__name__}: {error}", flush=True)
            return {"missing": f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"}
        torch.cuda.empty_cache()


def _time_variant(config: dict[str, Any], variant: str, device: str) -> dict[str, Any]:
    """Figures of one variant; see `measure_case`."""
    import torch

    step = make_step(config, variant, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    began = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - began
    seconds = time_step(step, wait)
    tokens = config["train"]["batch_size"] * config["data"]["sequence_length"]
    return {
        "tokens_per_second": tokens / seconds,
        "step_seconds": seconds,
        "first_step_seconds": first,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def make_step(config: dict[str, Any], variant: str, device: str) -> Callable[[], Any]:
    """PyTorch's training step of a configuration in a variant."""
    from electra_jax.benchmarks.torch_deberta import make_torch_deberta
    from electra_jax.benchmarks.torch_electra import make_torch_electra
    from electra_jax.benchmarks.torch_step import compile_models, make_torch_step

    model = make_pretraining_config(config["model"])
    if config["model"]["position"] == "disentangled":
        models = make_torch_deberta(model, device=device)
    else:
        attention = "eager" if variant == "eager" else "sdpa"
        models = make_torch_electra(model, device=device, attention=attention)
    if variant == "compiled":
        models = compile_models(models)
    length = config["data"]["sequence_length"]
    special: SpecialTokens = SPECIAL
    return make_torch_step(
        models,
        config["objective"],
        random_rows(config["model"]["vocab_size"], config["train"]["batch_size"], length),
        special,
        num_predictions=max_predictions_per_seq(config["objective"]["mask_prob"], length),
        autocast=True,
    )


def time_step(step: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Median seconds of a step, over windows that end with a wait for the device."""

    def run(number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            step()
        wait()
        return (time.perf_counter() - began) / number

    once = run(1)
    number = min(MAX_STEPS_OF_WINDOW, max(1, round(SECONDS_OF_WINDOW / once)))
    return statistics.median(run(number) for _ in range(NUM_WINDOWS))
