"""`evaluate --frozen`: tables and results, what is kept of an interrupted command, and its errors."""

import json

import numpy as np
import pytest

from electra_jax.configuration.recipes import load_config
from electra_jax.finetuning.encoders import PretrainedEncoder
from electra_jax.finetuning.pooling import POOLINGS
from electra_jax.frozen_features import classifiers, evaluation
from electra_jax.frozen_features.classifiers import CLASSIFIERS
from electra_jax.frozen_features.evaluation import Options, evaluate_frozen
from electra_jax.models.config import make_pretraining_config
from support import tiny_export
from support.commands import run_module
from support.tiny import SPECIAL

NUM_SETS = 2 * 2 + 4 * 2 + 1  # training and held-out examples and four kinds of noise of two tasks; a file


class LetterTokenizer:
    """A token for each letter."""

    special, fingerprint = SPECIAL, "letters"

    def encode_batch(self, texts):
        return [[5 + ord(letter) % 20 for letter in text] for text in texts]


class FakeReader:
    """Features that contain the share of the letter "a"; notes what it read, and may be interrupted."""

    calls, stop_at = [], None

    def __init__(self, encoder, mesh):
        self._name = encoder.name

    def read(self, rows, tell, *, every_layer):
        if len(FakeReader.calls) == FakeReader.stop_at:
            raise InterruptedError
        FakeReader.calls.append((self._name, len(rows)))
        tell(1.0)
        shares = np.array([np.mean(row.ids == 5 + ord("a") % 20) for row in rows])
        last_first = np.random.default_rng(0).normal(size=(3 if every_layer else 1, len(rows), 4))
        features = last_first[::-1]
        features[-1, :, 0] += 20 * shares if self._name == "good" else 0
        return dict.fromkeys(POOLINGS, features.astype(np.float32))


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Two tasks, two models, a file of other texts; and the digests of the models."""
    monkeypatch.setattr(FakeReader, "calls", [])
    monkeypatch.setattr(FakeReader, "stop_at", None)
    digests = {"good": "1", "bad": "2"}
    config = make_pretraining_config(tiny_export.electra_model()).discriminator
    load = lambda name, cache: PretrainedEncoder(name, config, LetterTokenizer(), {}, digests[name], 7)
    monkeypatch.setattr(evaluation, "check_start", digests.__getitem__)
    monkeypatch.setattr(evaluation, "load_encoder", load)
    monkeypatch.setattr(evaluation, "FeatureReader", FakeReader)
    source = np.random.default_rng(0)
    letters = lambda label: "".join(source.choice(list("aaaabcd" if label else "bcdefgh"), size=8))
    texts = lambda size: [(letters(number % 2), number % 2) for number in range(size)]
    for task, names, line in (
        ("sst2", ("train", "dev"), "{}\t{}\n"),
        ("cola", ("in_domain_train", "in_domain_dev", "out_of_domain_dev"), "x\t{1}\t\t{0}\n"),
    ):
        (tmp_path / task).mkdir()
        for name in names:
            lines = [line.format(*text) for text in texts(40 if "train" in name else 20)]
            (tmp_path / task / f"{name}.tsv").write_text("".join(lines))
    (tmp_path / "foreign.txt").write_text("aaaaaaaa\n\naaaaaaaaa\naaaaaaa\n")
    options = Options(
        init_from=list(digests),
        workdir=tmp_path / "work",
        json=str(tmp_path / "new" / "copy.json"),
        labelled=[8],
        seeds=2,
        noise=[0.25],
        outside=[str(tmp_path / "foreign.txt")],
        every_layer=False,
        max_examples=0,
    )
    return options, digests


def evaluate(options, argument="tasks=sst2+cola"):
    data = options.workdir.parent
    configs = load_config(f"configs/evaluate.py:data={data},{argument}").tasks.to_dict()
    return "\n".join(evaluate_frozen(configs, options, lambda: None))


@pytest.fixture
def measured(monkeypatch):
    """Nothing is fitted or drawn; what would be, as the names of tasks."""
    names = []
    labelled = [
        {"pooling": pooling, "classifier": name, "num_labelled": 40, "values": [0.5], "median": 0.5}
        for pooling in POOLINGS
        for name in CLASSIFIERS
    ]
    noise = [{"pooling": pooling, "kind": "", "rate": 0.0, "value": 0.5} for pooling in POOLINGS]
    result = {"labelled": labelled, "outside": [], "noise": noise, "layers": []}
    monkeypatch.setattr(evaluation, "measure", lambda task, *_: names.append(task.name) or result)
    monkeypatch.setattr(evaluation, "plot", lambda results, path: None)
    return names


def test_an_interrupted_command_computes_what_is_missing(options, measured, capsys):
    options, digests = options
    FakeReader.stop_at = NUM_SETS + 3
    with pytest.raises(InterruptedError):
        evaluate(options)
    assert [name for name, _ in FakeReader.calls] == ["good"] * NUM_SETS + ["bad"] * 3
    FakeReader.stop_at = None
    text = evaluate(options)
    assert len(FakeReader.calls) == 2 * NUM_SETS and measured == ["cola"] * 2 + ["sst2"] * 2
    assert f"bad: 3 of {NUM_SETS} sets are computed" in capsys.readouterr().err
    assert evaluate(options) == text
    assert len(FakeReader.calls) == 2 * NUM_SETS and len(measured) == 4

    # Another number of labelled examples: no text is read again.
    evaluate(options._replace(labelled=[8, 16]))
    assert len(FakeReader.calls) == 2 * NUM_SETS and len(measured) == 8
    # Other weights of a name: only these read and are measured, and the kept ones are as they were.
    digests["bad"] = "3"
    evaluate(options._replace(labelled=[8, 16]))
    assert [name for name, _ in FakeReader.calls[2 * NUM_SETS :]] == ["bad"] * NUM_SETS
    assert measured[8:] == ["cola", "sst2"]


def test_results_and_tables(options, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "PENALTIES", (0.1,))
    monkeypatch.setattr(classifiers, "SMOOTHING", (0.01,))
    options, _ = options
    text = evaluate(options._replace(every_layer=True))
    contents = json.loads((tmp_path / "work" / "frozen_features.json").read_text())
    assert contents == json.loads((tmp_path / "new" / "copy.json").read_text())
    assert (
        contents["tasks"]["cola"]["metric"] == "matthews" and contents["tasks"]["cola"]["num_held_out"] == 40
    )
    found = {(one["task"], one["model"]): one for one in contents["results"]}
    good, bad = found["sst2", "good"], found["sst2", "bad"]
    assert (good["step"], good["digest"] != bad["digest"]) == (7, True)
    at_all = {
        row["classifier"]: row["median"]
        for row in good["labelled"]
        if (row["pooling"], row["num_labelled"]) == ("mean", 40)
    }
    assert len(at_all) == 4 and min(at_all.values()) >= 0.9
    assert [len(row["values"]) for row in good["labelled"]] == [2, 1] * 8
    [others, foreign] = [row for row in good["outside"] if row["pooling"] == "mean"]
    assert (others["texts"], foreign["texts"]) == ("cola", "foreign.txt")
    assert foreign["auroc"]["Mahalanobis"] > 0.8 and abs(others["auroc"]["Mahalanobis"] - 0.5) < 0.25
    clean, *noisy = [row for row in good["noise"] if row["pooling"] == "cls"]
    assert clean["value"] == at_all["logistic regression"]
    assert [(row["kind"], row["rate"]) for row in noisy] == [
        (kind, 0.25) for kind in ("swap", "drop", "insert", "repeat")
    ]
    assert noisy[0]["value"] == clean["value"]  # a swap changes no share of a letter
    layers = good["layers"][0]
    assert len(layers["values"]) == 3 and layers["values"][-1] == clean["value"] > layers["values"][0] + 0.2
    assert "sst2: accuracy on 20 texts of validation" in text
    assert "a model that always answers" in text
    assert "| | classifier | 8 | all 40 |" in text
    assert f"| good, cls | logistic regression | {good['labelled'][0]['median']:.3f} (" in text
    assert "| bad, cls | foreign.txt | " in text and "| | clean | swap 0.25 | drop 0.25 |" in text
    assert "| | 0 | 1 | 2 |" in text
    assert (tmp_path / "work" / "plots" / "frozen_features.png").stat().st_size > 1000


def test_examples_are_limited_and_long_texts_are_cut(options, measured, tmp_path, capsys):
    options, _ = options
    config = make_pretraining_config(tiny_export.electra_model()).discriminator
    (tmp_path / "foreign.txt").write_text("a" * (config.max_position_embeddings + 5))
    evaluate(options._replace(max_examples=10, init_from=["good"], labelled=[]), "tasks=sst2")
    assert {count for _, count in FakeReader.calls} == {10, 1}
    longest = config.max_position_embeddings
    assert f"good: foreign.txt: 1 of 1 texts cut to {longest} tokens" in capsys.readouterr().err


def test_files_with_one_name_are_told_apart(options, measured, monkeypatch):
    """A file that is given twice is measured once."""
    options, root = options[0], options[0].workdir.parent
    for folder in ("news", "code"):
        (root / folder).mkdir()
        (root / folder / "foreign.txt").write_text(f"{folder}\n" * 2)
    given, found = [f"{folder}foreign.txt" for folder in ("", "news/", "code/", "code/../")], {}
    measure = evaluation.measure
    note = lambda task, features, *_: found.update(features.outside) or measure(task)
    monkeypatch.setattr(evaluation, "measure", note)
    outside = [str(root / name) for name in given]
    evaluate(options._replace(outside=outside, init_from=["good"]), "tasks=sst2")
    assert [len(one["mean"][-1]) for one in found.values()] == [3, 2, 2]
    assert [*found][1:] == given[1:3] and next(iter(found)).endswith("/foreign.txt")


def test_sets_of_the_same_content_are_read_once(options, measured, monkeypatch):
    """Texts without noise are the held-out ones, and two files may have the same lines."""
    options, root = options[0], options[0].workdir.parent
    (root / "copy.txt").write_text((root / "foreign.txt").read_text())
    outside, noise = [*options.outside, str(root / "copy.txt")], [0.0, 0.25]
    found, measure = [], evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda task, *some: found.append(some[0]) or measure(task))
    options = options._replace(outside=outside, noise=noise, init_from=["good"])
    evaluate(options, "tasks=sst2")
    assert len(FakeReader.calls) == 2 + 4 + 1  # training and held-out examples, four kinds of noise, a file
    [features] = found
    foreign, copy = features.outside.values()
    for one, other in ((foreign, copy), (features.held_out, features.noisy["drop", 0.0])):
        np.testing.assert_array_equal(one["mean"], other["mean"])
    # The order of the files decides which name their vectors get, not whether they are read again.
    evaluate(options._replace(outside=outside[::-1]), "tasks=sst2")
    assert len(FakeReader.calls) == 2 + 4 + 1


@pytest.mark.parametrize(
    ("changes", "argument", "message"),
    [
        ({}, "tasks=sst2+ud", r"task ud: got a task of tagging, expected classification: --frozen fits"),
        ({}, "tasks=mnli", r"task mnli: .*mnli.train.jsonl.gz"),
        ({"outside": ["x.tsv"]}, "tasks=sst2", r"--outside: got x.tsv, expected a file that ends in .txt"),
        ({"outside": ["none.txt"]}, "tasks=sst2", r"--outside: there is no file none.txt"),
        (
            {"max_examples": 2},
            "tasks=sst2",
            r"got 2 training examples with . classes, expected two classes or",
        ),
        ({}, "tasks=local", r"task local: config\.tasks\.local\.task\.train: got ''"),
    ],
    ids=["tagging", "no file", "a table", "no texts", "few examples", "no setting"],
)
def test_what_cannot_be_looked_at_is_named(changes, argument, message, options):
    options, _ = options
    with pytest.raises((ValueError, OSError), match=message):
        evaluate(options._replace(**changes), argument)
    assert FakeReader.calls == [] and not options.workdir.exists()


def test_damaged_files_are_named(options, measured):
    options, _ = options
    evaluate(options)
    for pattern, error in (
        ("features/good/sst2_train-*", "damaged, cut off"),
        ("results/*/sst2.json", "JSON"),
    ):
        path = next(options.workdir.glob(pattern))
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        (options.workdir / "results" / "good" / "cola.json").unlink(missing_ok=True)
        changed = options._replace(labelled=[9]) if "features" in pattern else options
        with pytest.raises(ValueError, match=rf"{path.name}: .*{error}.*Remove it: the same command"):
            evaluate(changed)
        path.write_bytes(whole)


@pytest.mark.slow
def test_the_command(data, environment, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    words = ("abc dei", "to be or not")
    for name, count in (("train", 24), ("dev", 12)):
        rows = [f"{words[number % 2]} {'hgf ' * (number % 3)}\t{number % 2}\n" for number in range(count)]
        (tmp_path / f"{name}.tsv").write_text("".join(rows))
    files = [f"--config.tasks.local.task.{key}={tmp_path / name}.tsv" for key, name in FILES]
    columns = ["--config.tasks.local.task.text=0", "--config.tasks.local.task.label=1"]
    task = ["--config=configs/evaluate.py:tasks=local", *files, *columns]
    command = ["electra_jax.evaluate", f"--workdir={tmp_path / 'work'}"]
    init = f"--init_from={run},random:{run}"
    wrong = {
        "--init_from is missing: the models to look at": ["--frozen", *task],
        "--config is missing": ["--frozen", init],
        "--sweep: got it beside --frozen": ["--frozen", init, *task, "--sweep=a=1"],
        "--minimal_pairs: got it beside --frozen": ["--frozen", init, *task, "--minimal_pairs=x"],
        "--labelled: got it without --frozen": [*task, init, "--labelled=8"],
        "--labelled: got '1', expected a whole number of 2": [
            "--frozen",
            init,
            *task,
            "--labelled=1",
        ],
        "--noise: got '1.5', expected a share, from 0 to 1": ["--frozen", init, *task, "--noise=1.5"],
    }
    for message, words in wrong.items():
        outcome = run_module(*command, *words, environment=environment)
        assert outcome.returncode == 1 and message in outcome.stderr, (message, outcome.stderr)
        assert "Traceback" not in outcome.stderr
    words = ["--frozen", *task, init, "--labelled=6", "--noise=0.5", "--seeds=2"]
    first = run_module(*command, *words, environment=environment)
    assert first.returncode == 0, first.stderr
    assert f"| random:{run}, cls | nearest mean |" in first.stdout
    assert "fitting classifiers" in first.stderr and "computing features" in first.stderr
    again = run_module(*command, *words, environment=environment)
    assert again.stdout == first.stdout and "6 of 6 sets are computed" in again.stderr


FILES = (("train", "train"), ("validation", "dev"))
