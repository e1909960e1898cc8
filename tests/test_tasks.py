"""Labelled data comes out of every format as it went in, what is left out is told, and no word is lost on the way to ids."""

import gzip
import json
import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.task_datasets import PUBLISHED
from data_pipelines.tasks import NOT_SCORED, TaggedExample, TextExample, encode_examples, load_task
from data_pipelines.tokenizer import load_tokenizer
from data_pipelines.tokenizer_json import adopt_tokenizer

NOTHING = {"source": "", "train": "", "validation": "", "test": "", "text": "", "pair": "", "label": "", "labels": (),
           "language": ""}
CONLLU = """# newdoc id = one
# text = It's here. _
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tPRP\t_\t3\tnsubj\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t3\tcop\t_\t_
3\there\there\tADV\tRB\t_\t0\troot\t_\t_
3.1\tnow\tnow\tADV\tRB\t_\t_\t_\t_\t_
4\t_\t_\tPUNCT\t.\t_\t3\tpunct\t_\t_

# a comment alone

1\tGo\tgo\tVERB\tVB\tMood=Imp\t0\troot\t_\t_
"""
COLUMNS = """-DOCSTART- -X- O

# id 1 of 2
EU NNP B-ORG
# SYM O
\u3000 NN O

# SYM O
Peter NNP B-PER
"""


def classification(**changes):
    return NOTHING | {"kind": "classification"} | changes


def tagging(**changes):
    return NOTHING | {"kind": "tagging"} | changes


def write(path, text):
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


# Tables and JSON lines.


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_tsv_knows_no_quotes(tmp_path, name):
    train = write(tmp_path / name, '\ufeffsentence\tid\tlabel\r\n"an open quote\t0\tgood\r\na\x85b, c\t1\t bad\n\n')
    data = load_task(classification(train=train, text="sentence", label="label"))
    assert data == (("bad", "good"), {"train": [('"an open quote', None, 1), ("a\x85b, c", None, 0)]}, [])


def test_csv_knows_quotes(tmp_path):
    train = write(tmp_path / "a.csv", 'a,b,y\n"one, ""1""\nline",two,0\nthree,four,1\n')
    data = load_task(classification(train=train, text="a", pair="b", label="y"))
    assert data.splits["train"] == [('one, "1"\nline', "two", 0), ("three", "four", 1)]
    write(tmp_path / "a.csv", 'a,b,y\n"1\n1",2,3\n"one,two,0\nthree,four,1\n')
    with pytest.raises(ValueError, match=r"a\.csv:4: not valid CSV .*name the file \.tsv"):
        load_task(classification(train=train, text="a", pair="b", label="y"))


def test_columns_by_number_have_no_header(tmp_path):
    train = write(tmp_path / "a.tsv", "gj04\t1\t\tThe boat sank.\ngj04\t0\t*\tBoat the sank.\n")
    data = load_task(classification(train=train, validation=train, text="3", label="1"))
    assert data.labels == ("0", "1")
    assert data.splits["train"] == data.splits["validation"] == [("The boat sank.", None, 1), ("Boat the sank.", None, 0)]


def test_jsonl(tmp_path):
    train = write(tmp_path / "a.jsonl", '{"s": "one", "t": "zwölf", "y": true}\n\n{"s": "a", "t": "b", "y": false, "z": 1}\n')
    data = load_task(classification(train=train, text="s", pair="t", label="y"))
    assert data == (("false", "true"), {"train": [("one", "zwölf", 1), ("a", "b", 0)]}, [])


def test_labels_are_sorted_by_value_or_given(tmp_path):
    train = write(tmp_path / "a.tsv", "".join(f"text {i}\t{i}\n" for i in (10, 9, 2)))
    task = classification(train=train, text="0", label="1")
    assert load_task(task).labels == ("2", "9", "10")
    data = load_task(task | {"labels": ("9", "10", "2", "7")})
    assert data.labels == ("9", "10", "2", "7") and [example.label for example in data.splits["train"]] == [1, 0, 2]


