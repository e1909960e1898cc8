"""The table of values: what each key takes and refuses, in a configuration and in a stage."""

import math

import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import debug, finetune
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.ranges import BELOW_ONE, GROUPS, SEED
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.value_table import OF_PRETRAINING, RULES, WEIGHT, find_rule

ROWS = [*RULES.items(), *OF_PRETRAINING.items(), ("objective.*_weight", WEIGHT)]
HUGE = (2**31, 2**64, 10**30, 1e39, 1e300)  # no 32-bit number holds them
NO_NUMBERS = (math.nan, -math.inf, math.inf, True, "3", None, (), [1])
SEEDS = ("data.seed", "train.seed", "eval.seed", "probe.seed")
# What a row may take in spite of the lists above.
EXCEPTIONS = {
    "optimizer.clip_norm": (math.inf,),
    "task.null_threshold": (-1, -1e-9, -1e300, *HUGE),
    "train.num_tokens": (2**31,),
    "log.peak_flops": (2**31, 2**64),
    "health.silenced": ((),),
    "task.matryoshka": ((),),
    "objective.denoisers": ((),),
    "objective.teachers": ((),),
    "objective.teacher_models": ((),),
    **{key: (2**31,) for key in SEEDS},
    **{f"mesh.{axis}": (-1,) for axis in ("data", "fsdp", "tensor")},
}


@pytest.mark.parametrize(("key", "row"), ROWS)
def test_a_row_proposes_what_it_allows_and_refuses_all_else(key, row):
    allowed, example = row
    assert allowed.accepts(example) and not allowed.accepts(None)
    refused = {bool: (0, 1, "True", None), str: (0, 1.0, True, None, ("a",)), tuple: ((), "a", 1)}
    numbers = (-1, -1e-9, -1e300, *HUGE, *NO_NUMBERS)
    for value in refused.get(type(example), numbers):
        assert allowed.accepts(value) == (value in EXCEPTIONS.get(key, ())), (key, value)


@pytest.mark.parametrize(("key", "row"), [one for one in ROWS if type(one[1][1]) is int])
def test_integers_are_integers(key, row):
    assert not row[0].accepts(1.0 * row[1] + 0.5)


def test_the_ends_of_ranges():
    for key, good, bad in (
        ("optimizer.beta2", (0, 0.999999, BELOW_ONE), (1 - 1e-9, 1)),  # as a 32-bit number the first is 1
        ("train.ema_decay", (0, 0.9999), (1 - 1e-9,)),
        ("optimizer.epsilon", (1e-12, 1), (1e-40, 0)),  # as a 32-bit number the first may be 0
        ("optimizer.learning_rate", (1e-9, 10), (1e-40, 10.1)),
        ("objective.temperature", (0.001, 1000), (1e-4, 1e4)),
        ("objective.mask_token_prob", (0, 1), (-0.01, 1.01)),
        ("task.max_length", (3,), (2,)),
    ):
        assert all(map(RULES[key][0].accepts, good)) and not any(map(RULES[key][0].accepts, bad)), key
    for key in SEEDS:
        assert RULES[key][0] is SEED
    assert SEED.accepts(2**32 - 1) and not SEED.accepts(2**32) and not SEED.accepts(-1)


