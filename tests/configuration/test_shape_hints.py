"""A hidden_size that is given alone is answered with what belongs to it."""

import pytest
from flax.traverse_util import flatten_dict

from electra_jax.configuration.shape_hints import shape_hints
from support.command_lines import read_command_line

SIZE = "--config.model.discriminator.hidden_size"


def hints(*words, position="absolute"):
    values = {
        "model.position": position,
        "model.discriminator.hidden_size": 128,
        "model.discriminator.num_layers": 2,
        "model.discriminator.num_heads": 2,
        "model.discriminator.intermediate_size": 512,
    }
    for word in words:
        key, _, value = word.removeprefix("--config.").partition("=")
        values[key] = int(value)
    return list(shape_hints(["pretrain", "--config=x", *words], values))


def test_what_belongs_to_a_hidden_size_is_named():
    (text,) = hints(f"{SIZE}=192")
    assert "the recipe's intermediate_size=512 and num_heads=2 stays" in text
    section = "--config.model.discriminator"
    assert text.endswith(f"add {section}.intermediate_size=768 {section}.num_heads=3.")
    (text,) = hints(f"{SIZE}=192", f"{section}.num_heads=4")
    assert text.endswith(f"add {section}.intermediate_size=768.")
    (text,) = hints(f"{SIZE}=192", f"{section}.num_heads=3", position="rotary")
    assert text.endswith(
        f"a feed-forward layer of 1.5 · hidden_size. For these add {section}.intermediate_size=288."
    )


@pytest.mark.parametrize(
    "words",
    [
        [f"{SIZE}=128"],  # as before
        ["--config.model.discriminator.intermediate_size=300"],
        [
            f"{SIZE}=192",
            "--config.model.discriminator.intermediate_size=512",
            "--config.model.discriminator.num_heads=2",
        ],
        [],
    ],
)
def test_a_shape_that_was_chosen_is_accepted(words):
    assert hints(*words) == []


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_command_line_warns_and_continues(monkeypatch, capsys):
    argv = ["pretrain", "--config=configs/debug.py", "--workdir=w", f"{SIZE}=192"]
    config, _ = read_command_line(argv, monkeypatch)
    assert flatten_dict(config, sep=".")["model.discriminator.hidden_size"] == 192
    assert (
        capsys.readouterr().err.count("WARNING: --config.model.discriminator.hidden_size=192 is given") == 1
    )
