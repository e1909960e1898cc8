"""Events survive crashes and resumption: those of repeated steps happen again, others stay."""

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
