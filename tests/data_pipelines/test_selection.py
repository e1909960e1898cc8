"""Documents chosen by their scores: as a few lines of Python choose them, and builds of these alone."""

import dataclasses
import json
import math
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from data_pipelines import shards
from data_pipelines.chunks import make_groups, make_selector, read_jobs
from data_pipelines.corpus_builder import Workers
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.document_decoding import ReadReport
from data_pipelines.documents import PIECE_OF, read_pieces
from data_pipelines.preview import preview_lines
from support.small_corpus import build, make_documents, write, write_data

FIELD = "quality"


def make_records(count, seed=0):
    """Documents with scores, many of them equal; some have none."""
    rng = np.random.default_rng(seed)
    scores = [float(score) for score in rng.integers(-9, 9, count) / 4]
    records = [
        {"text": text, FIELD: score} for text, score in zip(make_documents(count, seed), scores, strict=True)
    ]
    for at in range(0, count, 11):
        records[at][FIELD] = (None, math.nan, math.inf)[at % 3]
    del records[1][FIELD]
    return records


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def source(tmp_path):
    """150 records, and two files of them."""
    records = make_records(150)
    return records, [write_records(tmp_path / f"{at}.jsonl", records[75 * at :][:75]) for at in (0, 1)]


def settings_of(sources, **changes):
    common = {"tokenizer": "none", "sequence_length": 32, "packing": "documents", "chunk_chars": 100}
    changes = {"validation": sources[:1]} | changes if "validation_fraction" not in changes else changes
    return CorpusSettings(train=sources, **common, score_field=FIELD, **changes)


def read(settings, tmp_path, *, is_chosen=True):
    """Split → texts of the documents that would be packed, and the report."""
    if not is_chosen:
        bounds = {"min_score": None, "max_score": None, "keep_fraction": 1.0}
        settings = dataclasses.replace(settings, score_field="", **bounds)
    groups, report = make_groups("train", settings.train, settings.chunk_chars), ReadReport()
    assert len(groups) > 1  # the sources are read in two groups
    selector = make_selector(groups, settings) if settings.choice.needs_limit else None
    texts = {"train": [], "validation": []}
    for group in groups:
        for job in read_jobs(group, settings, tmp_path, report, selector=selector):
            split = job.path.rpartition("/")[2].partition("-")[0]
            texts[split] += [piece.text for piece in job.pieces]
            assert all(not piece.fields for piece in job.pieces)
    return texts, report


def has_score(record):
    return record.get(FIELD) is not None and math.isfinite(record[FIELD])


@pytest.mark.parametrize(("least", "most"), [(0.25, None), (None, -1.0), (-0.5, 0.5), (2.25, 2.25)])
def test_bounds_keep_what_lies_between_them(source, tmp_path, least, most):
    records, sources = source
    wanted = [
        record["text"]
        for record in records
        if has_score(record)
        and (least is None or record[FIELD] >= least)
        and (most is None or record[FIELD] <= most)
    ]
    texts, report = read(settings_of(sources, min_score=least, max_score=most), tmp_path)
    assert texts["train"] == wanted
    assert report.documents == len(wanted) and report.characters == sum(map(len, wanted))
    assert report.low_scores == len(records) - len(wanted)
    assert report.without_score == sum(not has_score(record) for record in records) > 5
    assert report.first_without_score == f"{sources[0]}: training document 1"
    left_out = sum(len(record["text"]) for record in records) - report.characters
    assert report.low_score_characters == left_out
    assert f"{report.low_scores} training documents left out" in "\n".join(report.lines("error"))


@pytest.mark.parametrize("best", ["highest", "lowest"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.33, 0.5, 0.99])
def test_a_share_keeps_the_best_documents_and_of_equal_ones_the_first(source, tmp_path, share, best):
    records, sources = source
    scored = [at for at, record in enumerate(records) if has_score(record)]
    order = sorted(scored, key=lambda at: records[at][FIELD], reverse=best == "highest")  # a stable sort
    wanted = sorted(order[: round(share * len(scored))])
    texts, _ = read(settings_of(sources, keep_fraction=share, best=best), tmp_path)
    assert texts["train"] == [records[at]["text"] for at in wanted]


