"""The page of a report: its sections, what it loads (nothing), and text from files that means harm."""

import base64
import hashlib
import json
import re
import types

import numpy as np
import pytest

from electra_jax.reports.curves import Curve
from electra_jax.reports.overview import figures_table, label, name_runs, report_values
from electra_jax.reports.page import MAX_TEXT, Page, render, visible
from electra_jax.reports.run_view import read_run
from electra_jax.reports.token_views import NOTHING, TokenView, TokenViews
from support.html_pages import ReadPage
from support.report_runs import make_run

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    "</script><img src=x onerror=alert(2)>",
    "<!--<script>",
    "\"'><svg onload=alert(3)>",
    "\u202egnp.exe\u2066",
    "nul\0byte",
    "\ud800half",
    "{{ 7 * 7 }} {% raw %}",
    "$$\\frac{1}{2}$$ @step $name",
    "&lt;b&gt;&amp;",
    "javascript:alert(4)",
    "line\nfeed\u2028",
]
SECTIONS = ["figures", "curves", "events", "evaluations", "tokens", "configuration", "sessions", "datasets"]


def tokens_of(text):
    """Views of two checkpoints: a replaced token that is missed and then found, and one restored."""
    plain = {"token": text, "replaced": 0.25}
    replaced = {"token": "tea", "drawn": text, "probability": 0.5, "is_replaced": True}
    restored = {"token": "a", "drawn": "a", "probability": 0.125, "is_replaced": False, "replaced": 0.75}
    views = [
        TokenView(step, [[plain, replaced | {"replaced": score}, restored]])
        for step, score in ((10, 0.25), (20, 0.875))
    ]
    return TokenViews(text, views)


