"""What is recorded beside an export: outputs in float32 at the highest precision, on comparable rows."""

import re

import jax
import numpy as np
import pytest

from electra_jax.conversion.export_run import export_run
from electra_jax.huggingface.checks import check_states
from electra_jax.huggingface.reference import detection_auc, single_documents
from support import tiny_export
from support.programs import HIGHEST, products, recorded_programs, rounded_products
from support.tiny import SPECIAL
from support.tiny_export import PLAIN


@pytest.mark.slow
def test_a_run_computed_in_bfloat16_is_compared_in_float32(data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model(dtype="bfloat16"))
    # Otherwise the recorded outputs would be rounded, and the verification would fail.
    assert export_run(run, None, tmp_path / "out", tiny_export.PLAIN)


@pytest.mark.parametrize(
    "model",
    [
        tiny_export.electra_model(dtype="bfloat16"),
        pytest.param(tiny_export.deberta_model(), marks=pytest.mark.slow),
        pytest.param(tiny_export.relative_model(), marks=pytest.mark.slow),
    ],
    ids=["electra", "deberta", "relative"],
)
def test_outputs_are_recorded_at_the_highest_precision_whatever_the_settings(model, data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, model)
    with (
        recorded_programs(tmp_path / "programs") as programs,
        jax.default_matmul_precision("bfloat16"),
    ):
        assert export_run(run, None, tmp_path / "out", PLAIN)
    found = [product for program in programs for product in products(program)]
    assert len(found) > 20 and set(found) == {HIGHEST}


@pytest.mark.parametrize("mantissa_bits", [7, 10], ids=["bfloat16", "TF32"])
def test_an_export_recorded_with_rounded_products_is_refused(mantissa_bits, data, tmp_path, capsys):
    """As a GPU or a TPU multiplies unless it is told not to."""
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    with (
        rounded_products(mantissa_bits),
        pytest.raises(ValueError, match="failed its verification and was not kept"),
    ):
        export_run(run, None, tmp_path / "out", PLAIN)
    assert re.search(r"FAILED hidden states +first differ after", capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert export_run(run, None, tmp_path / "out", PLAIN)


def test_a_single_row_is_enough_for_a_comparison():
    rows = single_documents(np.array([[1, 9, 2, 0]]), SPECIAL, 2)
    np.testing.assert_array_equal(rows, [[1, 9, 2, 0], [1, 9, 9, 2]])


# Computed by hand: of the pairs (replaced, original) 0.5 above 0.1 and 0.3, 0.3 above 0.1 and equal to 0.3.
def test_detection_auc():
    logits, is_replaced = np.array([0.1, 0.3, 0.3, 0.5]), np.array([0, 0, 1, 1])
    assert detection_auc(logits, is_replaced) == (2 + 1 + 0.5) / 4
    assert np.isnan(detection_auc(logits, np.zeros(4)))


def test_states_that_no_norm_keeps_small_are_compared_by_their_size():
    signs = np.sign(np.random.default_rng(0).normal(size=(2, 1, 3, 4))).astype(np.float32)
    places = np.array([[0, 2, 5]])
    checks = []
    for size, difference in ((0.01, 5e-5), (0.01, 2e-4), (50.0, 2e-3), (50.0, 2e-2)):
        arrays = {"positions": places, "hidden_states": signs * size}
        states = [np.zeros((1, 6, 4), np.float32) for _ in signs]
        for state, wanted in zip(states, arrays["hidden_states"], strict=True):
            state[:, places[0]] = wanted
        states[1][0, 5, 0] += difference
        checks.append(check_states(states, arrays))
    assert [check.is_passed for check in checks] == [True, False, True, False]
    assert "after layer 0" in checks[3].detail