def test_held_out_documents_stay_whatever_their_scores(source, tmp_path):
    records, sources = source
    settings = settings_of(sources, validation_fraction=0.3, keep_fraction=0.2)
    every, _ = read(settings, tmp_path, is_chosen=False)
    chosen, report = read(settings, tmp_path)
    assert chosen["validation"] == every["validation"] and len(chosen["validation"]) > 20
    scores = {record["text"]: record.get(FIELD) for record in records}
    scored = [text for text in every["train"] if has_score({FIELD: scores[text]})]
    assert len(chosen["train"]) == round(0.2 * len(scored))
    assert min(scores[text] for text in chosen["train"]) >= max(
        scores[text] for text in scored if text not in chosen["train"]
    )
    assert report.low_scores == len(every["train"]) - len(chosen["train"])


def test_the_pieces_of_a_long_document_stay_together(source, tmp_path):
    _, sources = source
    settings = settings_of(sources, keep_fraction=0.4, max_document_chars=60)
    texts, _ = read(settings, tmp_path)
    whole, _ = read(dataclasses.replace(settings, max_document_chars=10_000), tmp_path)
    assert len(texts["train"]) > 2 * len(whole["train"])
    words = lambda found: " ".join(found).split()
    assert words(texts["train"]) == words(whole["train"])


@pytest.fixture
def cut(source, tmp_path):
    """The two files with pieces of at most 60 characters as records; first pieces alone have the scores of
    their documents."""
    paths = []
    for path in source[1]:
        pieces = list(read_pieces([path], max_document_chars=60, fields=(FIELD,)))
        assert any(piece.is_whole for piece in pieces) and not all(piece.is_whole for piece in pieces)
        written = [
            {"text": piece.text, FIELD: piece.fields.get(FIELD) if piece.is_first else 100.0} | piece.mark
            for piece in pieces
        ]
        paths.append(write_records(tmp_path / f"cut-{Path(path).name}", written))
    return paths


@pytest.mark.parametrize("max_document_chars", [20, 10_000])
@pytest.mark.parametrize(
    "changes", [{"keep_fraction": 0.4}, {"min_score": 0.5}, {"min_score": -100.0, "validation_fraction": 0.4}]
)
def test_records_with_the_pieces_of_a_long_document_stay_together(
    source, cut, tmp_path, changes, max_document_chars
):
    """As `clean` and `score` write them; the builder may cut them once more."""
    whole, _ = read(settings_of(source[1], **changes), tmp_path)
    texts, _ = read(settings_of(cut, max_document_chars=max_document_chars, **changes), tmp_path)
    words = lambda found: " ".join(found).split()
    splits = ["train", "validation"] if "validation_fraction" in changes else ["train"]
    assert len(texts["train"]) > len(whole["train"]) > 0
    assert {split: words(texts[split]) for split in splits} == {
        split: words(whole[split]) for split in splits
    }


@pytest.mark.parametrize("value", [7, "chapter one", "A" * 64, None])
def test_other_fields_of_that_name_mean_nothing(tmp_path, value):
    path = write_records(tmp_path / "a.jsonl", [{"text": f"text {n}", PIECE_OF: value} for n in range(3)])
    assert [(piece.piece_of, piece.mark) for piece in read_pieces([path])] == [("", {})] * 3