def test_a_label_outside_the_set_is_an_error(tmp_path):
    train = write(tmp_path / "a.tsv", "s\ty\none\tgood\ntwo\tbad\n")
    test = write(tmp_path / "b.tsv", "s\ty\none\tgood\ntwo\tugly\n")
    message = r"b\.tsv:3: label 'ugly', expected one of 'bad', 'good'; .*every label in config\.task\.labels"
    with pytest.raises(ValueError, match=message):
        load_task(classification(train=train, test=test, text="s", label="y"))


@pytest.mark.parametrize("label", ["high", "nan", "inf"])
def test_regression_takes_finite_numbers(tmp_path, label):
    train = write(tmp_path / "a.tsv", "one\t-1\ntwo\t2.5e0\n")
    task = classification(kind="regression", train=train, text="0", label="1")
    assert load_task(task) == ((), {"train": [("one", None, -1.0), ("two", None, 2.5)]}, [])
    write(tmp_path / "a.tsv", f"one\t-1\ntwo\t{label}\n")
    with pytest.raises(ValueError, match=rf"a\.tsv:2: label '{label}', expected a finite number .*config\.task\.label"):
        load_task(task)


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    rows = ["one\tuno\t1", "two\tdos\t1\tmore", "\ttres\t0", "four\t \t0", "five\tcinco\t", "six\tseis", "seven\tsiete\t0"]
    train = write(tmp_path / "a.tsv", "s\tt\ty\n" + "\n".join(rows))
    data = load_task(classification(train=train, text="s", pair="t", label="y"))
    assert data.splits["train"] == [("one", "uno", 1), ("seven", "siete", 0)]
    assert data.notes == [f"train: skipped 2 examples with a number of columns other than 3, the first at {train}:3",
                          f"train: skipped 2 examples with an empty text, the first at {train}:4",
                          f"train: skipped 1 example with a missing label, the first at {train}:6"]
    records = [{"s": "a", "t": "b", "y": "1"}, {"s": "a", "y": "1"}, {"s": "a", "t": "b"}, {"s": None, "t": "b", "y": "1"}]
    train = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    data = load_task(classification(train=train, text="s", pair="t", label="y"))
    assert data.splits["train"] == [("a", "b", 0)]
    assert data.notes == [f"train: skipped 2 examples with an empty text, the first at {train}:2",
                          f"train: skipped 1 example with a missing label, the first at {train}:3"]


