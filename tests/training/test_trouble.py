"""Steps in numerical trouble on the devices: the detector, what it learns, and what a step leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.batch_order import PassedOver, batch_number
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.training import program
from electra_jax.training.metrics import summarize
from electra_jax.training.trouble import FINE, NONFINITE, SPIKE, Detector, init_guard, judge
from support import tiny
from support.poisoned import make_objective, row_key
from support.training_steps import config, plain_descent, run_steps

MEMORY = 20
detect = jax.jit(
    lambda guard, loss, is_finite: judge(
        guard, {"loss": loss}, is_finite, jnp.bool_(False), Detector(8.0, MEMORY)
    )
)


def verdicts(losses, finite=None):
    """(verdict on each loss, guard at the end)."""
    guard, found = init_guard(), []
    for index, loss in enumerate(losses):
        verdict, guard = detect(guard, jnp.float32(loss), True if finite is None else finite[index])
        found.append(int(verdict))
    return found, jax.device_get(guard)


def noisy(num, seed=0, level=5.0):
    return level + 0.1 * np.random.default_rng(seed).normal(size=num)


def test_the_detector_finds_a_spike_and_learns_nothing_from_it():
    losses = noisy(60)
    losses[40] = 6.5
    found, guard = verdicts(losses)
    assert found == [FINE] * 40 + [SPIKE] + [FINE] * 19
    without, expected = verdicts(np.delete(losses, 40))
    assert without == [FINE] * 59
    for name in ("mean", "deviation", "losses"):
        np.testing.assert_array_equal(guard[name], expected[name])
    assert (guard["skipped"], guard["skips_in_a_row"]) == (1, 0)
    assert guard["mean"] == pytest.approx(5.0, abs=0.1) and guard["deviation"] == pytest.approx(
        0.08, abs=0.03
    )


def test_mean_and_deviation_by_hand():
    losses = [4.0, 3.0, 5.0, *noisy(30, level=4.0)]
    mean, deviation = 0.0, 0.0
    for index, loss in enumerate(losses):
        error = loss - mean if index else 0.0
        if index >= MEMORY:
            error = np.clip(error, -3 * deviation, 3 * deviation)
        weight = 1 / min(index + 1, MEMORY)
        mean = mean + weight * error if index else loss
        deviation += weight * (abs(error) - deviation)
    _, guard = verdicts(losses)
    assert guard["mean"] == pytest.approx(mean, rel=1e-5)
    assert guard["deviation"] == pytest.approx(deviation, rel=1e-4)


def test_no_spike_while_it_warms_up_while_losses_fall_and_in_plain_noise():
    assert verdicts([1.0] * (MEMORY - 1) + [100.0])[0] == [FINE] * MEMORY
    assert SPIKE not in verdicts(noisy(300) + np.linspace(6, 0, 300))[0]
    assert SPIKE not in verdicts(noisy(2000, seed=1))[0]
    assert SPIKE not in verdicts(-noisy(100))[0]  # losses below 0, as of REINFORCE
    assert verdicts([5.0] * 50 + [5.01])[0][-1] == FINE  # rounding of a loss that does not vary
    assert verdicts([5.0] * 50 + [5.1])[0][-1] == SPIKE


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_spike_and_moves_nothing(loss):
    losses = noisy(40)
    finite = [True] * 41
    finite[30] = False  # a gradient, with a loss that is finite
    found, guard = verdicts(np.insert(losses, 35, loss), finite)
    assert [index for index, one in enumerate(found) if one == NONFINITE] == [30, 35] and SPIKE not in found
    _, expected = verdicts(np.delete(losses, 30))
    assert guard["mean"] == expected["mean"] and np.isfinite(guard["deviation"])


@given(ranges=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=4), step=st.integers(0, 30))
def test_the_batch_of_a_step_is_that_of_a_list_with_batches_taken_out(ranges, step):
    order = list(range(100))
    for to, batches in ranges:
        del order[to : to + batches]
    assert batch_number(step, [PassedOver(*one) for one in ranges]) == order[step]


def test_a_stage_begins_without_a_past():
    _, guarded, mesh = programs(1, first_step=6)
    batch = np.random.default_rng(0).integers(5, 40, size=(8, 24)).astype(np.int32)
    with axis_context(mesh):
        state = guarded.init()
        state = state.replace(step=state.step + 6, guard=state.guard | {"losses": jnp.int32(2)})
        ids, verdicts = jax.device_put(batch, batch_sharding(mesh)), []
        # After losses of 0, all that follow would be spikes.
        for _ in range(4):
            state, window = guarded.train_step(state, ids)
            verdicts.append(int(window["step/verdict"]))
    assert verdicts == [FINE] * 4 and int(state.guard["losses"]) == 2 and state.guard["mean"] > 0


def programs(devices, *, first_step=0, **changes):
    """(program without a guard, program with one, mesh) of the poisoned objective; a row of 42s is infinite,
    one of 43s a spike."""
    mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    objective = make_objective({row_key(np.full(24, 42)): np.inf, row_key(np.full(24, 43)): 1e6})
    made = []
    for policy in (
        {},
        {"on_nonfinite": "skip", "on_spike": "skip", "spike_memory": 2, "spike_deviations": 1e3},
    ):
        full = config(train=changes, log={"every": 100})
        full["model"]["vocab_size"] = 128
        full["trouble"] |= policy
        with axis_context(mesh):
            made.append(program.make_program(full, objective, mesh, first_step=first_step))
    return *made, mesh


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (1, {}),
        (1, {"ema_decay": 0.9}),
        (8, {"num_microbatches": 1, "ema_decay": 0.9}),
        (4, {"num_microbatches": 2}),
    ],
)
def test_a_step_in_trouble_changes_nothing_but_the_counts(devices, changes):
    """Against steps without a guard, of which those in trouble are left out by hand."""
    plain, guarded, mesh = programs(devices, **changes)
    source = np.random.default_rng(0)
    batches = source.integers(5, 40, size=(8, 8, 24)).astype(np.int32)
    batches[3, 5], batches[5, 1], batches[6, 7] = 42, 43, 42
    with axis_context(mesh):
        expected, ours, bad = plain.init(), guarded.init(), []
        for step, batch in enumerate(batches):
            batch = jax.device_put(batch, batch_sharding(mesh))
            if step in (3, 5, 6):
                expected = expected.replace(step=expected.step + 1)
            else:
                expected, _ = plain.train_step(expected, batch)
            ours, window = guarded.train_step(ours, batch)
            bad.append((int(window["step/verdict"]), int(window["step/skips_in_a_row"])))
    assert bad == [(FINE, 0)] * 3 + [(NONFINITE, 1), (FINE, 0), (SPIKE, 1), (NONFINITE, 2), (FINE, 0)]
    for name in ("step", "params", "opt_state", *(["ema"] if "ema_decay" in changes else [])):
        for one, other in zip(*(jax.tree.leaves(getattr(s, name)) for s in (ours, expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
            assert one.sharding == other.sharding
    for name, value in jax.device_get(expected.window).items():
        np.testing.assert_allclose(ours.window[name], value, rtol=1e-5)
    window = jax.device_get(window)
    assert (window["steps"], window["skipped_steps"], window["skipped"]) == (5, 3, 3)
    assert summarize(window)["skipped_steps"] == 3 and np.isfinite(summarize(window)["loss"])
    assert np.isfinite(window["step/gradient_norm"])


def test_a_run_without_a_policy_has_neither_guard_nor_counts():
    plain, guarded, _ = programs(1)
    assert not hasattr(plain.abstract_state, "guard")
    names = [
        sorted(jax.eval_shape(one.train_step, one.abstract_state, jnp.zeros((8, 24), jnp.int32))[1])
        for one in (plain, guarded)
    ]
    assert names[0] == sorted(plain.abstract_state.window) and set(names[1]) > set(names[0])


@pytest.mark.parametrize("make", [tiny.electra, tiny.deberta])
def test_losses_of_rows_add_up_to_that_of_the_step(make, monkeypatch):
    """With the same noise and dropout, on a mesh that cuts everything."""
    # Nothing moves, so that a second phase sees the same parameters.
    monkeypatch.setattr(program, "make_optimizers", plain_descent(0.0))
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    full = config(model=tiny.shallow_deberta_section(hidden_dropout=0.1) if make is tiny.deberta else {})
    functions, _, windows = run_steps(full, mesh, 1, make=make)
    with axis_context(mesh):
        batch = jax.device_put(tiny.rows(8, seed=0), batch_sharding(mesh))
        params = functions.init().params
        losses, ids = functions.row_losses(params, batch, 0)
        later, _ = functions.row_losses(params, batch, 1)
    np.testing.assert_array_equal(ids, tiny.rows(8, seed=0))
    assert float(losses.sum()) == pytest.approx(float(windows[0]["loss"]), rel=1e-5)
    assert np.ptp(losses) > 0 and not np.allclose(losses, later)
