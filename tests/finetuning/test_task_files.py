"""Fingerprints of the files of a task."""

import os

from data_pipelines.tasks.load import SPLITS
from electra_jax.finetuning.task_files import fingerprint_files, same_files


def notes(**places):
    return same_files(fingerprint_files(dict.fromkeys(SPLITS, "") | places))


def test_a_file_to_train_and_to_evaluate_on_is_noted(tmp_path):
    one, copy, other = (tmp_path / name for name in ("one.tsv", "copy.tsv", "other.tsv"))
    one.write_text("a\tb\n")
    copy.write_text("a\tb\n")
    other.write_text("c\td\n")
    [note] = notes(train=f"{other},{one}", validation=str(copy))
    assert note.startswith("config.task.validation has a file of config.task.train: ")
    assert notes(train=str(one), validation=str(other), test=str(one))[0].startswith("config.task.test has")
    assert notes(train=str(one), validation=str(other)) == []
    files = fingerprint_files(dict.fromkeys(SPLITS, "") | {"train": str(one), "validation": str(one)})
    for can_hold_out, remedy in ((True, "validation_fraction=0.1 in its place."), (False, "another file.")):
        assert same_files(files, can_hold_out=can_hold_out)[0].endswith(remedy)


def test_a_name_that_is_not_utf_8_has_a_fingerprint(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a.\xff")
    with open(path, "w") as file:
        file.write("a\tb\n")
    assert len(notes(train=path, validation=path)) == 1


def test_splits_of_a_dataset_and_missing_files_are_not():
    assert notes(train="tfds:glue/sst2", validation="tfds:glue/sst2") == []
    assert notes(train="nowhere.tsv", validation="missing.tsv") == []
