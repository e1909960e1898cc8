"""Predictions of fine-tuned models, saved and exported, against the task classes of `transformers`."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.unlabelled import Unlabelled
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.span_decoding import Answer
from electra_jax.prediction.models import load
from electra_jax.prediction.records import json_line, table_lines
from electra_jax.prediction.task_records import make_form
from electra_jax.prediction.tasks import Columns, TaskPredictor
from support.tiny_export import LENGTH
from support.tiny_task import ONE, make_type
from support.tiny_task_exports import LABELS, VARIANTS

TEXTS = ["abc dei hgf", "s", "", "to be or not to be", "prst u kl mno"]
# Heads and names of both families, an inner layer that the export adds, no token types, relative positions.
TRIED = {
    "classification": [
        "electra_classification",
        "deberta_classification",
        "relative_classification",
        "modern_mean",
    ],
    "regression": ["electra_regression", "deberta_regression"],
    "tagging": ["electra_typeless", "deberta_tagging"],
    "question_answering": ["electra_questions", "deberta_questions"],
}
BATCH = 8
# On eight devices; the others on one, for which programs compile in half the time.
CUT = ("electra_classification", "electra_regression", "electra_typeless", "electra_questions")


def predictors(name, task_exports):
    """The predictors of a fine-tuned model and of its export."""
    mesh = make_mesh(ONE | {"data": -1}, jax.devices()[: 8 if name in CUT else 1])
    return [TaskPredictor(load(str(path), None), BATCH, mesh) for path in task_exports(name)]


def transformers_model(name, directory):
    auto = getattr(transformers, VARIANTS[name][4].replace("ElectraRelativeBias", "AutoModel"))
    trust = {"trust_remote_code": True} if name.startswith("relative") else {}
    return auto.from_pretrained(directory, dtype=torch.float32, **trust).eval()


def transformers_outputs(name, directory, *texts, **choices):
    """Outputs of the task class for texts, or pairs of texts, that its own tokenizer encodes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers_model(name, directory)
    encoded = tokenizer(*texts, padding=True, return_tensors="pt", **choices)
    if not VARIANTS[name][0]["type_vocab_size"] and "token_type_ids" in encoded:
        encoded["token_type_ids"] = torch.zeros_like(encoded["input_ids"])
    with torch.no_grad():
        return encoded, model(**encoded)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRIED["classification"], *TRIED["regression"]])
def test_texts_and_pairs_are_predicted_as_by_transformers(name, task_exports):
    pairs = ["uu", "a b c", "kl", "s t", "be"]
    saved, exported = predictors(name, task_exports)
    _, output = transformers_outputs(name, task_exports(name)[1], TEXTS, pairs)
    inputs = [Unlabelled("here", text, pair) for text, pair in zip(TEXTS, pairs, strict=True)]
    for predictor in (saved, exported):
        records, phrases = predictor.predict(inputs)
        assert [(one["text"], one["pair"]) for one in records] == list(zip(TEXTS, pairs, strict=True))
        assert not phrases
        if predictor.kind == "regression":
            got, wanted = [one["score"] for one in records], output.logits[:, 0].numpy()
        else:
            got = [list(one["probabilities"].values()) for one in records]
            wanted = output.logits.softmax(dim=-1).numpy()
            labels = [LABELS["classification"][index] for index in np.argmax(got, axis=1)]
            assert [one["label"] for one in records] == labels
            assert [one["probability"] for one in records] == [max(row) for row in got]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED["tagging"])
def test_words_are_tagged_as_by_transformers(name, task_exports):
    sentences = [["abc", "dei", "hgf", "s"], ["to", "be"], [], ["prst"]]
    inputs = [Unlabelled("here", " ".join(words), words=tuple(words)) for words in sentences]
    encoded, output = transformers_outputs(
        name, task_exports(name)[1], [words or ["a"] for words in sentences], is_split_into_words=True
    )
    for predictor in predictors(name, task_exports):
        records, _ = predictor.predict(inputs)
        for row, (words, record) in enumerate(zip(sentences, records, strict=True)):
            assert record["words"] == words and len(record["tags"]) == len(words)
            places = [encoded.word_ids(row).index(word) for word in range(len(words))]
            shares = output.logits[row, places].softmax(dim=-1)
            assert record["tags"] == [LABELS["tagging"][i] for i in shares.argmax(dim=-1)]
            np.testing.assert_allclose(record["probabilities"], shares.amax(dim=-1), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED["question_answering"])
def test_answers_are_the_best_spans_of_transformers(name, task_exports):
    question, context = "who", "abc  dei hgf to be"
    encoded, output = transformers_outputs(
        name, task_exports(name)[1], [question], [context], return_offsets_mapping=False
    )
    count = encoded["input_ids"].shape[1]
    first = encoded["input_ids"][0].tolist().index(2) + 1  # after the first [SEP]
    scores = output.start_logits[0][:, None] + output.end_logits[0][None, :]
    best = max(
        float(scores[start, end]) for start in range(first, count - 1) for end in range(start, count - 1)
    )
    for predictor in predictors(name, task_exports):
        [record], _ = predictor.predict([Unlabelled("here", question, context, id="q1")])
        assert record["id"] == "q1" and record["question"] == question
        np.testing.assert_allclose(record["score"], best, rtol=0, atol=1e-4)
        null = float(scores[0, 0]) - best
        np.testing.assert_allclose(record["null_score"], null, rtol=0, atol=1e-4)
        assert context[record["start"] : record["end"]] == record["answer"] != ""


