"""Files of a run that were edited by hand: what reads them names the file and the value."""

import json

import pytest

from configs import debug
from data_pipelines.json_files import write_json
from electra_jax.configuration.resolve import resolve
from electra_jax.huggingface.card import read_record
from electra_jax.runs.trained import dataset_paths

SPLITS = {"train": {"rows": 8, "documents": 2, "tokens": 90}}
ENTRY = {
    "path": "corpus",
    "fingerprint": "abc",
    "sources": {"train": ["a.txt"]},
    "splits": SPLITS,
    "first_step": 0,
    "weight": 1.0,
}


@pytest.fixture
def config():
    """Of a run."""
    return json.loads(json.dumps(resolve(debug.get_config().to_dict()).values))


@pytest.fixture
def workdir(tmp_path, config):
    """A run directory with the files that a card is made of."""
    write_json(tmp_path / "config.json", {"config": config, "data": ["abc"]})
    write_json(tmp_path / "datasets.json", [ENTRY])
    write_json(tmp_path / "summary.json", {"steps": 9, "tokens_per_second": None, "heldout_rtd_auc": 0.6})
    return tmp_path


def test_files_of_a_run_are_read(workdir, config):
    record = read_record(workdir, 9)
    assert record.datasets == [ENTRY] and record.summary["heldout_rtd_auc"] == 0.6
    assert read_record(workdir, 8).summary is None
    assert dataset_paths(workdir, config, 9) == ["corpus"]


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("datasets.json", [ENTRY | {"splits": {}}]),
        ("datasets.json", [ENTRY | {"sources": ["a.txt"]}]),
        ("datasets.json", [ENTRY | {"weight": "1"}]),
        ("datasets.json", [ENTRY | {"first_step": None}]),
        ("datasets.json", [ENTRY, {key: ENTRY[key] for key in ENTRY if key != "first_step"}]),
        ("datasets.json", {"path": "corpus"}),
        ("summary.json", {"steps": "9"}),
        ("summary.json", {"steps": 9, "heldout_rtd_auc": "0.6"}),
        ("summary.json", []),
    ],
)
def test_a_card_is_not_made_of_edited_files(name, contents, workdir):
    write_json(workdir / name, contents)
    with pytest.raises(ValueError, match=rf"{name}: (got|no|values of another form) .*Restore the file"):
        read_record(workdir, 9)


@pytest.mark.parametrize(
    "contents",
    [
        [],
        [ENTRY | {"first_step": 7}],
        [ENTRY, {"path": "other"}],
        [{"path": 5}],
        [ENTRY | {"path": None}],
    ],
)
def test_the_data_of_a_run_are_not_guessed(contents, workdir, config):
    write_json(workdir / "datasets.json", contents)
    with pytest.raises(ValueError, match=r"datasets\.json: (got|no|values of another form) .*Restore the f"):
        dataset_paths(workdir, config, 9)
