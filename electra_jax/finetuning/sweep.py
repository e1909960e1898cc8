"""Several settings of one task: which combinations to try, how they compare, and each model's best."""

import ast
import itertools
from collections.abc import Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from electra_jax.finetuning.results import Result, summarize

SECTIONS = ("optimizer", "train", "model", "sift")  # of the configuration, whose values can be swept
OF_TASK = ("task.temperature",)  # the same of other sections
Settings = dict[str, Any]  # values of one combination, by "section.name"


def parse_sweep(words: Sequence[str], config: dict[str, Any]) -> list[Settings]:
    """Every combination of "KEY=VALUE,VALUE,…", the first key changing slowest.

    Without words there is one combination, which is empty.

    Raises:
      ValueError: a key that the configuration does not have, a value of another type, or a key or value
        given twice.
    """
    flat = flatten_dict(config, sep=".")
    known = {key: value for key, value in flat.items() if key.partition(".")[0] in SECTIONS or key in OF_TASK}
    axes: dict[str, list[Any]] = {}
    for word in words:
        key, _, values = word.partition("=")
        if key not in known:
            raise ValueError(
                f"--sweep={word}: got the key {key!r}, expected one of {', '.join(sorted(known))}."
            )
        if key in axes:
            raise ValueError(f"--sweep={word}: {key} is given twice; put all its values into one: {key}=A,B.")
        axes[key] = [_value(value.strip(), known[key], word) for value in values.split(",") if value.strip()]
        if not axes[key] or len(set(axes[key])) < len(axes[key]):
            raise ValueError(f"--sweep={word}: expected one or more different values after '{key}='.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _value(text: str, default: Any, word: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"--sweep={word}: got {text!r}, expected {type(default).__name__} as in the default {default!r}."
        )
    return value


def apply_settings(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The configuration with the values of `settings`."""
    changed = dict(config)
    for key, value in settings.items():
        section, _, name = key.partition(".")
        changed[section] = changed[section] | {name: value}
    return changed


def format_settings(settings: Settings) -> str:
    """Settings as a short text: "learning_rate=0.0001 num_epochs=3"; "" for none.

    Keys of SiFT keep their section, since its learning_rate is another one.
    """
    words = []
    for key, value in settings.items():
        name = key if key.startswith("sift.") else key.rpartition(".")[2]
        words.append(f"{name}={value}")
    return " ".join(words)


def by_setting(results: Sequence[Result]) -> list[Result]:
    """The same results with the settings in the model's name, so that each combination counts as a model."""
    named = []
    for result in results:
        name = f"{result.model} {format_settings(result.settings)}".rstrip()
        named.append(result._replace(model=name))
    return named


def best_settings(results: Sequence[Result], metric: str) -> list[Result]:
    """Each model's results with its best settings: of those with results from the most seeds, since runs may
    have diverged, the highest median of `metric`, the earlier one of equals."""
    best: dict[str, tuple[tuple[int, float], Settings]] = {}
    for result in results:
        same = [other for other in results if _combination(other) == _combination(result)]
        summary = summarize(same, metric)[result.model]
        rank = (summary.count, summary.median)
        if result.model not in best or rank > best[result.model][0]:
            best[result.model] = (rank, result.settings)
    return [result for result in results if result.settings == best[result.model][1]]


def split_note(metrics: Sequence[str]) -> str:
    """What a line on the best settings adds if one of the metrics, which have chosen them, is of the only
    split; with several splits, the metric's name has that which chooses: "validation/accuracy"."""
    return "" if all("/" in metric for metric in metrics) else " on the split that is reported"


def _combination(result: Result) -> tuple[str, Settings]:
    return result.model, result.settings
