"""Running means of parameters, and greedy choices of what belongs to them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.soups.averaging import add, greedy
from electra_jax.soups.scores import Score


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_mean_equals_numpys_and_the_mean_of_equal_numbers_is_exact(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 7)).astype(np.float32)
    mean, same = jnp.array(rows[0]), jnp.array(rows[0])
    for number, row in enumerate(rows[1:], 2):
        before, added = mean, jnp.array(row)
        mean, same = add(mean, added, 1.0 / number), add(same, jnp.array(rows[0]), 1.0 / number)
        assert added.is_deleted() and not before.is_deleted()  # the mean so far is still needed
    np.testing.assert_allclose(mean, rows.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_array_equal(same, rows[0])


class Kettle:
    """Ingredients that are numbers. The mean nearest to `target` scores best. Counts the models in memory."""

    def __init__(self, numbers, target, *, is_lower_better=False, broken=()):
        self.numbers, self.target, self.most = numbers, target, 0
        sign = 1 if is_lower_better else -1
        self.score = Score(
            "heldout_x",
            lambda params: (
                math.nan if float(params["x"][0]) in broken else sign * abs(float(params["x"][0]) - target)
            ),
            is_lower_better,
        )
        self.ingredients = [Named(f"run:{place}", number) for place, number in enumerate(numbers)]

    def read(self, ingredient):
        params = {"x": jnp.full(1000, ingredient.number, jnp.float32)}
        self.most = max(self.most, sum(array.shape == (1000,) for array in jax.live_arrays()))
        return params


class Named:
    def __init__(self, name, number):
        self.name, self.number = name, number


@settings(deadline=None, max_examples=25)
@given(
    numbers=st.lists(st.integers(-8, 8), min_size=2, max_size=6),
    target=st.integers(-8, 8),
    is_lower_better=st.booleans(),
)
def test_greedy_keeps_ingredients_that_do_not_lower_the_score(numbers, target, is_lower_better):
    kettle = Kettle(
        [number + place / 64 for place, number in enumerate(numbers)], target, is_lower_better=is_lower_better
    )
    made = greedy(kettle.ingredients, kettle.read, kettle.score)
    loss = lambda places: abs(np.mean([kettle.numbers[place] for place in places]) - target)
    order = sorted(range(len(numbers)), key=lambda place: loss([place]))
    kept = order[:1]
    for trial, place in zip(made.trials, order[1:], strict=True):
        assert trial.to == [f"run:{one}" for one in kept] and trial.added == f"run:{place}"
        if abs(loss([*kept, place]) - loss(kept)) > 1e-5:  # otherwise rounding decides
            assert trial.is_kept == (loss([*kept, place]) < loss(kept))
        kept = [*kept, place] if trial.is_kept else kept
    assert made.kept == kept and kettle.most == 2
    assert (
        abs(made.score) == pytest.approx(loss(kept), abs=1e-5) and abs(made.score) <= loss(order[:1]) + 1e-5
    )
    np.testing.assert_allclose(
        made.params["x"][0], np.mean([kettle.numbers[place] for place in kept]), atol=1e-5
    )
    assert {place: abs(score) for place, score in made.scores.items()} == pytest.approx(
        {place: loss([place]) for place in range(len(numbers))}, abs=1e-5
    )


def test_greedy_with_ties_and_missing_scores():
    kettle = Kettle([9.0, 1.0, 3.0, 2.0], 2.0, broken=(9.0, 5.5))
    made = greedy(kettle.ingredients, kettle.read, kettle.score)
    # 2 is best. With 1 the mean is 1.5, with 3 it is 2.5: both worse. 9 comes last; 5.5 has no score either.
    assert made.kept == [3] and [trial.is_kept for trial in made.trials] == [False] * 3
    assert made.trials[-1].added == "run:0" and math.isnan(made.scores[0])
    kettle = Kettle([-2.0, 1.0, 2.0], 0.0)
    made = greedy(kettle.ingredients, kettle.read, kettle.score)  # 1, then −1/2, then 1/3
    assert made.kept == [1, 0, 2] and made.params["x"][0] == pytest.approx(1 / 3)
    for is_lower_better in (False, True):
        kettle = Kettle([2.0, 2.0], 1.0, is_lower_better=is_lower_better)
        # An equal score is kept.
        assert greedy(kettle.ingredients, kettle.read, kettle.score).kept == [0, 1]
    kettle = Kettle([3.0, 5.0], 3.5, broken=(4.0,))
    assert greedy(kettle.ingredients, kettle.read, kettle.score).kept == [0]
    kettle = Kettle([9.0, 9.0], 0.0, broken=(9.0,))
    with pytest.raises(ValueError, match="--score: got heldout_x = NaN for all ingredients"):
        greedy(kettle.ingredients, kettle.read, kettle.score)