def test_the_share_is_of_different_documents(data, tmp_path):
    """With --deduplicate, copies are left out first."""
    records = [{"text": text, FIELD: at} for at, text in enumerate(make_documents(20, 3))]
    path = write_records(tmp_path / "a.jsonl", records + records[10:] * 3)
    options = {"score_field": FIELD, "keep_fraction": 0.25, "deduplicate": True}
    info = build(data, tmp_path / "out", train=[path], **options)
    assert info.splits["train"]["documents"] == 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Held-out text and a tokenizer."""
    return write_data(tmp_path_factory.mktemp("corpus"))


def test_a_build_is_that_of_the_chosen_documents_alone(data, tmp_path, monkeypatch):
    records = make_records(120, 4)
    path = write_records(tmp_path / "a.jsonl", records)
    kept = [record for record in records if has_score(record) and record[FIELD] >= 0.5]
    alone = build(data, tmp_path / "alone", train=[write(tmp_path / "b.jsonl", [r["text"] for r in kept])])
    options = {"train": [path], "score_field": FIELD}
    info = build(data, tmp_path / "out", min_score=0.5, **options)
    assert info.fingerprint == alone.fingerprint
    assert info.splits["train"]["low_scores"] == {
        "documents": len(records) - len(kept),
        "characters": sum(len(record["text"]) for record in records if record not in kept),
        "without_score": sum(not has_score(record) for record in records),
    }
    assert (info.sources["score_field"], info.sources["min_score"]) == (FIELD, 0.5)
    assert "keep_fraction" not in info.sources and "low_scores" not in alone.splits["train"]
    scored = sum(map(has_score, records))
    share = build(data, tmp_path / "share", keep_fraction=len(kept) / scored, **options)
    assert share.fingerprint == alone.fingerprint
    with pytest.raises(FileExistsError, match="different sources"):
        build(data, tmp_path / "out", min_score=0.75, **options)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", lambda job: (patch.undo(), shards.write_shard(job), 1 / 0)[1])
        with pytest.raises(ZeroDivisionError):
            build(data, tmp_path / "again", min_score=0.5, **options)
    words = r"other settings \(min_score: it has 0.5, you gave None; keep_fraction: it has 1.0, you gave 0.5"
    with pytest.raises(FileExistsError, match=words):
        build(data, tmp_path / "again", keep_fraction=0.5, **options)
    assert build(data, tmp_path / "again", min_score=0.5, **options).fingerprint == alone.fingerprint


def test_a_dry_run_shows_chosen_documents(data, tmp_path):
    records = [{"text": f"number {at} {('dog', 'cat')[at % 2]}", FIELD: at % 2} for at in range(40)]
    path = write_records(tmp_path / "a.jsonl", records)
    settings = settings_of([path], keep_fraction=0.5, best="lowest")
    settings = dataclasses.replace(settings, tokenizer=str(data / "tokenizer"))
    shown = "\n".join(preview_lines(settings, 1))
    assert "the first 20 documents of train" in shown and "dog" in shown and "cat" not in shown


def test_a_dry_run_expects_all_of_the_held_out_text(data, tmp_path):
    documents = make_documents(200, 5)
    records = [{"text": text, FIELD: at % 10} for at, text in enumerate(documents)]
    path = write_records(tmp_path / "a.jsonl", records)
    plain = write_records(tmp_path / "b.jsonl", records[:100])
    settings = settings_of([path], validation=[plain], min_score=9.0)
    shown = "\n".join(preview_lines(dataclasses.replace(settings, tokenizer=str(data / "tokenizer")), 1))
    [train], [held_out] = (re.findall(rf"([\d,]+) of {split}", shown) for split in ("train,", "validation"))
    assert int(held_out) == pytest.approx(5 * int(train), rel=0.25)  # half of the documents, not a tenth


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [(10**400, False), (-(10**400), False), (2**70, True), (1, True)],
    ids=["huge", "small", "large", "one"],
)
def test_numbers_that_no_float_can_hold_are_no_scores(tmp_path, value, is_kept):
    other = {"text": "other", FIELD: 1.0}
    path = write_records(tmp_path / "a.jsonl", [{"text": "it", FIELD: value}, other])
    report, [group] = ReadReport(), make_groups("train", [path], 100)
    jobs = list(read_jobs(group, settings_of([path], min_score=0.5), tmp_path, report))
    assert [piece.text for job in jobs for piece in job.pieces] == ["it", "other"][not is_kept :]
    assert report.without_score == (not is_kept)


def test_parquet_columns_of_decimals_and_of_equal_names(tmp_path):
    path, values = tmp_path / "a.parquet", [Decimal("1.50"), Decimal("0.10"), None]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], FIELD: values}), path)
    settings, [group] = settings_of([str(path)], min_score=0.5), make_groups("train", [str(path)], 100)
    [job] = read_jobs(group, settings, tmp_path, ReadReport())
    assert [piece.text for piece in job.pieces] == ["a"]
    twice = pyarrow.table([["a"], [1.0], [2.0]], names=["text", FIELD, FIELD])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(ValueError, match=r"a\.parquet: got several columns 'quality', expected one"):
        list(read_jobs(group, settings, tmp_path, ReadReport()))


class Scored(tfds.core.GeneratorBasedBuilder):
    """A TensorFlow Dataset of texts with scores."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), FIELD: tfds.features.Scalar(np.float32)}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, _):
        scores = zip("abcd", (0.25, 0.75, math.nan, 0.5), strict=True)
        return {"train": enumerate({"text": text, FIELD: score} for text, score in scores)}

    def _generate_examples(self):
        raise NotImplementedError