@pytest.mark.parametrize(
    "groups",
    [
        "abc",
        (),
        ("a",),
        ((),),
        (("a", 1.0),),
        (("(", 1.0, 1.0),),
        (("*", 1.0, 1.0), (".*", 1.0, 1.0)),
        ((".*", -1.0, 1.0),),
        ((".*", 1.0, math.nan),),
        ((".*", "1", 1.0),),
        ((5, 1.0, 1.0),),
        (("a{99999999999}", 1.0, 1.0),),
    ],
)
def test_rules_of_parameter_groups(groups):
    assert not GROUPS.accepts(groups)
    config = debug.get_config().to_dict()
    config["optimizer"]["groups"] = groups
    with pytest.raises(ValueError, match=r"^config\.optimizer\.groups: got .*regular expression") as error:
        resolve(config)
    assert "--config.optimizer.groups=\"(('LayerNorm|bias', 1.0, 0.0), ('.*', 1.0, 1.0))\"" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("config", "check"),
    [(debug.get_config(f"model={name}").to_dict(), resolve) for name in debug.MODELS]
    + [(finetune.get_config("task=local").to_dict(), check_values)],
)
def test_a_value_of_another_type_is_one_problem_for_every_key(config, check):
    flat = flatten_dict(config, keep_empty_nodes=True, sep=".")
    check(config)
    numbers = [key for key, value in flat.items() if isinstance(value, int | float)]
    for key in numbers:
        with pytest.raises(ValueError, match=rf"^config\.{key}: got '3', expected "):
            check(unflatten_dict(flat | {key: "3"}, sep="."))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.batch_size": 2**40}, r"got train\.batch_size=1099511627776, expected 1 or more, at most"),
        ({"train.num_microbatches": 2**40}, r"got train\.num_microbatches=1099511627776, expected 1"),
        ({"data.datasets": "a", "data.sequence_length": 2**40}, "got data.sequence_length=1099511627776"),
        ({"data.datasets": "a", "data.weights": math.nan}, r"config\.data\.weights: got \(nan,\)"),
        ({"data.datasets": "a", "data.sequence_length": 8, "train.batch_size": 8}, None),
    ],
)
def test_values_of_a_stage_have_the_same_ranges(changes, message):
    config = debug.get_config().to_dict()
    config["stages"] = ((10, changes),)
    if message is None:
        resolve(config)
        return
    with pytest.raises(ValueError, match=rf"^config\.stages, in the stage from step 10 on: {message}"):
        resolve(config)


@pytest.mark.parametrize("weights", [0, -1.0, math.nan, math.inf, "nan", "inf", "-1", 10**400, True])
def test_weights_of_datasets(weights):
    config = debug.get_config().to_dict()
    config["data"]["weights"] = weights
    with pytest.raises(ValueError, match=r"config\.data\.weights: got .* expected a number above 0 for each"):
        resolve(config)


@pytest.mark.parametrize(
    ("objective", "length", "message"),
    [
        ({"mask_prob": 0.999}, 512, "mask_prob: got 0.999 for rows of 512, of which 514 positions would"),
        ({"mask_prob": 0.01}, 64, "mask_prob: got 0.01 for rows of 64, of which 0 positions would be chosen"),
        ({"mask_prob": 0.01, "masking": "windows"}, 64, "mask_prob: got 0.01 for rows of 64, of which 0 "),
        ({"swap_prob": 0.001}, 64, "swap_prob: got 0.001 for rows of 64, of which 0 positions"),
        ({"insert_prob": 0.9999}, 512, "insert_prob: got 0.9999 for rows of 512, of which 514 positions"),
        ({"mask_prob": 0.99}, 64, None),
    ],
)
def test_some_positions_of_a_row_are_chosen_and_no_more_than_it_has(objective, length, message):
    config = debug.get_config("model=mcl").to_dict()
    config["objective"] |= objective
    config["data"]["sequence_length"], config["model"]["max_position_embeddings"] = length, length
    if message is None:
        resolve(config)
        return
    with pytest.raises(ValueError, match=rf"^config\.objective\.{message}"):
        resolve(config)


def test_more_steps_than_can_be_counted():
    config = debug.get_config().to_dict()
    config["train"]["num_tokens"] = 1e17
    with pytest.raises(
        ValueError, match=r"^config\.train\.num_tokens: got 1e\+17, which are 48,828,125,000,000 s"
    ):
        resolve(config)


def test_a_setting_of_a_new_objective_is_finite():
    for value, is_allowed in ((2.0, True), ("a", True), (math.nan, False), (math.inf, False), (None, False)):
        allowed, _ = find_rule("objective.focal_gamma", is_pretraining=True)
        assert allowed.accepts(value) == is_allowed
    assert find_rule("optimizer.focal_gamma", is_pretraining=True) is None


@pytest.mark.parametrize("kind", ["tagging", "question_answering"])
def test_heads_of_single_tokens_do_not_pool(kind):
    config = finetune.get_config("task=local").to_dict()
    config["model"]["pooling"] = "mean"
    for pooling_kind in ("classification", "regression"):
        check_values(config | {"task": config["task"] | {"kind": pooling_kind}})
    config["task"]["kind"] = kind
    with pytest.raises(ValueError, match=rf"^config\.model\.pooling: got 'mean' with .*kind='{kind}', expec"):
        check_values(config)
