"""Damage to any file of a checkpoint is noticed before anything is restored from it, or changes nothing."""

import contextlib
import errno
import gc
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from electra_jax.training import checksum_item
from electra_jax.training.checkpointing import Checkpointer, UnusableCheckpoint, with_shardings
from electra_jax.training.checksum_item import NOT_COVERED, ChecksumHandler
from electra_jax.training.checksums import (
    SEGMENT_BYTES,
    compute_checksums,
    find_damage,
    read_checksums,
    write_checksums,
)
from electra_jax.training.state import TrainState
from support.damage import flip_bit

STEP, DESCRIPTION = 20, {"config": {"a": [1, 2.5, "é"]}, "data": ["0" * 64]}
# Written last: times, and that the checkpoint is complete.
HARMLESS = (*NOT_COVERED, "verification/commit_success.txt")
NUM_FLIPS = 15  # a file; --all_flips takes every byte


def make_state(step):
    """A state of several arrays, whose values do not compress to nothing."""
    draw = np.random.default_rng(step).normal
    params = {"kernel": draw(size=(40, 30)), "bias": draw(size=7), "scale": np.ones(5)}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    moments = {"mean": jax.tree.map(jnp.sin, params)}
    return TrainState(jnp.int32(step), params, moments, {"loss": jnp.float32(step)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory of checkpoints of steps 10 and 20."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with contextlib.closing(Checkpointer(str(directory), keep=3)) as checkpointer:
        for step in (10, STEP):
            checkpointer.save(step, make_state(step), DESCRIPTION)
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(whole, tmp_path / "run" / "checkpoints")


def files(checkpoint):
    """Names of its files."""
    return sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())


def reading(directory):
    return contextlib.closing(Checkpointer(str(directory), keep=None))


def outcome(directory):
    """What is wrong with the newest checkpoint; "" for one that is restored bit for bit."""
    expected = make_state(STEP)
    abstract = jax.eval_shape(lambda: expected)
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), abstract)
    with reading(directory) as checkpointer:
        if problem := checkpointer.inspect(STEP).problem:
            return problem
        assert checkpointer.describe(STEP) == DESCRIPTION
        state = checkpointer.restore(STEP, with_shardings(abstract, shardings))
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)
    return ""


def test_a_flipped_bit_is_noticed_or_harmless(copy, request):
    checkpoint, rng, number = copy / str(STEP), np.random.default_rng(0), 0
    takes_all = request.config.getoption("--all_flips")
    for name in files(checkpoint):
        path = checkpoint / name
        size = path.stat().st_size
        for position in range(size) if takes_all else sorted(rng.integers(0, size, NUM_FLIPS)):
            bit = int(rng.integers(8))
            flip_bit(path, position, bit)
            problem = outcome(copy)
            assert problem or name in HARMLESS, name
            flip_bit(path, position, bit)
            number += 1
    assert number >= 200 and outcome(copy) == ""


def zero_block(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(16))


