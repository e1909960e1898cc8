"""Gradients of data shards, which cross the network once a step, equal those of the whole batch, noise
included; in bfloat16 they are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import encoder_shape
from electra_jax.models.dropout import keep_mask
from electra_jax.training.gradients import Accumulation, gradients, make_accumulation
from electra_jax.training.state import unbox
from support.tiny import LENGTH, deberta, electra, key, model_section, rows, shallow_deberta_section

WHOLE = Accumulation(1, 2, "float32")
NOISY = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
# A second layer would draw its noise in the same way, and so would a decoder.
ONE_LAYER = {name: encoder_shape(32, 1) | {"num_heads": 2} for name in ("generator", "discriminator")}
OBJECTIVES = {
    "electra": lambda: electra(model_section(**NOISY, **ONE_LAYER)),
    "deberta": lambda: deberta(shallow_deberta_section(**NOISY)),
}


def mesh_of(*sizes):
    return make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "dtypes"),
    [("electra", (8, 1, 1), ("float32", "bfloat16")), ("deberta", (2, 2, 2), ("bfloat16",))],
)
def test_gradients_sums_and_carry_of_data_shards_are_those_of_the_whole_batch(name, sizes, dtypes):
    objective, mesh = OBJECTIVES[name](), mesh_of(*sizes)
    params = jax.jit(lambda: unbox(objective.init(key(), LENGTH)))()
    ids_BL = jax.device_put(rows(16), batch_sharding(mesh))

    def compute(params, ids_BL, accumulation):
        batch = objective.prepare(key(1), ids_BL)
        all_grads, all_sums, carries, carry = {}, {}, [], None
        for phase in objective.phases:
            grads, sums, carry = gradients(
                phase, params, batch, objective.normalizers(batch), key(2), carry, accumulation
            )
            all_grads, all_sums = all_grads | grads, all_sums | sums
            carries.append(carry)
        return all_grads, all_sums, carries

    ways = {
        dtype: make_accumulation({"gradient_dtype": dtype, "num_microbatches": 2}, mesh) for dtype in dtypes
    }
    with axis_context(mesh):
        compiled = {
            way: jax.jit(compute, static_argnums=2).lower(params, ids_BL, accumulation).compile()
            for way, accumulation in (("whole", WHOLE), *ways.items())
        }
        exact, *others = (each(params, ids_BL) for each in compiled.values())
    for dtype, (grads, *sums_and_carries) in zip(dtypes, others, strict=True):
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(exact[0]), strict=True):
            assert one.dtype == np.float32
            largest = float(np.abs(other).max()) + 1e-7
            if dtype == "float32":
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * largest)
            else:  # rounded numbers, summed in steps that are rounded each: relative to the largest
                np.testing.assert_array_equal(one, one.astype(jnp.bfloat16).astype(np.float32))
                np.testing.assert_allclose(one, other, atol=0.03 * largest)
        for one, other in zip(jax.tree.leaves(sums_and_carries), jax.tree.leaves(exact[1:]), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)
    if sizes == (8, 1, 1):  # nothing is summed over the network in the loop over microbatches
        in_loops = {way: _reductions_in_loops(each.as_text()) for way, each in compiled.items()}
        assert in_loops.pop("whole") > 0 and set(in_loops.values()) == {0}


def _reductions_in_loops(text):
    return sum(
        "while/body" in line
        for line in text.splitlines()
        if " all-reduce(" in line or " all-reduce-start(" in line
    )


def test_noise_of_some_rows_is_that_of_the_whole_batch():
    whole = keep_mask(key(), 0.5, (12, 5, 64))
    for chosen in (np.arange(3, 6), np.arange(1, 12, 4), np.array([7, 0, 7])):
        part = keep_mask(key(), 0.5, (3, 5, 64), jnp.asarray(chosen, jnp.uint32))
        np.testing.assert_array_equal(part, whole[chosen])


def test_data_shards_are_used_only_where_they_help():
    def num_data_shards(num_microbatches, sizes, dtype="float32"):
        train = {"gradient_dtype": dtype, "num_microbatches": num_microbatches}
        return make_accumulation(train, mesh_of(*sizes)).num_data_shards

    assert num_data_shards(2, (8, 1, 1)) == 8 and num_data_shards(2, (4, 1, 2)) == 4
    assert num_data_shards(1, (8, 1, 1)) == num_data_shards(2, (4, 2, 1)) == 1
    assert num_data_shards(1, (8, 1, 1), "bfloat16") == num_data_shards(2, (2, 4, 1), "bfloat16") == 8


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match=r"config\.train\.gradient_dtype: got 'float16'"):
        make_accumulation({"gradient_dtype": "float16", "num_microbatches": 1}, mesh_of(8, 1, 1))
