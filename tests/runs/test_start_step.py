"""The checkpoint that a run starts from is chosen once, whatever is newest later."""

import json
import re
import shutil

import jax
import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.runs.start_step import start_problem, with_start_step
from electra_jax.runs.trained import initial_params
from support import tiny_export


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A run with checkpoints of the steps 20 and 30, and its parameters."""
    root = tmp_path_factory.mktemp("runs")
    directory, params = tiny_export.make_run(root / "first", data, tiny_export.electra_model())
    tiny_export.save_steps(directory, params, 20, 30)
    return directory, params


@pytest.fixture
def first(made):
    return made[0]


def config_of(initial):
    return {"checkpoint": {"init_from": str(initial), "every": 1}}


def write_config(workdir, initial):
    workdir.mkdir()
    described = load_config("configs/debug.py").to_dict()
    described["checkpoint"]["init_from"] = str(initial)
    (workdir / "config.json").write_text(json.dumps({"config": described}))


@pytest.mark.parametrize(
    ("recorded", "given", "expected"),
    [
        (None, "{first}", "{first}:30"),
        (None, "{first}:20", "{first}:20"),
        (None, "", ""),
        ("{first}:20", "{first}", "{first}:20"),  # it resumes
        ("{first}:20", "{first}/../first", "{first}/../first:20"),
        ("{first}:20", "{first}:30", "{first}:30"),  # an error follows
        ("{first}", "{first}", "{first}"),  # of an older version
        ("/gone:20", "/gone", "/gone:20"),
        (None, "{first}/tokenizer", "{first}/tokenizer"),  # an error follows
    ],
)
def test_the_step_is_that_of_the_first_start(recorded, given, expected, first, tmp_path):
    if recorded is not None:
        write_config(tmp_path / "run", recorded.format(first=first))
    found = with_start_step(config_of(given.format(first=first)), tmp_path / "run")
    assert found == config_of(expected.format(first=first))


def test_parameters_are_those_of_the_step(made):
    first, params = made
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), params)
    assert initial_params(f"{first}:20", params, abstract)[0] == 20
    assert initial_params(str(first), params, abstract)[0] == 30
    with pytest.raises(FileNotFoundError, match=r"checkpoint of step 25, found those of \[20, 30\]"):
        initial_params(f"{first}:25", params, abstract)


def test_a_beginning_whose_checkpoint_is_damaged_is_a_problem(made, tmp_path):
    shutil.copytree(made[0], first := tmp_path / "first")
    config = config_of(f"{first}:20") | {"objective": {"name": "electra"}}
    assert start_problem(config) == ""
    next((first / "checkpoints" / "20" / "state").rglob("manifest.ocdbt")).write_bytes(b"")
    message = (
        rf"^config\.checkpoint\.init_from: The checkpoint {first}/checkpoints/20 cannot be used: .*back\.$"
    )
    assert re.match(message, start_problem(config))
    assert start_problem(config_of(f"{first}:30") | {"objective": {"name": "electra"}}) == ""


def test_a_recipe_continues_from_a_step(first):
    config = load_config(f"configs/continued.py:run={first}:20")
    assert config.checkpoint.init_from == f"{first}:20"
    assert config.model == load_config(f"configs/continued.py:run={first}").model