DAMAGES = {
    "zeroed": zero_block,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "removed": os.remove,
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "of another checkpoint": lambda path: path.write_bytes(b"{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_damage_is_noticed_or_harmless(damage, whole, tmp_path):
    for index, name in enumerate(files(whole / str(STEP))):
        copy = shutil.copytree(whole, tmp_path / str(index))
        DAMAGES[damage](copy / str(STEP) / name)
        problem = outcome(copy)
        assert problem or name in HARMLESS, name


@pytest.mark.parametrize("part", ["verification", "run", "state", ""])
def test_a_part_that_is_missing_is_noticed(part, copy):
    directory = copy / str(STEP) / part
    shutil.rmtree(directory)
    if not part:
        directory.mkdir()
    assert (
        outcome(copy)
        == {
            "verification": "its checksums are missing",
            "run": "run/commit_success.txt is missing",
            "state": "state/_METADATA is missing",
            "": "parts of it are missing",
        }[part]
    )


@pytest.mark.parametrize("name", ["30", "030", "-30", "30.5", "³"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_checkpoint_is_no_reason_to_fail(name, kind, copy):
    path = copy / name
    {"file": path.touch, "directory": path.mkdir, "link": lambda: path.symlink_to("gone")}[kind]()
    with reading(copy) as checkpointer:
        problems = {step: checkpointer.inspect(step).problem for step in checkpointer.all_steps()}
    assert [step for step, problem in problems.items() if not problem] == [10, STEP]
    assert problems.keys() <= {10, STEP, 30}
    if 30 in problems:
        with contextlib.closing(Checkpointer(str(copy), keep=3)) as checkpointer:
            assert checkpointer.set_aside(30) == "30.damaged" and checkpointer.all_steps() == [10, STEP]


def test_a_checkpoint_under_another_name_is_noticed(copy):
    shutil.rmtree(copy / str(STEP))
    (copy / "10").rename(copy / str(STEP))
    assert outcome(copy) == "it is the checkpoint of step 10, under another name"


def test_checksums_are_of_files_that_are_written_to_their_end(tmp_path):
    """Many saves, as a race shows in few of them."""
    with contextlib.closing(Checkpointer(str(tmp_path), keep=20)) as checkpointer:
        for step in range(1, 21):
            checkpointer.save(step, make_state(step), DESCRIPTION)
        checkpointer.wait()
        problems = [checkpointer.inspect(step).problem for step in checkpointer.all_steps()]
    assert problems == [""] * 20


def make_older(copy):
    """Make the newest checkpoint one of a version without checksums."""
    run = copy / str(STEP) / "run" / "metadata"
    shutil.rmtree(copy / str(STEP) / "verification")
    description = json.loads(run.read_text())
    del description["checkpoint"]
    run.write_text(json.dumps(description))


def test_a_checkpoint_of_an_older_version_is_read(copy):
    make_older(copy)
    with reading(copy) as checkpointer:
        found = checkpointer.inspect(STEP)
    assert not found.problem and not found.has_checksums and found.description == DESCRIPTION


def test_an_error_names_a_file_and_a_whole_checkpoint(copy):
    (name,) = (one for one in files(copy / str(STEP)) if one.endswith("state/_METADATA"))
    flip_bit(copy / str(STEP) / name)
    with reading(copy) as checkpointer, pytest.raises(UnusableCheckpoint) as error:
        checkpointer.restore_params(STEP, {})
    size = (copy / str(STEP) / name).stat().st_size
    assert str(error.value) == (
        f"The checkpoint {copy / str(STEP)} cannot be used: state/_METADATA has other bytes than were "
        f"written, between 0 and {size:,}. A whole one is {copy.parent}:10, of step 10."
    )
    os.remove(copy / "10" / "run" / "metadata")
    with (
        reading(copy) as checkpointer,
        pytest.raises(UnusableCheckpoint, match="no other checkpoint that is"),
    ):
        checkpointer.restore_params(STEP, {})
    assert sorted(os.listdir(copy)) == ["10", "20"]  # a reader renames nothing


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_what_orbax_and_tensorstore_tell_is_cut_to_a_line(damage, copy):
    make_older(copy)
    checkpoint = copy / str(STEP)
    DAMAGES[damage](max(checkpoint.rglob("d/*"), key=lambda path: path.stat().st_size))
    with pytest.raises(UnusableCheckpoint) as error:
        outcome(copy)
    text = str(error.value)
    assert text.startswith(f"The checkpoint {checkpoint} cannot be used: ")
    assert (
        "\n" not in text
        and len(text) < 1000
        and text.endswith(f"A whole one is {copy.parent}:10, of step 10.")
    )


def test_a_full_disk_is_told_once_with_its_place_and_advice(tmp_path, monkeypatch):
    """As on a disk of which a little was left: whatever writes last fails."""

    def write_checksums(path, entries):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checksum_item, "write_checksums", write_checksums)
    with pytest.raises(OSError) as error, contextlib.closing(Checkpointer(str(tmp_path), keep=1)) as writer:
        writer.save(STEP, make_state(STEP), DESCRIPTION)
        writer.wait()
    text = rf"A checkpoint could not be saved in {tmp_path}: no space left on device\. .* free space"
    assert re.match(text, str(error.value))
    with pytest.raises(OSError, match=text), contextlib.closing(Checkpointer(str(tmp_path), keep=1)) as one:
        one.save(STEP, make_state(STEP), DESCRIPTION)  # and nobody waits
    with reading(tmp_path) as checkpointer:
        assert checkpointer.all_steps() == []


def test_parameters_that_a_full_disk_does_not_take_are_no_checkpoints_of_a_run(tmp_path, monkeypatch):
    """Soups and imports are written to a directory that is removed then, and nothing resumes."""

    def write_checksums(path, entries):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checksum_item, "write_checksums", write_checksums)
    with pytest.raises(OSError) as error, contextlib.closing(Checkpointer(str(tmp_path), keep=1)) as writer:
        writer.save_params({"leaf": np.ones(3)}, {})
    assert str(error.value) == (
        "The parameters could not be saved: no space left on device. If the disk is full, free space. "
        "Run the same command again."
    )


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("state/ocdbt.process_0/d/1", r"state/ocdbt\.process_0/d/1 of another process is not seen by .*NFS"),
        ("state/manifest.ocdbt", r"arrays were not merged: state/manifest\.ocdbt was not written"),
        ("verification/process_0.json", "the files of process 0 are not seen by process 0: .*NFS"),
    ],
)
def test_what_process_0_does_not_see_of_the_others_is_an_error(lost, message, tmp_path):
    directory, array = epath.Path(tmp_path) / "verification", "state/ocdbt.process_0/d/1"
    for name in (array, "state/manifest.ocdbt", "run/metadata"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    directory.mkdir()
    entries = compute_checksums(epath.Path(tmp_path), [array])
    write_checksums(directory / "process_0.json", entries)
    ChecksumHandler().finalize(directory)
    assert read_checksums(directory / "checksums.json").keys() == {
        array,
        "state/manifest.ocdbt",
        "run/metadata",
    }
    write_checksums(directory / "process_0.json", entries)
    (tmp_path / lost).unlink()
    with pytest.raises(OSError, match=message):
        ChecksumHandler().finalize(directory)


def test_what_is_set_aside_is_kept_and_is_no_checkpoint(copy):
    with contextlib.closing(Checkpointer(str(copy), keep=1)) as checkpointer:
        assert checkpointer.set_aside(STEP) == "20.damaged"
        assert checkpointer.all_steps() == [10]
        checkpointer.save(STEP, make_state(STEP), DESCRIPTION)
        checkpointer.wait()
        assert checkpointer.set_aside(STEP) == "20.damaged.2"
        checkpointer.save(30, make_state(30), DESCRIPTION)
    with contextlib.closing(Checkpointer(str(copy), keep=1)) as checkpointer:  # which cleans up
        assert checkpointer.all_steps() == [30]
    assert sorted(os.listdir(copy)) == ["20.damaged", "20.damaged.2", "30"]


def test_a_large_file_has_a_checksum_for_each_segment(tmp_path):
    data = np.random.default_rng(0).bytes(SEGMENT_BYTES + 5)
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    directory = epath.Path(tmp_path)
    found = compute_checksums(directory, ["large", "empty"])
    assert found["empty"] == {"bytes": 0, "crc32": []}
    assert found["large"]["bytes"] == len(data) and len(found["large"]["crc32"]) == 2
    (tmp_path / "tail").write_bytes(data[SEGMENT_BYTES:])
    assert compute_checksums(directory, ["tail"])["tail"]["crc32"] == found["large"]["crc32"][1:]
    parts = []
    write_checksums(directory / "checksums.json", found)
    assert find_damage(directory, directory / "checksums.json", lambda: parts.append(1)) == ""
    assert len(parts) == 2


def test_progress_is_told_while_a_checkpoint_is_checked(copy):
    """Then `doctor` does not take a large one for a process that hangs."""
    parts = []
    with reading(copy) as checkpointer:
        checkpointer.on_progress = lambda: parts.append(1)
        checkpointer.check(STEP)
    covered = read_checksums(epath.Path(copy / str(STEP) / "verification" / "checksums.json"))
    assert len(parts) == sum(len(entry["crc32"]) for entry in covered.values()) > 3


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"files": 5}', "[" * 100_000, "\xff"])
def test_a_file_of_checksums_that_was_not_written_whole_is_damaged(text, tmp_path):
    (tmp_path / "checksums.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"checksums\.json is damaged"):
        read_checksums(epath.Path(tmp_path / "checksums.json"))


def test_nothing_is_printed_of_the_other_arrays_when_one_has_failed(copy, capfd):
    make_older(copy)
    os.remove(max((copy / str(STEP)).rglob("d/*"), key=lambda path: path.stat().st_size))
    with pytest.raises(UnusableCheckpoint):
        outcome(copy)
    gc.collect()  # their coroutines end when they are freed
    assert "Exception ignored" not in capfd.readouterr().err
