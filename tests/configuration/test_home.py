"""~ on command lines with a configuration, and in configuration files."""

import pytest

from electra_jax.configuration.recipes import load_config
from support.command_lines import read_command_line

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # how ml_collections loads a file
RECIPE = """
from configs.debug import get_config as original
def get_config(arg=None):
    config = original()
    config.data.datasets = ("~/a", "b")
    config.probe.train = "~/train.tsv"
    config.stages = ((5, {"data.datasets": ("~/c",)}),)
    return config
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.py").write_text(RECIPE)
    return tmp_path


def test_in_every_flag(home, monkeypatch):
    words = [
        "--config",
        "~/recipe.py",
        "--workdir=~/runs/a",
        "--config.data.datasets=~/x,~/y",
        "--config.checkpoint.init_from=~/z",
    ]
    config, workdir = read_command_line(["pretrain", *words], monkeypatch)
    assert workdir == home / "runs" / "a"
    assert config["data"]["datasets"] == (f"{home}/x", f"{home}/y")
    assert config["checkpoint"]["init_from"] == f"{home}/z"
    assert config["probe"]["train"] == f"{home}/train.tsv"


def test_in_a_configuration_file(home, monkeypatch):
    read, _ = read_command_line(["pretrain", "--config=~/recipe.py", "--workdir=w"], monkeypatch)
    for config in (read, load_config("~/recipe.py").to_dict()):
        assert config["data"]["datasets"] == (f"{home}/a", "b")
        assert config["probe"]["train"] == f"{home}/train.tsv"
        assert config["stages"] == ((5, {"data.datasets": (f"{home}/c",)}),)


def test_a_home_that_does_not_exist_ends_the_command(home, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: --workdir=~nobody-here/x: got ~nobody-here for a home"):
        read_command_line(["pretrain", "--config=~/recipe.py", "--workdir=~nobody-here/x"], monkeypatch)
