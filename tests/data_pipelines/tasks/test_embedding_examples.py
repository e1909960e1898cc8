"""Pairs of texts for embeddings: files, columns that may be missing, SQuAD's form, and what is held out."""

import json

import pytest

from configs import finetune
from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.load import load_task
from support.task_settings import write

COLUMNS = {"text": "q", "pair": "p"}


def embedding(**changes):
    return finetune.get_config("task=local_embedding").task.to_dict() | changes


def of_squad(*paragraphs):
    """A file in SQuAD's format; a paragraph is its text, then its questions."""
    entries = [
        {
            "context": context,
            "qas": [
                {
                    "id": question,
                    "question": question,
                    "is_impossible": "never" in question,
                    "answers": [] if "never" in question else [{"text": "a", "answer_start": 0}],
                }
                for question in questions
            ],
        }
        for context, *questions in paragraphs
    ]
    return json.dumps({"data": [{"title": "t", "paragraphs": entries}]})


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.tsv.gz"])
def test_pairs_with_hard_negatives(tmp_path, name):
    rows = [("who", "he did", "rain", "sun"), ("where", "there", "", "snow")]
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip("qpno", row, strict=True)) | {"z": 1}) for row in rows]
    else:
        between = "," if name.endswith(".csv") else "\t"
        lines = [between.join(row) for row in (tuple("qpno"), *rows)]
    path = write(tmp_path / name, "\n".join(lines))
    data = load_task(embedding(train=path, validation=path, negatives="n, o", **COLUMNS))
    assert data.labels == () and data.notes == [] and list(data.splits) == ["train", "validation"]
    for examples in data.splits.values():
        assert examples == [EmbeddingExample(text, pair, tuple(rest), None) for text, pair, *rest in rows]


def test_columns_by_number(tmp_path):
    path = write(tmp_path / "a.tsv", "1\twho\the did\n2\twhere\tthere\n3\tbad\n")
    data = load_task(embedding(train=path, text="1", pair="2"))
    assert [example[:2] for example in data.splits["train"]] == [("who", "he did"), ("where", "there")]
    texts = write(tmp_path / "b.tsv", "\na\n\nb\n\n")
    data = load_task(embedding(train=texts, text="0"))
    assert [example.text for example in data.splits["train"]] == ["a", "b"]
    assert data.notes == [f"train: skipped 2 examples with an empty text, the first at {texts}:1"]


def test_rows_of_another_width_are_skipped(tmp_path):
    path = write(tmp_path / "a.tsv", "1\twho\the did\n2\twhere\tthere\n3\tbad\n")
    data = load_task(embedding(train=path, text="1", pair="2"))
    assert data.notes == [
        f"train: skipped 1 example with a number of columns other than 3, the first at {path}:3"
    ]


def test_a_file_to_evaluate_on_may_lack_negatives_and_a_file_to_train_on_the_pair(tmp_path):
    train = write(tmp_path / "a.tsv", "q\tn\nwho\train\n")
    validation = write(tmp_path / "b.tsv", "q\tp\nwho\the did\nwhy\t \n")
    data = load_task(embedding(train=train, validation=validation, negatives="n", **COLUMNS))
    assert data.splits["train"] == [EmbeddingExample("who", None, ("rain",), None)]
    assert data.splits["validation"] == [EmbeddingExample("who", "he did", ("",), None)]
    assert data.notes == [
        "train: kept 1 example with no column 'p' of a pair, so that each text is its own (SimCSE), the "
        f"first at {train}:2",
        f"validation: skipped 1 example with an empty text, the first at {validation}:3",
    ]


