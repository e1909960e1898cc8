"""What each of MCL's courses costs: FLOPs of the compiled training step, beside ELECTRA's."""

from typing import Any

import jax

from data_pipelines.progress import waiting
from electra_jax.benchmarks.training_step import Metrics
from electra_jax.objectives.course_weights import (
    ADDED,
    INSERTED,
    RTD_CORRECTIONS,
    STD_CORRECTIONS,
    SWAPPED,
    only_courses,
)
from electra_jax.planning.compiled import measure_step

# Measured step → the losses that it adds to ELECTRA's, named by their weights.
STEPS = {
    "electra": (),
    "swapped": SWAPPED,
    "inserted": INSERTED,
    "self_supervision": SWAPPED + INSERTED,
    "correction_of_replaced": RTD_CORRECTIONS,
    "swapped_and_its_correction": SWAPPED + STD_CORRECTIONS,
    "mcl": ADDED,
}


def course_figures(config: dict[str, Any], *, batch_size: int) -> Metrics:
    """GFLOP of each step, and the ratio to ELECTRA's.

    Counted twice: by XLA on one CPU device ("compiled"), and in the matrix products before compilation
    ("products").
    """
    # Layers are unrolled, since XLA counts the body of a loop once.
    train = config["train"] | {
        "batch_size": batch_size,
        "num_microbatches": 1,
        "layers": "unrolled",
        "remat": "none",
    }
    figures: Metrics = {"batch_size": batch_size, "sequence_length": config["data"]["sequence_length"]}
    for name, added in STEPS.items():
        objective = config["objective"] | only_courses(*added)
        with waiting(f"compiling the step of {name}"):
            step = measure_step(
                config | {"objective": objective, "train": train}, jax.devices("cpu")[:1], None
            )
        for count, flops in (("compiled", step.compiler_flops), ("products", step.flops)):
            figures[f"{name}_{count}_gflop"] = flops / 1e9
            figures[f"{name}_{count}_times_electra"] = flops / 1e9 / figures[f"electra_{count}_gflop"]
    return figures
