"""Runs, datasets and exports at gs:// and s3:// URLs, on emulators: killed, stopped, resumed, half uploaded,
read by other commands, and with wrong places."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.commands import run_module
from support.object_stores import (
    BUCKET,
    SCHEMES,
    emulators,
    objects,
    read_object,
    remove_object,
    run_python,
    upload,
    write_object,
)
from support.paths import ROOT
from support.run_records import comparable
from support.tiny_run import NUM_STEPS, running, start

SECRET = "not-to-be-printed"  # the emulators' key, among the environment variables


@pytest.fixture(scope="module")
def stores(environment, data, tmp_path_factory):
    """Environment variables with which commands reach the emulators, which hold the dataset."""
    folders = {name: str(tmp_path_factory.mktemp("folder")) for name in ("ELECTRA_JAX_CACHE", "TMPDIR")}
    with emulators(environment | folders) as environment_of_stores:
        for scheme in SCHEMES:
            upload(environment_of_stores, data / "corpus", f"{scheme}://{BUCKET}/data/corpus")
        yield environment_of_stores


def interrupt(workdir, data, stores, number, after_step):
    """Start the run, and send it the signal `number` once the checkpoint of `after_step` is complete."""
    datasets = f"{workdir.partition('://')[0]}://{BUCKET}/data/corpus"
    with running(workdir, data, stores, data__datasets=datasets) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if read_object(stores, f"{workdir}/checkpoints/{after_step}/commit_success.txt") is not None:
                break
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert read_object(stores, f"{workdir}/summary.json") is None, "the run was over before the signal"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def resume(workdir, data, stores):
    datasets = f"{workdir.partition('://')[0]}://{BUCKET}/data/corpus"
    return start(workdir, data, stores, data__datasets=datasets)


def rows_in(workdir, stores, tmp_path):
    """The rows of metrics.jsonl in a bucket, without those that depend on a clock."""
    (tmp_path / "metrics.jsonl").write_bytes(read_object(stores, f"{workdir}/metrics.jsonl"))
    return comparable(tmp_path)


def sessions_in(workdir, stores):
    """The first step of every start."""
    lines = read_object(stores, f"{workdir}/sessions.jsonl").splitlines()
    return [json.loads(line)["start_step"] for line in lines]


@pytest.fixture(scope="module", params=SCHEMES)
def interrupted(request, data, stores):
    """(URL, processes) of a run that was killed, then stopped, and then ran to its end."""
    workdir = f"{request.param}://{BUCKET}/runs/a b"
    killed = interrupt(workdir, data, stores, signal.SIGKILL, 10)
    stopped = interrupt(workdir, data, stores, signal.SIGTERM, 20)
    return workdir, [killed, stopped, resume(workdir, data, stores)]


@pytest.mark.slow
def test_killed_then_stopped_then_resumed_equals_uninterrupted(interrupted, finished, stores, tmp_path):
    workdir, (killed, stopped, ended) = interrupted
    assert killed.returncode == -signal.SIGKILL
    assert stopped.returncode == 143, stopped.stderr
    assert "is saved. The same command resumes from there." in stopped.stderr
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{workdir}/summary.json"
    assert rows_in(workdir, stores, tmp_path) == comparable(finished[0])
    starts = sessions_in(workdir, stores)
    assert starts[0] == 0 and 10 <= starts[1] < 20 <= starts[2] < NUM_STEPS
    found = objects(stores, workdir)
    complete = {
        name.split("/")[1]
        for name in found
        if name.startswith("checkpoints/") and name.count("/") == 2 and name.endswith("commit_success.txt")
    }
    assert (
        complete
        == {str(NUM_STEPS - 10), str(NUM_STEPS)}
        == {name.split("/")[1] for name in found if name.startswith("checkpoints/")}
    )
    expected = ("config.json", "datasets.json", "summary.json", "plots/curves.png", "tokenizer/spm.model")
    assert set(expected) <= found.keys() and not any(name.startswith((".", "sample")) for name in found)
    assert not list(Path(stores["TMPDIR"]).glob("electra_jax*"))
    assert SECRET not in "".join(outcome.stdout + outcome.stderr for outcome in interrupted[1][1:])
    config = json.loads(read_object(stores, f"{workdir}/config.json"))["config"]
    assert config["data"]["datasets"] == [f"{workdir.partition('://')[0]}://{BUCKET}/data/corpus"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_second_start_refuses(scheme, data, stores):
    workdir = f"{scheme}://{BUCKET}/runs/held"
    words = [sys.executable, "tests/support/hold_lock.py", workdir, "90", "10"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, env=stores, **pipes) as holder:
        assert holder.stdout.readline().startswith("held")
        outcome = resume(workdir, data, stores)
        assert outcome.returncode == 1 and not outcome.stdout
        assert f"{workdir}: another process writes this directory: " in outcome.stderr
        assert f"process {holder.pid} on " in outcome.stderr and "Traceback" not in outcome.stderr
        assert list(objects(stores, workdir)) == [".lock"]
        out, _ = holder.communicate("\n", timeout=60)
    assert out == "ok\n" and not objects(stores, workdir)


# What these tests look at is the same for both stores; their checkpoints are not.
IN_ONE_STORE = pytest.mark.parametrize("interrupted", ["gs"], indirect=True)


@pytest.mark.slow
@IN_ONE_STORE
def test_a_complete_run_records_where_its_data_lie_now(interrupted, data, stores):
    workdir, _ = interrupted
    in_bucket = f"{workdir.partition('://')[0]}://{BUCKET}/data/corpus"
    for place in (str(data / "corpus"), in_bucket):
        outcome = start(workdir, data, stores, data__datasets=place)
        assert outcome.returncode == 0, outcome.stderr
        assert f"{workdir}: the run is complete, all {NUM_STEPS} steps are done." in outcome.stderr
        config = json.loads(read_object(stores, f"{workdir}/config.json"))["config"]
        described = json.loads(read_object(stores, f"{workdir}/datasets.json"))
        assert config["data"]["datasets"] == [place] == [dataset["path"] for dataset in described]


@pytest.mark.slow
def test_a_checkpoint_without_its_last_object_is_not_resumed_from(
    interrupted, finished, data, stores, tmp_path
):
    workdir, _ = interrupted
    remove_object(stores, f"{workdir}/checkpoints/{NUM_STEPS}/commit_success.txt")
    outcome = resume(workdir, data, stores)
    assert outcome.returncode == 0, outcome.stderr
    assert sessions_in(workdir, stores)[-1] == NUM_STEPS - 10
    assert f"{NUM_STEPS}/commit_success.txt" in objects(stores, f"{workdir}/checkpoints")
    checkpoint = f"{workdir}/checkpoints/{NUM_STEPS}"
    listed = json.loads(read_object(stores, f"{checkpoint}/verification/checksums.json"))["files"]
    left = [name for name in objects(stores, checkpoint) if name not in listed and "/d/" in name]
    assert left == []  # of what was not complete
    assert rows_in(workdir, stores, tmp_path) == comparable(finished[0])


def flip_a_bit(stores, url):
    """In the middle of the largest object under `url`."""
    sizes = objects(stores, url)
    name = max(sizes, key=sizes.get)
    data = bytearray(read_object(stores, f"{url}/{name}"))
    data[len(data) // 2] ^= 1
    write_object(stores, f"{url}/{name}", bytes(data))


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(interrupted, finished, data, stores, tmp_path):
    workdir, _ = interrupted
    flip_a_bit(stores, f"{workdir}/checkpoints/{NUM_STEPS}")
    outcome = resume(workdir, data, stores)
    assert outcome.returncode == 0, outcome.stderr
    assert f"is now checkpoints/{NUM_STEPS}.damaged. Nothing was deleted." in outcome.stderr
    assert sessions_in(workdir, stores)[-1] == NUM_STEPS - 10
    found = objects(stores, f"{workdir}/checkpoints")
    assert {name.split("/")[0] for name in found} == {
        str(NUM_STEPS - 10),
        str(NUM_STEPS),
        f"{NUM_STEPS}.damaged",
    }
    assert f"{NUM_STEPS}/verification/checksums.json" in found
    assert rows_in(workdir, stores, tmp_path) == comparable(finished[0])
    for name in found:
        if ".damaged/" in name:
            remove_object(stores, f"{workdir}/checkpoints/{name}")


CUT_OFF = """
import collections
import sys
import jax.numpy as jnp
from data_pipelines import buckets
from electra_jax.runs import bucket_checkpoints