def page_of(*paths, tokens=NOTHING):
    runs = name_runs([read_run(str(path)) for path in paths])
    return runs, render(Page(runs, {name: tokens for name in runs}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    _, html = page_of(make_run(tmp_path_factory.mktemp("plain") / "run"), tokens=tokens_of("pot"))
    return html, ReadPage(html)


def test_rows_that_are_missing_between_others_are_told_unless_an_event_does(tmp_path):
    path = make_run(tmp_path / "run")
    assert not read_run(str(path)).problems
    rows = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(rows[:2] + rows[3:6] + rows[7:]))
    config = json.loads((path / "config.json").read_text())
    config["config"]["log"] = {"every": 4}
    (path / "config.json").write_text(json.dumps(config))
    told = "metrics.jsonl lacks the rows of steps 9 to 12, 25 to 28, which are done."
    assert read_run(str(path)).problems == [told]
    event = {"step": 40, "kind": "rows_lost", "message": told, "ranges": [[9, 12], [25, 28]]}
    (path / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert not read_run(str(path)).problems
    (path / "sessions.jsonl").write_text('{"start_step": "0", "log_every": []}\n')
    assert not read_run(str(path)).problems


def test_a_page_has_every_section_and_no_element_that_is_not_closed(plain):
    html, read = plain
    assert html.startswith("<!DOCTYPE html>") and read.mistakes == []
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert [one for one in identities if one in SECTIONS] == SECTIONS
    assert len(identities) == len(set(identities))
    targets = [a["href"].removeprefix("#") for tag, a in read.tags if tag == "a"]
    assert set(targets) <= set(identities) and set(SECTIONS) <= set(targets)
    assert ("html", {"lang": "en"}) in read.tags and "Training report: run" in read.text
    labelled = [a for tag, a in read.tags if a.get("role") == "region"]
    assert labelled and all(a["tabindex"] == "0" and a["aria-label"] for a in labelled)


def test_a_page_shows_figures_events_and_tokens(plain):
    _, read = plain
    for text in (
        "complete: 40 steps",
        "1 × alarm, 1 × x",
        "run, mlm_loss: from 6.8 to 5 at step 40, smallest 5, largest 6.8",
        "data -1 (all remaining devices), fsdp 1, x 1",
        "x none → x",
        "25 missed",
        "88 found",
        "75 wrong",
        "Sentence 1",
    ):
        assert text in read.text, text


def test_a_page_loads_nothing_and_runs_only_its_own_scripts(plain):
    html, read = plain
    assert all(one.startswith(("#", "data:")) for one in read.loads), read.loads
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    [policy] = [a["content"] for _, a in read.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "http" not in policy
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in read.scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    handlers = [name for _, a in read.tags for name in a if name.startswith("on")]
    assert handlers == []
    assert len(html.encode()) < 2_000_000


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_text_from_files_is_only_text(text, plain, tmp_path):
    path = make_run(tmp_path / "run", text)
    runs, html = page_of(path, tokens=tokens_of(text))
    assert "\0" not in html and not re.search("[\ud800-\udfff\u202a-\u202e\u2066-\u2069]", html)
    read, expected = ReadPage(html), plain[1]
    assert read.mistakes == []
    # The same elements as with harmless text, but for the chart of a probe with another name.
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in expected.tags]
    assert [name for _, a in read.tags for name in a if name.startswith("on")] == []
    shown = " ".join(visible(text).encode("utf-8", "replace").decode().split())
    assert " ".join(read.text.split()).count(shown) > 10
    assert all("alert(" not in script or script.count("<script") == 0 for script in read.scripts)
    json.dumps(report_values(runs))


def test_hidden_letters_are_spelled_out_and_long_texts_cut_off():
    assert visible("a\u202eb\0\ud800\u200b") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩⟨U+200B⟩"
    assert visible("日本 é ▁ क्‍ष") == "日本 é ▁ क्‍ष" and visible(7) == 7
    assert visible("x" * (MAX_TEXT + 1)) == "x" * MAX_TEXT + " … (2,001 letters)"


def test_several_runs_share_the_charts_and_tell_their_difference(tmp_path):
    paths = [make_run(tmp_path / folder / "run", rate=rate) for folder, rate in (("a", 2e-3), ("b", 5e-4))]
    runs, html = page_of(*paths)
    assert list(runs) == ["a/run", "b/run"]
    assert label(runs, "b/run") == "optimizer.learning_rate=0.0005"
    read = ReadPage(html)
    assert read.mistakes == [] and "optimizer.learning_rate0.0020.0005" in "".join(read.text.split())
    assert "a/run, mlm_loss: from" in read.text and "b/run, mlm_loss: from" in read.text
    alone = ReadPage(page_of(paths[0])[1])
    count = lambda page: sum(a.get("class") == "chart" for _, a in page.tags)
    assert count(read) == count(alone) == 4
    assert report_values(runs)["differences_between_runs"] == {"optimizer.learning_rate": [2e-3, 5e-4]}


@pytest.mark.parametrize("name", ["metrics.jsonl", "datasets.json", "sessions.jsonl", "parameters.txt"])
def test_a_missing_file_is_told(name, tmp_path):
    path = make_run(tmp_path / "run")
    (path / name).unlink()
    read = ReadPage(page_of(path)[1])
    assert f"{name} is missing." in read.text and read.mistakes == []


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "events.jsonl", "datasets.json", "sessions.jsonl", "config.json"]
)
@pytest.mark.parametrize(
    "damage", [b"\xff\xfe\n{\n[[[\n", b"null\n", b'[{"step": []}, 1]\n', b'{"step": {}}\n']
)
def test_a_damaged_file_is_told(name, damage, tmp_path):
    path = make_run(tmp_path / "run")
    (path / name).write_bytes(damage)
    if name == "config.json" and damage == b'{"step": {}}\n':
        with pytest.raises(FileNotFoundError, match=r"has config\.json of something else"):
            read_run(str(path))
        return
    html = page_of(path)[1]
    # Both are of the right form, though without values.
    if (name, damage[:1]) not in (("sessions.jsonl", b"{"), ("datasets.json", b"[")):
        assert name in ReadPage(html).text.partition("Figures")[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda config: config.pop("mesh"),
            "config.json: no 'mesh', found 'data', 'health', 'model', 'objective', 'optimizer', 'probe', "
            "'stages', 'train', ….",
        ),
        (
            lambda config: config["train"].update(num_steps="x"),
            "config.json: got 'x' at train.num_steps, expected a whole number.",
        ),
    ],
)
def test_a_missing_setting_is_told_and_the_others_are_shown(change, problem, tmp_path):
    path = make_run(tmp_path / "run")
    found = json.loads((path / "config.json").read_text())
    change(found["config"])
    (path / "config.json").write_text(json.dumps(found))
    runs, html = page_of(path)
    assert runs["run"].problems == [problem]
    assert problem in ReadPage(html).text and "optimizer.learning_rate" in ReadPage(html).text


