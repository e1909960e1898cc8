"""A command ends before its work if it could not write its results; other files are the user's."""

import os
import re

import pytest

from electra_jax.comparison.tables import COMPARISON_RESULTS, EVALUATION_RESULTS
from electra_jax.finetuning.experiment_directory import FINE_TUNING
from electra_jax.frozen_features.evaluation import FROZEN
from electra_jax.minimal_pairs.evaluation import MINIMAL_PAIRS
from electra_jax.runs.only_writer import only_writer
from electra_jax.runs.result_places import PRETRAINING

COMMANDS = [PRETRAINING, FINE_TUNING, COMPARISON_RESULTS, EVALUATION_RESULTS, MINIMAL_PAIRS, FROZEN]
FILES = [(results, name) for results in COMMANDS for name in results.files]
DIRECTORIES = [(results, name) for results in COMMANDS for name in results.directories]


@pytest.mark.parametrize(("results", "name"), FILES)
def test_a_directory_in_place_of_a_file_is_an_error(results, name, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    expected = f"{re.escape(str(tmp_path))}: {name} is a directory, expected a file.*Move it away"
    with pytest.raises(OSError, match=expected), only_writer(tmp_path, results):
        pass
    assert os.listdir(tmp_path) == [name.partition("/")[0]]


@pytest.mark.parametrize(("results", "name"), DIRECTORIES)
@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("gone")])
def test_a_file_in_place_of_a_directory_is_an_error(results, name, make, tmp_path):
    make(tmp_path / name)
    with (
        pytest.raises(OSError, match=f"{name} is a file, expected a directory"),
        only_writer(tmp_path, results),
    ):
        pass
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("results", COMMANDS)
def test_earlier_results_are_not_in_the_way(results, tmp_path):
    for name in results.directories:
        (tmp_path / name).mkdir()
    for name in results.files:
        (tmp_path / name).touch()
    with only_writer(tmp_path, results):
        pass


def test_names_of_other_commands_are_free(tmp_path):
    for name in ("models", "predictions", "finetuning", "scores"):
        (tmp_path / name).write_text("notes")
    (tmp_path / "results.json").mkdir()
    with only_writer(tmp_path, PRETRAINING):
        pass
