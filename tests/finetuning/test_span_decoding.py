"""Answers from windows equal those of plain loops over all spans, on random outputs of both types of heads
and on cases computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tasks.windows import Window
from electra_jax.finetuning.span_decoding import Answer, IndependentOutputs, JointOutputs, decode

CONTEXT = "Paris lies on the Seine ."
WORDS = [(0, 5), (6, 10), (11, 13), (14, 17), (18, 23), (24, 25)]


def part(words=WORDS, first=3, example=0, is_max_context=None):
    offsets = np.asarray(words, np.int32).reshape(-1, 2)
    flags = np.ones(len(offsets), bool) if is_max_context is None else np.asarray(is_max_context, bool)
    return Window(np.zeros(first + len(offsets) + 1, np.int32), None, example, first, offsets, flags)


def independent(starts, ends, length=11):
    """Logits that are −9 except at the positions given."""
    sides = [np.full(length, -9, np.float32) for _ in range(2)]
    for side, values in zip(sides, (starts, ends), strict=True):
        for position, value in values.items():
            side[position] = value
    return IndependentOutputs(*sides)


# The same algorithm with plain loops.


def ranked(pairs):
    """Indices by descending value, then ascending index."""
    return [index for index, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))]


def spans_by_hand(window, output, n_best, max_answer_length):
    """(start, end, score) of each span of a window, as positions; the order decides between equal scores."""
    last = window.first + len(window.offsets) - 1
    begins = [window.first + i for i, flag in enumerate(window.is_max_context) if flag]
    if isinstance(output, IndependentOutputs):
        best_starts = ranked((i, output.start_logits[i]) for i in begins)[:n_best]
        best_ends = ranked((i, output.end_logits[i]) for i in range(window.first, last + 1))[:n_best]
        pairs = [
            (s, e, float(output.start_logits[s]) + float(output.end_logits[e]))
            for s in best_starts
            for e in best_ends
        ]
    else:
        pairs = [
            (s, e, float(output.start_log_probs[k]) + float(output.end_log_probs[k][j]))
            for k, s in enumerate(output.start_indices)
            for j, e in enumerate(output.end_indices[k])
        ]
    return [
        (s, e, score) for s, e, score in pairs if s in begins and s <= e <= last and e - s < max_answer_length
    ]


def decode_by_hand(contexts, windows, outputs, n_best, max_answer_length):
    answers = []
    for question, context in enumerate(contexts):
        mine = [(w, o) for w, o in zip(windows, outputs, strict=True) if w.example == question]
        found = []
        for window, output in mine:
            for start, end, score in spans_by_hand(window, output, n_best, max_answer_length):
                begin = int(window.offsets[start - window.first][0])
                text = context[begin : window.offsets[end - window.first][1]]
                if not text.isspace() and text and score > -math.inf:
                    found.append((text, score, begin))
        best, starts = [], []
        for text, score, begin in sorted(found, key=lambda one: -one[1]):
            if text not in [other for other, _ in best]:
                best.append((text, score))
                starts.append(begin)
        text, score = best[0] if best else ("", -math.inf)
        if isinstance(outputs[0], IndependentOutputs):
            null = min(float(o.start_logits[0]) + float(o.end_logits[0]) for _, o in mine) - score
        else:
            null = min(float(o.answerable_logit) for _, o in mine)
        answers.append(Answer(text, score, null, best[:n_best], starts[0] if starts else -1))
    return answers


LOGITS = st.one_of(st.integers(-8, 8).map(lambda n: n / 4), st.just(-math.inf))  # coarse: many are equal
WIDTH = 12


@st.composite
def windows_of(draw):
    """Contexts of a few letters and spaces, and one to three windows of each, in any order."""
    contexts = draw(st.lists(st.text("ab ", max_size=8), min_size=1, max_size=3))
    windows = []
    for example, context in enumerate(contexts):
        for _ in range(draw(st.integers(1, 3))):
            first = draw(st.integers(1, 4))
            cuts = sorted(draw(st.lists(st.integers(0, len(context)), max_size=WIDTH - first)))
            words = [(begin, draw(st.integers(begin, len(context)))) for begin in cuts]
            flags = draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
            windows.append(part(words, first, example, flags))
    return contexts, draw(st.permutations(windows))


def arrays(draw, *shape, of=LOGITS):
    size = math.prod(shape)
    return np.asarray(
        draw(st.lists(of, min_size=size, max_size=size)), np.float32 if of is LOGITS else np.int32
    ).reshape(shape)


@st.composite
def any_outputs(draw, joint):
    if not joint:
        logits = [arrays(draw, WIDTH) for _ in range(2)]
        for side in logits:
            side[0] = max(side[0], -5)  # of no answer: finite
        return IndependentOutputs(*logits)
    beam, ends = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    positions = st.integers(0, WIDTH - 1)
    return JointOutputs(
        arrays(draw, beam),
        arrays(draw, beam, of=positions),
        arrays(draw, beam, ends),
        arrays(draw, beam, ends, of=positions),
        draw(st.integers(-8, 8)) / 4,
    )


@pytest.mark.parametrize("joint", [False, True])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_answers_equal_those_of_plain_loops(joint, data):
    contexts, windows = data.draw(windows_of())
    outputs = [data.draw(any_outputs(joint)) for _ in windows]
    n_best, longest = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    got = decode(contexts, windows, outputs, n_best=n_best, max_answer_length=longest)
    assert got == decode_by_hand(contexts, windows, outputs, n_best, longest)
    for answer in got:
        assert type(answer.score) is type(answer.null_score) is float
        assert answer.n_best[:1] == ([(answer.text, answer.score)] if answer.text else [])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_best_of_all_candidates_is_the_best_of_all_spans(data):
    contexts, windows = data.draw(windows_of())
    outputs = [data.draw(any_outputs(False)) for _ in windows]
    for question, answer in enumerate(decode(contexts, windows, outputs, n_best=WIDTH, max_answer_length=4)):
        best = -math.inf
        for window, output in zip(windows, outputs, strict=True):
            for start in range(len(window.offsets)):
                for end in range(start, min(start + 4, len(window.offsets))):
                    is_blank = not contexts[question][
                        window.offsets[start, 0] : window.offsets[end, 1]
                    ].strip()
                    if window.example == question and window.is_max_context[start] and not is_blank:
                        best = max(
                            best,
                            float(output.start_logits[window.first + start])
                            + float(output.end_logits[window.first + end]),
                        )
        assert answer.score == best


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_padding_and_question_do_not_change_an_answer(data):
    contexts, windows = data.draw(windows_of())
    outputs = [data.draw(any_outputs(False)) for _ in windows]
    wide = []
    for window, output in zip(windows, outputs, strict=True):
        changed = [np.append(side, np.full(30, 99, np.float32)) for side in output]
        for side in changed:
            side[1 : window.first] = 99
            side[window.first + len(window.offsets) :] = 99
        wide.append(IndependentOutputs(*changed))
    assert decode(contexts, windows, wide, n_best=3) == decode(contexts, windows, outputs, n_best=3)


def test_independent_outputs_by_hand():
    # "Seine" 2 + 4; "the Seine" 3 + 4; "the Seine ." 3 + 1; "on the Seine" −9 + 4. No answer: 1 + 1.5 = 2.5
    # over 7.
    output = independent({0: 1, 6: 3, 7: 2}, {0: 1.5, 7: 4, 8: 1})
    (answer,) = decode([CONTEXT], [part()], [output], n_best=4)
    texts = [("the Seine", 7.0), ("Seine", 6.0), ("the Seine .", 4.0), ("Seine .", 3.0)]
    assert answer == Answer("the Seine", 7.0, -4.5, texts, 14)


def test_scores_are_more_precise_than_the_logits():
    output = independent({0: 0, 6: 4096}, {0: 0, 7: 2**-12})
    assert decode([CONTEXT], [part()], [output])[0].score == 4096 + 2**-12


def test_joint_outputs_by_hand():
    # "Paris" −0.5 − 2; "lies on" −1 − 1. Ends before their start or after the context do not count, nor do
    # starts before the context.
    output = JointOutputs(
        np.float32([-0.5, -1, -0.1]),
        np.int32([3, 4, 1]),
        np.float32([[-2, -4, -0.1], [-0.25, -1, -0.1], [-0.1, -0.2, -0.1]]),
        np.int32([[3, 8, 9], [3, 5, 9], [1, 2, 9]]),
        np.float32(0.75),
    )
    (answer,) = decode([CONTEXT], [part()], [output])
    assert answer == Answer("lies on", -2.0, 0.75, [("lies on", -2.0), ("Paris", -2.5), (CONTEXT, -4.5)], 6)


def test_the_best_span_and_the_lowest_null_score_of_all_windows_count():
    windows = [part(WORDS[:4], example=1), part(WORDS, example=0), part(WORDS[2:], first=1, example=1)]
    outputs = [
        independent({0: 6, 3: 1}, {0: 6, 3: 1}),
        independent({0: 0, 4: 2}, {0: 0, 4: 2}),
        independent({0: 4, 3: 3, 1: 0}, {0: 5, 3: 3, 1: 0}),
    ]
    first, second = decode([CONTEXT, CONTEXT], windows, outputs, n_best=1)
    assert first == Answer("lies", 4.0, -4.0, [("lies", 4.0)], 6)
    assert second == Answer("Seine", 6.0, 3.0, [("Seine", 6.0)], 18)

    beam = JointOutputs(np.zeros(1), np.array([3]), np.zeros((1, 1)), np.array([[3]]), 0.5)
    joint = [beam, beam._replace(answerable_logit=-1.5), beam._replace(answerable_logit=0.25)]
    assert [answer.null_score for answer in decode([CONTEXT, CONTEXT], windows, joint)] == [-1.5, 0.25]


def test_a_text_counts_once_with_its_best_score():
    windows = [part(WORDS), part(WORDS[1:], first=5)]  # "Seine" is at 7 in one and at 8 in the other
    outputs = [independent({0: 0, 7: 1}, {0: 0, 7: 1}), independent({0: 0, 8: 2}, {0: 0, 8: 2})]
    (answer,) = decode([CONTEXT], windows, outputs)
    texts = [text for text, _ in answer.n_best]
    assert answer.n_best[0] == ("Seine", 4.0) and len(set(texts)) == len(texts)


def test_only_a_token_with_the_most_context_starts_an_answer():
    output = independent({0: 0, 6: 5, 7: 2}, {0: 0, 7: 4})
    flags = [1, 1, 1, 0, 1, 1]
    assert decode([CONTEXT], [part(is_max_context=flags)], [output])[0].text == "Seine"
    assert decode([CONTEXT], [part(is_max_context=flags[::-1])], [output])[0].text == "the Seine"


def test_an_answer_has_at_most_max_answer_length_tokens():
    output = independent({0: 0, 3: 4, 6: 1}, {0: 0, 7: 5})
    texts = [decode([CONTEXT], [part()], [output], max_answer_length=length)[0].text for length in (5, 4, 1)]
    assert texts == ["Paris lies on the Seine", "the Seine", "Seine"]


@pytest.mark.parametrize("window", [part([]), part(is_max_context=[0] * 6), part([(2, 2)]), part([(5, 6)])])
def test_without_a_possible_span_there_is_no_answer(window):
    output = independent({0: 0}, {0: 0})
    assert decode([CONTEXT], [window], [output]) == [Answer("", -math.inf, math.inf, [])]
    beam = JointOutputs(np.zeros(1), np.array([3]), np.zeros((1, 1)), np.array([[3]]), -2.0)
    assert decode([CONTEXT], [window], [beam]) == [Answer("", -math.inf, -2.0, [])]


@pytest.mark.parametrize(
    ("windows", "outputs", "message"),
    [
        ([part()], [], "outputs for each of 1 windows, got 0"),
        ([part(example=2)], [independent({}, {})], "window 0: expected a question from 0 to 1, got 2"),
        ([part(example=-1)], [independent({}, {})], "from 0 to 1, got -1"),
        ([part(example=1)], [independent({}, {})], "question 0: expected at least one window, got none"),
        (
            [part(), part(example=1)],
            [independent({}, {}), independent({}, {}, 8)],
            "at least 9 positions.*got 8 of starts and 8",
        ),
        (
            [part(), part(example=1)],
            [independent({}, {}), independent({1: math.nan}, {})],
            r"got 1 NaN and 0 \+inf of 11",
        ),
        (
            [part(), part(example=1)],
            [independent({}, {10: math.inf}), independent({}, {})],
            r"got 0 NaN and 1 \+inf of 11",
        ),
    ],
)
def test_wrong_windows_or_outputs_are_errors(windows, outputs, message):
    with pytest.raises(ValueError, match=message):
        decode([CONTEXT, CONTEXT], windows, outputs)