def test_numbers_are_read_where_they_are_scored(tmp_path):
    train = write(tmp_path / "a.tsv", "q\tp\nwho\the did\n")
    scored = write(tmp_path / "b.jsonl", '{"q": "a", "p": "b", "s": 0}\n{"q": "a", "p": "c", "s": null}')
    task = embedding(train=train, validation=scored, test=train, label="s", **COLUMNS)
    data = load_task(task)
    assert [example.label for examples in data.splits.values() for example in examples] == [None, 0.0, None]
    assert data.notes == [f"validation: skipped 1 example with a missing label, the first at {scored}:2"]
    unread = write(tmp_path / "d.tsv", "q\tp\ts\nwho\the did\t0\n")
    data = load_task(task | {"train": unread})
    assert data.splits["train"][0].label is None
    assert data.notes[0] == (
        "train: kept 1 example with a value in column 's', which is not read: all pairs to train on belong "
        f"together, the first at {unread}:2"
    )
    missing = write(tmp_path / "e.tsv", "q\tp\ts\na\tb\t1\na\tc\tNaN\n")
    assert load_task(task | {"validation": missing}).notes == [
        f"validation: skipped 1 example with a missing label, the first at {missing}:3"
    ]
    wrong = write(tmp_path / "c.tsv", "q\tp\ts\na\tb\thigh\n")
    with pytest.raises(ValueError, match=r"c\.tsv:2: label 'high', expected a finite number for the sim"):
        load_task(task | {"validation": wrong})


def test_pairs_without_numbers_beside_pairs_with_numbers_are_not_scored(tmp_path):
    scored = write(tmp_path / "a.tsv", "q\tp\ts\na\tb\t1\n")
    unscored = write(tmp_path / "b.tsv", "q\tp\nc\td\n")
    partly = write(tmp_path / "c.jsonl", '{"q": "a", "p": "b", "s": 1}\n{"q": "c", "p": "d"}')
    task = embedding(train=unscored, label="s", **COLUMNS)
    for test, place in (
        (f"{scored},{unscored}", unscored),
        (f"{unscored},{scored}", unscored),
        (partly,) * 2,
    ):
        data = load_task(task | {"test": test})
        assert data.splits["test"] == [EmbeddingExample("a", "b", (), 1.0)]
        assert data.notes == [f"test: skipped 1 example with a missing label, the first at {place}"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.tsv", "q\tp\na\tb\n\tc\nd\te\n"),
        ("c.tsv", "q\tp\ts\na\tb\t\n\tc\t \nd\te\t\n"),
        ("c.jsonl", '{"q": "a", "p": "b"}\n{"q": null, "p": "c", "s": null}\n{"q": "d", "p": "e", "s": ""}'),
    ],
    ids=["no column", "an empty column", "json"],
)
def test_no_row_of_a_file_to_test_on_without_numbers_is_skipped(tmp_path, name, text):
    """Its predictions are identified by position."""
    scored = write(tmp_path / "a.tsv", "q\tp\ts\na\tb\t1\n")
    task = embedding(train=scored, validation=scored, label="s", **COLUMNS)
    data = load_task(task | {"test": write(tmp_path / name, text)})
    assert data.splits["test"] == [EmbeddingExample(*pair, (), None) for pair in ("ab", ("", "c"), "de")]
    assert all(note.startswith("train: kept") for note in data.notes)
    cut = write(tmp_path / "d.tsv", "q\tp\na\tb\nc\n")
    with pytest.raises(ValueError, match=r"d\.tsv:3: got 1 columns, expected 2: .*correct the row"):
        load_task(task | {"test": cut})
    # Without numbers at all, a search is scored: rows that cannot be are left out of it.
    assert len(load_task(task | {"test": cut, "label": ""}).splits["test"]) == 1


def test_questions_of_squad_belong_to_their_paragraphs(tmp_path):
    path = write(tmp_path / "a.json", of_squad(("a one", "who", "never"), ("a two", "why", " ")))
    data = load_task(embedding(train=path))
    assert data.splits["train"] == [
        EmbeddingExample("who", "a one", (), None),
        EmbeddingExample("why", "a two", (), None),
    ]
    assert data.notes == [
        f"train: skipped 1 example with a question that its paragraph does not answer, the first at {path}: "
        "data[0].paragraphs[0].qas[1]",
        f"train: skipped 1 example with an empty text, the first at {path}: data[0].paragraphs[1].qas[1]",
    ]


def test_paragraphs_are_held_out_with_all_of_their_questions(tmp_path):
    paragraphs = [(f"a {number}", f"who {number}", f"why {number}") for number in range(20)]
    path = write(tmp_path / "a.json", of_squad(*paragraphs))
    splits = load_task(embedding(train=path, validation_fraction=0.2)).splits
    held_out = {example.pair for example in splits["validation"]}
    assert len(splits["validation"]) == 8 and len(held_out) == 4
    assert held_out.isdisjoint(example.pair for example in splits["train"])


