"""Labelled data in TensorFlow Datasets, built here with the features of the published ones."""

import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.tasks.datasets import PUBLISHED
from data_pipelines.tasks.load import load_task
from support.task_settings import classification, tagging, write

TEXT, NLI = tfds.features.Text(), tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])
LANGUAGES = ("de", "en", "sw")
LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "qnli": ["entailment", "not_entailment"],
    "mnli": list(NLI.names),
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
}
NUM_TESTED = 8
TEXTS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
    **{name: ["sentence1", "sentence2"] for name in ("mrpc", "stsb", "rte", "wnli")},
}


class Glue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Per task two training examples with labels 1 and 0, one validation example, and test examples without
    labels. Preparing shuffles them, as it does the published ones."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version="2.0.0") for name in TEXTS]

    def _info(self):
        name = self.builder_config.name
        features = {text: TEXT for text in TEXTS[name]} | {"idx": np.int32}
        features["label"] = tfds.features.ClassLabel(names=LABELS[name]) if name in LABELS else np.float32
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=False
        )

    def _split_generators(self, _):
        both = ["_matched", "_mismatched"] if self.builder_config.name == "mnli" else [""]
        splits = (
            {f"test{end}": [-1] * NUM_TESTED for end in both}
            | {"train": [1, 0]}
            | {f"validation{end}": [0] for end in both}
        )
        return {split: self._examples(split, labels) for split, labels in splits.items()}

    def _examples(self, split, labels):
        for i, label in enumerate(labels):
            yield (
                i,
                {text: f"{split} {text} {i}" for text in TEXTS[self.builder_config.name]}
                | {"label": label, "idx": i},
            )

    def _generate_examples(self):
        raise NotImplementedError


class Xnli(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A premise and a hypothesis in several languages; the hypothesis lacks Swahili in the second example."""

    VERSION = tfds.core.Version("1.1.0")
    split_names = ("test", "validation")

    def _info(self):
        features = {
            "premise": tfds.features.Translation(languages=LANGUAGES),
            "label": NLI,
            "hypothesis": tfds.features.TranslationVariableLanguages(languages=LANGUAGES),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _):
        return {split: self._examples() for split in self.split_names}

    def _examples(self):
        for i, languages in enumerate((LANGUAGES, LANGUAGES[:2])):
            yield (
                i,
                {
                    "premise": {language: f"premise {language} {i}" for language in LANGUAGES},
                    "label": 2 - i,
                    "hypothesis": {language: f"hypothesis {language} {i}" for language in languages},
                },
            )

    def _generate_examples(self):
        raise NotImplementedError


class XtremeXnli(Xnli, skip_registration=True):
    """XNLI's training examples."""

    split_names = ("train",)


class Tagged(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Words and tags as in CoNLL-2003, and a label, which is unknown in the second example."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "tokens": tfds.features.Sequence(TEXT),
            "label": NLI,
            "text": TEXT,
            "raw": TEXT,
            "score": np.float32,
            "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-PER"])),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _):
        rows = [
            {"tokens": ["Peter", "ran"], "ner": [1, 0], "label": 2, "text": "a", "raw": b"a", "score": -1.0},
            {"tokens": ["Ran"], "ner": [0], "label": -1, "text": "ü", "raw": b"b\xff", "score": -1.0},
        ]
        return {"train": enumerate(rows), "test": enumerate(rows)}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The directory of all these datasets, which TensorFlow Datasets finds by name during these tests."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("tfds")
    builders = [Glue(config=name, data_dir=root, file_format="array_record") for name in TEXTS]
    builders += [make(data_dir=root, file_format="array_record") for make in (Xnli, XtremeXnli, Tagged)]
    for builder in builders:
        builder.download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorflow_datasets.core.utils.file_utils._REGISTERED_DATA_DIRS", {root})
        yield root


@pytest.mark.parametrize("name", TEXTS)
def test_glue_by_name(datasets, name):
    task_type = "classification" if name in LABELS else "regression"
    data = load_task(classification(kind=task_type, source=f"glue/{name}"))
    assert data.labels == tuple(LABELS.get(name, ())) and data.notes == []
    ends = ["_matched", "_mismatched"] if name == "mnli" else [""]
    assert list(data.splits) == [
        "train",
        *(f"validation{end}" for end in ends),
        *(f"test{end}" for end in ends),
    ]

    def example(split, i, label):
        texts = [f"{split} {text} {i}" for text in TEXTS[name]]
        return (texts[0], texts[1] if texts[1:] else None, label)

    assert sorted(data.splits["train"]) == [example("train", 0, 1), example("train", 1, 0)]
    assert type(data.splits["train"][0].label) is (int if name in LABELS else float)
    for end in ends:
        assert data.splits[f"validation{end}"] == [example(f"validation{end}", 0, 0)]
        assert data.splits[f"test{end}"] == [example(f"test{end}", i, None) for i in range(NUM_TESTED)]
        assert data.origins[f"test{end}"] == (f"glue/{name}", f"test{end}", True)


def test_glue_by_directory_with_chosen_columns_and_labels(datasets):
    data = load_task(
        classification(
            source=str(datasets / "glue" / "rte" / "2.0.0"),
            text="sentence2",
            pair="sentence1",
            labels=("not_entailment", "entailment"),
        )
    )
    assert data.labels == ("not_entailment", "entailment")
    assert data.origins["test"] == ("glue/rte", "test", True)
    assert data.splits["train"][0] == ("train sentence2 0", "train sentence1 0", 0)
    with pytest.raises(
        ValueError, match="glue/rte train: example 0: label 'not_entailment', expected one of 'entailment'"
    ):
        load_task(classification(source="glue/rte", labels=("entailment", "n")))


