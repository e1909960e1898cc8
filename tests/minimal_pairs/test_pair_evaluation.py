"""`evaluate --minimal_pairs`: accuracies, what is kept of an interrupted command, and its errors."""

import json
import shutil
import types
import weakref
from pathlib import Path

import jax
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest

from data_pipelines.tasks.minimal_pairs import MinimalPair
from electra_jax.minimal_pairs import evaluation
from electra_jax.minimal_pairs.evaluation import Options, evaluate_minimal_pairs
from electra_jax.minimal_pairs.models import ScoredModel
from electra_jax.minimal_pairs.scoring import Scores
from electra_jax.minimal_pairs.summary import FIELDS, PHENOMENA, TERMS, summarize, to_json
from electra_jax.minimal_pairs.tables import MAX_MODELS, MAX_ROWS, ROW_INCHES, plot, table_lines
from electra_jax.runs.trained import load_run
from support import tiny_export
from support.commands import run_module


def test_a_tie_counts_one_half_and_a_field_is_the_mean_of_its_phenomena():
    place = {"a": ("syntax", "islands"), "b": ("syntax", "binding"), "c": ("", "")}
    pairs = [MinimalPair("x:1", "g", "b", name, *place[name]) for name in "aaaabbc"]
    good = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 2.0])
    bad = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 3.0])
    total, groups = summarize(pairs, good, bad)
    assert {name: share.accuracy for name, share in groups[PHENOMENA].items()} == {"a": 0.625, "b": 1, "c": 0}
    assert groups[PHENOMENA]["a"].num_ties == 1
    assert groups[PHENOMENA]["a"].standard_error == pytest.approx(np.std([1, 1, 0.5, 0], ddof=1) / 2)
    assert list(groups[FIELDS]) == ["syntax"] and groups[FIELDS]["syntax"].accuracy == 0.8125
    assert {name: share.accuracy for name, share in groups[TERMS].items()} == {"binding": 1, "islands": 0.625}
    assert total.accuracy == pytest.approx((0.625 + 1 + 0) / 3) and total.num_pairs == 7


def test_the_standard_error_is_that_of_the_accuracy_over_other_pairs():
    pairs = [MinimalPair("x:1", "g", "b", f"p{number // 2}", "", "") for number in range(20)]
    draws = np.random.default_rng(0).integers(0, 2, (1000, len(pairs))).astype(float)
    totals = [summarize(pairs, good, 1 - good).total for good in draws]
    errors = np.array([total.standard_error for total in totals])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(
        np.std([total.accuracy for total in totals]), rel=0.05
    )


def test_one_pair_of_a_phenomenon_has_no_standard_error():
    pairs = [MinimalPair("x:1", "g", "b", name, "syntax", name) for name in "aab"]
    summary = summarize(pairs, np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0]))
    shares = [summary.groups[PHENOMENA]["b"], summary.groups[TERMS]["b"], summary.total]
    shares += [summary.groups[FIELDS]["syntax"]]
    assert [share.standard_error for share in shares] == [None] * 4
    assert summary.groups[PHENOMENA]["a"].standard_error == 0.5
    assert to_json(summary)["standard_error"] is None
    assert list(table_lines({"run": summary}))[-1] == "| 1: run | 0.750 ± – | 0 |"


class FakeModel(str):
    """The name of a place, as a model that comes from no run."""

    step = None