def test_a_test_split_may_lack_labels(tmp_path):
    train = write(tmp_path / "a.tsv", "s\ty\none\t1\n")
    for lines in ("s\nthree\n", "s\ty\nthree\t\n"):
        test = write(tmp_path / "b.tsv", lines)
        data = load_task(classification(train=train, test=test, text="s", label="y"))
        assert data.splits["test"] == [("three", None, None)] and data.notes == []
    unlabelled = write(tmp_path / "c.tsv", "s\ty\none\t\n")
    with pytest.raises(ValueError, match=r"c\.tsv:2: no label, and none in the rest of the training split"):
        load_task(classification(train=unlabelled, text="s", label="y"))


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.tsv", "x\ty\none\t1\n", r"a\.tsv:1: no column 's', found 'x', 'y'; set config\.task\.text"),
    ("a.tsv", "s\tlabel\none\t1\n", r"a\.tsv:1: no column 'y', found 's', 'label'"),
    ("a.tsv", "s\ty\n", r"no example is left in train, .*it has no rows"),
    ("a.tsv", "", r"no example is left in train, .*it has no rows"),
    ("a.tsv", "s\ty\none\ttwo\t1\n", r"no example is left in train, .*a number of columns other than 2, the first"),
    ("a.tsv", b"s\ty\none\t1\n\xff\t1\n", r"a\.tsv:3: not valid UTF-8"),
    ("a.jsonl", '{"s": "a", "y": 1}\n{"s', r"a\.jsonl:2: not valid JSON"),
    ("a.jsonl", "[1]", r"a\.jsonl:1: got a list, expected an object"),
    ("a.jsonl", '{"x": "a", "y": 1}', r"a\.jsonl: no field 's', found 'x', 'y'; set config\.task\.text"),
    ("a.jsonl", '{"s": ["a"], "y": 1}', r"a\.jsonl:1: 's' is a list, expected a string"),
    ("a.jsonl", '{"s": "\\ud800", "y": 1}', r"a\.jsonl:1: 's' is not valid UTF-8"),
    ("a.jsonl", '{"s": "a", "y": [1]}', r"a\.jsonl:1: label is a list, expected a string or number"),
    ("a.conllu", "", r"unknown kind of file for classification or regression, expected one of \.tsv"),
])
def test_files_that_are_not_what_they_should_be(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        load_task(classification(train=write(tmp_path / name, text), text="s", label="y"))


def test_missing_and_damaged_files(tmp_path):
    for name, what in (("none.tsv", "does not exist"), ("folder.tsv", "is a directory")):
        (tmp_path / "folder.tsv").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=rf"{name}: {what}, expected a file"):
            load_task(classification(train=str(tmp_path / name), text="s", label="y"))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"s\ty\none\t1\n")[:-12])
    with pytest.raises(ValueError, match=r"a\.tsv\.gz: damaged or cut-off"):
        load_task(classification(train=str(tmp_path / "a.tsv.gz"), text="s", label="y"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"kind": "ranking"}, "kind: got 'ranking', expected one of classification, regression, tagging"),
    ({"train": ""}, "train: got '' and no config.task.source"),
    ({"text": ""}, "text: got '', expected the column or field of a.tsv"),
    ({"label": ""}, "label: got '', expected the column or field of a.tsv"),
    ({"kind": "regression", "labels": ("a",)}, r"labels: got \('a',\), expected \(\) for regression"),
    ({"labels": ("a", "a")}, "labels: got .*, expected each label once"),
    ({"kind": "tagging", "pair": "x"}, "pair: got 'x', expected '' for tagging"),
    ({"train": "a.tsv", "language": "de"}, "language: got 'de', expected ''"),
])
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=rf"config\.task\.{message}"):
        load_task(classification(train="a.tsv", text="s", label="y") | changes)


# Tagged sentences.


def test_conllu_gives_words_alone(tmp_path):
    train = write(tmp_path / "a.conllu.gz", CONLLU)
    data = load_task(tagging(train=train))
    assert data.labels == ("ADV", "AUX", "PRON", "PUNCT", "VERB") and data.notes == []
    assert data.splits["train"] == [(("It", "'s", "here", "_"), (2, 1, 0, 3)), (("Go",), (4,))]
    assert load_task(tagging(train=train, text="form", label="feats")).labels == ("Mood=Imp", "_")
    assert load_task(tagging(train=train, text="2", label="xpos")).splits["train"][1] == (("go",), (3,))
    with pytest.raises(ValueError, match="no column 'pos', expected one of id, form, lemma"):
        load_task(tagging(train=train, text="form", label="pos"))


def test_sentences_that_cannot_be_used_are_counted(tmp_path):
    cut, untagged = CONLLU.replace("\tcop\t_\t_", "\tcop"), CONLLU.replace("\tADV\tRB", "\t_\tRB", 1)
    nameless = CONLLU.replace("\tIt\tit", "\t\tit")
    for text, reason, line in ((cut, "a number of columns other than 10", 5), (untagged, "a missing label", 4),
                               (nameless, "an empty word", 4)):
        train = write(tmp_path / "a.conllu", text)
        data = load_task(tagging(train=train))
        assert [example.words for example in data.splits["train"]] == [("Go",)]
        assert data.notes == [f"train: skipped 1 example with {reason}, the first at {train}:{line}"]


