"""A prediction that gets SIGTERM leaves no part of its file."""

import os
import signal
from types import SimpleNamespace

import pytest

from data_pipelines.tasks.unlabelled import Wanted
from electra_jax.predict import main
from electra_jax.prediction import stream
from electra_jax.prediction.records import one_line


def test_a_prediction_that_gets_sigterm_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "new" / "out.jsonl"

    def interrupted(inputs):
        assert len(list(out.parent.iterdir())) == 1  # the unfinished file
        os.kill(os.getpid(), signal.SIGTERM)
        return [{"text": one.text} for one in inputs], []

    predictor = SimpleNamespace(
        kind="classification",
        title="a stand-in",
        table=one_line("text"),
        wanted=lambda *_: Wanted("text", ""),
        predict=interrupted,
    )
    monkeypatch.setattr(stream, "load", lambda *_: None)
    monkeypatch.setattr(stream, "TaskPredictor", lambda *_: predictor)
    (tmp_path / "in.txt").write_text("a\n")
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("it would have ended the process"))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["--model=model", f"--input={tmp_path / 'in.txt'}", f"--out={out}"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM and not list(out.parent.iterdir())
