"""The length of a run in steps, epochs or tokens."""

import pytest

from configs import debug
from electra_jax.configuration.length import with_num_steps
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from support.command_lines import read_command_line


def configuration(stages=(), **train):
    """The debug recipe: batches of 32 rows of 64, which are 2,048 tokens a step."""
    config = with_assumed_sizes(debug.get_config().to_dict())
    config["train"] |= train
    return config | {"stages": stages}


def num_steps(config, num_rows=1000):
    train = with_num_steps(config, lambda: num_rows)["train"]
    assert train["num_epochs"] == train["num_tokens"] == 0
    return train["num_steps"]


def test_epochs_and_tokens_become_steps_rounded_up():
    assert num_steps(configuration()) == 3000
    assert num_steps(configuration(num_epochs=1.0)) == 32  # 31.25
    assert num_steps(configuration(num_epochs=3.0), 320) == 30
    assert num_steps(configuration(num_epochs=0.5)) == 16
    assert num_steps(configuration(num_epochs=0.001)) == 1
    assert num_steps(configuration(num_tokens=2048.0 * 500)) == 500
    assert num_steps(configuration(num_tokens=2048.0 * 500 + 1)) == 501
    assert num_steps(configuration(num_tokens=5e9)) == 2_441_407


def test_tokens_of_a_run_with_stages():
    stages = (
        (100, {"train.batch_size": 64}),
        (5000, {"data.sequence_length": 128, "data.datasets": "long", "train.batch_size": 32}),
    )
    # 100 steps of 2,048, 4,900 of 4,096, then steps of 4,096. The recipe's 3,000 steps do not count.
    config = configuration(stages, num_tokens=100 * 2048 + 4900 * 4096 + 7 * 4096)
    assert num_steps(config) == 5007
    assert resolve(config).stages[-1].end == 5007
    # 100 · 2,048 + 4,900 · 4,096 are too few, one step more is enough.
    message = r"^config\.train\.num_tokens: got 20,275,200, expected more than 20,275,200, .* step 5,000"
    with pytest.raises(ValueError, match=message) as error:
        resolve(configuration(stages, num_tokens=20_275_200.0))
    assert "num_steps" not in str(error.value)  # which nobody gave
    assert num_steps(configuration(stages, num_tokens=20_275_201.0)) == 5001


@pytest.mark.parametrize(
    ("train", "stages", "message"),
    [
        ({"num_epochs": 1.0, "num_tokens": 1e6}, (), "got 1 and 1e\\+06, expected one of them"),
        ({"num_epochs": 1.0}, ((10, {"train.batch_size": 64}),), "got 1 in a run with config.stages"),
        ({"num_epochs": 1.0}, (), "got 1, but this command does not read the datasets"),
        (
            {"num_epochs": -1.0},
            (),
            r"^config\.train\.num_epochs: got -1\.0, expected 0 \(train\.num_st",
        ),
        ({"num_tokens": 1e5}, (), "warmup_steps: got 100, expected fewer than config.train.num_steps=49"),
    ],
)
def test_lengths_that_cannot_be(train, stages, message):
    with pytest.raises(ValueError, match=message):
        resolve(configuration(stages, **train))


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_command_line_gives_one_length(monkeypatch):
    start = ["pretrain", "--config=configs/debug.py", "--workdir=w"]
    config, _ = read_command_line([*start, "--config.train.num_tokens=5e9"], monkeypatch)
    assert config["train"]["num_tokens"] == 5e9
    config, _ = read_command_line(
        [*start, "--config.train.num_epochs=0", "--config.train.num_steps=7"], monkeypatch
    )
    assert config["train"]["num_steps"] == 7
    for two in (
        ["--config.train.num_epochs=3", "--config.train.num_steps=7"],
        ["--config.train.num_epochs", "3", "--config.train.num_tokens=1e6"],
    ):
        with pytest.raises(SystemExit, match="expected one of them: each is the length of the run"):
            read_command_line([*start, *two], monkeypatch)


def test_an_older_run_has_its_length_in_steps():
    config = configuration()
    for key in ("num_epochs", "num_tokens"):
        del config["train"][key]
    assert upgrade_config(config) == upgrade_config(configuration())
