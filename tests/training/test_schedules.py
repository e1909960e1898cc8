"""Schedules with a constant rate, and schedules of stages: against their formulas, at every step."""

import numpy as np
import pytest

from configs import debug
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.stages import make_stages, schedule_span
from electra_jax.runs.changed_length import learning_rate
from electra_jax.training.schedules import decay_length, make_schedule

PEAK = 8e-4
# ModernBERT's phases: warm-up and a constant rate; a lower constant rate; 1 − √x to a thousandth.
PHASES = (
    (
        60,
        {
            "optimizer.schedule": "warmup_constant",
            "optimizer.learning_rate": 3e-4,
            "optimizer.warmup_steps": 0,
        },
    ),
    (
        90,
        {
            "optimizer.schedule": "warmup_constant_sqrt",
            "optimizer.decay_share": 1.0,
            "optimizer.final_share": 0.001,
        },
    ),
)


def optimizer(**changes):
    section = debug.get_config().optimizer.to_dict()
    return section | {"learning_rate": PEAK, "schedule": "warmup_constant", "warmup_steps": 10} | changes


def rates(section, num_steps, steps):
    schedule = make_schedule(section, num_steps)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("shape", ["linear", "sqrt"])
@pytest.mark.parametrize("decay", [{"decay_steps": 40}, {"decay_steps": 0, "decay_share": 0.4}])
def test_a_decay_after_a_constant_rate(shape, decay):
    section = optimizer(schedule=f"warmup_constant_{shape}", final_share=0.1, **decay)
    steps = np.arange(121)
    done = np.clip((steps - 60) / 40, 0, 1)
    share = 1 - 0.9 * (done if shape == "linear" else np.sqrt(done))
    expected = PEAK * np.where(steps < 10, steps / 10, share)
    assert decay_length(section, 100) == 40
    np.testing.assert_allclose(rates(section, 100, steps), expected, rtol=1e-6)


def test_the_share_of_a_decay_is_rounded():
    shares = (0.29, 0.001, 0.0)  # 0.29 · 100 is a little below 29
    sections = [optimizer(schedule="warmup_constant_sqrt", decay_share=share) for share in shares]
    assert [decay_length(section, 100) for section in sections] == [29, 1, 0]


def test_without_a_decay_the_rate_stays_at_its_peak():
    assert rates(optimizer(), 100, (0, 5, 10, 99)) == pytest.approx([0, PEAK / 2, PEAK, PEAK], rel=1e-6)
    assert decay_length(optimizer(decay_steps=5), 100) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 100}, r"warmup_steps: got 100, expected fewer than the 100 steps"),
        (
            {"schedule": "warmup_constant_sqrt", "decay_steps": 91},
            r"decay_steps, .*: got a decay of 91 steps after config\.optimizer\.warmup_steps=10, expected",
        ),
        ({"schedule": "warmup_constant_linear", "decay_share": 0.95}, "got a decay of 95 steps"),
        ({"schedule": "cosine"}, r"schedule: got 'cosine', expected one of .*'warmup_constant_sqrt'"),
    ],
)
def test_errors_of_schedules(changes, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(optimizer(**changes), 100)


def staged(stages=PHASES, **changes):
    config = with_assumed_sizes(debug.get_config().to_dict())
    config["train"]["num_steps"], config["stages"] = 130, stages
    config["optimizer"] = optimizer(**changes)
    return config


def by_hand(step, end=130):
    if step < 60:
        return PEAK * min(1, step / 10)
    return 3e-4 * (1 if step < 90 else 1 - 0.999 * np.sqrt((step - 90) / (end - 90)))


def test_stages_have_schedules_of_their_own():
    resolved = resolve(staged())
    assert [schedule_span(stage.config, stage.first_step) for stage in resolved.stages] == [
        (0, 60),
        (60, 90),
        (90, 130),
    ]
    for stage in resolved.stages:
        start, end = schedule_span(stage.config, stage.first_step)
        schedule = make_schedule(stage.config["optimizer"], end - start, start)
        found = [float(schedule(step)) for step in range(stage.first_step, stage.end)]
        expected = [by_hand(step) for step in range(stage.first_step, stage.end)]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * PEAK)
        # Steps that were left out are not counted, so that the first count may be below the first step.
        assert float(schedule(max(start - 3, 0))) == pytest.approx(expected[0] if start else 0.0, rel=1e-6)


