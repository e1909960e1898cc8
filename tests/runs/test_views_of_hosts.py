"""What process 0 sees of a shared run directory holds for all; none exits before the summary is written."""

import shutil

import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.runs import pretraining
from electra_jax.training import writers
from support.tiny_run import NUM_STEPS, values


def finished_config(data):
    config = load_config("configs/debug.py")
    config.update_from_flattened_dict(values(data) | {"data.datasets": (str(data / "corpus"),)})
    return config.to_dict()


@pytest.mark.slow
def test_a_run_that_is_complete_for_process_0_is_complete_for_all(
    finished, data, tmp_path, monkeypatch, capsys
):
    workdir, happened = tmp_path / "run", []
    shutil.copytree(finished[0], workdir)
    monkeypatch.setattr(pretraining, "is_measured", lambda *_, **__: False)  # an older metrics.jsonl
    monkeypatch.setattr(pretraining, "exchange", lambda seen: [True if seen is False else seen, seen])
    summarize = pretraining.summarize_run
    monkeypatch.setattr(
        pretraining, "summarize_run", lambda workdir: happened.append("summary") or summarize(workdir)
    )
    monkeypatch.setattr(pretraining, "barrier", happened.append)
    summary = pretraining.pretrain(finished_config(data), workdir)
    assert summary["steps"] == NUM_STEPS
    assert "the run is complete" in capsys.readouterr().err
    assert happened == ["run directory checked", "summary", "summary written"]


def test_all_processes_evaluate_what_process_0_lacks(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "eval/loss": 1.0}\n')
    make = lambda: writers.MetricWriters(
        tmp_path, progress=False, total_steps=10, start_step=5, is_writer=False
    )
    assert make().has_row(5, "eval/") and not make().has_row(5)
    # As process 0 reads it: the row of training alone.
    monkeypatch.setattr(writers, "exchange", lambda seen: [[[5, ""]], seen])
    assert make().has_row(5) and not make().has_row(5, "eval/")