class FakeScorer:
    """Prefers longer sentences, and notes what it scored; it may be interrupted."""

    calls, stop_at = [], None

    def __init__(self, model, mesh):
        self._model = model

    def score(self, sentences, tell):
        if len(FakeScorer.calls) == FakeScorer.stop_at:
            raise InterruptedError
        FakeScorer.calls.append((str(self._model), sentences[0]))
        tell(1.0)
        lengths = np.array([len(sentence) for sentence in sentences], np.float64)
        return Scores({"generator": lengths, "discriminator": -lengths}, int(self._model == "other"))


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Two files, two models."""
    monkeypatch.setattr(FakeScorer, "calls", [])
    monkeypatch.setattr(FakeScorer, "stop_at", None)
    weights = {"runs/a": "a", "other": "b"}
    monkeypatch.setattr(evaluation, "load_model", lambda name, read: read("", name.removeprefix("random:")))
    monkeypatch.setattr(evaluation, "load_pretrained", lambda flag, place, step: FakeModel(place))
    monkeypatch.setattr(evaluation, "identify", lambda name, _: ScoredModel(name, 7, weights[name]))
    monkeypatch.setattr(evaluation, "SentenceScorer", FakeScorer)
    (tmp_path / "pairs").mkdir()
    for name in ("one", "two"):
        pair = {"sentence_good": f"{name} longer", "sentence_bad": name, "field": "f"}
        (tmp_path / "pairs" / f"{name}.jsonl").write_text(json.dumps(pair))
    places = [str(tmp_path / "pairs")]
    options = Options(places, list(weights), tmp_path / "work", 0, str(tmp_path / "new" / "copy.json"))
    return options, weights


def evaluate(options):
    return "\n".join(evaluate_minimal_pairs(options, lambda: None))


def test_an_interrupted_command_scores_what_is_missing(options, tmp_path):
    options, weights = options
    FakeScorer.stop_at = 3
    with pytest.raises(InterruptedError):
        evaluate(options)
    assert FakeScorer.calls == [("runs/a", "one longer"), ("runs/a", "two longer"), ("other", "one longer")]
    FakeScorer.stop_at = None
    text = evaluate(options)
    assert FakeScorer.calls[3:] == [("other", "two longer")]
    assert "other: 2 sentences are longer than its rows and were scored in parts" in text
    assert "| 1: runs/a generator | 1.000 ± – | 0 |" in text and "| one | 1.000 | 0.000 | 1.000 |" in text
    assert evaluate(options) == text and len(FakeScorer.calls) == 4

    # Another checkpoint, other sentences, another file: each is scored again, and nothing else.
    weights["other"] = "c"
    evaluate(options)
    assert FakeScorer.calls[4:] == [("other", "one longer"), ("other", "two longer")]
    pair = {"sentence_good": "new longer", "sentence_bad": "new"}
    (tmp_path / "pairs" / "two.jsonl").write_text(json.dumps(pair))
    evaluate(options)
    assert FakeScorer.calls[6:] == [("runs/a", "new longer"), ("other", "new longer")]

    contents = json.loads((tmp_path / "work" / "minimal_pairs.json").read_text())
    assert contents == json.loads((tmp_path / "new" / "copy.json").read_text())
    found = [(one["model"], one["step"], one["score"], one["accuracy"]) for one in contents["results"]]
    assert found[:2] == [("runs/a", 7, "generator", 1.0), ("runs/a", 7, "discriminator", 0.0)]
    assert contents["results"][0]["phenomena"]["one"]["num_pairs"] == 1
    assert (tmp_path / "work" / "plots" / "minimal_pairs.png").stat().st_size > 1000


def test_a_damaged_file_of_scores_is_named(options, tmp_path):
    options, _ = options
    evaluate(options)
    [path] = (tmp_path / "work" / "scores" / "other").glob("two-*.json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"two-.*\.json: not valid JSON .* Remove it: the same command"):
        evaluate(options)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["runs/a"], ["runs/a"]),
        (["runs/a", "random:runs/a"], ["runs/a"]),
        (["runs/a", "other"], ["runs/a", "other"] * 2),  # only the last one is kept
    ],
    ids=["one", "one beside new weights", "two"],
)
def test_how_often_a_model_is_read(names, expected, options, monkeypatch):
    options, weights = options
    weights["random:runs/a"] = "c"
    places = []
    load = evaluation.load_pretrained
    monkeypatch.setattr(evaluation, "load_pretrained", lambda *given: places.append(given[1]) or load(*given))
    evaluate(options._replace(init_from=names))
    assert places == expected and len(FakeScorer.calls) == 2 * len(names)
    # Every score is kept: each model is read once to see that.
    places.clear()
    evaluate(options._replace(init_from=names))
    assert places == list(dict.fromkeys(expected))


def test_a_model_is_let_go_before_another_one_is_read(options, monkeypatch):
    options, _ = options
    models, alive = [], []

    def load(flag, place, step):
        alive.append([str(one()) for one in models if one() is not None])
        model = FakeModel(place)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(evaluation, "load_pretrained", load)
    evaluate(options)
    assert alive == [[]] * 4


@pytest.fixture
def still_training(data, tmp_path, monkeypatch):
    """Two runs with a checkpoint of step 10 each. When the first one is scored, the other one saves another
    checkpoint, and removes the older one if `removes` is set."""
    first, params = tiny_export.make_run(tmp_path / "first", data, tiny_export.electra_model())
    tiny_export.save_steps(first, params, 10)
    other = tmp_path / "other"
    shutil.copytree(first, other)
    newer = jax.tree.map(lambda array: array + 0.1, params)
    trainer = types.SimpleNamespace(runs=(first, other), removes=False)

    class Scorer:
        def __init__(self, model, mesh):
            if not (other / "checkpoints" / "20").exists():
                tiny_export.save_steps(other, newer, 20)
                if trainer.removes:
                    shutil.rmtree(other / "checkpoints" / "10")

        def score(self, sentences, tell):
            return Scores({"generator": np.zeros(len(sentences))}, 0)

    monkeypatch.setattr(evaluation, "SentenceScorer", Scorer)
    return trainer


def options_for(tmp_path, *models):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"sentence_good": "abc", "sentence_bad": "dei"}))
    return Options([str(tmp_path / "pairs.jsonl")], [str(model) for model in models], tmp_path / "w", 0, "")


@pytest.mark.slow
def test_a_run_that_trains_meanwhile_is_scored_at_the_step_that_was_read_first(still_training, tmp_path):
    first, other = still_training.runs
    evaluate(options_for(tmp_path, first, other, f"random:{other}"))
    contents = json.loads((tmp_path / "w" / "minimal_pairs.json").read_text())
    steps = [(Path(one["model"]).name, one["step"]) for one in contents["results"]]
    assert steps == [("first", 10), ("other", 10), ("other", None)]
    assert load_run(other).step == 20


@pytest.mark.slow
def test_a_checkpoint_that_is_removed_meanwhile_is_an_error_that_helps(still_training, tmp_path):
    still_training.removes = True
    first, other = still_training.runs
    message = (
        rf"--init_from: {other} has other weights than when this command began: .* of step 10, found those "
        r"of \[20\]\. Run the same command again\. .* DIR:STEP .*config\.checkpoint\.keep\."
    )
    with pytest.raises(FileNotFoundError, match=message):
        evaluate(options_for(tmp_path, first, other))


def test_other_weights_under_one_name_are_an_error_that_helps(options, monkeypatch):
    options, _ = options
    digests = iter("abcd")
    identify = lambda name, _: ScoredModel(name, None, next(digests))
    monkeypatch.setattr(evaluation, "identify", identify)
    with pytest.raises(
        ValueError, match=r"runs/a has other weights than when .* began\. Run the same command"
    ):
        evaluate(options)


def test_the_picture_of_many_phenomena_and_models_is_bounded_and_says_so(tmp_path):
    pairs = [MinimalPair("x:1", "g", "b", f"p{n}", f"f{n % 3}", "") for n in range(5000)]
    summary = summarize(pairs, np.ones(5000), np.zeros(5000))
    summaries = {f"model {number}": summary for number in range(30)}
    texts = []
    draw = matplotlib.text.Text.draw
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            matplotlib.text.Text,
            "draw",
            lambda self, *args: texts.append(self.get_text()) or draw(self, *args),
        )
        plot(summaries, tmp_path / "picture.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "picture.png").shape
    rows = 1 + 3 + MAX_ROWS + MAX_MODELS
    assert width == 900 and height == pytest.approx(100 * (2.5 + ROW_INCHES * rows), abs=1)
    assert f"phenomenon (the first {MAX_ROWS} of 5,000)" in texts and "field" in texts
    assert f"(the first {MAX_MODELS} of 30)" in texts
    assert "p99" in texts and "p100" not in texts and "model 19" in texts and "model 20" not in texts


@pytest.mark.slow
def test_the_command(data, environment, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    pair = {"sentence_good": "abc dei", "sentence_bad": "dei abc", "UID": "order"}
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n{json.dumps(pair | {'UID': 'other'})}\n")
    (tmp_path / "broken.jsonl").write_text(f"{json.dumps(pair)}\n{json.dumps({'sentence_good': 'a'})}\n")
    command = ["electra_jax.evaluate", f"--workdir={tmp_path / 'work'}"]
    pairs, init = f"--minimal_pairs={tmp_path / 'pairs.jsonl'}", f"--init_from={run},random:{run}"
    wrong = {
        "--config is missing: a configuration file": [init],
        "--init_from is missing: the models to score": [pairs],
        "--sweep: got it beside --minimal_pairs": [pairs, init, "--sweep=a=1"],
        "--max_pairs: got it without --minimal_pairs": [init, "--max_pairs=3"],
        "broken.jsonl:2: no 'sentence_bad', found": [f"{pairs},{tmp_path / 'broken.jsonl'}", init],
        "--init_from: got the step 3 of": [pairs, f"--init_from={tmp_path}:3"],
    }
    for message, words in wrong.items():
        outcome = run_module(*command, *words, environment=environment)
        assert outcome.returncode == 1 and message in outcome.stderr, (message, outcome.stderr)
        assert "Traceback" not in outcome.stderr
    first = run_module(*command, pairs, init, environment=environment)
    assert first.returncode == 0, first.stderr
    assert f"6: random:{run} discriminator" in first.stdout and "Mean of 2 phenomena, 2 pairs" in first.stdout
    again = run_module(*command, pairs, init, environment=environment)
    assert again.stdout == first.stdout and "4 of 4 pairs are scored already" in again.stderr