def test_scores_of_tensorflow_datasets(tmp_path):
    builder = Scored(data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    source = f"tfds:{builder.data_path}"
    settings, groups = settings_of([source], keep_fraction=0.6), make_groups("train", [source], 100)
    selector, report = make_selector(groups, settings), ReadReport()
    [job] = read_jobs(groups[0], settings, tmp_path, report, selector=selector)
    assert [piece.text for piece in job.pieces] == ["b", "d"]
    assert (report.low_scores, report.without_score) == (2, 1)


def test_scores_of_parquet_files(tmp_path, source):
    records, _ = source
    for number, part in enumerate((records[:75], records[75:])):
        table = {name: [record.get(name) for record in part] for name in ("text", FIELD)}
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{number}.parquet")
    sources = [str(tmp_path / f"{number}.parquet") for number in (0, 1)]
    wanted = [record["text"] for record in records if has_score(record) and record[FIELD] > 1]
    settings = settings_of(sources, min_score=1.25)
    groups, texts = [*make_groups("train", sources, 1)], []
    for group in groups:
        for job in read_jobs(group, settings, tmp_path, ReadReport()):
            texts += [piece.text for piece in job.pieces]
    assert texts == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.0}, "--score_field: got '' with --min_score 1.0"),
        ({"score_field": "a"}, "--score_field: got 'a' with --min_score None"),
        ({"score_field": "a", "min_score": 1.0, "keep_fraction": 0.5}, "give the field, and one of the two"),
        ({"score_field": "a", "min_score": 1.0, "max_score": 0.5}, "--min_score: got 1.0, expected at most"),
        ({"score_field": "a", "keep_fraction": 0.0}, "--keep_fraction: got 0.0, expected above 0"),
        ({"score_field": "a", "keep_fraction": 0.5, "best": "most"}, "--best: got 'most', expected highest"),
        ({"score_field": "a", "max_score": 1.0, "best": "lowest"}, "--best: got lowest without --keep_frac"),
        ({"best": "lowest"}, "--best: got lowest without --keep_fraction"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together(options, message):
    with pytest.raises(ValueError, match=message):
        CorpusSettings(
            train=["a"], validation=["a"], tokenizer="a", sequence_length=32, packing="documents", **options
        )


def test_documents_without_scores_are_errors(data, tmp_path):
    options = {"score_field": FIELD, "min_score": 0.5}
    (tmp_path / "a.txt").write_text("A text.\n")
    with pytest.raises(ValueError, match=r"a\.txt: a text file has no field 'quality'"):
        build(data, tmp_path / "out", train=[str(tmp_path / "a.txt")], **options)
    # Scored text comes first, so the error is about the one source without.
    scored = write_records(tmp_path / "a.jsonl", [{"text": "A text.", FIELD: 1}])
    for count, shown in ((3, "3"), (1500, "1,000")):
        bare = write(tmp_path / "b.jsonl", ["Other text."] * count)
        with pytest.raises(ValueError, match=rf"b\.jsonl: none of the first {shown} training documents has"):
            build(data, tmp_path / "out", train=[scored, bare], **options)
    for value in ("high", True, [1]):
        wrong = write_records(
            tmp_path / "c.jsonl", [{"text": "A text.", FIELD: 1}, {"text": "B.", FIELD: value}]
        )
        with pytest.raises(ValueError, match=r"c\.jsonl: training document 2 has .* expected a number"):
            build(data, tmp_path / "out", train=[wrong], **options)
    with pytest.raises(ValueError, match="By their score 1 documents were left out"):
        build(data, tmp_path / "out", train=[scored], score_field=FIELD, min_score=2.0)
    settings = settings_of([scored], keep_fraction=0.5)
    with pytest.raises(ValueError, match="--keep_fraction: got it with --runner"):
        Workers(runner="FlinkRunner").check(settings)