def test_a_tag_outside_the_set_is_named_by_its_line(tmp_path):
    labels = ("PRON", "ADV", "PUNCT", "VERB")
    with pytest.raises(ValueError, match=r"a\.conllu:5: label 'AUX', expected one of 'PRON', 'ADV', 'PUNCT', 'VERB'"):
        load_task(tagging(train=write(tmp_path / "a.conllu", CONLLU), labels=labels))


@pytest.mark.parametrize("separator", [" ", "\t", "   "])
@pytest.mark.parametrize("name", ["a.conll", "a.txt"])
def test_column_files(tmp_path, name, separator):
    train = write(tmp_path / name, "\n".join(line if line.startswith("# id") else line.replace(" ", separator)
                                             for line in COLUMNS.split("\n")))
    data = load_task(tagging(train=train, text="0", label="2"))
    expected = [(("EU", "#", "\u3000"), (0, 2, 2)), (("#", "Peter"), (2, 1))]
    assert data == (("B-ORG", "B-PER", "O"), {"train": expected}, [])


def test_column_files_with_blanks_in_words_and_without_tags(tmp_path):
    train, test = write(tmp_path / "a.conll", "New York\tB\nran\tO\n"), write(tmp_path / "b.conll", "New York\t\nran\t\n")
    task = tagging(train=train, test=test, text="0", label="1")
    for _ in range(2):
        data = load_task(task)
        assert data.splits == {"train": [(("New York", "ran"), (0, 1))], "test": [(("New York", "ran"), (-1, -1))]}
        write(tmp_path / "a.conll", "New York\tx\tB\nran\tx\tO\n")
        task |= {"label": "2"}


def test_column_files_that_are_not_what_they_should_be(tmp_path):
    train = write(tmp_path / "a.conll", COLUMNS.replace("Peter NNP B-PER", "Peter B-PER"))
    data = load_task(tagging(train=train, text="0", label="2"))
    assert data.notes == [f"train: skipped 1 example with a number of columns other than 3, the first at {train}:9"]
    for columns, message in (({"text": "word", "label": "2"}, r"config\.task\.text: got 'word', expected a column's number"),
                             ({"text": "0", "label": "3"}, "no column 3, its rows have 3 columns")):
        with pytest.raises(ValueError, match=message):
            load_task(tagging(train=train, **columns))


def test_words_and_tags_in_json_lines(tmp_path):
    train = write(tmp_path / "a.jsonl", '{"w": ["EU", "rejects"], "t": ["B", "O"]}\n{"w": ["a"], "t": ["O"]}')
    assert load_task(tagging(train=train, text="w", label="t")).splits["train"] == [(("EU", "rejects"), (0, 1)), (("a",), (1,))]
    test = write(tmp_path / "b.jsonl", '{"w": ["EU", "rejects"]}')
    assert load_task(tagging(train=train, test=test, text="w", label="t")).splits["test"] == [(("EU", "rejects"), (-1, -1))]
    for line, message in (('{"w": ["EU", "x"], "t": ["B"]}', r"a\.jsonl:1: 't' is 1 tags, expected a list with one tag"),
                          ('{"w": "EU", "t": ["B"]}', r"a\.jsonl:1: 'w' is a str, expected a list of words")):
        with pytest.raises(ValueError, match=message):
            load_task(tagging(train=write(tmp_path / "a.jsonl", line), text="w", label="t"))
    write(tmp_path / "a.jsonl", '{"w": ["EU", "x"], "t": ["B", "I"]}')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: word 1: label 'I', expected one of 'B'"):
        load_task(tagging(train=train, text="w", label="t", labels=("B",)))


# TensorFlow Datasets, built here with the features that the published ones have.

