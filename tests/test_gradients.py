"""Gradients that cross the network in bfloat16: those of float32 but for the rounding, summed once a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import LENGTH, deberta, electra, key, rows

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding, num_shares
from electra_jax.training.gradients import gradients, make_accumulation
from electra_jax.training.state import unbox


@pytest.mark.parametrize(("make", "sizes"), [(electra, (8, 1, 1)), (electra, (2, 2, 2)), (deberta, (2, 2, 2))])
def test_bfloat16_gradients_sums_and_carry_are_those_of_float32(make, sizes):
    objective, mesh = make(), make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    params = unbox(objective.init(key(), LENGTH))
    ids_BL = jax.device_put(rows(16), batch_sharding(mesh))

    def compute(params, ids_BL, dtype):
        batch = objective.prepare(key(1), ids_BL)
        accumulation = make_accumulation({"gradient_dtype": dtype, "num_microbatches": 2}, num_shares(mesh))
        all_grads, all_sums, carries, carry = {}, {}, [], None
        for phase in objective.phases:
            grads, sums, carry = gradients(phase, params, batch, objective.normalizers(batch), key(2), carry, accumulation)
            all_grads, all_sums = all_grads | grads, all_sums | sums
            carries.append(carry)
        return all_grads, all_sums, carries

    with axis_context(mesh):
        compiled = {dtype: jax.jit(compute, static_argnums=2).lower(params, ids_BL, dtype).compile()
                    for dtype in ("float32", "bfloat16")}
        exact, rounded = (each(params, ids_BL) for each in compiled.values())
    for one, other in zip(jax.tree.leaves(rounded[0]), jax.tree.leaves(exact[0]), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, one.astype(jnp.bfloat16).astype(np.float32))
        # Rounded numbers, summed in steps that are rounded each: relative to the largest.
        np.testing.assert_allclose(one, other, atol=0.03 * float(np.abs(other).max()) + 1e-7)
    for one, other in zip(jax.tree.leaves(rounded[1:]), jax.tree.leaves(exact[1:]), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)
    if sizes == (8, 1, 1):  # nothing is summed over the network in the loop over microbatches
        in_loops = {dtype: _reductions_in_loops(each.as_text()) for dtype, each in compiled.items()}
        assert in_loops["bfloat16"] == 0 < in_loops["float32"]


def _reductions_in_loops(text):
    return sum("while/body" in line for line in text.splitlines() if " all-reduce(" in line or " all-reduce-start(" in line)


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match=r"config\.train\.gradient_dtype: got 'float16'"):
        make_accumulation({"gradient_dtype": "float16", "num_microbatches": 1}, 8)
