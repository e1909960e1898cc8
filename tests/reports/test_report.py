"""`python -m electra_jax.report` on a run with a model: its page, its token views, and its errors."""

import contextlib
import json
import os
import shutil

import pytest

from electra_jax.report import main
from electra_jax.reports import token_views
from electra_jax.reports.token_views import TOKENS_FILE
from electra_jax.training.checkpointing import Checkpointer
from support import tiny_export
from support.html_pages import ReadPage

STEPS = (10, 20, 30)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run directory with three checkpoints of one model, and rows up to step 30."""
    path = tmp_path_factory.mktemp("trained") / "run"
    _, params = tiny_export.make_run(path, data, *tiny_export.VARIANTS["electra_tied"][:2])
    shutil.rmtree(path / "checkpoints")
    with contextlib.closing(Checkpointer(str(path / "checkpoints"), keep=9)) as checkpointer:
        for step in STEPS:
            checkpointer.save(step, {"params": params}, {})
    rows = [{"step": step, "mlm_loss": 5.0, "eval/mlm_loss": 5.5} for step in STEPS]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def kept(run):
    """What the newest report kept."""
    return list(json.loads((run / TOKENS_FILE).read_text()).values())[-1]


def report(*words):
    """Make a page; returns it."""
    main([str(word) for word in words])
    [out] = [word for word in words if str(word).startswith("--out=")] or [words[0] / "report.html"]
    path = str(out).removeprefix("--out=")
    with open(path, encoding="utf-8") as file:
        return ReadPage(file.read())


def test_a_run_gets_its_page_and_keeps_its_token_views(run, capsys):
    before = {path.name for path in run.iterdir()}
    page = report(run, "--checkpoints=2", "--sentences=3")
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert {path.name for path in run.iterdir()} - before == {"report.html", TOKENS_FILE}
    views = kept(run)["views"]
    assert list(views) == ["10", "30"] and len(views["10"]["sentences"]) == 3
    first, last = (views[step]["sentences"] for step in ("10", "30"))
    assert first == last  # the same model, masks and random numbers
    tokens = [token for sentence in first for token in sentence]
    assert all(0 <= token["replaced"] <= 1 for token in tokens)
    drawn = [token for token in tokens if "drawn" in token]
    assert len(drawn) == sum(max(1, round(0.15 * len(sentence))) for sentence in first)
    assert all(token["is_replaced"] == (token["drawn"] != token["token"]) for token in drawn)
    assert "Sentence 3" in page.text and "step 30" in page.text and page.mistakes == []


def test_kept_views_are_shown_without_a_model_and_outlive_their_checkpoints(run, monkeypatch):
    report(run, "--checkpoints=3")
    shutil.rmtree(run / "checkpoints" / "10")
    fail = lambda *_: pytest.fail("a model was loaded")
    monkeypatch.setattr("electra_jax.reports.token_views.load", fail)
    page = report(run, "--checkpoints=3")
    assert "step 10" in page.text and "step 30" in page.text
    shutil.rmtree(run / "checkpoints")
    page = report(run, "--checkpoints=3")
    assert "step 10" in page.text and "no checkpoint yet" not in page.text
    shutil.rmtree(run / "tokenizer")
    assert "step 10" in report(run).text


def test_views_of_other_sentences_outlive_a_report(run):
    report(run, "--checkpoints=3", "--sentences=3")
    shutil.rmtree(run / "checkpoints" / "10")
    page = report(run, "--checkpoints=3", "--sentences=2")
    assert list(kept(run)["views"]) == ["20", "30"] and "step 10" not in page.text.partition("Sentence 1")[2]
    page = report(run, "--checkpoints=3", "--sentences=3")
    assert "step 10" in page.text.partition("Sentence 3")[2]


def test_a_few_sets_of_sentences_are_kept(run, monkeypatch):
    view = {"sentences": [[{"token": "x" * 5000}]], "checkpoint": ""}
    sets = {f"set {number}": {"source": "a", "views": {"1": view}} for number in range(20)}
    (run / TOKENS_FILE).write_text(json.dumps(sets))
    report(run, "--checkpoints=1", "--sentences=1")
    found = json.loads((run / TOKENS_FILE).read_text())
    assert list(found)[:-1] == [f"set {number}" for number in range(13, 20)]
    size = (run / TOKENS_FILE).stat().st_size
    monkeypatch.setattr(token_views, "MAX_KEPT", size + 1000)
    report(run, "--checkpoints=1", "--sentences=2")
    names = list(json.loads((run / TOKENS_FILE).read_text()))
    assert 1 < len(names) < 8 and names[-2] == list(found)[-1]


def test_a_step_that_was_trained_again_is_computed_again(run):
    report(run, "--checkpoints=1")
    old = kept(run)["views"]["30"]["checkpoint"]
    os.utime(run / "checkpoints" / "30", ns=(0, 1))
    report(run, "--checkpoints=1")
    assert kept(run)["views"]["30"]["checkpoint"] == "1" != old


def test_own_sentences_replace_held_out_ones(run, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("abc dei hgf\n\nto be or not\nto be\n", encoding="utf-8")
    page = report(run, f"--texts={texts}", "--sentences=2", "--checkpoints=1")
    spelled = ["".join(token["token"] for token in one) for one in kept(run)["views"]["30"]["sentences"]]
    assert [text.replace("##", "").replace("▁", "") for text in spelled] == ["abcdeihgf", "tobeornot"]
    assert str(texts) in page.text and "Sentence 3" not in page.text


def test_damage_leaves_a_page_without_token_views(run):
    shutil.rmtree(run / "checkpoints" / "30" / "state")
    views = {"1": {"sentences": [[{"token": 1}]], "checkpoint": ""}}
    (run / TOKENS_FILE).write_text(json.dumps({"digest": {"source": "x", "views": views}}))
    page = report(run, "--checkpoints=2")
    assert f"{TOKENS_FILE} could not be read, and is computed again." in page.text
    assert "checkpoint 30 is left out: The checkpoint" in page.text and "step 10" in page.text
    assert list(kept(run)["views"]) == ["10"]
    shutil.rmtree(run / "tokenizer")
    (run / TOKENS_FILE).unlink()
    page = report(run)
    assert "the run's tokenizer could not be read" in page.text and "No token view." in page.text


def test_two_runs_and_their_figures_as_json(run, trained, tmp_path, capsys):
    out, figures = tmp_path / "new" / "page.html", tmp_path / "other" / "new" / "page.json"
    page = report(trained, run, f"--out={out}", f"--json={figures}", "--checkpoints=0")
    assert "trained" not in capsys.readouterr().err.replace(str(tmp_path), "")
    found = json.loads(figures.read_text())
    assert len(found["runs"]) == 2 and "No token view." in page.text
    assert all(one["figures"]["eval/mlm_loss"] == 5.5 and one["step"] == 30 for one in found["runs"].values())
    assert not (trained / TOKENS_FILE).exists() and not (trained / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "RUN"], "RUN: got .*, expected each run once"),
        (["RUN", "OTHER"], "--out is missing: a page of 2 runs has no place of its own"),
        (["gs://bucket/run"], "--out is missing: a page of a run in a bucket"),
        (["RUN", "--texts=none.txt"], "--texts: none.txt is not a file"),
        (["RUN", "--json=."], "--json: got .*, a directory, expected a file"),
        (["OTHER"], "RUN: .*other is not a directory, expected a directory of electra_jax.pretrain"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(words, message, run, capsys):
    before = sorted(path.name for path in run.iterdir())
    places = {"RUN": str(run), "OTHER": str(run.parent / "other")}
    with pytest.raises(SystemExit, match=message):
        main([places.get(word, word) for word in words])
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize("words", [[], ["--out=a/page.html"], ["--json=a/page.json"]])
def test_a_page_that_cannot_be_written_is_an_error_before_the_work(words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path if words else run
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(place))
    monkeypatch.setattr("electra_jax.reports.command_line.read_run", None)
    with pytest.raises(SystemExit, match=f"but this user may not write to '{place}'"):
        main([str(run), *words])
    assert not (run / "report.html").exists() and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--sentences=0", "--sentences: got '0', expected a whole number of 1 or more, at most 1,000"),
        ("--checkpoints=-1", "--checkpoints: got '-1', expected a whole number of 0 or more, at most 1,000"),
    ],
)
def test_numbers_have_bounds(word, message, run, capsys):
    with pytest.raises(SystemExit):
        main([str(run), word])
    assert message in capsys.readouterr().err


def test_without_bokeh_the_extra_is_named(run, monkeypatch):
    monkeypatch.setattr("electra_jax.configuration.extras.find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"electra_jax.report needs bokeh, .* `pip install -e '\.\[report\]'`"
    ):
        main([str(run)])