TEXT, NLI = tfds.features.Text(), tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])
LANGUAGES = ("de", "en", "sw")
LABELS = {"cola": ["unacceptable", "acceptable"], "sst2": ["negative", "positive"], "mrpc": ["not_equivalent", "equivalent"],
          "qqp": ["not_duplicate", "duplicate"], "qnli": ["entailment", "not_entailment"], "mnli": list(NLI.names),
          "rte": ["entailment", "not_entailment"], "wnli": ["not_entailment", "entailment"]}
TEXTS = {"cola": ["sentence"], "sst2": ["sentence"], "qqp": ["question1", "question2"], "mnli": ["premise", "hypothesis"],
         "qnli": ["question", "sentence"], **{name: ["sentence1", "sentence2"] for name in ("mrpc", "stsb", "rte", "wnli")}}


class Glue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two training examples a task, whose labels are 1 and 0, one to validate and one without label to test."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version="2.0.0") for name in TEXTS]  # noqa: RUF012

    def _info(self):
        name = self.builder_config.name
        features = {text: TEXT for text in TEXTS[name]} | {"idx": np.int32}
        features["label"] = tfds.features.ClassLabel(names=LABELS[name]) if name in LABELS else np.float32
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, _):
        both = ["_matched", "_mismatched"] if self.builder_config.name == "mnli" else [""]
        splits = {f"test{end}": [-1] for end in both} | {"train": [1, 0]} | {f"validation{end}": [0] for end in both}
        return {split: self._examples(split, labels) for split, labels in splits.items()}

    def _examples(self, split, labels):
        for i, label in enumerate(labels):
            yield i, {text: f"{split} {text} {i}" for text in TEXTS[self.builder_config.name]} | {"label": label, "idx": i}

    def _generate_examples(self):
        raise NotImplementedError


class Xnli(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A premise and a hypothesis in several languages; the hypothesis lacks Swahili in the second example."""

    VERSION = tfds.core.Version("1.1.0")
    split_names = ("test", "validation")

    def _info(self):
        features = {"premise": tfds.features.Translation(languages=LANGUAGES), "label": NLI,
                    "hypothesis": tfds.features.TranslationVariableLanguages(languages=LANGUAGES)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, _):
        return {split: self._examples() for split in self.split_names}

    def _examples(self):
        for i, languages in enumerate((LANGUAGES, LANGUAGES[:2])):
            yield i, {"premise": {language: f"premise {language} {i}" for language in LANGUAGES}, "label": 2 - i,
                      "hypothesis": {language: f"hypothesis {language} {i}" for language in languages}}

    def _generate_examples(self):
        raise NotImplementedError


class XtremeXnli(Xnli, skip_registration=True):
    """XNLI's training examples."""

    split_names = ("train",)


class Tagged(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Words and tags as CoNLL-2003 has them, and a label, which the second example does not tell."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"tokens": tfds.features.Sequence(TEXT), "label": NLI, "text": TEXT, "raw": TEXT, "score": np.float32,
                    "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-PER"]))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, _):
        rows = [{"tokens": ["Peter", "ran"], "ner": [1, 0], "label": 2, "text": "a", "raw": b"a", "score": -1.0},
                {"tokens": ["Ran"], "ner": [0], "label": -1, "text": "ü", "raw": b"b\xff", "score": -1.0}]
        return {"train": enumerate(rows), "test": enumerate(rows)}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The directory of all these datasets, known to TensorFlow Datasets by name while the tests of this file run."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("tfds")
    builders = [Glue(config=name, data_dir=root, file_format="array_record") for name in TEXTS]
    builders += [kind(data_dir=root, file_format="array_record") for kind in (Xnli, XtremeXnli, Tagged)]
    for builder in builders:
        builder.download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorflow_datasets.core.utils.file_utils._REGISTERED_DATA_DIRS", {root})
        yield root


