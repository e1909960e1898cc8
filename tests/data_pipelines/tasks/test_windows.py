"""Questions and their contexts as windows of token ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tasks.questions import Question
from data_pipelines.tasks.windows import encode_questions
from support.letters import A_, B_, CLS, SEP, UNK, A, B, make_tokenizer

WORDS = st.one_of(
    st.text("abÀ", min_size=1, max_size=5), st.sampled_from(["\u200b", "ÿ", "  ", "\n", "a\u0301b"])
)
TEXTS = st.lists(WORDS, max_size=20).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def asked(question, context, start=None, answer="", *, is_impossible=False, is_labelled=True):
    return Question(
        "1", question, context, (answer,) if answer else (), start, answer, is_impossible, is_labelled
    )


def encode(tokenizer, *questions, max_length=9, max_query_length=2, doc_stride=2):
    return encode_questions(
        tokenizer, questions, max_length=max_length, max_query_length=max_query_length, doc_stride=doc_stride
    ).windows


def lists(windows):
    return [
        tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in window)
        for window in windows
    ]


def test_a_context_that_fits(tokenizer):
    windows = encode(
        tokenizer,
        asked("a", "b  Bá", 3, "Bá"),
        asked("b", "a", 0, "a"),
        asked("aba", "ab", is_impossible=True),
    )
    assert lists(windows) == [
        ([CLS, A, SEP, B, B, A_, SEP], [4, 5, 0], 0, 3, [[0, 1], [3, 4], [4, 5]], [True] * 3),
        ([CLS, B, SEP, A, SEP], [3, 3, 0], 1, 3, [[0, 1]], [True]),
        ([CLS, A, B_, SEP, A, B_, SEP], [0, 0, 1], 2, 4, [[0, 1], [1, 2]], [True] * 2),
    ]
    assert [
        value.dtype
        for value in (windows[0].ids, windows[0].label, windows[0].offsets, windows[0].is_max_context)
    ] == [np.int32, np.int32, np.int32, bool]
    assert encode(tokenizer) == []


def test_a_context_that_does_not_fit_becomes_overlapping_windows(tokenizer):
    """Four of seven tokens, stride two: the last window is shorter, only the second has the whole answer."""
    windows = encode(tokenizer, asked("ab", "a b a b a b a", 6, "b a"))
    assert lists(windows) == [
        (
            [CLS, A, B_, SEP, A, B, A, B, SEP],
            [0, 0, 0],
            0,
            4,
            [[0, 1], [2, 3], [4, 5], [6, 7]],
            [True, True, True, False],
        ),
        (
            [CLS, A, B_, SEP, A, B, A, B, SEP],
            [5, 6, 0],
            0,
            4,
            [[4, 5], [6, 7], [8, 9], [10, 11]],
            [False, True, True, False],
        ),
        ([CLS, A, B_, SEP, A, B, A, SEP], [0, 0, 0], 0, 4, [[8, 9], [10, 11], [12, 13]], [False, True, True]),
    ]


def test_a_stride_longer_than_a_window_leaves_nothing_out(tokenizer):
    windows = encode(tokenizer, asked("ab", "a b a b a b", 6, "b a"), doc_stride=99)
    assert [window.offsets[:, 0].tolist() for window in windows] == [[0, 2, 4, 6], [8, 10]]
    assert all(window.is_max_context.all() for window in windows)
    assert [window.label.tolist() for window in windows] == [[0, 0, 0]] * 2  # neither has the whole answer


def test_of_equally_good_windows_the_first_counts(tokenizer):
    windows = encode(tokenizer, asked("ab", "a b a b a b a b"), doc_stride=3)  # tokens 0-3, 3-6 and 6-7
    assert [window.is_max_context.tolist() for window in windows] == [
        [True] * 4,
        [False, True, True, True],
        [False, True],
    ]
    windows = encode(tokenizer, asked("ab", "a b a b a b"), doc_stride=1)  # 0-3, 1-4 and 2-5
    assert [window.is_max_context.tolist() for window in windows] == [
        [True, True, True, False],
        [False, False, True, False],
        [False, False, True, True],
    ]


def test_a_much_longer_window_counts_despite_slightly_less_context(tokenizer):
    """Windows of 300 and 190 tokens: token 214 has 85 and 86 tokens on its shorter side."""
    windows = encode(tokenizer, asked("ab", "a " * 318), max_length=305, doc_stride=128)
    assert [len(window.offsets) for window in windows] == [300, 190]
    assert [np.flatnonzero(window.is_max_context).tolist() for window in windows] == [
        list(range(215)),
        list(range(87, 190)),
    ]


def test_a_piece_of_only_white_space_is_not_part_of_the_answer(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer, "encode_with_offsets", lambda texts: [([A, B, A], np.array([[0, 1], [2, 2], [2, 3]]))]
    )
    [window] = encode(tokenizer, asked("ab", "a a", 1, " a"))
    assert window.label.tolist() == [6, 6, 0]


@pytest.mark.parametrize(
    ("start", "answer", "label"),
    [
        (0, "a", [4, 4, 0]),
        (0, "ab", [4, 5, 0]),
        (1, "b\u200b c", [5, 6, 0]),
        (4, "ca", [6, 6, 0]),
        (3, " ca", [6, 6, 0]),
        (5, "ac ", [6, 6, 0]),
        (3, " ", None),
        (8, "\u200b", None),
    ],
)
def test_the_answer_is_every_token_that_covers_a_character_of_it(tokenizer, start, answer, label):
    """The word "cac" is one unknown piece; no piece covers white space, even of zero width."""
    context = "ab\u200b cac \u200b b"
    assert context.startswith(answer, start)
    [window] = encode(tokenizer, asked("ab", context, start, answer))
    assert window.ids.tolist() == [CLS, A, B_, SEP, A, B_, UNK, B, SEP]
    assert (window.label if label is None else window.label.tolist()) == label


def test_windows_with_nothing_to_learn_have_no_label(tokenizer):
    windows = encode(
        tokenizer,
        asked("a", "b", is_labelled=False),
        asked("a", "b", None),
        asked("a", "b", is_impossible=True),
    )
    assert [window.label if window.label is None else window.label.tolist() for window in windows] == [
        None,
        None,
        [0, 0, 1],
    ]


def test_every_question_has_a_window(tokenizer):
    windows = encode(tokenizer, asked("", "a", 0, "a"), asked("a", "\u200b", is_labelled=False))
    assert lists(windows) == [
        ([CLS, SEP, A, SEP], [2, 2, 0], 0, 2, [[0, 1]], [True]),
        ([CLS, A, SEP, SEP], None, 1, 3, [], []),
    ]
    assert windows[1].offsets.shape == (0, 2)


def test_a_context_is_encoded_once(tokenizer, monkeypatch):
    sizes, encode_with_offsets = [], tokenizer.encode_with_offsets
    monkeypatch.setattr(
        tokenizer, "encode_with_offsets", lambda texts: sizes.append(len(texts)) or encode_with_offsets(texts)
    )
    contexts = ["a" + " b" * (i // 2) for i in range(3000)]
    windows = encode(
        tokenizer, *[asked("a", context) for context in contexts], max_length=2000, doc_stride=2000
    )
    assert sum(sizes) == 1500 and max(sizes) <= 1024
    assert [len(window.offsets) for window in windows] == [i // 2 + 1 for i in range(3000)]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            {"max_length": 5},
            "max_length: got 5, expected at least 6, for a question of up to 2 tokens, three special ones "
            "and one",
        ),
        ({"max_query_length": 0}, "max_query_length: got 0, expected at least 1"),
        ({"doc_stride": 0}, "doc_stride: got 0, expected at least 1"),
    ],
)
def test_lengths_that_leave_no_room(tokenizer, lengths, message):
    assert len(encode(tokenizer, asked("ab", "a b a"), max_length=6)) == 3
    with pytest.raises(ValueError, match=message):
        encode(tokenizer, asked("a", "b"), **lengths)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    question=TEXTS,
    context=TEXTS,
    room=st.integers(1, 12),
    max_query_length=st.integers(1, 5),
    doc_stride=st.integers(1, 14),
)
def test_windows_cover_the_context(tokenizer, data, question, context, room, max_query_length, doc_stride):
    start = data.draw(st.integers(0, len(context)))
    stop = data.draw(st.integers(start, len(context)))
    max_length = max_query_length + 3 + room
    windows = encode(
        tokenizer,
        asked(question, context, start, context[start:stop]),
        max_length=max_length,
        max_query_length=max_query_length,
        doc_stride=doc_stride,
    )
    [(ids, offsets)] = tokenizer.encode_with_offsets([context])
    query = tokenizer.encode_batch([question])[0][:max_query_length]
    shown = [0] * len(ids)  # windows in which the token has the most context
    at = 0
    for window in windows:
        count = len(window.offsets)
        assert len(window.ids) <= max_length and window.first == len(query) + 2
        assert window.ids.tolist() == [CLS, *query, SEP, *ids[at : at + count], SEP]
        np.testing.assert_array_equal(window.offsets, offsets[at : at + count])
        for token in np.flatnonzero(window.is_max_context):
            shown[at + token] += 1
        if window.label is not None and window.label[0]:
            first, last = window.label[:2] - window.first
            assert window.offsets[first, 1] > start and window.offsets[last, 0] < stop
            assert first == 0 or window.offsets[first - 1, 1] <= start
            assert last == count - 1 or window.offsets[last + 1, 0] >= stop
        at += min(doc_stride, count) if window is not windows[-1] else count
    assert at == len(ids) and shown == [1] * len(ids)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.text("abÀ", min_size=1, max_size=4), min_size=1, max_size=9),
    data=st.data(),
    blank=st.sampled_from([" ", "\n", "\u00a0 ", " \u200b "]),
)
def test_the_tokens_of_an_answer_of_whole_words_span_it(tokenizer, words, data, blank):
    first = data.draw(st.integers(0, len(words) - 1))
    answer = blank.join(words[first : data.draw(st.integers(first, len(words) - 1)) + 1])
    start = len("".join(word + blank for word in words[:first]))
    context = blank.join(words)
    [window] = encode(tokenizer, asked("a", context, start, answer), max_length=60)
    first, last = window.label[:2] - window.first
    assert context[window.offsets[first, 0] : window.offsets[last, 1]] == answer


def test_what_does_not_fit_is_counted(tokenizer):
    long = asked("ab ab ab", "a b", 0, "a")
    outside = asked("a", "a b a b a b a", 0, "a b a b a")  # five tokens, in windows of four
    inside = asked("ab", "a b a b a", 4, "a")
    lost = asked("a", "a \u200b b", 2, "\u200b")  # an answer without a token
    impossible = asked("a", "a b a b a b a", is_impossible=True)
    encoded = encode_questions(
        tokenizer,
        [long, outside, inside, lost, impossible],
        max_length=8,
        max_query_length=2,
        doc_stride=2,
    )
    assert (encoded.num_cut, encoded.num_outside) == (1, 2)
    assert encode_questions(tokenizer, [], max_length=9, max_query_length=2, doc_stride=2) == ([], 0, 0)