def test_another_length_changes_the_last_schedule_alone():
    config = staged()
    for step in (0, 5, 59, 60, 89, 90, 110):
        assert learning_rate(config, 130, step) == pytest.approx(by_hand(step), rel=1e-5)
        assert learning_rate(config, 170, step) == pytest.approx(by_hand(step, 170), rel=1e-5)
    # The stage follows from the step, its rate from the updates, of which some were left out.
    assert learning_rate(config, 170, 61, 3) == pytest.approx(by_hand(60), rel=1e-5)
    assert learning_rate(config, 170, 110, 3) == pytest.approx(by_hand(107, 170), rel=1e-5)
    plain = staged(stages=((60, {"train.batch_size": 64}),), schedule="warmup_times_decay")
    assert learning_rate(plain, 260, 130) == pytest.approx(PEAK / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            ((60, {"optimizer.learning_rate": 1e-4}),),
            r"from step 60 on: got optimizer\.learning_rate=0\.0001 without optimizer\.schedule, expected",
        ),
        (
            ((125, {"optimizer.schedule": "warmup_constant"}),),
            r"from step 125 on: config\.optimizer\.warmup_steps: got 10, expected fewer than the 5 steps",
        ),
        (
            ((60, {"optimizer.schedule": "warmup_constant_sqrt", "optimizer.decay_steps": 61}),),
            r"from step 60 on: config\.optimizer\.decay_steps, .*: got a decay of 61 steps",
        ),
        (
            ((60, {"optimizer.schedule": "cosine"}),),
            r"from step 60 on: got optimizer\.schedule='cosine', expected one of",
        ),
        (
            ((60, {"optimizer.schedule": "warmup_then_decay", "optimizer.final_share": 0.1}),),
            r"from step 60 on: got optimizer\.final_share=0\.1 with optimizer\.schedule='warmup_then_decay', "
            r"expected no such key: only warmup_constant_linear and warmup_constant_sqrt read it",
        ),
        (
            ((60, {"optimizer.schedule": "warmup_constant", "optimizer.decay_share": 0.5}),),
            r"from step 60 on: got optimizer\.decay_share=0\.5 with optimizer\.schedule='warmup_constant'",
        ),
        (
            ((60, {"objective.mask_prob": 1.5}),),
            r"from step 60 on: got objective\.mask_prob=1\.5, expected a probability",
        ),
        (
            ((60, {"objective.mask_prob": 0.001}),),
            r"from step 60 on: config\.objective\.mask_prob: got 0\.001 for",
        ),
    ],
)
def test_errors_of_stages(stages, message):
    with pytest.raises(ValueError, match=r"^config\.stages, in the stage " + message):
        resolve(staged(stages))


@pytest.mark.parametrize("key", ["decay_steps", "final_share"])
@pytest.mark.parametrize("schedule", ["warmup_times_decay", "warmup_then_decay", "warmup_constant"])
def test_a_decay_that_no_schedule_reads_is_refused_in_new_runs(schedule, key):
    decay = {"schedule": schedule, key: 1 if key == "decay_steps" else 0.5}
    message = rf"^config\.optimizer\.{key}: got .* with config\.optimizer\.schedule='{schedule}', expected 0"
    with pytest.raises(ValueError, match=message):
        resolve(staged((), **decay))
    resolve(staged((), **decay), has_begun=True)
    # A stage that reads it may inherit it; one that does not may inherit it as well.
    reader = {"optimizer.schedule": "warmup_constant_sqrt", "optimizer.warmup_steps": 0}
    resolve(staged(((60, reader), (90, reader | {"optimizer.schedule": schedule})), **decay))


def test_the_first_schedule_ends_where_the_next_begins():
    with pytest.raises(
        ValueError, match=r"^config\.optimizer\.warmup_steps: got 70, expected fewer than the 60"
    ):
        resolve(staged(warmup_steps=70))
    for stages, remedy in (
        (PHASES, r"Pass --config\.optimizer\.warmup_steps=6, or begin the next schedule later\."),
        (((50, PHASES[0][1] | {"optimizer.warmup_steps": 80}),), r"from step 50 on: .* Lower it to 8\."),
    ):
        with pytest.raises(ValueError, match=remedy):
            resolve(staged(stages, warmup_steps=70 if stages is PHASES else 10))
    assert make_stages(staged())[2].config["optimizer"]["learning_rate"] == 3e-4


def test_the_share_of_a_stage_replaces_inherited_steps():
    decay = {"optimizer.schedule": "warmup_constant_sqrt", "optimizer.decay_share": 0.5}
    later = {"optimizer.schedule": "warmup_constant_sqrt", "optimizer.warmup_steps": 0}
    changes = (decay, later, decay | {"optimizer.decay_steps": 7}, later | {"optimizer.decay_share": 0.25})
    stages = make_stages(staged(tuple(zip((30, 50, 70, 90), changes, strict=True)), decay_steps=5))
    spans = [schedule_span(stage.config, stage.first_step) for stage in stages[1:]]
    found = [
        decay_length(stage.config["optimizer"], end - start)
        for stage, (start, end) in zip(stages[1:], spans, strict=True)
    ]
    assert found == [10, 10, 7, 10]