def test_pairs_with_a_text_in_common_are_held_out_together(tmp_path):
    rows = []
    for group in range(20):  # a - b, a - c, d - c: joined through the first text, then through the second
        rows += [f"{first}{group}\t{second}{group}\n" for first, second in ("ab", "ac", "dc")]
    path = write(tmp_path / "a.tsv", "q\tp\n" + "".join(rows[::2] + rows[1::2]))
    splits = load_task(embedding(train=path, validation_fraction=0.2, **COLUMNS)).splits
    texts = {name: {text for one in split for text in one[:2]} for name, split in splits.items()}
    assert len(splits["validation"]) == 12 and texts["validation"].isdisjoint(texts["train"])


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("q\tp\na\tb\n", {"text": ""}, r"config\.task\.text: got '', .* has the columns 'q', 'p'"),
        ("q\tp\na\tb\n", {"pair": ""}, r"config\.task\.pair: got '', expected the column .* which belongs"),
        ("q\tp\na\tb\n", {"text": "x"}, r"a\.tsv:1: no column 'x', found 'q', 'p'; set config\.task\.text, "),
        ("0\tp\na\tb\n", {"text": "0"}, r"a\.tsv: got the columns '0' by number and 'p' by name, expected"),
        ("0\t1\tn\na\tb\tc\n", {"text": "0", "pair": "1", "negatives": "n"}, "'0', '1' by number and 'n'"),
        ("q\tp\tp\na\tb\tc\n", {}, r"a\.tsv:1: got several columns 'p', expected one"),
        ("q\tp\na\tb\n", {"negatives": "n"}, r"a\.tsv:1: no column 'n', found 'q', 'p'"),
        ("q\tp\na\tb\n", {"pair": "x"}, r"a\.tsv:1: no column 'x'"),
        ("q\tp\na\tb\n", {"label": "s"}, r"a\.tsv:1: no column 's'"),
        ("q\tp\na\tb\n", {"source": "glue/stsb"}, r"config\.task: got 'glue/stsb', expected files"),
        ("q\tp\na\tb\n", {"train": "tfds:glue/stsb"}, r"config\.task: got 'tfds:glue/stsb', expected files"),
        (
            "q\tp\na\tb\n",
            {"validation": "", "pair": "", "validation_fraction": 0.1},
            r"task\.pair: got '', expe",
        ),
        (
            "q\tp\na\tb\n",
            {"validation": "", "label": "s", "validation_fraction": 0.1},
            r"config\.task\.validation_fraction: got 0.1 with config\.task\.label='s', expected 0: numbers",
        ),
        ("q\tp\n", {}, r"no example is left in train"),
    ],
)
def test_what_is_missing_is_named(tmp_path, text, changes, message):
    path = write(tmp_path / "a.tsv", text)
    with pytest.raises(ValueError, match=message):
        load_task(embedding(train=path, validation=path, **COLUMNS) | changes)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.txt: unknown file format for embeddings, expected one of \.tsv"
    ):
        load_task(embedding(train=write(tmp_path / "a.txt", "a")))
    with pytest.raises(FileNotFoundError, match=r"b\.tsv: does not exist"):
        load_task(embedding(train=str(tmp_path / "b.tsv"), text="0"))


@pytest.mark.parametrize("key", ["text", "pair", "negatives", "label"])
def test_columns_of_a_file_that_has_none(tmp_path, key):
    path = write(tmp_path / "a.json", of_squad(("a one", "who")))
    with pytest.raises(ValueError, match=rf"config\.task\.{key}: got 'x' with files in SQuAD's format, exp"):
        load_task(embedding(train=path, **{key: "x"}))


def test_numbers_are_not_in_squad_format(tmp_path):
    train = write(tmp_path / "a.tsv", "q\tp\na\tb\n")
    path = write(tmp_path / "a.json", of_squad(("a one", "who")))
    with pytest.raises(
        ValueError, match=r"task\.validation: got .*a\.json with config\.task\.label='s', exp"
    ):
        load_task(embedding(train=train, validation=path, label="s", **COLUMNS))
