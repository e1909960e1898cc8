"""`python -m electra_jax.predict` as a process: pipes, files, and the scores that fine-tuning reported."""

import io
import json
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.experiment import Plan, finetune
from electra_jax.finetuning.experiment_directory import MODELS
from electra_jax.finetuning.squad_metrics import squad_score
from electra_jax.predict import main
from electra_jax.prediction.models import best_model
from support import devices
from support.commands import run_module
from support.local_task import local_task
from support.paths import ROOT
from support.tiny_task import make_encoder

PREDICT = "electra_jax.predict"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A pre-training run."""
    return make_encoder(data, tmp_path_factory)[1]


@pytest.fixture(scope="module")
def fine_tuned(data, run, tmp_path_factory):
    """(fine-tuning of one encoder on a small task in files, its validation file, the reported accuracy)."""
    root = tmp_path_factory.mktemp("fine_tuned")
    config = local_task(data, root, num_validation=40, lengths=(1, 12))
    config["train"] |= {"batch_size": 16, "num_epochs": 2}
    config["optimizer"]["learning_rate"] = 3e-3
    with devices.one_device():
        [result] = finetune(config, root / "run", Plan([str(run)], [0]))
    return root / "run", root / "validation.tsv", result.metrics["accuracy"]


@pytest.mark.slow
def test_the_records_have_the_accuracy_that_fine_tuning_reported(fine_tuned, tmp_path, capsys):
    directory, validation, accuracy = fine_tuned
    rows = [line.split("\t") for line in validation.read_text().splitlines()[1:]]
    main([f"--model={directory}", f"--input={validation}", f"--out={tmp_path / 'new' / 'a.jsonl'}"])
    records = list(map(json.loads, (tmp_path / "new" / "a.jsonl").read_text().splitlines()))
    assert [record["text"] for record in records] == [text for text, _ in rows]
    right = [record["label"] == label for record, (_, label) in zip(records, rows, strict=True)]
    assert np.mean(right) == accuracy
    assert capsys.readouterr().out == ""

    [model] = (directory / MODELS).iterdir()
    main([f"--model={model}", f"--input={validation}", "--format=tsv", "--batch_size=1"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "text\tpair\tlabel\tprobability"
    assert [line.split("\t")[2] for line in lines] == [record["label"] for record in records]


def asked_questions(data):
    """SQuAD's form; some contexts are longer than a row, and every fourth question has no answer."""
    words = sorted(set((data / "train.txt").read_text(encoding="utf-8").split()))[:40]
    source, paragraphs = np.random.default_rng(0), []
    for number in range(24):
        some = list(source.choice(words, size=source.integers(2, 30)))
        answer = {"text": some[-1], "answer_start": len(" ".join(some)) - len(some[-1])}
        answers = [answer] if number % 4 else []
        question = {"id": str(number), "question": words[number], "answers": answers}
        question["is_impossible"] = not answers
        paragraphs.append({"context": " ".join(some), "qas": [question]})
    return {"data": [{"title": "", "paragraphs": paragraphs}]}


