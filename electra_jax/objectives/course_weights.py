"""The weights of MCL's courses in config.objective, and which courses they make the objective compute."""

from collections.abc import Mapping
from typing import Any, NamedTuple

# Keys of config.objective: the weights of the losses that MCL adds to ELECTRA.
SWAPPED, INSERTED = ("slm_weight", "std_weight"), ("itd_weight",)
RTD_CORRECTIONS, STD_CORRECTIONS = ("re_mlm_weight", "re_rtd_weight"), ("re_slm_weight", "re_std_weight")
ADDED = SWAPPED + INSERTED + RTD_CORRECTIONS + STD_CORRECTIONS
# Course → the generator's loss on it, and the key of its weight. ITD has none.
GENERATOR_LOSS = {"rtd": ("mlm", "gen_weight"), "std": ("slm", "slm_weight")}
GENERATOR_CORRECTION = {"rtd": ("mlm", "re_mlm_weight"), "std": ("slm", "re_slm_weight")}
# Course → the key of the weight of the discriminator's loss on it.
DISCRIMINATOR_LOSS = {"rtd": "disc_weight", "std": "std_weight", "itd": "itd_weight"}
DISCRIMINATOR_CORRECTION = {"rtd": "re_rtd_weight", "std": "re_std_weight"}


class ActiveCourses(NamedTuple):
    """The courses that are computed: those with a weight other than 0, and RTD always."""

    courses: tuple[str, ...]
    corrected_by_generator: tuple[str, ...]
    corrected_by_discriminator: tuple[str, ...]


def only_courses(*weights: str) -> dict[str, float]:
    """Changes of MCL's config.objective after which, of the weights in ADDED, only these are not 0."""
    return {key: 0.0 for key in ADDED if key not in weights}


def active_courses(objective: Mapping[str, Any]) -> ActiveCourses:
    """The courses that a section config.objective computes."""
    by_generator = tuple(name for name, (_, key) in GENERATOR_CORRECTION.items() if objective[key])
    by_discriminator = tuple(name for name, key in DISCRIMINATOR_CORRECTION.items() if objective[key])
    is_swapped = any(objective[key] for key in SWAPPED) or "std" in by_generator + by_discriminator
    is_inserted = any(objective[key] for key in INSERTED)
    courses = ("rtd", *(("std",) if is_swapped else ()), *(("itd",) if is_inserted else ()))
    return ActiveCourses(courses, by_generator, by_discriminator)