State = collections.namedtuple("State", "step a b")
url, state = sys.argv[1], State(jnp.int32(2), jnp.arange(1000.0), jnp.ones(3))
whole = bucket_checkpoints.upload

def cut(number):
    def upload(directory, names, url):
        whole(directory, names[:number], url)
        if number < len(names):
            raise OSError("cut off.")
        print("whole")
    return upload

checkpoints = bucket_checkpoints.UploadedCheckpointer(url, keep=2)
checkpoints.save(1, state, {})
checkpoints.wait()
for number in range(1000):
    bucket_checkpoints.upload = cut(number)
    checkpoints = bucket_checkpoints.UploadedCheckpointer(url, keep=2)
    assert checkpoints.all_steps() == [1], checkpoints.all_steps()
    checkpoints.save(2, state, {"number": number})
    try:
        checkpoints.wait()
    except OSError as error:
        assert "cut off. Complete checkpoints" in str(error), error
        assert bucket_checkpoints.UploadedCheckpointer(url, keep=None).latest_step() == 1
    else:
        break
assert checkpoints.all_steps() == [1, 2] and number > 4
reader = bucket_checkpoints.UploadedCheckpointer(url, keep=None)
assert reader.describe(2) == {"number": number}
restored = reader.restore(2, state)
assert (restored.a == state.a).all()
"""


@pytest.mark.slow
def test_no_part_of_an_upload_counts_as_a_checkpoint(stores):
    assert run_python(stores, CUT_OFF, f"s3://{BUCKET}/cut/checkpoints") == "whole\n"


@pytest.mark.slow
@IN_ONE_STORE
def test_an_export_from_a_bucket_to_a_bucket_appears_once_and_predicts(interrupted, stores, tmp_path):
    workdir, _ = interrupted
    out = f"{workdir.partition('://')[0]}://{BUCKET}/exports/a"
    flags = f"--workdir={workdir}", f"--out={out}"
    exported = run_module("electra_jax.convert", "export", *flags, environment=stores)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.splitlines()[-2:] == [f"{out}/discriminator", f"{out}/generator"]
    assert "FAILED" not in exported.stdout and "transformers loads it" in exported.stdout
    found = objects(stores, out)
    assert found["discriminator/model.safetensors"] > 10_000 and "generator/config.json" in found
    again = run_module("electra_jax.convert", "export", *flags, environment=stores)
    assert again.returncode == 1 and again.stderr.splitlines()[-1].startswith(f"error: {out} exists.")
    assert objects(stores, out) == found
    (tmp_path / "a.txt").write_text("abc [MASK]\nabc\n")
    predicted = run_module(
        "electra_jax.predict", f"--model={out}", f"--input={tmp_path / 'a.txt'}", environment=stores
    )
    records = map(json.loads, predicted.stdout.splitlines())
    assert [list(record) for record in records] == [["text", "masks"], ["text", "tokens"]], predicted.stderr


@pytest.mark.slow
@IN_ONE_STORE
def test_fine_tuning_from_a_run_in_a_bucket(interrupted, stores, tmp_path):
    workdir, _ = interrupted
    rows = "".join(f"some words {i}\t{'ab'[i % 2]}\n" for i in range(32))
    (tmp_path / "task.tsv").write_text(f"text\tlabel\n{rows}")
    task = {
        "train": tmp_path / "task.tsv",
        "validation": tmp_path / "task.tsv",
        "text": "text",
        "label": "label",
    }
    outcome = run_module(
        "electra_jax.finetune",
        "--config=configs/finetune.py:task=local",
        f"--init_from={workdir}",
        f"--workdir={tmp_path / 'tuned'}",
        "--config.train.num_epochs=1",
        *(f"--config.task.{key}={value}" for key, value in task.items()),
        environment=stores,
    )
    assert outcome.returncode == 0, outcome.stderr
    (result,) = json.loads((tmp_path / "tuned" / "results.json").read_text())
    assert result["model"] == workdir


@pytest.mark.slow
def test_doctor_checks_a_run_in_a_bucket_and_leaves_it_unchanged(data, stores):
    workdir = f"gs://{BUCKET}/runs/new"
    datasets = f"gs://{BUCKET}/data/corpus"
    outcome = start(workdir, data, stores, module="electra_jax.doctor", data__datasets=datasets)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert workdir in outcome.stdout and objects(stores, workdir) == {}
    assert not any("doctor" in name for name in objects(stores, f"gs://{BUCKET}/runs"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_wrong_places_are_errors_before_anything_is_written(scheme, data, stores, tmp_path):
    corpus, workdir = f"{scheme}://{BUCKET}/data/corpus", f"{scheme}://{BUCKET}/runs/never"
    shard = next(name for name in objects(stores, corpus) if "-train." in name)
    broken = f"{scheme}://{BUCKET}/data/broken"
    upload(stores, data / "corpus", broken)
    remove_object(stores, f"{broken}/{shard}")
    without_copies = stores | {"ELECTRA_JAX_CACHE": str(tmp_path / "cache")}
    without_extra = stores | {"PYTHONPATH": str(ROOT)}
    for datasets, place, environment, message in (
        (
            corpus,
            f"{scheme}://absent/runs/never",
            stores,
            "there is no such bucket or object. Check the name, and whether",
        ),
        (broken, workdir, without_copies, f"{broken}/{shard}: got None bytes, expected"),
        (f"{scheme}://{BUCKET}/runs", workdir, stores, "no corpus.json; expected a dataset made by"),
        (corpus, workdir, without_extra, "pip install -e '.[buckets]'"),
    ):
        outcome = start(place, data, environment, data__datasets=datasets)
        last = outcome.stderr.splitlines()[-1]
        assert outcome.returncode == 1 and last.startswith("error: ") and message in last, outcome.stderr
        assert "Traceback" not in outcome.stderr and SECRET not in outcome.stderr + outcome.stdout
        assert objects(stores, workdir) == {}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_a_run_that_has_begun_keeps_a_setting_that_nothing_reads(scheme, stores):
    workdir = f"{scheme}://{BUCKET}/runs/begun"
    words = ["electra_jax.pretrain", "--config=configs/debug.py:objective=mlm", f"--workdir={workdir}"]
    words += ["--config.objective.disc_weight=3", "--config.data.datasets=/absent"]
    outcome = run_module(*words, environment=stores)
    assert outcome.returncode == 1 and "disc_weight: got 3.0, but objective 'mlm' does not" in outcome.stderr
    write_object(stores, f"{workdir}/config.json", b"{}")
    outcome = run_module(*words, environment=stores)
    assert outcome.returncode == 1 and "disc_weight" not in outcome.stderr
    remove_object(stores, f"{workdir}/config.json")