@pytest.mark.slow
def test_the_answers_have_the_scores_that_fine_tuning_reported(data, run, tmp_path):
    """Also where a text is divided into several rows, and where questions are left unanswered."""
    squad = asked_questions(data)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(squad), encoding="utf-8")
    config = load_config("configs/finetune.py:task=local_squad").to_dict()
    config["task"] |= {"train": str(path), "validation": str(path), "null_threshold": -1.3}
    config["task"] |= {"max_length": 24, "max_query_length": 4, "doc_stride": 4}
    config["model"]["num_layers"] = 1
    config["train"] |= {"batch_size": 8, "num_epochs": 1}
    config["optimizer"]["learning_rate"] = 3e-3
    config["log"] = {"progress": False}
    with devices.one_device():
        [result] = finetune(config, tmp_path / "run", Plan([str(run)], [0]))
    main([f"--model={tmp_path / 'run'}", f"--input={path}", f"--out={tmp_path / 'a.jsonl'}"])
    records = list(map(json.loads, (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()))
    questions = [paragraph["qas"][0] for paragraph in squad["data"][0]["paragraphs"]]
    assert [record["id"] for record in records] == [question["id"] for question in questions]
    references = [[answer["text"] for answer in question["answers"]] for question in questions]
    found = [record["answer"] for record in records]
    assert 0 < found.count("") < len(found)
    scores = squad_score(references, found, [0.0] * len(found))  # what is unanswered is so in the records
    for metric in ("exact_match", "f1"):
        assert result.metrics[metric] == pytest.approx(scores[metric], abs=1e-12) and scores[metric] > 0


@pytest.mark.slow
def test_standard_output_holds_the_records_alone_in_any_locale(fine_tuned, environment):
    ascii_only = environment | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = "é 日本 \U0001f600\nabc\n"
    process = run_module(
        PREDICT, f"--model={fine_tuned[0]}", environment=ascii_only, input=text, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr
    assert [json.loads(line)["text"] for line in process.stdout.splitlines()] == text.splitlines()
    assert "classification with the labels high, low; reads standard input as text" in process.stderr
    assert process.stderr.splitlines()[-2:] == ["predicting \\u2026", "predicting  input 2"]


@pytest.mark.slow
def test_each_text_is_answered_at_once_and_ctrl_c_loses_none(fine_tuned, environment):
    with subprocess.Popen(
        [sys.executable, "-m", PREDICT, f"--model={fine_tuned[0]}", "--batch_size=1"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        for text in ("abc", "dei hgf"):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert b"Standard output has the records of the inputs so far" in process.stderr.read()


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(fine_tuned, environment):
    predict = shlex.join([sys.executable, "-m", PREDICT, f"--model={fine_tuned[0]}", "--batch_size=1"])
    command = f"{predict} | head -n 1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment,
        input="".join(f"text {number}\n" for number in range(500)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 141 and len(process.stdout.splitlines()) == 1
    assert "rror" not in process.stderr and "Traceback" not in process.stderr


@pytest.mark.slow
def test_a_run_reads_standard_input(run, capsys, monkeypatch):
    def printed(text, *more):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        main([f"--model={run}", *more])
        return capsys.readouterr().out

    masked, judged = map(json.loads, printed(b"abc [MASK] dei\nabc dei\n", "--top=2").splitlines())
    assert [len(choices) for choices in masked["masks"]] == [2]
    assert {"token", "start", "end", "replaced", "is_suspicious"} == set(judged["tokens"][0])
    *rows, summary, blank = printed(b"abc dei hgf\n", "--demo").splitlines()
    named = {row.split()[0] for row in rows if row}
    assert {"text", "masked", "generator", "replaced?"} <= named
    assert "tokens masked" in summary and blank == ""


@pytest.mark.slow
def test_mistakes_are_told_before_anything_is_written(fine_tuned, run, tmp_path):
    directory, validation, _ = fine_tuned
    out = tmp_path / "out.jsonl"
    bad, empty = tmp_path / "bad.txt", tmp_path / "empty.txt"
    bad.write_bytes(b"b\xe4d\n")
    empty.write_text("")
    model, given = f"--model={directory}", f"--input={validation}"
    for flags, message in (
        ([model, f"--input={bad}"], "bad.txt:1: not valid UTF-8"),
        ([model, f"--input={empty}"], "empty.txt: got no input in it"),
        ([model, given, "--text_column=title"], "no column 'title', found 'sentence', 'class'"),
        ([model, f"--input={tmp_path / 'none.txt'}"], "none.txt does not exist"),
        ([model, given, "--demo"], "--demo: got"),
        ([model, given, "--step=3"], "--step: got 3"),
        ([f"--model={tmp_path}", given], "holds no model, expected the directory of"),
        ([f"--model={tmp_path / 'none'}", given], "is not a directory"),
        ([f"--model={run}", given, "--pair_column=class"], "--pair_column: got 'class'"),
        ([f"--model={run}", given, "--step=77"], "expected a checkpoint of step 77"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*flags, f"--out={out}"])
        assert message in str(stopped.value), (flags, stopped.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "empty.txt"]
    for where, message in (
        (tmp_path, "a directory, expected a file"),
        (validation, "which is also --input"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([model, given, f"--out={where}"])
        assert message in str(stopped.value)


def test_of_several_fine_tuned_models_the_best_is_taken(tmp_path, capsys):
    models = [tmp_path / "run" / MODELS / name for name in ("one", "two", "three")]
    for model, value in zip(models, (0.5, 0.75, 0.25), strict=True):
        model.mkdir(parents=True)
        metrics = {"span_f1": value, "tagging_accuracy": 1 - value}
        (model / "model.json").write_text(json.dumps({"metrics": metrics}))
    assert best_model(models) == models[1]
    assert f"{models[1]}: of 3 models the best span_f1, 0.750" in capsys.readouterr().err
    assert best_model(models[:1]) == models[0] and capsys.readouterr().err == ""


def test_of_models_with_the_same_first_metric_the_first_is_taken(tmp_path, capsys):
    models = [tmp_path / name for name in "abc"]
    for model, value, other in zip(models, (0.25, 0.5, 0.5), (0.7, 0.1, 0.9), strict=True):
        model.mkdir()
        metrics = {"validation/accuracy": value, "test/accuracy": other}
        (model / "model.json").write_text(json.dumps({"metrics": metrics}))
    assert best_model(models) == models[1]
    best = f"{models[1]}: of 3 models the best validation/accuracy, 0.500, the first of 2 with that value\n"
    assert capsys.readouterr().err == best


def test_a_fine_tuning_without_a_finished_model_is_told_so(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"task": {}}}))
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(SystemExit, match="has no finished model yet"):
        main([f"--model={tmp_path}", f"--input={tmp_path / 'a.txt'}"])


@pytest.mark.parametrize(("name", "ending"), [("a.jsonl.gz", ".gz"), ("a.tsv.GZ", ".GZ"), ("a.zst", ".zst")])
def test_a_name_of_a_compressed_file_is_refused_before_a_model_is_read(name, ending, tmp_path):
    (tmp_path / "a.txt").write_text("x\n")
    flags = [f"--model={tmp_path / 'none'}", f"--input={tmp_path / 'a.txt'}", f"--out={tmp_path / name}"]
    with pytest.raises(
        SystemExit, match=rf"--out: got .*{name}, expected a name without \{ending}: the file"
    ):
        main(flags)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
