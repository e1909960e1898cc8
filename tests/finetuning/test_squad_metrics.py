"""SQuAD's scores agree with cases computed by hand, with evaluate-v2.0 of `transformers` and with an
exhaustive search."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.finetuning.squad_metrics import normalize_answer, squad_score, write_squad_predictions
from support import aside
from support.commands import run_python

V2_NAMES = [
    "exact_match",
    "f1",
    "has_answer_exact_match",
    "has_answer_f1",
    "no_answer_accuracy",
    "best_exact_match",
    "best_exact_match_threshold",
    "best_f1",
    "best_f1_threshold",
]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Quick\tbrown\n fox.", "quick brown fox"),
        ("an Apple a day, the end", "apple day end"),
        ("a.m. at a well-known theatre", "am at wellknown theatre"),
        ("the-end A", "theend"),
        ("$1,000.50", "100050"),
        ("« l'Été » – “The”", "« lété » – “ ”"),
        ("theA an", "thea"),
        ("The", ""),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalized_text(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("golds", "prediction", "exact", "f1"),
    [
        (("the Seine",), "Seine.", 1, 1),
        (("river Seine", "Seine"), "the river", 0, 2 / 3),
        # The best over the gold texts, of each score on its own: 2 of 3 and 2 of 2 words; 3 of 3 and 3 of 4.
        (("red fox", "a red fox of old"), "red old fox", 0, 6 / 7),
        # Words count as often as they occur: 2 of 3, 2 of 2.
        (("new york new",), "new new", 0, 4 / 5),
        (("seine",), "", 0, 0),
        (("seine",), "loire", 0, 0),
    ],
)
def test_scores_by_hand(golds, prediction, exact, f1):
    assert squad_score([golds], [prediction]) == pytest.approx({"exact_match": exact, "f1": f1})
    got = squad_score([golds, ()], [prediction, ""], [0, 0])
    assert (got["has_answer_exact_match"], got["has_answer_f1"]) == pytest.approx((exact, f1))
    assert (got["exact_match"], got["f1"]) == pytest.approx(((exact + 1) / 2, (f1 + 1) / 2))


@pytest.mark.parametrize(
    ("golds", "prediction", "v1", "v2"),
    [
        (("the",), "a", (1, 0), (1, 1)),
        (("the",), "", (1, 0), (1, 1)),
        (("the",), "seine", (0, 0), (0, 0)),
        (("!", "seine"), "an", (1, 0), (0, 0)),
        (("!", "seine"), "the seine", (1, 1), (1, 1)),
    ],
)
def test_the_two_versions_differ_in_gold_texts_without_words(golds, prediction, v1, v2):
    got = squad_score([golds], [prediction])
    assert (got["exact_match"], got["f1"]) == v1
    got = squad_score([golds, ()], [prediction, ""], [0, 0])
    assert (got["has_answer_exact_match"], got["has_answer_f1"]) == v2


def test_thresholds_by_hand():
    golds, predictions = [("red fox",), (), ("owl",), ()], ["fox", "cat", "owl", "the"]
    nulls = [1.0, 2.0, 3.0, 4.0]
    # Answering from the lowest null score on: EM 2 2 1 2 1 of 4, F1 2 2⅔ 1⅔ 2⅔ 1⅔. "the" has no words, but is
    # an answer.
    got = squad_score(golds, predictions, nulls, threshold=2.0)
    assert list(got) == V2_NAMES and all(type(value) is float for value in got.values())
    assert got == pytest.approx(
        {
            "exact_match": 1 / 4,
            "f1": (2 / 3 + 1) / 4,
            "has_answer_exact_match": 0,
            "has_answer_f1": 1 / 3,
            "no_answer_accuracy": 1 / 2,
            "best_exact_match": 2 / 4,
            "best_exact_match_threshold": 0.0,
            "best_f1": (2 / 3 + 2) / 4,
            "best_f1_threshold": 1.0,
        }
    )
    higher = squad_score(golds, predictions, nulls, threshold=3.0)
    assert higher["exact_match"] == 2 / 4 and higher["has_answer_exact_match"] == 1 / 2
    assert squad_score(golds, predictions, nulls, threshold=9.0)["no_answer_accuracy"] == 1 / 2


def test_an_unanswered_question_that_has_an_answer_is_wrong_even_if_its_gold_text_has_no_words():
    got = squad_score([("the",), ()], ["a", ""], [1.0, 0.0], threshold=0.5)
    assert (got["has_answer_exact_match"], got["exact_match"], got["best_exact_match"]) == (0, 0.5, 1.0)


def test_scores_of_only_answerable_or_only_unanswerable_questions():
    assert squad_score([("x",)], ["x"], [math.nan], threshold=-9) == {"exact_match": 1, "f1": 1}
    got = squad_score([(), ()], ["x", "y"], [0.5, -0.5])
    assert got == {
        "exact_match": 0.5,
        "f1": 0.5,
        "no_answer_accuracy": 0.5,
        "best_exact_match": 1,
        "best_f1": 1,
        "best_exact_match_threshold": np.nextafter(-0.5, -1),
        "best_f1_threshold": np.nextafter(-0.5, -1),
    }
    assert squad_score([(), ()], ["x", "y"], [0.5, -0.5], got["best_f1_threshold"])["f1"] == got["best_f1"]


WORDS = st.sampled_from(["red fox", "the red fox", "fox", "old red owl", "owl", "The.", ""])
QUESTIONS = st.lists(
    st.tuples(st.lists(WORDS, max_size=2).map(tuple), WORDS, st.integers(-3, 3).map(lambda n: n / 2)),
    min_size=1,
    max_size=8,
).filter(lambda rows: any(not golds for golds, *_ in rows))


@settings(max_examples=300, deadline=None)
@given(QUESTIONS)
def test_the_search_finds_the_best_of_all_thresholds(rows):
    golds, predictions, nulls = zip(*rows, strict=True)
    got = squad_score(golds, predictions, nulls)
    for name in ("exact_match", "f1"):
        # Any text answers an unanswerable question wrongly; its score is the only one that this changes.
        visible = [
            "word" if prediction and not gold else prediction
            for gold, prediction in zip(golds, predictions, strict=True)
        ]
        tried = {
            threshold: squad_score(golds, visible, nulls, threshold)[name]
            for threshold in (-9.0, *sorted(nulls))
        }
        assert got[f"best_{name}"] == pytest.approx(max(tried.values()), abs=1e-12)
        assert squad_score(golds, visible, nulls, got[f"best_{name}_threshold"])[name] == pytest.approx(
            max(tried.values())
        )
        if name == "exact_match":  # sums of whole numbers: the lowest of the best is no matter of rounding
            lowest = min(threshold for threshold, value in tried.items() if value == max(tried.values()))
            below = 0.0 if min(nulls) > 0 else np.nextafter(min(nulls), -9)
            assert got["best_exact_match_threshold"] == (lowest if lowest > -9 else below)


@settings(max_examples=200, deadline=None)
@given(QUESTIONS, st.sampled_from([-1.0, 0.0, 0.75]), st.randoms())
def test_the_order_of_the_questions_does_not_matter(rows, threshold, random):
    shuffled = random.sample(rows, len(rows))
    one, other = (squad_score(*zip(*side, strict=True), threshold) for side in (rows, shuffled))
    assert one == other


def test_scores_equal_those_of_transformers(tmp_path):
    """With its copy of evaluate-v2.0.py; null scores differ and are positive, since its threshold is 0.0."""
    random = np.random.default_rng(0)
    words = ["the", "a", "An", "fox,", "red", "Owl", "owls", "e.g.", "–", "été", "new-york", "  ", "?", "of"]
    text = lambda: " ".join(random.choice(words, random.integers(0, 6)))
    sets = []
    for size in random.integers(1, 40, 60):
        golds = [[text() for _ in range(random.integers(0, 4))] for _ in range(size)] + [[]]
        predictions = [random.choice(gold) if gold and random.random() < 0.4 else text() for gold in golds]
        nulls = (random.permutation(len(golds)) + 1) / 8
        sets.append(
            [
                golds,
                [str(prediction) for prediction in predictions],
                nulls.tolist(),
                float(random.choice(nulls)),
            ]
        )
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    script = (
        "import json, sys, types\nfrom transformers.data.metrics.squad_metrics import squad_evaluate\n"
        "results = []\nfor golds, predictions, nulls, threshold in json.load(open(sys.argv[1])):\n    "
        "examples = [types.SimpleNamespace(qas_id=i, answers=[{'text': text} for text in texts])\n         "
        "       for i, texts in enumerate(golds)]\n    results.append(squad_evaluate(examples, "
        "dict(enumerate(predictions)), dict(enumerate(nulls)), threshold))\nprint(json.dumps(results))\n"
    )
    environment = aside.environment("transformers4")
    outcome = run_python("-c", script, tmp_path / "sets.json", environment=environment)
    assert outcome.returncode == 0, outcome.stderr
    theirs = {
        "exact_match": "exact",
        "f1": "f1",
        "has_answer_exact_match": "HasAns_exact",
        "has_answer_f1": "HasAns_f1",
        "no_answer_accuracy": "NoAns_exact",
        "best_exact_match": "best_exact",
        "best_f1": "best_f1",
    }
    for given_set, wanted in zip(sets, json.loads(outcome.stdout), strict=True):
        got = squad_score(*given_set)
        assert {name: got.get(name) for name in theirs} == pytest.approx(
            {name: wanted[key] / 100 if key in wanted else None for name, key in theirs.items()}, abs=1e-12
        )
        assert got["best_exact_match_threshold"] == wanted["best_exact_thresh"]
        assert got["best_f1_threshold"] == wanted["best_f1_thresh"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([("x",)], ["x", "y"]), "got 2 and 1"),
        (([], []), "at least one, got 0 and 0"),
        (([("x",), ()], ["x", ""]), "for 1 of 2 questions are unanswerable, got None"),
        (([("x",), ()], ["x", ""], [0.0]), r"one for each of 2 questions, got shape \(1,\)"),
        (([("x",), ()], ["x", ""], [-math.inf, math.nan]), "got 1 NaN and 1 −inf of 2"),
        (([("x",), ()], ["x", ""], [0.0, -math.inf]), "got 0 NaN and 1 −inf of 2"),
        (([("x",), ()], ["x", ""], [0.0, 1.0], math.nan), "threshold: expected a number, got NaN"),
    ],
)
def test_wrong_inputs_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        squad_score(*arguments)


def test_written_answers_are_the_scored_ones(tmp_path):
    path, ids = tmp_path / "predictions.json", ["q1", "q2", "q3"]
    write_squad_predictions(path, ids, ["été", "owl", ""])
    assert json.loads(path.read_text()) == {"q1": "été", "q2": "owl", "q3": ""}
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.json"]
    write_squad_predictions(path, ids, ["été", "owl", ""], np.float32([0.5, 0.25, math.inf]), threshold=0.25)
    assert json.loads(path.read_text()) == {"q1": "", "q2": "owl", "q3": ""}
    no_constants = {"parse_constant": pytest.fail}  # Infinity and NaN are not JSON
    assert json.loads((tmp_path / "predictions_null_odds.json").read_text(), **no_constants) == {
        "q1": 0.5,
        "q2": 0.25,
        "q3": sys.float_info.max,
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "predictions.json",
        "predictions_null_odds.json",
    ]


def test_a_file_of_answers_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "predictions.json"
    write_squad_predictions(path, ["q"], ["old"])

    def full_disk(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_squad_predictions(path, ["q"], ["new"])
    assert json.loads(path.read_text()) == {"q": "old"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["q", "r"], ["x"]), "each of the 2 ids, got 1"),
        ((["q", "r", "q"], ["x", "y", "z"]), r"got q more than once \(1 such ids\)"),
        ((["q"], ["x"], [math.nan]), "got 1 NaN and 0 −inf of 1"),
        ((["q"], ["x"], [[0.0]]), r"got shape \(1, 1\)"),
    ],
)
def test_nothing_is_written_from_wrong_inputs(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_squad_predictions(tmp_path / "predictions.json", *arguments)
    assert not list(tmp_path.iterdir())
