"""Events survive crashes and resumption: those of repeated steps happen again, others stay."""

import json

import pytest

from electra_jax.training.events import EVENTS_FILE, EventLog, read_events


def test_an_event_is_a_row_and_a_line_on_stderr(tmp_path, capsys):
    with EventLog(tmp_path, start_step=0) as events:
        events.record(3, "alarm", "The AUC is stuck.", advice="Lower disc_weight.", name="auc", auc=0.5)
        assert read_events(tmp_path) == [  # before close
            {
                "step": 3,
                "kind": "alarm",
                "message": "The AUC is stuck.",
                "advice": "Lower disc_weight.",
                "name": "auc",
                "auc": 0.5,
            }
        ]
    assert capsys.readouterr().err == "step 3: The AUC is stuck. Lower disc_weight.\n"


def test_resuming_drops_events_that_will_happen_again(tmp_path):
    with EventLog(tmp_path, start_step=0) as events:
        events.record(2, "alarm", "early")
        events.record(5, "alarm", "late")
        events.record(6, "rolled_back", "to step 4")
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"step": 7, "ki')  # a crash in the middle of a row
    with EventLog(tmp_path, start_step=4):
        pass
    assert [event["message"] for event in read_events(tmp_path)] == ["early", "to step 4"]


def test_only_one_process_writes(tmp_path, capsys):
    with EventLog(tmp_path, start_step=0, is_writer=False) as events:
        events.record(1, "alarm", "seen")
    assert read_events(tmp_path) == []
    assert capsys.readouterr().err == ""


def test_a_kind_has_a_rule_for_resuming(tmp_path):
    with EventLog(tmp_path, start_step=0) as events, pytest.raises(KeyError, match="surprise"):
        events.record(1, "surprise", "of a kind that nobody declared")


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"kind": 5},
        {"kind": []},
        {"kind": "alarm", "name": ["auc"]},
        {"kind": "alarm", "task": {}},
        {"kind": "rolled_back", "to": "3"},
        {"kind": "rows_lost", "ranges": [5]},
        {"kind": "rows_lost", "first": "1", "last": 4},
        {"kind": "alarm", "message": None},
    ],
)
def test_an_edited_event_is_named(event, tmp_path):
    rows = [{"step": 1, "kind": "alarm", "message": "early"}, {"step": 2} | event]
    (tmp_path / EVENTS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for read in (lambda: read_events(tmp_path), lambda: EventLog(tmp_path, start_step=4)):
        with pytest.raises(ValueError, match=r"events\.jsonl, line 2: (got|no) .*Repair the file"):
            read()