def test_a_model_that_may_abstain_answers_nothing_beyond_its_threshold():
    class Answered:
        name = "question_answering"

        @staticmethod
        def collect(examples, rows, outputs):
            return outputs

    answers = [Answer("b", 1.0, null, [], 2) for null in (-3.0, -2.0)] + [Answer("", -np.inf, np.inf, [])]
    inputs = [Unlabelled("here", "q", "a b")] * 3
    for may_abstain, texts in ((True, ["b", "", ""]), (False, ["b", "b", ""])):
        form = make_form(Answered, {"null_threshold": -2.5}, (), may_abstain=may_abstain)
        records = form.records(inputs, [], [], answers)
        assert [one["answer"] for one in records] == texts
        assert [one["start"] for one in records] == [2 if text else None for text in texts]
        assert [one["end"] for one in records] == [3 if text else None for text in texts]
        assert records[2]["score"] is None and records[0]["score"] == 1.0
        json.loads(json_line(records[2]))  # no infinity


def test_bio_tags_become_spans_with_offsets():
    task_type = make_type("tagging", metrics=())
    labels = ("O", "B-PER", "I-PER", "B-LOC")
    form = make_form(task_type, {}, labels, may_abstain=False)
    inputs = [Unlabelled("here", "Ada  Lovelace (London).")]
    [example] = form.examples(inputs)
    assert example.words == ("Ada", "Lovelace", "(", "London", ")", ".")
    tags = [1, 2, 0, 3, 0, 0]
    rows = [type("Row", (), {"ids": np.zeros(8), "label": np.array([-1, *[-2] * 6, -1]), "example": 0})()]
    output = np.eye(4, dtype=np.float32)[[0, *tags, 0]] * 3
    [record] = form.records(inputs, [example], rows, [output])
    assert record["tags"] == [labels[tag] for tag in tags] and record["starts"] == [0, 5, 14, 15, 21, 22]
    assert record["spans"] == [
        {"label": "PER", "start": 0, "end": 13, "text": "Ada  Lovelace"},
        {"label": "LOC", "start": 15, "end": 21, "text": "London"},
    ]
    assert record["probabilities"] == pytest.approx([np.e**3 / (np.e**3 + 3)] * 6, rel=1e-5)
    lines = table_lines(form.table, record).split("\n")
    assert lines[0].split("\t")[:2] == ["Ada", "B-PER"] and lines[-3:] == [lines[-3], "", ""]


def test_probabilities_of_large_outputs():
    form = make_form(make_type("classification", metrics=()), {}, ("a", "b", "c"), may_abstain=False)
    rows, output = [type("Row", (), {"example": 0})()], np.float32([1000, 1000, -1000])
    [record] = form.records([Unlabelled("here", "x")], [], rows, [output])
    assert record["probabilities"] == {"a": 0.5, "b": 0.5, "c": 0.0}


@pytest.mark.slow
def test_diverged_models_are_an_error(task_exports, tmp_path):
    saved = load_model(task_exports("electra_classification")[0])
    broken = saved._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, saved.params))
    predictor = TaskPredictor(broken, BATCH, make_mesh(ONE | {"data": -1}))
    with pytest.raises(FloatingPointError, match="not finite"):
        predictor.predict([Unlabelled("here", "abc")])


@pytest.mark.slow
def test_long_texts_are_cut_and_told_and_long_sentences_divided(task_exports):
    long = "abc dei " * 40
    [predictor, _] = predictors("electra_classification", task_exports)
    _, phrases = predictor.predict([Unlabelled("here", long), Unlabelled("here", "abc")])
    assert phrases == [f"1 of 2 examples cut to {LENGTH} tokens"]
    [predictor, _] = predictors("electra_tagging", task_exports)
    [record], phrases = predictor.predict([Unlabelled("here", long)])
    assert phrases == [f"1 of 1 examples divided into rows of {LENGTH} tokens"]
    assert len(record["tags"]) == 80


def test_columns_are_those_of_the_fine_tuning_unless_given(task_exports):
    [predictor, _] = predictors("electra_classification", task_exports)
    assert predictor.wanted("tsv", Columns("", ""))[:2] == ("text", "")
    assert predictor.wanted("tsv", Columns("a", "b"))[:2] == ("a", "b")
    saved = load(str(task_exports("electra_classification")[0]), None)
    for recorded, source in (("glue/mnli", "/data/glue/mnli/2.0.0"), ("", "glue/mnli")):
        task = saved.description["task"] | {"source": source, "text": "", "pair": ""}
        description = saved.description | {"task": task, "dataset": recorded}
        published = TaskPredictor(
            saved._replace(description=description), BATCH, make_mesh(ONE, jax.devices()[:1])
        )
        assert published.wanted("tsv", Columns("", ""))[:2] == ("premise", "hypothesis")
    [predictor, _] = predictors("electra_questions", task_exports)
    assert predictor.wanted("tsv", Columns("", ""))[:3] == ("question", "context", "id")
    [predictor, _] = predictors("electra_tagging", task_exports)
    assert predictor.wanted("conll", Columns("", ""))[:4] == ("0", "", "", "1")
    assert predictor.wanted("conllu", Columns("", ""))[:4] == ("text", "", "", "")
    assert predictor.wanted("conll", Columns("2", ""))[:1] == ("2",)