@pytest.mark.parametrize("name", TEXTS)
def test_glue_by_name(datasets, name):
    kind = "classification" if name in LABELS else "regression"
    data = load_task(classification(kind=kind, source=f"glue/{name}"))
    assert data.labels == tuple(LABELS.get(name, ())) and data.notes == []
    ends = ["_matched", "_mismatched"] if name == "mnli" else [""]
    assert list(data.splits) == ["train", *(f"validation{end}" for end in ends), *(f"test{end}" for end in ends)]

    def example(split, i, label):
        texts = [f"{split} {text} {i}" for text in TEXTS[name]]
        return (texts[0], texts[1] if texts[1:] else None, label)

    assert data.splits["train"] == [example("train", 0, 1), example("train", 1, 0)]
    assert type(data.splits["train"][0].label) is (int if name in LABELS else float)
    for end in ends:
        assert data.splits[f"validation{end}"] == [example(f"validation{end}", 0, 0)]
        assert data.splits[f"test{end}"] == [example(f"test{end}", 0, None)]


def test_glue_by_directory_with_columns_and_labels_of_ones_own(datasets):
    data = load_task(classification(source=str(datasets / "glue" / "rte" / "2.0.0"), text="sentence2", pair="sentence1",
                                    labels=("not_entailment", "entailment")))
    assert data.labels == ("not_entailment", "entailment")
    assert data.splits["train"][0] == ("train sentence2 0", "train sentence1 0", 0)
    with pytest.raises(ValueError, match="glue/rte train: example 0: label 'not_entailment', expected one of 'entailment'"):
        load_task(classification(source="glue/rte", labels=("entailment", "n")))


def test_every_glue_task_and_xnli_has_its_columns():
    assert set(PUBLISHED) >= {f"glue/{name}" for name in TEXTS} | {"xnli"}


def test_xnli_evaluates_in_the_language_chosen(datasets):
    data = load_task(classification(source="xnli", language="sw"))
    assert data.labels == tuple(NLI.names) and list(data.splits) == ["validation", "test"]
    assert data.splits["test"] == [("premise sw 0", "hypothesis sw 0", 2)]
    assert data.notes == [f"{split}: skipped 1 example with an empty text, the first at xnli {split}: example 1"
                          for split in ("validation", "test")]
    with pytest.raises(ValueError, match=r"config\.task\.language: got '', expected one of de, en, sw"):
        load_task(classification(source="xnli"))
    with pytest.raises(ValueError, match=r"config\.task\.language: got 'de', expected ''"):
        load_task(classification(source="glue/mnli", language="de"))


@pytest.mark.parametrize(("train", "first"), [
    ("tfds:glue/mnli", ("train premise 0", "train hypothesis 0", 1)),
    ("tfds:xtreme_xnli", ("premise en 0", "hypothesis en 0", 2)),
    ("tfds:glue/mnli@validation_matched", ("validation_matched premise 0", "validation_matched hypothesis 0", 0)),
    ("a.jsonl", ("eins", "zwei", 1))])
def test_xnli_is_trained_on_another_dataset(datasets, tmp_path, train, first):
    if train == "a.jsonl":
        train = write(tmp_path / train, '{"premise": "eins", "hypothesis": "zwei", "label": "neutral"}')
    data = load_task(classification(source="xnli", train=train, language="de"))
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.splits["train"][0] == first
    assert data.splits["validation"][0] == ("premise de 0", "hypothesis de 0", 2)


def test_a_dataset_of_tagged_words(datasets):
    data = load_task(tagging(source="tagged", text="tokens", label="ner"))
    assert data.labels == ("O", "B-PER")
    assert data.splits["train"] == data.splits["test"] == [(("Peter", "ran"), (1, 0)), (("Ran",), (0,))]


def test_labels_that_a_dataset_does_not_tell(datasets):
    data = load_task(classification(source="tagged", text="text", label="label"))
    assert data.splits == {"train": [("a", None, 2)], "test": [("a", None, 2)]}
    assert data.notes[0] == "train: skipped 1 example with a missing label, the first at tagged train: example 1"
    data = load_task(classification(kind="regression", source="tagged", text="text", label="score"))
    assert data.splits == {"train": [("a", None, -1.0), ("ü", None, -1.0)], "test": [("a", None, None), ("ü", None, None)]}


