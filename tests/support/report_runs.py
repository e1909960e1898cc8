"""Run directories without a model, for reports."""

import json


def config(text="x", rate=2e-3, num_steps=40, batch_size=2, stages=()):
    return {
        "model": {"vocab_size": 128, "name": text},
        "objective": {"name": "electra"},
        "data": {"datasets": [text], "weights": [1.0], "sequence_length": 8},
        "optimizer": {"learning_rate": rate},
        "mesh": {"data": -1, "fsdp": 1, text: 1},
        "train": {"num_steps": num_steps, "batch_size": batch_size},
        "stages": stages,
    }


def make_run(path, text="x", **changes):
    """A run directory without a model, with `text` in every place that may hold some."""
    path.mkdir(parents=True)
    as_file = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
    rows = [
        {"step": step, "mlm_loss": 7.0 - step / 20, "tokens_per_second": 1e4, "learning_rate": 1e-3}
        for step in range(4, 44, 4)
    ]
    rows += [{"step": 20, "eval/mlm_loss": 6.25, "eval/unigram_cross_entropy": 5.5, "probe/" + text: 0.5}]
    event = {"step": 12, "kind": "alarm", "message": text, "advice": text, "name": text, "values": {text: 1}}
    session = {"started": text, "start_step": 0, "versions": {"jax": text}, "changed": {text: [None, text]}}
    session |= {"command": ["--config=configs/" + text, text], "devices": text, "commit": text, "host": text}
    dataset = {
        "path": text,
        "weight": 1.0,
        "first_step": 0,
        "fingerprint": text,
        "splits": {text: {"rows": 3}},
    }
    (path / "metrics.jsonl").write_text(as_file(rows))
    (path / "events.jsonl").write_text(as_file([event, {"step": 16, "kind": text, "message": None}]))
    (path / "sessions.jsonl").write_text(as_file([session, session | {"start_step": 20}]))
    (path / "datasets.json").write_text(json.dumps([dataset]))
    (path / "parameters.txt").write_text(f"a\n1 parameter: {text}\n", encoding="utf-8", errors="replace")
    (path / "config.json").write_text(json.dumps({"config": config(text, **changes), "data": [text]}))
    return path
