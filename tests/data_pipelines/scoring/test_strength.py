"""Predictive strength: SciPy's rank correlation, the examples that it chooses, and the scores they give."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from scipy.stats import kendalltau

from data_pipelines import score as command
from data_pipelines.documents import Piece
from data_pipelines.scoring.scorer import score_files
from data_pipelines.scoring.settings import ScoringSettings
from data_pipelines.scoring.strength import Models, find_examples, strength

MODELS = ("a", "b", "c", "d")
LOSSES = (("a", 50.0), ("b", 61.5), ("c", 70.0), ("d", 66.0))  # from the worst: a, b, d, c
RIGHT = {"a": 4.0, "b": 3.0, "c": 1.0, "d": 2.0}
SHARED = [f"word{number}" for number in range(40)]


def by_hand(losses, scores):
    """Pairs in which the better model has the smaller loss, of all pairs that differ in their scores."""
    pairs = [
        pair for pair in itertools.permutations(range(len(scores)), 2) if scores[pair[0]] > scores[pair[1]]
    ]
    return sum(losses[better] < losses[worse] for better, worse in pairs) / len(pairs)


def make_text(topic, rng):
    own = [f"{topic}{number}" for number in range(20)]
    return " ".join(str(rng.choice(own if rng.random() < 0.3 else SHARED)) for _ in range(20))


def make_records(count, seed):
    """Documents of two topics: losses on "maths" order the models as their scores do but for noise, those on
    "chat" in any order; one in sixteen lacks a loss."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        topic = ("maths", "chat", "chat")[number % 3]
        losses = {name: RIGHT[name] + rng.normal(0, 0.2) for name in MODELS}
        if topic == "chat":
            losses = dict(zip(MODELS, rng.permutation(list(losses.values())).tolist(), strict=True))
        if number % 16 == 0:
            losses["bcd"[number // 16 % 3]] = None
        records.append({"id": number, "text": f"{number} {make_text(topic, rng)}", **losses})
    return records


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A file with losses, and one without."""
    root, rng = tmp_path_factory.mktemp("losses"), np.random.default_rng(9)
    plain = [{"text": make_text(topic, rng)} for topic in ("maths", "chat") * 30]
    return write_records(root / "losses.jsonl", make_records(300, 0)), write_records(
        root / "web.jsonl", plain
    )


def records_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def settings_of(sources, **changes):
    losses, web = sources
    return ScoringSettings(**{"input": (web,), "examples": (losses,), "losses": LOSSES} | changes)


def pieces_of(records):
    return lambda: (Piece(one["text"], "a.jsonl", fields={"text": "", **one}) for one in records)


def test_the_strength_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for size in (2, 3, 6, 9):
        losses, scores = rng.normal(size=size), rng.normal(size=size)
        tau = kendalltau(-losses, scores).statistic
        assert strength(losses, scores) == pytest.approx((1 + tau) / 2)
        assert strength(np.exp(losses), scores**3) == strength(losses, scores)  # ranks alone count
    assert strength(-scores, scores) == 1 and strength(scores, scores) == 0
    for _ in range(20):  # with ties, as the authors' code counts
        losses, scores = rng.integers(0, 3, 5), rng.integers(0, 3, 5)
        if len(set(scores.tolist())) > 1:
            assert strength(losses, scores) == pytest.approx(by_hand(losses, scores))


def test_examples_are_the_documents_that_order_all_models_and_as_many_of_the_worst():
    records = make_records(300, 1)
    found = find_examples(pieces_of(records), Models.of(LOSSES), 0.0, 10**6)
    scores = [score for _, score in LOSSES]
    known = [one for one in records if None not in one.values()]
    values = [by_hand([one[name] for name in MODELS], scores) for one in known]
    assert found.strengths.tolist() == pytest.approx(values)
    assert found.num_without == 19 and len(known) == 281
    texts = [one["text"] for one in known]
    perfect = [text for text, value in zip(texts, values, strict=True) if value == 1]
    assert 80 < len(perfect) < 130
    order = sorted(range(len(known)), key=lambda at: values[at])  # stable: of equal ones the first
    sides = [{*side.trained, *side.held_out} for side in found[:2]]
    assert sides[0] == set(perfect)
    worst = [at for at in order if values[at] < 1][: len(perfect)]
    assert sides[1] == {texts[at] for at in worst}


def test_a_share_takes_the_best_and_the_worst():
    records = make_records(300, 1)
    models = Models.of(LOSSES)
    found = find_examples(pieces_of(records), models, 0.1, 10**6)
    values = {one["text"]: models.strength(Piece("", "a", fields=one), "a") for one in records}
    sides = [{*side.trained, *side.held_out} for side in found[:2]]
    assert [len(side) for side in sides] == [28, 28]
    ends = np.sort(found.strengths)
    assert min(values[text] for text in sides[0]) == ends[-28]
    assert max(values[text] for text in sides[1]) == ends[27] < 0.5
    same = [{"text": str(number), **RIGHT} for number in range(50)]
    with pytest.raises(ValueError, match=r"--example_share: got 0.2, but .* meet at a strength of 1;"):
        find_examples(pieces_of(same), models, 0.2, 10**6)
    with pytest.raises(ValueError, match=r"got 50 documents whose losses order all models .* and 0 others"):
        find_examples(pieces_of(same), models, 0.0, 10**6)


def test_the_classifier_finds_predictive_text_among_documents_without_losses(sources, tmp_path):
    losses, web = sources
    outs = [str(tmp_path / f"{number}.jsonl") for number in range(2)]
    scored = score_files(outs[0], settings_of(sources, input=(losses, web)))
    score_files(outs[1], settings_of(sources, input=(losses, web), piece_chars=2000), num_processes=3)
    assert Path(outs[0]).read_bytes() == Path(outs[1]).read_bytes()
    known, plain = records_of(outs[0])[:300], records_of(outs[0])[300:]
    maths, chat = (np.array([one["score"] for one in plain[topic::2]]) for topic in (0, 1))
    assert np.mean(maths[:, None] > chat) > 0.95 and scored.auc > 0.8
    for one, original in zip(known, records_of(losses), strict=True):
        values = [original[name] for name in MODELS]
        has_all = None not in values
        wanted = by_hand(values, [score for _, score in LOSSES]) if has_all else None
        assert one == original | {"score": one["score"]} | (
            {"score_strength": pytest.approx(wanted)} if has_all else {}
        )
    assert all(set(one) == {"text", "score"} for one in plain)


def test_columns_of_parquet_have_losses(sources, tmp_path):
    records = records_of(sources[0])
    columns = {name: [one[name] for one in records] for name in ("text", *MODELS)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "losses.parquet")
    scored = [
        score_files(str(tmp_path / f"{number}.jsonl"), settings_of((path, sources[1])))
        for number, path in enumerate((sources[0], str(tmp_path / "losses.parquet")))
    ]
    assert scored[0].scores.tolist() == scored[1].scores.tolist()


def test_the_command_prints_what_it_found(sources, tmp_path, capsys):
    losses, web = sources
    words = ["--input", web, "--examples", losses, "--losses", *(f"{name}={score}" for name, score in LOSSES)]
    command.main([*words, "--num_processes=1", "--field=predictive", "--out", str(tmp_path / "out.jsonl")])
    shown = re.search(
        r"strength +mean 0\.(\d+) of 281 documents, 0\.5 by chance; (\d+) order .*; 19 documents lack a loss",
        capsys.readouterr().out,
    )
    assert 600 < int(shown[1]) < 900 and 80 < int(shown[2]) < 130
    assert all(0 < one["predictive"] < 1 for one in records_of(tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"losses": ()},
            "the examples: got --examples, expected --positive and --negative, or --examples and",
        ),
        ({"positive": ("x",)}, "got --positive, --examples, --losses, expected"),
        ({"losses": (("a", 1.0), ("a", 2.0))}, "--losses: got a=1 a=2, expected each field once"),
        ({"losses": (("a", 1.0), ("b", 1.0))}, "--losses: got a=1 b=1, expected two models or more with"),
        ({"losses": (("a", 1.0),)}, "--losses: got a=1, expected two models"),
        ({"field": "a", "text_field": "a_strength"}, "--field: got 'a', expected a name that no other"),
        ({"example_share": 0.6}, "--example_share: got 0.6, expected up to 0.5"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together(sources, changes, message):
    with pytest.raises(ValueError, match=message):
        settings_of(sources, **changes)


def test_fields_without_losses_are_errors(sources, tmp_path):
    _, web = sources
    out = str(tmp_path / "out.jsonl")
    with pytest.raises(
        ValueError, match=r"none of the first 60 documents, from .*web\.jsonl on, has a number in"
    ):
        score_files(out, settings_of((web, web)))
    wrong = write_records(tmp_path / "a.jsonl", [{"text": "a", **RIGHT, "c": "low"}])
    with pytest.raises(
        ValueError, match=r"a\.jsonl: example 1 has 'low' in 'c', expected a number; name other"
    ):
        score_files(out, settings_of((wrong, web)))
    few = write_records(tmp_path / "b.jsonl", [{"text": str(at), **RIGHT} for at in range(5)])
    with pytest.raises(ValueError, match=r"got 5 documents whose losses order all .* --example_share 0.2"):
        score_files(out, settings_of((few, web)))
    with pytest.raises(
        ValueError, match=r"--examples, positive ones: got 3 different .* larger --example_share chooses more"
    ):
        score_files(out, settings_of(sources, example_share=0.01))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"--examples: got no documents; check the files"):
        score_files(out, settings_of((str(tmp_path / "empty.jsonl"), web)))
    there = write_records(tmp_path / "c.jsonl", [{"text": "a", **RIGHT, "score_strength": 1}])
    with pytest.raises(ValueError, match="document 1 has a field 'score_strength' already"):
        score_files(out, settings_of(sources, input=(there,)))
    assert not (tmp_path / "out.jsonl").exists()