def test_texts_of_a_dataset_that_are_none(datasets):
    with pytest.raises(ValueError, match="tagged train: example 1: 'raw' is not valid UTF-8"):
        load_task(classification(source="tagged", text="raw", label="label"))
    with pytest.raises(ValueError, match=r"tagged train: example 0: 'tokens' is a .*, expected a string"):
        load_task(classification(source="tagged", text="tokens", label="label"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"source": "glue/none"}, r"glue/none: cannot be read \(.*already prepared with file_format='array_record'"),
    ({"source": "tagged"}, r"config\.task\.text: got '', expected a feature of tagged: "),
    ({"source": "glue/sst2", "text": "text"}, r"config\.task\.text: got 'text', expected a feature of glue/sst2: "),
    ({"source": "glue/sst2", "train": "tfds:glue/sst2@dev"}, r"glue/sst2: cannot be read \(no split 'dev', found train, val"),
])
def test_datasets_that_cannot_be_read(datasets, changes, message):
    with pytest.raises(ValueError, match=message):
        load_task(classification(**changes))


# As token ids.

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b"]  # a word of n letters has n pieces
PAD, UNK, CLS, SEP, MASK, A, B, A_, B_ = range(len(PIECES))
WORDS = st.one_of(st.text("ab", min_size=1, max_size=9), st.sampled_from(["\u200b", "ÿ", "[SEP]"]))
TEXT_OF_WORDS = st.lists(WORDS, max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    (root / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    adopt_tokenizer(str(root / "vocab.txt"), str(root / "t"), lowercase=True)
    return load_tokenizer(str(root / "t"))


def test_texts_and_pairs_as_ids(tokenizer):
    examples = [TextExample("ab", None, 1), TextExample("a", "ba b", 0.5), TextExample("b", None, None)]
    encoded, cut = encode_examples(tokenizer, examples, 8)
    assert [row.ids.tolist() for row in encoded] == [[CLS, A, B_, SEP], [CLS, A, SEP, B, A_, B, SEP], [CLS, B, SEP]]
    assert [row.label for row in encoded] == [1, 0.5, None] and cut == 0
    assert all(row.ids.dtype == np.int32 for row in encoded)
    assert encode_examples(tokenizer, [], 8) == ([], 0)


def test_more_texts_than_a_batch(tokenizer, monkeypatch):
    sizes = []
    encode_batch = tokenizer.encode_batch
    monkeypatch.setattr(tokenizer, "encode_batch", lambda texts: sizes.append(len(texts)) or encode_batch(texts))
    encoded, cut = encode_examples(tokenizer, [TextExample("a" * (i % 3 + 1), None, i) for i in range(2500)], 4)
    assert [row.label for row in encoded] == list(range(2500)) and max(sizes) <= 1024
    assert [len(row.ids) for row in encoded] == [min(i % 3 + 3, 4) for i in range(2500)]
    assert cut == len(range(2, 2500, 3))


def cut_pair(text, pair, room):
    """Take one token off the longer until both fit, as BERT and ELECTRA do."""
    text, pair = list(text), list(pair)
    while len(text) + len(pair) > room:
        (text if len(text) > len(pair) else pair).pop()
    return text, pair


@settings(max_examples=300, deadline=None)
@given(text=TEXT_OF_WORDS, pair=st.one_of(st.none(), TEXT_OF_WORDS), max_length=st.integers(5, 40))
def test_texts_are_cut_to_length_the_longer_first(tokenizer, text, pair, max_length):
    [row], cut = encode_examples(tokenizer, [TextExample(text, pair, None)], max_length)
    first, second = tokenizer.encode_batch([text, pair or ""])
    if pair is None:
        expected = [CLS, *first[: max_length - 2], SEP]
        fits = len(first) + 2 <= max_length
    else:
        kept, kept_pair = cut_pair(first, second, max_length - 3)
        expected = [CLS, *kept, SEP, *kept_pair, SEP]
        fits = len(first) + len(second) + 3 <= max_length
    assert row.ids.tolist() == expected and len(expected) <= max_length and cut == (not fits)


def test_the_first_piece_of_a_word_carries_its_tag(tokenizer):
    encoded, cut = encode_examples(tokenizer, [TaggedExample(("aba", "\u200b", "b"), (7, 8, 9))], 16)
    assert encoded[0].ids.tolist() == [CLS, A, B_, A_, UNK, B, SEP]
    assert encoded[0].label.tolist() == [-1, 7, -1, -1, 8, 9, -1] and encoded[0].label.dtype == np.int32
    assert cut == 0


def test_sentences_are_divided_between_words(tokenizer):
    examples = [TaggedExample(("ab", "aba", "a"), (1, 2, 3)), TaggedExample(("a" * 9, "b"), (4, 5)),
                TaggedExample(("a",), (6,))]
    encoded, cut = encode_examples(tokenizer, examples, 6)
    assert [row.ids.tolist() for row in encoded] == [
        [CLS, A, B_, SEP], [CLS, A, B_, A_, A, SEP], [CLS, A, A_, A_, A_, SEP], [CLS, B, SEP], [CLS, A, SEP]]
    assert [row.label.tolist() for row in encoded] == [
        [-1, 1, -1, -1], [-1, 2, -1, -1, 3, -1], [-1, 4, -1, -1, -1, -1], [-1, 5, -1], [-1, 6, -1]]
    assert cut == 2


@settings(max_examples=300, deadline=None)
@given(sentences=st.lists(st.lists(WORDS, min_size=1, max_size=12), min_size=1, max_size=4), max_length=st.integers(3, 20))
def test_no_word_and_no_tag_is_lost(tokenizer, sentences, max_length):
    tags = iter(range(100))
    examples = [TaggedExample(tuple(words), tuple(next(tags) for _ in words)) for words in sentences]
    encoded, cut = encode_examples(tokenizer, examples, max_length)
    scored = [int(tag) for row in encoded for tag in row.label if tag != NOT_SCORED]
    assert scored == [tag for example in examples for tag in example.tags]
    words = {}
    for row in encoded:
        ids = row.ids.tolist()
        assert len(ids) <= max_length and len(row.label) == len(ids)
        assert (ids[0], ids[-1]) == (CLS, SEP) and row.label[0] == row.label[-1] == NOT_SCORED
        assert CLS not in ids[1:] and SEP not in ids[:-1]
        starts = [at for at, tag in enumerate(row.label) if tag != NOT_SCORED]
        assert starts[0] == 1
        words |= {int(row.label[start]): ids[start:end] for start, end in zip(starts, [*starts[1:], len(ids) - 1], strict=True)}
    for example in examples:
        for word, tag in zip(example.words, example.tags, strict=True):
            [pieces] = tokenizer.encode_batch([word])
            assert words[tag] == (pieces[: max_length - 2] or [UNK])
    assert (cut == 0) == (len(encoded) == len(examples) and all(
        len(pieces) <= max_length - 2 for words in sentences for pieces in tokenizer.encode_batch(words)))


@pytest.mark.parametrize(("example", "least"), [
    (TextExample("a", None, 0), 3), (TextExample("a", "b", 0), 5), (TaggedExample(("a",), (0,)), 3)])
def test_lengths_without_room_for_text(tokenizer, example, least):
    encode_examples(tokenizer, [example], least)
    with pytest.raises(ValueError, match=f"max_length: got {least - 1}, expected at least {least}"):
        encode_examples(tokenizer, [example], least - 1)
