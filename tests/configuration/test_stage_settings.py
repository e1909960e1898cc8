"""Stages as config.stages describes them: their steps, what changes in them, and errors in them."""

import json

import pytest

from configs import continued, debug
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.stages import KEYS, StageKey, make_stages, stage_at
from support.command_lines import read_command_line
from support.paths import ROOT


def staged(*stages, num_steps=100):
    """The debug configuration with config.stages, 32 rows of 64 at the beginning."""
    config = with_assumed_sizes(debug.get_config().to_dict())
    config["train"]["num_steps"], config["stages"] = num_steps, stages
    return config


def shapes(config):
    return [
        (
            stage.first_step,
            stage.end,
            stage.config["train"]["batch_size"],
            stage.config["data"]["sequence_length"],
            stage.config["data"]["datasets"],
        )
        for stage in make_stages(config)
    ]


def test_a_stage_keeps_what_it_does_not_name():
    config = staged(
        (10, {"train.batch_size": 64}),
        (50, {"data.sequence_length": 128, "data.datasets": "a,b"}),
        (90, {"data.weights": (1, 3), "train.num_microbatches": 2}),
    )
    first = ("runs/data/corpus",)
    assert shapes(config) == [
        (0, 10, 32, 64, first),
        (10, 50, 64, 64, first),
        (50, 90, 64, 128, ("a", "b")),
        (90, 100, 64, 128, ("a", "b")),
    ]
    assert make_stages(config)[-1].config["data"]["weights"] == (1, 3)
    assert make_stages(config)[1].config["train"]["num_microbatches"] == 1
    assert shapes(json.loads(json.dumps(config)))[2] == (50, 90, 64, 128, ("a", "b"))
    assert [stage_at(config, num_done).first_step for num_done in (0, 1, 10, 11, 90, 91, 100)] == [
        0,
        0,
        0,
        10,
        50,
        90,
        90,
    ]
    assert config["train"]["batch_size"] == 32  # `staged` is not changed
    assert shapes(staged()) == [(0, 100, 32, 64, first)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([(10,)], r"got \(10,\), expected pairs of the step that a stage begins with"),
        (
            [10, {"train.batch_size": 64}],
            r"config\.stages: got 10, expected pairs .* as in \(\(900000, ",
        ),  # no outer comma
        ([(0, {"train.batch_size": 64})], r"got \(0, .*the step that a stage begins with, 1 or more"),
        ([(True, {"train.batch_size": 64})], r"got \(True, "),
        ([(10, {})], r"from step 10 on: got no change, expected one or more of data\.datasets"),
        (
            [(10, {"train.batchsize": 64})],
            r"got 'train\.batchsize', expected one of .* Did you mean 'train\.batch_size'\?",
        ),
        ([(10, {"mesh.fsdp": 2})], r"got 'mesh\.fsdp', expected one of .*Nothing else can"),
        ([(10, {"train.batch_size": "64"})], r"got train\.batch_size='64', expected a number of 1 or more"),
        ([(10, {"train.num_microbatches": 0})], r"got train\.num_microbatches=0, expected a number"),
        (
            [(10, {"data.sequence_length": 128})],
            r"without data\.datasets, expected both.*--sequence_length 128",
        ),
        (
            [(10, {"train.batch_size": 64}), (10, {"train.batch_size": 128})],
            r"from the steps \[10, 10\] on, expected growing",
        ),
        ([(100, {"train.batch_size": 64})], r"from the steps \[100\] on, .*config\.train\.num_steps=100"),
    ],
)
def test_errors_of_stages_name_what_to_change(stages, message):
    with pytest.raises(ValueError, match=message):
        make_stages(staged(*stages))


def test_the_page_on_stages_has_the_table_of_keys():
    page = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    table = "".join(f"| `{key}` | {row.meaning} |\n" for key, row in KEYS.items())
    assert f"|---|---|\n{table}\n" in page


def test_a_stage_may_change_a_nested_key_that_the_run_has(monkeypatch):
    monkeypatch.setitem(KEYS, "model.relative_bias.max_distance", StageKey("Of the bias."))
    config = staged((10, {"model.relative_bias.max_distance": 64}))
    with pytest.raises(
        ValueError,
        match=r"from step 10 on: got 'model\.relative_bias\.max_distance', .* it has no 'relative_bias'\.",
    ):
        make_stages(config)
    config["model"] |= {"relative_bias": {"num_buckets": 32, "max_distance": 128}}
    before, after = (stage.config["model"]["relative_bias"] for stage in make_stages(config))
    assert before == {"num_buckets": 32, "max_distance": 128} and after == before | {"max_distance": 64}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_stages_on_the_command_line_and_back_from_a_file(tmp_path, monkeypatch):
    wanted = "((10, {'train.batch_size': 64}), (20, {'data.datasets': ('a', 'b'), 'data.weights': (1, 2)}))"
    config, _ = read_command_line(
        ["pretrain", "--config=configs/debug.py", "--workdir=w", f"--config.stages={wanted}"], monkeypatch
    )
    assert config["stages"] == (
        (10, {"train.batch_size": 64}),
        (20, {"data.datasets": ("a", "b"), "data.weights": (1, 2)}),
    )
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    again = continued.get_config(f"run={tmp_path}")
    assert (again.data.datasets, again.data.weights, again.train.batch_size, again.stages) == (
        ("a", "b"),
        (1, 2),
        64,
        (),
    )
