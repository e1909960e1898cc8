"""Character noise: how much of it, where, and that no letter is taken apart."""

from collections import Counter

import numpy as np
import pytest

from electra_jax.frozen_features.noise import KINDS, add_noise, clusters_of

LONG = " ".join(["length,", "of", "words."] * 400)
# Separate accents and vowel signs, scripts without case, joined emoji, a flag, conjoining letters.
MIXED = "Cafe\u0301 nai\u0308ve भाषा ไทยว่า 한국어 \u1112\u1161\u11ab 👩‍👩‍👧 ok 🇩🇪 x\u0323\u0307yz!"


def letters_of(text):
    return [cluster for cluster in clusters_of(text) if cluster[0].isalnum()]


@pytest.mark.parametrize(("kind", "expected"), [("drop", -1), ("insert", 1), ("repeat", 1)])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_share_of_letters_with_an_error_is_the_rate(kind, expected, rate):
    changed, count = add_noise(LONG, kind, rate), len(letters_of(LONG))
    difference = (len(changed) - len(LONG)) / count * expected
    assert abs(difference - rate) < 4 * np.sqrt(rate * (1 - rate) / count)
    assert changed.count(" ") == LONG.count(" ") and changed.count(",") == LONG.count(",") == 400


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_swaps_stay_within_words_and_keep_the_length(rate):
    changed = add_noise(LONG, "swap", rate)
    assert [Counter(word) for word in changed.split()] == [Counter(word) for word in LONG.split()]
    moved = [place for place, (one, other) in enumerate(zip(LONG, changed, strict=True)) if one != other]
    # Of "length" five letters may begin a swap, of "of" one, of "words" four; none is moved twice.
    possible, num_swaps = 400 * (5 + 1 + 4), len(moved) / 2
    deviation = 4 * np.sqrt(possible * rate)
    assert possible * rate / (1 + rate) - deviation < num_swaps < possible * rate + deviation


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("swap", "badc fe g, h!"), ("drop", "  , !"), ("repeat", "aabbccdd eeff gg, hh!")],
)
def test_with_rate_one_every_letter_has_an_error(kind, expected):
    assert add_noise("abcd ef g, h!", kind, 1.0) == expected


def test_what_is_inserted_comes_from_the_text():
    changed = add_noise("भाषा है", "insert", 1.0)
    assert clusters_of(changed)[::2] != clusters_of(changed)[1::2]  # no repeats
    assert len(letters_of(changed)) == 2 * len(letters_of("भाषा है"))
    assert set(letters_of(changed)) <= set(letters_of("भाषा है"))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_depends_on_its_arguments_alone(kind):
    assert add_noise(LONG, kind, 0.1) == add_noise(LONG, kind, 0.1) != LONG
    # Not on a text before: the same text among others has the same errors.
    assert add_noise(LONG + "x", kind, 0.1) != add_noise(LONG, kind, 0.1) + "x"
    assert add_noise("", kind, 1.0) == "" and add_noise("…!", kind, 1.0) == "…!"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_letters_keep_their_accents_and_emoji_stay(kind, rate):
    changed = add_noise(MIXED, kind, rate)
    assert changed != MIXED
    assert set(clusters_of(changed)) <= set(clusters_of(MIXED))
    others = lambda text: [cluster for cluster in clusters_of(text) if not cluster[0].isalnum()]
    assert others(changed) == others(MIXED) and "👩‍👩‍👧" in others(MIXED) and "🇩🇪" in others(MIXED)
    if kind == "swap":
        assert Counter(clusters_of(changed)) == Counter(clusters_of(MIXED))
