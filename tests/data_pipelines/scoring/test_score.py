"""Scores of documents: against scikit-learn by hand, and the same bytes however they are computed."""

import gzip
import hashlib
import json
import math
import os
import re
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils import murmurhash3_32

from data_pipelines import score as command
from data_pipelines.documents import PIECE_OF
from data_pipelines.scoring import scorer
from data_pipelines.scoring.classifier import NUM_FEATURES, C
from data_pipelines.scoring.examples import choose_examples
from data_pipelines.scoring.scorer import score_files
from data_pipelines.scoring.settings import ScoringSettings
from support.dirty_corpus import write_texts

SHARED = [f"word{number}" for number in range(60)]


def make_texts(count, topic, seed, share=0.3):
    """Texts of 20 words; a share of them is of a topic."""
    rng = np.random.default_rng(seed)
    own = [f"{topic}{number}" for number in range(30)]
    return [
        " ".join(str(rng.choice(own if rng.random() < share else SHARED)) for _ in range(20))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Files of 200 positive and 150 negative examples, and of 50 other documents of both kinds."""
    root = tmp_path_factory.mktemp("examples")
    mixed = make_texts(25, "good", 3) + make_texts(25, "bad", 4)
    return (
        write_texts(root / "positive.jsonl", make_texts(200, "good", 1)),
        write_texts(root / "negative.jsonl", make_texts(150, "bad", 2)),
        write_texts(root / "mixed.jsonl", mixed),
    )


def settings_of(examples, **changes):
    positive, negative, mixed = examples
    return ScoringSettings(**{"input": (mixed,), "positive": (positive,), "negative": (negative,)} | changes)


def records_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def sha256_of(text):
    return hashlib.sha256(text.encode()).digest()


def by_hand(path):
    """The examples of a file in the order of their hashes: those for training, and the held-out tenth."""
    texts = [record["text"] for record in records_of(path)]
    texts.sort(key=lambda text: sha256_of(text)[:8])
    return texts[round(0.1 * len(texts)) :], texts[: round(0.1 * len(texts))]


def features_by_hand(texts, ngrams):
    """Counts of hashed n-grams with signs, vectors of length 1; only features that some text has."""
    rows, columns = [Counter() for _ in texts], {}
    for row, text in zip(rows, texts, strict=True):
        words = re.findall(r"\w+", text.lower())
        for size in range(1, ngrams + 1):
            for at in range(len(words) - size + 1):
                number = murmurhash3_32(" ".join(words[at : at + size]), seed=0)
                place = columns.setdefault(abs(number) % NUM_FEATURES, len(columns))
                row[place] += 1 if number >= 0 else -1
    found = np.zeros((len(texts), len(columns)))
    for number, row in enumerate(rows):
        found[number, list(row)] = list(row.values())
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_scores_and_auc_are_those_of_scikit_learn(examples, tmp_path):
    scored = score_files(str(tmp_path / "out.jsonl"), settings_of(examples))
    good, held_good = by_hand(examples[0])
    bad, held_bad = by_hand(examples[1])
    assert (scored.positive.trained, scored.positive.held_out) == (good, held_good)
    texts = [record["text"] for record in records_of(examples[2])]
    every = features_by_hand([*good, *bad, *held_good, *held_bad, *texts], 2)
    num = len(good) + len(bad)
    model = LogisticRegression(C=C, class_weight="balanced", solver="liblinear", random_state=0)
    model.fit(every[:num], np.arange(num) < len(good))
    wanted = model.predict_proba(every[num:])[:, 1]
    held, wanted = np.split(wanted, [len(held_good) + len(held_bad)])
    np.testing.assert_allclose(scored.scores, wanted, rtol=0, atol=1e-6)
    assert wanted.std() > 0.1
    pairs = held[: len(held_good), None] > held[len(held_good) :]
    assert scored.auc == pytest.approx(pairs.mean())
    assert [record["score"] for record in records_of(tmp_path / "out.jsonl")] == scored.scores.tolist()


def test_other_documents_are_told_apart_and_the_same_cannot_be(examples, tmp_path):
    """The AUC is of held-out examples: of the trained ones even random labels can be learned."""
    scored = score_files(str(tmp_path / "out.jsonl"), settings_of(examples))
    assert scored.auc > 0.95
    good, bad = np.split(scored.scores, 2)
    assert np.mean(good[:, None] > bad) > 0.95
    same = [write_texts(tmp_path / f"{seed}.jsonl", make_texts(300, "", seed, share=0)) for seed in (5, 6)]
    scored = score_files(str(tmp_path / "same.jsonl"), settings_of((*same, examples[2])))
    assert 0.3 < scored.auc < 0.7


def test_processes_and_pieces_make_no_difference(examples, tmp_path):
    outs = [str(tmp_path / f"{name}.jsonl") for name in "abc"]
    score_files(outs[0], settings_of(examples))
    score_files(outs[1], settings_of(examples, piece_chars=1))
    score_files(outs[2], settings_of(examples, piece_chars=2000), num_processes=2)
    assert len({Path(out).read_bytes() for out in outs}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_scoring_that_is_told_to_end_leaves_nothing(examples, tmp_path, monkeypatch):
    calls, score_documents = [], scorer.score_documents

    def told_at_the_second(job):
        calls.append(job)
        if len(calls) == 2:
            assert len(list(tmp_path.iterdir())) == 1  # the unfinished file
            os.kill(os.getpid(), signal.SIGTERM)
        return score_documents(job)

    monkeypatch.setattr(scorer, "score_documents", told_at_the_second)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("it would have ended the process"))
    try:
        with pytest.raises(SystemExit) as ended:
            score_files(str(tmp_path / "out.jsonl"), settings_of(examples, piece_chars=1))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM and not list(tmp_path.iterdir())


def test_examples_are_a_uniform_sample_in_any_order():
    texts = [f"{number:05d}" for number in range(4000)]
    chosen = choose_examples(texts, 5 * 400)
    assert len(chosen.held_out) == 40 and len(chosen.trained) == 360 and chosen.num_read == 4000
    assert choose_examples(texts[::-1] + texts[:50], 5 * 400)[:2] == chosen[:2]
    places = sorted(map(int, chosen.trained + chosen.held_out))
    thirds = np.histogram(places, bins=4, range=(0, 4000))[0]
    assert (abs(thirds - 100) < 4 * math.sqrt(75)).all()  # four standard deviations
    with pytest.raises(ValueError, match="got 9 different examples of 9 in 1,000 characters"):
        choose_examples(texts[:9] * 3, 1000)


def test_examples_of_any_length_are_the_same_sample_in_any_order():
    rng = np.random.default_rng(0)
    texts = [f"{number} " + "x" * int(rng.integers(400)) for number in range(200)]
    samples = [choose_examples(rng.permutation(texts).tolist(), 6000)[:2] for _ in range(6)]
    assert samples == samples[:1] * 6
    sizes = np.cumsum([len(text) for text in sorted(texts, key=lambda text: sha256_of(text)[:8])])
    assert sum(map(len, samples[0])) == (sizes <= 6000).sum()


def test_json_lines_keep_their_fields_and_others_get_their_place(examples, tmp_path):
    record = {"id": 7, "text": " tea  and milk ", "tags": ["a", {"b": None}], "loss": 2.5}
    lines = tmp_path / "a.jsonl.gz"
    lines.write_bytes(gzip.compress(json.dumps(record).encode()))
    text = tmp_path / "b.txt"
    text.write_text("one\n\ntwo\nthree\n")
    table = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [None, "four", " ", "five"]}), table)
    settings = settings_of(examples, input=(str(lines), str(text), str(table)), field="quality")
    score_files(str(tmp_path / "out.jsonl"), settings)
    first, *others = records_of(tmp_path / "out.jsonl")
    assert first == record | {"text": "tea  and milk", "quality": first["quality"]}
    assert 0 < first["quality"] < 1
    assert [tuple(one.values())[:-1] for one in others] == [
        ("one", str(text), 1, 1),
        ("two\nthree", str(text), 2, 2),
        ("four", str(table), 1, 2),  # the record is the row
        ("five", str(table), 2, 4),
    ]
    assert list(others[0]) == ["text", "source", "document", "record", "quality"]
    again = settings_of(examples, input=(str(tmp_path / "out.jsonl"),), field="quality")
    with pytest.raises(ValueError, match=r"document 1 has a field 'quality' already; name another"):
        score_files(str(tmp_path / "again.jsonl"), again)
    assert not (tmp_path / "again.jsonl").exists()


def test_pieces_of_a_long_document_are_marked(examples, tmp_path):
    """With the digest of its text, so that the corpus builder keeps them together; again scored they keep
    it."""
    long = "word " * 299_999 + "word"
    source = write_texts(tmp_path / "a.jsonl", ["Short.", long])
    for field, read, written in (("one", source, "b.jsonl"), ("two", str(tmp_path / "b.jsonl"), "c.jsonl")):
        score_files(str(tmp_path / written), settings_of((*examples[:2], read), field=field))
        short, *pieces = records_of(tmp_path / written)
        assert " ".join(piece["text"] for piece in pieces) == long and PIECE_OF not in short
        assert [piece[PIECE_OF] for piece in pieces] == [sha256_of(long).hex()] * 2


def test_a_text_stays_where_its_column_has_the_name_of_a_place(examples, tmp_path):
    table = pyarrow.table({"document": ["one", "two"], "id": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    renamed = []
    for number, path in enumerate(examples[:2]):
        lines = [json.dumps({"document": record["text"]}) + "\n" for record in records_of(path)]
        renamed.append(str(tmp_path / f"{number}.jsonl"))
        Path(renamed[-1]).write_text("".join(lines))
    source = str(tmp_path / "a.parquet")
    score_files(str(tmp_path / "out.jsonl"), settings_of((*renamed, source), text_field="document"))
    found = records_of(tmp_path / "out.jsonl")
    assert [(one["document"], one["source"]) for one in found] == [("one", source), ("two", source)]


def test_the_command_tells_what_it_found(examples, tmp_path, capsys):
    positive, negative, mixed = examples
    out = tmp_path / "new" / "out.jsonl"
    words = ["--input", mixed, "--positive", positive, "--negative", negative, "--num_processes=1"]
    command.main([*words, "--out", str(out), "--ngrams=1", "--max_training_chars=8000"])
    printed = capsys.readouterr().out
    assert re.search(r"positive +\d+ examples trained on, \d held out, of 200 different ones", printed)
    assert re.search(r"AUC +[01]\.\d{4} of the held-out examples", printed)
    scores = sorted(record["score"] for record in records_of(out))
    [median] = re.findall(r"50% (\S+)", printed)
    assert float(median) == pytest.approx(scores[24], rel=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--field=text"], "--field: got 'text', expected a name that no other field"),
        (["--out=out.txt"], "--out: got out.txt, expected a file that ends in .jsonl"),
        (["--out=a.jsonl"], "--out: got a.jsonl, which is also read"),
        (["--positive=missing.jsonl"], "missing.jsonl: does not exist"),
        (["--positive=a.jsonl"], "--positive: got 1 different examples of 1 in 20,000,000 characters"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_flags_are_errors_and_nothing_is_written(examples, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "a.jsonl", ["A text."])
    flags = ["--input=a.jsonl", f"--positive={examples[0]}", f"--negative={examples[1]}", "--out=out.jsonl"]
    with pytest.raises(SystemExit) as raised:
        command.main([*flags, *words])
    assert message in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
