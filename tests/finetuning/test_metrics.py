"""Downstream metrics agree with the formulas written out here, with conlleval on hand-counted spans, and at
their edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.finetuning.metrics import default_metrics, score, write_glue_predictions

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NLI = ("entailment", "neutral", "contradiction")


def one(name, labels, predictions, label_names=()):
    return score([name], labels, predictions, label_names)[name]


# Textbook formulas, counted with loops.


def counts(labels, predictions, positive):
    pairs = list(zip(labels, predictions, strict=True))
    return (
        sum(wanted == positive and got == positive for wanted, got in pairs),
        sum(wanted != positive and got == positive for wanted, got in pairs),
        sum(wanted == positive and got != positive for wanted, got in pairs),
        sum(wanted != positive and got != positive for wanted, got in pairs),
    )


def f1_by_hand(labels, predictions, positive=1):
    tp, fp, fn, _ = counts(labels, predictions, positive)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def matthews_by_hand(labels, predictions):
    tp, fp, fn, tn = counts(labels, predictions, 1)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def pearson_by_hand(x, y):
    x, y = np.asarray(x, np.float64) - np.mean(x), np.asarray(y, np.float64) - np.mean(y)
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def ranks(values):
    """Ranks from 1; equal values share their mean rank."""
    return [
        1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=25))
def test_binary_metrics_match_their_formulas(pairs):
    labels, predictions = (np.asarray(side) for side in zip(*pairs, strict=True))
    wanted = {
        "f1": f1_by_hand(labels, predictions),
        "matthews": matthews_by_hand(labels, predictions),
        "accuracy": sum(a == b for a, b in pairs) / len(pairs),
    }
    got = score(list(wanted), labels, predictions, ("no", "yes"))
    assert list(got) == list(wanted) and all(type(value) is float for value in got.values())
    assert got == pytest.approx(wanted, abs=1e-12)


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    labels, predictions = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, 3, 3])
    assert one("macro_f1", labels, predictions, ("a", "b", "c", "d")) == pytest.approx(
        sum(f1_by_hand(labels, predictions, positive) for positive in (0, 1, 3)) / 3
    )
    assert one("macro_f1", labels, predictions) == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert one("macro_f1", np.array([1, 1]), np.array([0, 0])) == 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-8, 8)), min_size=3, max_size=20).filter(
        lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    )
)
def test_correlations_match_their_formulas_with_ties(pairs):
    labels, predictions = (np.asarray(side, np.float32) / 4 for side in zip(*pairs, strict=True))
    assert one("pearson", labels, predictions) == pytest.approx(
        pearson_by_hand(labels, predictions), abs=1e-6
    )
    assert one("spearman", labels, predictions) == pytest.approx(
        pearson_by_hand(ranks(labels), ranks(predictions)), abs=1e-12
    )


def test_spearman_sees_order_and_pearson_distance():
    labels, predictions = np.arange(5.0), np.array([0.0, 0.1, 0.2, 0.3, 100.0])
    assert one("spearman", labels, predictions) == pytest.approx(1)
    assert one("pearson", labels, predictions) < 0.8


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([0, 1, 1, 0], [1, 1, 1, 1]), ([1, 1, 1], [0, 1, 0]), ([1, 1], [1, 1]), ([0], [1])],
)
def test_constant_labels_or_predictions_have_correlation_zero_and_no_warning(name, labels, predictions):
    assert one(name, np.asarray(labels), np.asarray(predictions)) == 0.0


def tags(*sentences):
    return [np.asarray([BIO.index(tag) for tag in sentence.split()], np.int32) for sentence in sentences]


@pytest.mark.parametrize(
    ("wanted", "got", "f1"),
    [
        # Two spans of each side, one the same: precision 1/2, recall 1/2.
        (("B-PER I-PER O B-LOC",), ("B-PER I-PER O B-PER",), 1 / 2),
        # A span cut short counts as none, though three of four tags are right.
        (("O B-PER I-PER I-PER",), ("O B-PER I-PER O",), 0.0),
        # conlleval: I- without B- begins a span, so both find PER at word 1; a strict reading would find
        # none.
        (("O B-PER O",), ("O I-PER O",), 1.0),
        # I-LOC after I-PER begins another span: 1 of 2 predicted, 1 of 1 wanted.
        (("B-PER I-PER O",), ("B-PER I-PER I-LOC",), 2 / 3),
        # B- after I- of the same type as well; one span in sentence two is missed: 2 of 2 and 2 of 3.
        (("B-PER B-PER", "B-LOC"), ("B-PER B-PER", "O"), 4 / 5),
        # A span ends with its sentence.
        (("B-PER", "I-PER"), ("B-PER", "O"), 2 / 3),
        (("O O",), ("O O",), 0.0),
        (("B-LOC O",), ("O O",), 0.0),
    ],
)
def test_spans_are_counted_as_in_conlleval(wanted, got, f1):
    assert one("span_f1", tags(*wanted), tags(*got), BIO) == pytest.approx(f1)


def test_spans_of_bioes_tags():
    names = ("O", "B-NP", "I-NP", "E-NP", "S-NP")
    labels, predictions = [np.array([1, 2, 3, 4, 0])], [np.array([1, 2, 3, 0, 4])]
    assert one("span_f1", labels, predictions, names) == pytest.approx(1 / 2)


def test_tagging_accuracy_counts_words_not_sentences():
    got = score(["tagging_accuracy", "span_f1"], tags("O O O B-PER", "B-LOC"), tags("O O O B-PER", "O"), BIO)
    assert got == pytest.approx({"tagging_accuracy": 4 / 5, "span_f1": 2 / 3})


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("tagging", BIO, ("span_f1", "tagging_accuracy")),
        ("tagging", ("B-X", "E-X", "I-X", "O", "S-X"), ("span_f1", "tagging_accuracy")),
        ("tagging", ("I-PER", "O"), ("span_f1", "tagging_accuracy")),
        ("tagging", ("O", "PER"), ("tagging_accuracy",)),
        ("tagging", ("NOUN", "VERB"), ("tagging_accuracy",)),
        ("tagging", ("B", "I", "O"), ("tagging_accuracy",)),
        ("tagging", ("O",), ("tagging_accuracy",)),
        ("classification", BIO, ("accuracy",)),
        ("regression", (), ("pearson", "spearman")),
        ("question_answering", (), ("exact_match", "f1")),
    ],
)
def test_default_metrics(kind, labels, expected):
    assert default_metrics(kind, labels) == expected


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"got bleu, expected some of accuracy, f1, .*span_f1\."):
        score(["accuracy", "bleu"], np.array([0]), np.array([0]), ())


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "names", "message"),
    [
        ("accuracy", np.array([0, 1]), np.array([0]), (), "got 1 and 2"),
        ("accuracy", np.array([]), np.array([]), (), "at least one, got 0 and 0"),
        ("pearson", np.array([0.0, 1.0]), np.array([np.nan, 1.0]), (), "got 1 NaN and 0 infinite of 2"),
        (
            "tagging_accuracy",
            tags("O", "O O"),
            tags("O", "O"),
            BIO,
            "sentence 1: expected a tag for each of its 2 words, got 1",
        ),
        ("span_f1", [np.array([0])], [np.array([1])], ("NOUN", "O", "VERB"), "got NOUN, VERB"),
        ("span_f1", [np.array([0, 1])], [np.array([-1, 5])], BIO, r"from 0 to 4, got \[-1, 5\]"),
    ],
)
def test_wrong_inputs_are_errors(name, labels, predictions, names, message):
    with pytest.raises(ValueError, match=message):
        score([name], labels, predictions, names)


@pytest.mark.parametrize(
    ("file", "predictions", "names", "rows"),
    [
        ("MNLI-m.tsv", np.array([2, 0, 1]), NLI, "0\tcontradiction\n1\tentailment\n2\tneutral\n"),
        ("AX.tsv", [np.int32(1)], NLI, "0\tneutral\n"),
        ("RTE.tsv", np.array([1, 0]), ("entailment", "not_entailment"), "0\tnot_entailment\n1\tentailment\n"),
        ("WNLI.tsv", np.array([1, 0]), ("not_entailment", "entailment"), "0\t1\n1\t0\n"),
        ("CoLA.tsv", np.array([0, 1]), ("unacceptable", "acceptable"), "0\t0\n1\t1\n"),
        (
            "STS-B.tsv",
            np.array([3.14159, -0.2, 5.5, 2], np.float32),
            (),
            "0\t3.142\n1\t0.000\n2\t5.000\n3\t2.000\n",
        ),
    ],
)
def test_submissions_have_the_columns_of_glue(tmp_path, file, predictions, names, rows):
    write_glue_predictions(tmp_path / file, predictions, names)
    assert (tmp_path / file).read_bytes().decode() == "index\tprediction\n" + rows


def test_a_file_that_glue_does_not_know_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file of a GLUE submission \(CoLA.tsv, .*got rte.tsv"):
        write_glue_predictions(tmp_path / "rte.tsv", np.array([0]), ("a", "b"))
    assert not list(tmp_path.iterdir())
