"""How often a run has read its rows, and what is watched."""

import types

import pytest

from electra_jax.runs.data_passes import examples_read, most_passes
from electra_jax.runs.watched_health import health_of


def stage(first_step, end, sources, batch_size=10):
    """A stage whose sources are (path, weight, rows, examples read before)."""
    described = [
        types.SimpleNamespace(path=path, weight=weight, split="train", start=start)
        for path, weight, _, start in sources
    ]
    infos = [types.SimpleNamespace(splits={"train": {"rows": rows}}) for _, _, rows, _ in sources]
    mixture = types.SimpleNamespace(sources=described, infos=infos)
    config = {"train": {"batch_size": batch_size}}
    return types.SimpleNamespace(first_step=first_step, end=end, config=config, mixture=mixture)


STAGES = [
    stage(0, 20, [("a", 3.0, 50, 0), ("b", 1.0, 500, 0)]),
    stage(20, 30, [("a", 1.0, 50, 150)], batch_size=20),
]


def test_examples_follow_weights_and_stages():
    assert examples_read(STAGES, 0) == {"a": (0, 50), "b": (0, 500)}
    assert examples_read(STAGES, 20) == {"a": (150, 50), "b": (50, 500)}
    assert examples_read(STAGES, 25) == {"a": (250, 50), "b": (50, 500)}
    assert most_passes(STAGES, 25) == pytest.approx(5.0)


def test_without_alarms_nothing_is_judged(tmp_path):
    inputs = types.SimpleNamespace(config={"health": {"alarms": False}})
    health_of(inputs, tmp_path, None)({"step": 1, "learning_rate": 0.0})
    assert list(tmp_path.iterdir()) == []