@pytest.mark.parametrize(
    ("devices", "mesh", "shown"),
    [
        ("8 × TPU v5 lite", {"data": -1, "fsdp": 2, "tensor": 1}, "data 4, fsdp 2, tensor 1"),
        ("4 × cpu, 4 × gpu", {"data": 1, "fsdp": -1, "tensor": 1}, "data 1, fsdp 8, tensor 1"),
        ("8 × cpu", {"data": 4, "fsdp": 2, "tensor": 1}, "data 4, fsdp 2, tensor 1"),
        ("8 × cpu", {"data": -1, "fsdp": 3}, "data -1 (all remaining devices), fsdp 3"),
        ("8 × cpu", {"data": -1, "fsdp": 0}, "data -1 (all remaining devices), fsdp 0"),
        ("", {"data": -1, "fsdp": 1}, "data -1 (all remaining devices), fsdp 1"),
        ("9" * 5000 + " × cpu", {"data": -1, "fsdp": []}, "data -1 (all remaining devices), fsdp []"),
    ],
)
def test_the_mesh_is_shown_with_the_number_of_devices(devices, mesh, shown, tmp_path):
    """That of the newest start; the run may have had others before."""
    path = make_run(tmp_path / "run")
    found = json.loads((path / "config.json").read_text())
    found["config"]["mesh"] = mesh
    (path / "config.json").write_text(json.dumps(found))
    sessions = [{"start_step": 0, "devices": "2 × cpu"}, {"start_step": 20, "devices": devices}]
    (path / "sessions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in sessions))
    rows = figures_table(page_of(path)[0]).rows
    assert next(row for row in rows if row[0] == "mesh") == ["mesh", shown]


def test_a_commit_is_shown_with_its_changes(tmp_path):
    path = make_run(tmp_path / "run")
    session = {"commit": "0123456789abcdef0123+changes", "start_step": 0}
    (path / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    assert "0123456789+changes" in ReadPage(page_of(path)[1]).text


def test_the_page_of_a_million_steps_is_small(tmp_path):
    path = make_run(tmp_path / "run", num_steps=1_000_000)
    run = read_run(str(path))
    steps, source = np.arange(100, 1_000_001, 100), np.random.default_rng(0)
    names = [f"gradient_norm_{index}" for index in range(20)] + ["mlm_loss", "rtd_auc", "loss"]
    curves = {name: Curve(steps, source.normal(size=len(steps))) for name in names}
    events = [{"step": int(step), "kind": "skipped", "message": "x"} for step in steps]
    runs = {"run": run._replace(curves=curves, events=events)}
    html = render(Page(runs, {"run": NOTHING}))
    assert len(html.encode()) < 3_000_000
    assert "200 of 10,000 events are shown." in html


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ([], "Band: 2 seeds of configs/debug.py, with the same settings and data."),
        (["train.seed: x"], "with other settings or data (1): train.seed: x."),
    ],
)
def test_the_band_of_the_recipe_is_drawn_and_named(differences, text, tmp_path):
    run = read_run(str(make_run(tmp_path / "run")))
    band = types.SimpleNamespace(tokens=[64, 128, 192], low=[6.0, None, 5.0], high=[7.0, None, 5.5])
    reference = types.SimpleNamespace(
        recipe="configs/debug.py", seeds=[0, 1], differences=differences, curves={"mlm_loss": band}
    )
    without, html = (
        render(Page({"run": run._replace(reference=one)}, {"run": NOTHING})) for one in (None, reference)
    )
    assert text in ReadPage(html).text and "Band:" not in ReadPage(without).text
    assert html.count('"name":"VArea"') > without.count('"name":"VArea"')
