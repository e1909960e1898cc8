"""A configuration is resolved once: completed, checked, and frozen."""

import copy
import dataclasses
import json
import math
import pickle

import pytest

from configs import debug
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes


def changed(**changes):
    """The debug recipe with other values, by key with "__" for the dot."""
    config = debug.get_config("model=mcl").to_dict()
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


WRONG = [
    (
        "optimizer__learning_rate",
        0.0,
        r"expected a number above 0, at most 10\. Pass, for example, --config\.optimizer\.l",
    ),
    ("optimizer__learning_rate", -1e-3, "expected a number above 0"),
    ("optimizer__learning_rate", math.nan, "expected a number above 0"),
    ("optimizer__learning_rate", "high", "expected a number above 0"),
    (
        "optimizer__discriminator_learning_rate",
        -1e-3,
        r"expected 0 \(the same as learning_rate\) or a number",
    ),
    ("optimizer__schedule", "cosine", "expected one of warmup_constant, warmup_constant_l"),
    ("optimizer__warmup_steps", -1, "expected 0 or more"),
    ("optimizer__beta1", 1.0, "expected 0 or a number below 1"),
    ("optimizer__beta2", -0.1, "expected 0 or a number below 1"),
    ("optimizer__epsilon", 0.0, "expected a number above 0"),
    ("optimizer__weight_decay", -0.01, "expected 0 or a number above it"),
    ("optimizer__clip_norm", 0.0, "expected a number above 0, or inf"),
    ("objective__mask_prob", 0.0, "expected a probability between 0 and 1"),
    ("objective__mask_prob", 1.0, "expected a probability between 0 and 1"),
    ("objective__mask_token_prob", 1.1, "expected a share, from 0 to 1"),
    ("objective__swap_prob", 0.0, "expected a probability between 0 and 1"),
    ("objective__masking", "span", "expected one of uniform, windows, windows_released"),
    ("objective__temperature", 0.0, "expected a number from 0.001 to 1000"),
    ("objective__vocab_chunk_size", -1, "expected 0 or more"),
    ("objective__disc_weight", -1.0, "expected 0 or a number above it"),
    ("objective__re_rtd_weight", -1.0, "expected 0 or a number above it"),
    ("objective__name", "bert", "expected one of"),
    ("objective__generator", "bigram", "expected model"),
    ("train__num_steps", 0, "expected 1 or more"),
    ("train__num_steps", 10.5, "expected 1 or more"),
    ("train__batch_size", 0, "expected 1 or more"),
    ("train__batch_size", True, "expected 1 or more"),
    ("train__num_microbatches", 0, "expected 1 or more"),
    ("train__gradient_dtype", "float16", "expected one of bfloat16, float32"),
    ("train__ema_decay", 1.0, r"expected 0 \(no average is kept\) or a number below 1"),
    ("train__ema_decay", -0.1, r"expected 0 \(no average is kept\) or a number below 1"),
    ("train__layers", "rolled", "expected one of"),
    ("train__remat", "some", "expected one of"),
    ("data__prefetch", -1, r"expected 0 \(no background thread\) or more"),
    ("eval__every", 0, "expected 1 or more"),
    ("eval__max_batches", 0, "expected 1 or more"),
    ("checkpoint__keep", 0, "expected 1 or more"),
    ("log__every", 0, "expected 1 or more"),
    ("probe__every", -1, r"expected 0 \(never\) or more"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_wrong_value_is_an_error_that_names_the_key(key, value, message):
    place = key.replace("__", r"\.")
    with pytest.raises(ValueError, match=rf"config\.{place}: got {value!r}, {message}"):
        resolve(changed(**{key: value}))


def test_the_warmup_must_be_shorter_than_the_run():
    message = (
        r"config\.optimizer\.warmup_steps: got 100, expected fewer than config\.train\.num_steps=100: .*"
        r"--config\.optimizer\.warmup_steps=10, or more --config\.train\.num_steps"
    )
    with pytest.raises(ValueError, match=message):
        resolve(changed(train__num_steps=100))
    resolve(changed(train__num_steps=101))
    resolve(changed(train__num_steps=1, optimizer__warmup_steps=0))


def test_limits_that_mean_something_are_allowed():
    for key, value in (("clip_norm", math.inf), ("weight_decay", 0), ("beta1", 0), ("learning_rate", 1)):
        resolve(changed(**{f"optimizer__{key}": value}))
    resolve(changed(objective__disc_weight=0, objective__mask_token_prob=0, train__ema_decay=0.999))


def test_finetuning_is_checked_by_the_same_table():
    config = {"optimizer": {"learning_rate": 0.0}, "train": {"num_epochs": 3}}
    with pytest.raises(ValueError, match=r"config\.optimizer\.learning_rate: got 0\.0"):
        check_values(config)
    config["optimizer"]["learning_rate"] = 1e-4
    check_values(config)
    for wrong in (0, 2.5):  # rows are read a whole number of times
        config["train"]["num_epochs"] = wrong
        with pytest.raises(ValueError, match=rf"config\.train\.num_epochs: got {wrong}, expected 1 or more"):
            check_values(config)


@pytest.mark.parametrize(
    ("datasets", "weights", "expected"),
    [
        ("a", 2, (("a",), (2.0,))),
        ("a,b", (1, 2), (("a", "b"), (1.0, 2.0))),
        (["a", "b"], [1, 2], (("a", "b"), (1.0, 2.0))),
        (("a", ""), 3.0, (("a",), (3.0,))),
    ],
)
def test_datasets_and_weights_become_tuples_in_every_stage(datasets, weights, expected):
    config = changed(data__datasets=datasets, data__weights=weights)
    config["stages"] = (
        (10, {"data.datasets": "c", "data.weights": 5}),
        (20, {"data.datasets": "c,d", "data.weights": (1, 1)}),
    )
    resolved = resolve(config)
    sections = [resolved.values["data"], *(stage.config["data"] for stage in resolved.stages)]
    assert [(section["datasets"], section["weights"]) for section in sections] == [
        expected,
        expected,
        (("c",), (5.0,)),
        (("c", "d"), (1.0, 1.0)),
    ]
    assert {type(weight) for section in sections for weight in section["weights"]} == {float}
    assert resolved.datasets == (*expected[0], "c", "c", "d")


def test_wrong_stages_are_found_and_named():
    config = changed()
    config["stages"] = ((10, {"data.datasets": "c,d"}),)
    with pytest.raises(
        ValueError, match=r"in the stage from step 10 on: config\.data\.weights: got \(1\.0,\) for 2"
    ):
        resolve(config)


def test_nothing_resolved_can_change():
    given = changed()
    given["stages"] = [[10, {"train.batch_size": 64}]]
    before = copy.deepcopy(given)
    resolved = resolve(given)
    assert given == before  # what was given is left alone
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolved.values = {}
    for config in (resolved.values, *(stage.config for stage in resolved.stages)):
        for change in (
            lambda config: config["train"].__setitem__("batch_size", 1),
            lambda config: config["train"].update(batch_size=1),
            lambda config: config["train"].pop("batch_size"),
            lambda config: config["model"]["generator"].clear(),
            lambda config: config.setdefault("more", 1),
            lambda config: config["stages"][0][1].popitem(),
            lambda config: config.__ior__({"train": {}}),
            lambda config: config.__delitem__("train"),
        ):
            with pytest.raises(TypeError, match="is resolved and cannot change"):
                change(config)
        with pytest.raises(TypeError, match="does not support item assignment"):
            config["optimizer"]["groups"][0] = ()
    given["train"]["batch_size"] = 1
    assert resolved.values["train"]["batch_size"] == 32


def test_a_resolved_configuration_is_written_copied_and_changed_in_a_copy():
    values = resolve(changed()).values
    assert json.loads(json.dumps(values)) == json.loads(json.dumps(with_assumed_sizes(changed())))
    assert resolve(json.loads(json.dumps(values))).values == values
    copied = copy.deepcopy(values)
    copied["train"]["batch_size"] = 1
    assert values["train"]["batch_size"] == 32 and pickle.loads(pickle.dumps(values)) == values
    other = values | {"train": values["train"] | {"batch_size": 64}}
    assert other["train"]["batch_size"] == 64 and type(other) is type(other["train"]) is dict


@pytest.mark.parametrize(
    ("field", "value", "used"),
    [
        ("layer_norm_epsilon", 1e-3, 1e-12),
        ("type_vocab_size", 0, 2),
        ("max_position_embeddings", 256, 128),
        ("initializer_range", 0.05, 0.02),
        ("initializer", "published", "local"),
    ],
)
def test_settings_of_the_generator_that_shared_embeddings_do_not_read_are_refused(field, value, used):
    config = with_assumed_sizes(debug.get_config().to_dict())
    config["data"]["datasets"] = "data/corpus"
    config["model"]["generator"] |= {field: value, "hidden_dropout": 0.0}
    with pytest.raises(
        ValueError,
        match=rf"^config\.model\.generator\.{field}: got {value!r} with "
        rf"config\.model\.embedding_sharing='tied', expected {used!r}, as the discriminator has",
    ):
        resolve(config)
    config["model"]["embedding_sharing"] = "none"
    assert getattr(resolve(config).model.generator, field) == value
    # A value that is wrong in itself is one mistake, not two.
    config["model"] |= {"embedding_sharing": "tied", field: -1}
    with pytest.raises(ValueError, match=rf"^config\.model\.{field}: got -1, expected [^\n]*$"):
        resolve(config)
