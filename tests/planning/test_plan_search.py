"""The search for the cheapest settings that fit, with stand-ins for the compiler."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import debug
from electra_jax.distributed.sharding import UnevenShardsError, param_shardings
from electra_jax.planning.compiled import CompiledStep, DoesNotFitError
from electra_jax.planning.search import ENOUGH_TOKENS, best_trial, most_microbatches, search
from electra_jax.training.step_memory import Memory
from support.training_steps import config

# In the order in which a search tries them.
FORMS = [
    ("scanned", "none"),
    ("unrolled", "none"),
    ("scanned", "attention"),
    ("scanned", "dense"),
    ("scanned", "full"),
]


def make_fake_compiler(limit, per_row, state):
    """A compiler whose memory figures follow a formula."""

    def compile_candidate(candidate):
        train = candidate["train"]
        rows = train["batch_size"] // 8 // train["num_microbatches"]
        needed = state // candidate["mesh"]["fsdp"] + rows * per_row[train["layers"], train["remat"]]
        if needed > limit:
            raise DoesNotFitError("too much", needed, limit)
        return CompiledStep(Memory(needed, 0, 0, 0, 0), 1.0, None, [], (0,) * 8)

    return compile_candidate


@given(
    rows=st.sampled_from([1, 6, 8, 64, 120, 256]),
    length=st.sampled_from([128, 512]),
    none=st.integers(1, 60),
    unrolled=st.integers(1, 60),
    attention=st.integers(1, 60),
    dense=st.integers(1, 60),
    full=st.integers(1, 60),
    state=st.integers(0, 4000),
    limit=st.integers(200, 2000),
)
def test_a_search_ends_at_the_cheapest_settings_that_fit_and_the_next_that_do_not(
    rows, length, none, unrolled, attention, dense, full, state, limit
):
    given_config = debug.get_config().to_dict()
    given_config["train"]["batch_size"], given_config["data"]["sequence_length"] = rows * 8, length
    per_row = dict(zip(FORMS, (none, unrolled, attention, dense, full), strict=True))
    trials, smallest = [], rows // most_microbatches(given_config, 8)
    try:
        trials.extend(search(given_config, 8, make_fake_compiler(limit, per_row, state)))
    except ValueError as error:
        assert "nothing fits" in str(error) and state // 8 + smallest * min(per_row.values()) > limit
        return
    best = best_trial(given_config, trials)
    train, fsdp = best.config["train"], best.config["mesh"]["fsdp"]
    assert train["batch_size"] == rows * 8
    assert all(
        trial.config["train"]["batch_size"] % (8 * trial.config["train"]["num_microbatches"]) == 0
        for trial in trials
    )
    assert train["num_microbatches"] == 1 or rows // train["num_microbatches"] * length >= ENOUGH_TOKENS
    assert trials[-1].step is None and trials[-1].bytes_needed == trials[-1].refusal.needed > limit
    assert best.bytes_needed == best.step.memory.total <= limit
    assert trials[-1].config["train"]["remat"] == train["remat"] and trials[-1].config["mesh"]["fsdp"] == fsdp
    # Cheaper forms, and fewer shards of the parameters, were refused with the smallest microbatch; the next
    # larger one is refused in the other form of the layers as well.
    used = FORMS.index((train["layers"], train["remat"]))
    for size in (size for size in (1, 2, 4, 8) if size <= fsdp):
        for form in FORMS if size < fsdp else FORMS[: used if used > 1 else 0]:
            assert state // size + smallest * per_row[form] > limit
    if train["remat"] == "none":
        refused = trials[-1].config["train"]
        at_once = refused["batch_size"] // 8 // refused["num_microbatches"]
        assert state // fsdp + at_once * min(none, unrolled) > limit


def test_a_batch_that_the_devices_cannot_share_is_rejected():
    given_config = debug.get_config().to_dict()
    given_config["train"]["batch_size"] = 12
    with pytest.raises(ValueError, match=r"config\.train\.batch_size: got 12, expected a multiple of 8"):
        list(search(given_config, 8, make_fake_compiler(1, dict.fromkeys(FORMS, 1), 0)))


def test_a_search_counts_only_the_devices_that_share_the_batch():
    """Four groups of two devices, which the tensor axis makes, share 12 rows."""
    full = config(train={"batch_size": 12}, mesh={"data": 4, "fsdp": 1, "tensor": 2})
    tried = []

    def compile_candidate(candidate):
        train, mesh = candidate["train"], candidate["mesh"]
        assert mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 8
        tried.append((mesh["fsdp"], train["batch_size"] // 4 // train["num_microbatches"]))
        if mesh["fsdp"] < 4 or tried[-1][1] > 6:
            raise DoesNotFitError("too much", 2, 1)
        return CompiledStep(Memory(1, 0, 0, 0, 0), 1.0, None, [], (0,) * 8)

    trials = list(search(full, 4, compile_candidate))
    assert best_trial(full, trials).config["mesh"] == {"data": 1, "fsdp": 4, "tensor": 2}
    assert tried == [(1, 3)] * 5 + [(2, 3)] * 5 + [(4, 3), (4, 6), (4, 12), (4, 12)]
    with pytest.raises(ValueError, match=r"got 12, expected a multiple of 8, the number of devices"):
        list(search(full, 8, compile_candidate))


def test_a_search_leaves_out_sizes_that_do_not_divide_the_model():
    """Nothing of the model has a multiple of three; of 24 devices, 1, 2, 4 and 8 can share its parameters."""
    full = config(train={"batch_size": 24})
    sizes = []

    def compile_candidate(candidate):
        fsdp = candidate["mesh"]["fsdp"]
        mesh = jax.sharding.AbstractMesh((24 // fsdp, fsdp, 1), ("data", "fsdp", "tensor"))
        shape = jax.ShapeDtypeStruct((32, 16), jnp.float32)
        param_shardings({"kernel": shape}, {"kernel": ("embed", "mlp")}, mesh)
        sizes.append(fsdp)
        raise DoesNotFitError("too much", 2, 1)

    with pytest.raises(ValueError, match=r"nothing fits: .* config\.mesh\.fsdp=8\."):
        list(search(full, 24, compile_candidate))
    assert sorted(set(sizes)) == [1, 2, 4, 8]


def test_a_search_ends_at_a_mesh_whose_tensor_axis_does_not_divide_the_model():
    def compile_candidate(candidate):
        raise UnevenShardsError("config.mesh does not fit the model")

    with pytest.raises(UnevenShardsError):
        list(search(config(train={"batch_size": 24}), 24, compile_candidate))
