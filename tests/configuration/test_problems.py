"""Everything that is wrong with a start comes in one message."""

import pytest

from configs import debug
from data_pipelines.problems import Problems, SeveralProblemsError
from electra_jax.configuration.resolve import resolve
from support.command_lines import read_command_line


def test_one_error_is_raised_as_it_was_and_several_as_a_list():
    problems = Problems()
    problems.report()
    assert not problems
    with problems.kept():
        raise FileNotFoundError("no file")
    with pytest.raises(FileNotFoundError, match=r"^no file$"):
        problems.report()
    problems.add_text("a")
    with problems.kept():
        raise SeveralProblemsError([ValueError("a"), ValueError("b")])
    with pytest.raises(ValueError, match=r"^3 things are wrong:\n1\. no file\n2\. a\n3\. b$"):
        problems.report()
    with pytest.raises(KeyError), problems.kept():
        raise KeyError("a fault of this project")


def test_all_wrong_values_of_a_configuration_come_together():
    config = debug.get_config().to_dict()
    config["optimizer"] |= {"learning_rate": 0.0, "warmup_steps": 5000}
    config["model"]["dtype"] = "float16"
    config["model"]["embedding_size"] = 0
    config["model"]["discriminator"] |= {"num_heads": 3, "num_layers": 0}
    config["data"]["datasets"] = ()
    config["stages"] = ((10, {"train.batchsize": 1}),)
    with pytest.raises(ValueError, match=r"^8 things are wrong:\n") as error:
        resolve(config)
    for message in (
        r"config.optimizer.learning_rate: got 0.0, expected a number above 0",
        r"config.optimizer.warmup_steps: got 5000, expected fewer than config.train.num_steps=3000",
        r"config.model.dtype: got 'float16', expected one of",
        r"config.model.embedding_size: got 0, expected 1 or more, at most 65,536",
        r"config.model.discriminator.num_layers: got 0, expected 1 or more",
        r"model.hidden_size: got 128, expected a multiple of num_heads (3)",
        r"config.data.datasets: got none",
        r"config.stages, in the stage from step 10 on: got 'train.batchsize'",
    ):
        assert message in str(error.value)


def test_a_wrong_value_is_one_problem():
    """Though the model, too, would refuse it, and the warm-up would be too long for such a run."""
    for section, key, value in (("model", "dtype", "float16"), ("train", "num_steps", 0)):
        config = debug.get_config().to_dict()
        config[section][key] = value
        with pytest.raises(ValueError, match=rf"^config\.{section}\.{key}: got {value!r}"):
            resolve(config)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_all_mistakes_of_a_command_line_come_together(monkeypatch):
    wrong = ("train.num_step=5", "train.batch_size=x", "optimiser.beta1=1", "log.progress=maybe")
    argv = ["pretrain", "--config=configs/debug.py", *(f"--config.{word}" for word in wrong)]
    with pytest.raises(SystemExit) as error:
        read_command_line(argv, monkeypatch)
    no_key = "the configuration has no such key. Did you mean"
    assert error.value.code.splitlines() == [
        "error: 4 things are wrong:",
        f"1. --config.train.num_step: {no_key} --config.train.num_steps?",
        "2. --config.train.batch_size: got 'x', expected int as in the default 32.",
        f"3. --config.optimiser.beta1: {no_key} --config.optimizer.beta1?",
        "4. --config.log.progress: got 'maybe', expected bool as in the default True.",
    ]
