"""Rows that metrics.jsonl lacks are told: at its end, between others, and whatever config.log.every was."""

import pytest

from electra_jax.runs.lost_rows import describe, lost_rows, untold

START = {"start_step": 0}


def config(every, stages=()):
    return {"log": {"every": every}, "stages": stages}


def lost(steps, end, every, sessions=(START | {"log_every": 4},), stages=()):
    return lost_rows(steps, end, config(every, stages), sessions)


@pytest.mark.parametrize("sessions", [(), (START,), (START | {"log_every": 4},)])
@pytest.mark.parametrize(
    ("last", "step", "expected"),
    [
        (20, 20, []),
        (16, 20, [(17, 20)]),
        (0, 20, [(1, 20)]),
        (20, 22, []),
        (24, 20, []),
        (12, 22, [(13, 20)]),
    ],
)
def test_at_the_end(last, step, expected, sessions):
    assert lost(range(4, last + 1, 4), step, 4, sessions) == expected


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ([4], [(1, 4)]),
        ([8, 12], [(5, 12)]),
        ([8, 16, 40], [(5, 8), (13, 16), (37, 40)]),
    ],
)
def test_between_others(removed, expected):
    steps = [step for step in range(4, 41, 4) if step not in removed]
    assert lost(steps, 41, 4) == expected


@pytest.mark.parametrize("is_recorded", [True, False])
def test_another_interval_since_a_resume_is_no_gap(is_recorded):
    starts = ((0, 4), (18, 10), (53, 3))
    sessions = [
        {"start_step": start} | ({"log_every": every} if is_recorded else {}) for start, every in starts
    ]
    steps = [4, 8, 12, 16, 20, 30, 40, 50, 54, 57, 60]
    assert lost(steps, 61, 3, sessions) == []
    for step, expected in ((8, (5, 8)), (40, (31, 40)), (57, (55, 57))):
        assert lost([one for one in steps if one != step], 61, 3, sessions) == [expected]


def test_steps_that_were_repeated_are_those_of_the_later_session():
    """It fell back to step 12 after it had reached 40."""
    sessions = [{"start_step": start, "log_every": every} for start, every in ((0, 4), (40, 4), (12, 6))]
    assert lost([4, 8, 12, 18, 24, 30, 36, 42], 44, 6, sessions) == []
    assert lost([4, 8, 12, 18, 30, 36, 42], 44, 6, sessions) == [(19, 24)]


def test_the_row_at_the_end_of_a_stage_belongs_to_no_interval():
    stages = ((10, {"train.batch_size": 4}),)
    sessions = ({"start_step": 0}, {"start_step": 20})
    assert lost([4, 8, 10, 12, 16, 20, 24], 24, 4, sessions, stages) == []
    assert lost([4, 8, 10, 16, 20, 24], 24, 4, sessions, stages) == [(11, 12)]


def test_a_step_far_away_takes_no_time():
    assert lost([4, 2**61], 2**61, 4) == [(5, 2**61 - 4)]


def test_what_an_event_has_told_is_not_told_again():
    events = [
        {"kind": "rows_lost", "first": 5, "last": 8},
        {"kind": "rows_lost", "first": 17, "last": 40, "ranges": [[17, 20], [37, 40]]},
        {"kind": "alarm"},
    ]
    assert untold([(5, 8), (13, 16), (17, 20), (29, 32), (37, 40)], events) == [(13, 16), (29, 32)]
    assert describe([(5, 1008), (13, 16)]) == (
        "metrics.jsonl lacks the rows of steps 5 to 1,008, 13 to 16, which are done."
    )
