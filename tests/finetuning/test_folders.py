"""Folders for encoders with any name."""

import pytest

from electra_jax.finetuning.folders import folder_names


def test_names_as_they_were():
    assert folder_names(["runs/debug", "random:runs/debug", "a-b.c=1", ""]) == {
        "runs/debug": "runs_debug",
        "random:runs/debug": "random_runs_debug",
        "a-b.c=1": "a-b.c=1",
        "": "",
    }


@pytest.mark.parametrize(
    "names",
    [
        ["m/a", "m_a"],
        ["random:x", "random_x", "random/x"],
        ["my run", "my_run"],
        ["Run", "run"],
        [".", ".."],
        ["x" * 300, "y" + "x" * 299],
        ["é" * 150, "e" + "é" * 149],
        ["caf\udce9", "caf_"],
    ],
)
def test_every_name_has_a_folder_of_its_own(names):
    folders = folder_names(names)
    assert list(folders) == names
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    for folder in folders.values():
        assert folder.strip(".") and "/" not in folder and len(folder.encode()) <= 200


def test_the_first_name_keeps_its_folder():
    assert folder_names(["m_a", "m/a"])["m_a"] == folder_names(["m_a"])["m_a"] == "m_a"
    assert folder_names(["m_a", "m/a", "m a"])["m/a"] == folder_names(["m_a", "m/a"])["m/a"]