def test_every_glue_task_and_xnli_has_its_columns():
    assert set(PUBLISHED) >= {f"glue/{name}" for name in TEXTS} | {"xnli"}


def test_xnli_evaluates_in_the_chosen_language(datasets):
    data = load_task(classification(source="xnli", language="sw"))
    assert data.labels == tuple(NLI.names) and list(data.splits) == ["validation", "test"]
    assert data.splits["test"] == [("premise sw 0", "hypothesis sw 0", 2)]
    assert data.notes == [
        f"{split}: skipped 1 example with an empty text, the first at xnli {split}: example 1"
        for split in ("validation", "test")
    ]
    with pytest.raises(ValueError, match=r"config\.task\.language: got '', expected one of de, en, sw"):
        load_task(classification(source="xnli"))
    with pytest.raises(ValueError, match=r"config\.task\.language: got 'de', expected ''"):
        load_task(classification(source="glue/mnli", language="de"))


def test_xnli_is_trained_in_translation(datasets):
    task = classification(source="xnli", train="tfds:xtreme_xnli", language="de")
    german, every = (
        load_task(task | {"train_language": language}).splits["train"] for language in ("de", "all")
    )
    assert german == [("premise de 0", "hypothesis de 0", 2), ("premise de 1", "hypothesis de 1", 1)]
    assert every == [
        (f"premise {language} {i}", f"hypothesis {language} {i}", 2 - i)
        for language in LANGUAGES
        for i in range(2)
        if (language, i) != ("sw", 1)
    ]
    with pytest.raises(
        ValueError,
        match=r"got 'fr', expected one of de, en, sw for xtreme_xnli; config\.task\.train_language",
    ):
        load_task(task | {"train_language": "fr"})
    with pytest.raises(ValueError, match=r"train_language: got 'de', expected the default 'en', since this"):
        load_task(task | {"train": "tfds:glue/mnli", "train_language": "de"})


@pytest.mark.parametrize(
    ("train", "first"),
    [
        ("tfds:glue/mnli", ("train premise 0", "train hypothesis 0", 1)),
        ("tfds:xtreme_xnli", ("premise en 0", "hypothesis en 0", 2)),
        (
            "tfds:glue/mnli@validation_matched",
            ("validation_matched premise 0", "validation_matched hypothesis 0", 0),
        ),
        ("a.jsonl", ("eins", "zwei", 1)),
    ],
)
def test_xnli_is_trained_on_another_dataset(datasets, tmp_path, train, first):
    if train == "a.jsonl":
        train = write(tmp_path / train, '{"premise": "eins", "hypothesis": "zwei", "label": "neutral"}')
    data = load_task(classification(source="xnli", train=train, language="de"))
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.splits["train"][0] == first
    assert data.splits["validation"][0] == ("premise de 0", "hypothesis de 0", 2)


@pytest.mark.parametrize("name", ["own.tsv", "own.csv"])
@pytest.mark.parametrize("own", ["train", "validation"])
def test_a_file_beside_a_dataset_has_its_columns(datasets, tmp_path, name, own):
    text = "id,label,sentence\n1,positive,a fine film\n".replace(",", "\t" if name == "own.tsv" else ",")
    file, other = write(tmp_path / name, text), "validation" if own == "train" else "train"
    data = load_task(classification(**{own: file, other: "tfds:glue/sst2"}))
    assert data.labels == ("negative", "positive")
    assert data.splits[own] == [("a fine film", None, 1)]
    assert data.splits[other][0] == (f"{other} sentence 0", None, int(other == "train"))


def test_a_dataset_of_tagged_words(datasets):
    data = load_task(tagging(source="tagged", text="tokens", label="ner"))
    assert data.labels == ("O", "B-PER")
    assert data.splits["train"] == data.splits["test"] == [(("Peter", "ran"), (1, 0)), (("Ran",), (0,))]


def test_unknown_labels_of_a_dataset(datasets):
    data = load_task(classification(source="tagged", text="text", label="label"))
    assert data.splits == {"train": [("a", None, 2)], "test": [("a", None, 2)]}
    assert (
        data.notes[0] == "train: skipped 1 example with a missing label, the first at tagged train: example 1"
    )
    data = load_task(classification(kind="regression", source="tagged", text="text", label="score"))
    assert data.splits == {
        "train": [("a", None, -1.0), ("ü", None, -1.0)],
        "test": [("a", None, None), ("ü", None, None)],
    }


def test_features_of_a_dataset_that_are_not_text(datasets):
    with pytest.raises(ValueError, match="tagged train: example 1: 'raw' is not valid UTF-8"):
        load_task(classification(source="tagged", text="raw", label="label"))
    with pytest.raises(ValueError, match=r"tagged train: example 0: 'tokens' is a .*, expected a string"):
        load_task(classification(source="tagged", text="tokens", label="label"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": "glue/none"},
            r"glue/none: cannot be read \(.*already prepared with file_format='array_record'",
        ),
        ({"source": "tagged"}, r"config\.task\.text: got '', expected a feature of tagged: "),
        (
            {"source": "glue/sst2", "text": "text"},
            r"config\.task\.text: got 'text', expected a feature of glue/sst2: ",
        ),
        (
            {"source": "glue/sst2", "train": "tfds:glue/sst2@dev"},
            r"glue/sst2: cannot be read \(no split 'dev', found train, val",
        ),
    ],
)
def test_datasets_that_cannot_be_read(datasets, changes, message):
    with pytest.raises(ValueError, match=message):
        load_task(classification(**changes))
