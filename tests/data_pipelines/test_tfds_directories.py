"""Prepared datasets from elsewhere: no module that they name is imported, and no other file is read."""

import json
import shutil

import pytest

from data_pipelines.documents import read_documents
from data_pipelines.mixture import DatasetSource, make_sequential
from data_pipelines.tasks.datasets import TaskDataset
from data_pipelines.tasks.records import Columns
from data_pipelines.tfds_directories import open_directory


@pytest.fixture
def dataset(data, tmp_path):
    return shutil.copytree(data / "corpus", tmp_path / "corpus")


def edit(path, change):
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


READERS = {
    "rows": lambda directory: make_sequential([DatasetSource(str(directory), split="train")]),
    "documents": lambda directory: list(read_documents([f"tfds:{directory}"])),
    "a task": lambda directory: TaskDataset(str(directory), Columns("input_ids", "", "input_ids")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("where", ["top", "feature"])
def test_code_that_features_json_names_is_not_imported(reader, where, dataset, tmp_path, monkeypatch):
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'opened')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def change(described):
        place = described if where == "top" else described["featuresDict"]["features"]["input_ids"]
        place["pythonClassName"] = "evil_features.Evil"

    edit(dataset / "features.json", change)
    with pytest.raises(ValueError, match=r"names the class 'evil_features\.Evil', whose module would be"):
        READERS[reader](dataset)
    assert not (tmp_path / "opened").exists()


def test_files_of_a_dataset_lie_in_it(dataset):
    def change(described):
        for split in described["splits"]:
            split["filepathTemplate"] = "../../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

    edit(dataset / "dataset_info.json", change)
    with pytest.raises(ValueError, match=r"names the file '\.\./\.\./electra_corpus-"):
        open_directory(dataset)


@pytest.mark.parametrize("text", ["{", "[]", '{"splits": 5}', '{"splits": [{"name": 5}]}', "\0"])
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_a_damaged_description_is_named(name, text, dataset):
    (dataset / name).write_text(text)
    with pytest.raises((ValueError, OSError), match=str(dataset)):
        open_directory(dataset)


def test_the_undamaged_one_opens(dataset):
    assert open_directory(dataset).info.splits["train"].num_examples > 0
