"""What is in the way of results ends a command before its work."""

import os
import re

import pytest

from electra_jax.runs.only_writer import only_writer
from electra_jax.runs.result_places import DIRECTORIES, FILES


@pytest.mark.parametrize("name", FILES)
def test_a_directory_in_place_of_a_file_is_an_error(name, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    expected = f"{re.escape(str(tmp_path))}: {name} is a directory, expected a file.*Move it away"
    with pytest.raises(OSError, match=expected), only_writer(tmp_path):
        pass
    assert os.listdir(tmp_path) == [name.partition("/")[0]]


@pytest.mark.parametrize("name", DIRECTORIES)
@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("gone")])
def test_a_file_in_place_of_a_directory_is_an_error(name, make, tmp_path):
    make(tmp_path / name)
    with pytest.raises(OSError, match=f"{name} is a file, expected a directory"), only_writer(tmp_path):
        pass
    assert os.listdir(tmp_path) == [name]


def test_earlier_results_are_not_in_the_way(tmp_path):
    for name in DIRECTORIES:
        (tmp_path / name).mkdir()
    for name in FILES:
        (tmp_path / name).touch()
    with only_writer(tmp_path):
        pass
