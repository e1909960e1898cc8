"""Settings of fine-tuning that are read only where others have certain values. Elsewhere they would change
nothing, so another value than the default is refused."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from data_pipelines.problems import Problems
from electra_jax.configuration.migration import with_tuples
from electra_jax.configuration.ranges import Allowed
from electra_jax.training.schedules import DECAYS
from electra_jax.training.update_rules import ADAFACTOR, ADAM, MUON, STABLE_ADAMW

OF_TEXTS = ("classification", "regression", "tagging")  # kinds of tasks


class Readers(NamedTuple):
    """What must hold so that some settings are read."""

    keys: Mapping[str, Any]  # of these settings → their defaults in configs/finetune.py
    by: str  # the key that decides
    values: Allowed  # its values with which they are read


def _names(*names: str) -> Allowed:
    return Allowed(lambda value: value in names, " or ".join(names))


ZERO = Allowed(lambda value: value == 0, "0")
ABOVE_ZERO = Allowed(lambda value: value > 0, "above 0")
# A key that has several rows is read where all of them hold. What a key means only together with the encoder
# (model.head, model.head_dropout) has no row: one experiment compares encoders of several families.
READERS = (
    Readers(
        {"optimizer.decay_steps": 0, "optimizer.decay_share": 0.1, "optimizer.final_share": 0.0},
        "optimizer.schedule",
        _names(*DECAYS),
    ),
    Readers({"optimizer.decay_share": 0.1}, "optimizer.decay_steps", ZERO),
    Readers({"optimizer.warmup_share": 0.1}, "optimizer.warmup_steps", ZERO),
    Readers({"optimizer.bias_correction": False}, "optimizer.name", _names(ADAM)),
    Readers({"optimizer.update_clip": 1.0}, "optimizer.name", _names(STABLE_ADAMW, ADAFACTOR)),
    Readers({"optimizer.muon_momentum": 0.95, "optimizer.muon_rms": 0.2}, "optimizer.name", _names(MUON)),
    Readers({"sift.learning_rate": 1e-4, "sift.init_perturbation": 1e-2}, "sift.vat_lambda", ABOVE_ZERO),
    Readers({"task.label_scale": 1.0}, "task.kind", _names("regression")),
    Readers({"task.labels": ()}, "task.kind", _names("classification", "tagging")),
    Readers({"task.language": "", "task.train_language": "en"}, "task.kind", _names(*OF_TEXTS)),
    Readers(
        {"task.text": "", "task.pair": "", "task.label": ""}, "task.kind", _names(*OF_TEXTS, "embedding")
    ),
    Readers(
        {"task.max_query_length": 64, "task.doc_stride": 128, "task.null_threshold": 0.0},
        "task.kind",
        _names("question_answering"),
    ),
)
DEFAULTS = {key: default for row in READERS for key, default in row.keys.items()}


def check_unread(configs: Sequence[dict[str, Any]]) -> None:
    """Check that no setting has another value than its default where nothing reads it.

    Args:
      configs: whole configurations of fine-tuning that belong together, the combinations of a sweep. It is
        enough that one of them reads a setting.

    Raises:
      ValueError: names each such key, the key that decides, and its values with which the first is read.
    """
    problems, flat = Problems(), [flatten_dict(config, sep=".") for config in configs]
    for key, default in DEFAULTS.items():
        unread = [_first_unread(key, values) for values in flat]
        if None in unread:
            continue
        for values, row in zip(flat, unread, strict=True):
            if with_tuples(values[key]) != default:
                problems.add_text(
                    f"config.{key}: got {values[key]!r} with config.{row.by}={values[row.by]!r}, expected "
                    f"{default!r}: nothing reads it unless config.{row.by} is {row.values.expected}. Leave "
                    f"it at its default, or change config.{row.by}."
                )
                break
    problems.report()


def _first_unread(key: str, values: Mapping[str, Any]) -> Readers | None:
    """The first row that does not hold for `key`; None where it is read."""
    rows = (row for row in READERS if key in row.keys)
    return next((row for row in rows if not row.values.accepts(values[row.by])), None)
