"""launch/gpu_slurm.sh and its job with simulated SLURM commands, which run the processes on this machine."""

import contextlib
import json
import os
import random
import re
import shlex
import socket
import stat
import sys
from pathlib import Path

import pytest

from electra_jax.training.writers import read_metrics
from support.hostile_arguments import hostile_arguments
from support.paths import ROOT
from support.run_records import checkpoints
from support.slurm_sandbox import RUN, Cluster
from support.tiny_run import command


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        yield cluster


def test_slurms_refusal_is_passed_on(cluster):
    cluster.script(refuse="Batch job submission failed: Invalid partition name specified")
    outcome = cluster.launch("--partition=x", "--", *RUN)
    assert outcome.returncode == 1 and "Submitted" not in outcome.stdout
    assert (
        outcome.stderr.splitlines()[0]
        == "sbatch: error: Batch job submission failed: Invalid partition name specified"
    )
    assert "sbatch refused the job" in outcome.stderr.splitlines()[1]


def test_every_gpu_has_one_process_that_sees_all_gpus_of_its_node(cluster):
    cluster.behave("0")
    job = cluster.submit("--nodes=2", "--gpus_per_node=2", "--cpus_per_gpu=3")
    assert cluster.ended(job) == "COMPLETED 0" and not cluster.requeued()
    assert (cluster.checkout / ".venv" / "made").read_text() == "cuda,formats\n"  # on the login node, once
    rows = cluster.started()
    assert [row[:2] for row in rows] == [[0, 0], [1, 0], [2, 0], [3, 0]]
    assert [row[4]["SLURM_LOCALID"] for row in rows] == ["0", "1", "0", "1"]
    for _, _, arguments, directory, variables in rows:
        assert arguments == ["-m", "electra_jax.pretrain", *RUN] and directory == str(cluster.checkout)
        assert variables["CUDA_VISIBLE_DEVICES"] == "0,1" and variables["SLURM_CPUS_PER_TASK"] == "3"
        assert variables["no_proxy"] is None
    log = cluster.log(job).splitlines()
    assert re.fullmatch(r"[-\d]+ [:\d]+ job 1, start 1: 4 processes on node\[1-2\]", log[0])
    assert sorted(log[1:5]) == [f"{rank}: training" for rank in range(4)] and log[5].endswith(
        "job 1 ended with exit code 0"
    )


def test_a_stopped_run_saves_and_resumes_from_the_queue(cluster):
    cluster.behave("run run 0")
    job = cluster.submit("--nodes=2", "--gpus_per_node=2")
    for start in (0, 1):
        cluster.wait_for(lambda start=start: len(cluster.started()) == 4 * (start + 1))
        cluster.scancel("--signal=TERM", job.name)  # as SLURM does before the time limit and a preemption
        cluster.wait_for(lambda start=start: len(cluster.requeued()) == start + 1)
    assert (
        cluster.ended(job) == "COMPLETED 0"
        and cluster.requeued() == [job.name] * 2
        and len(cluster.started()) == 12
    )
    log = cluster.log(job)  # one log of all starts
    assert re.findall("start [0-9]", log) == ["start 1", "start 2", "start 3"] and log.count("0: saved") == 2
    assert log.count("was told to stop and goes back into the queue") == 2
    options = json.loads((job / "options.json").read_text())
    assert "requeue" in options and re.fullmatch(r"TERM@\d{3}", options["signal"])


def test_a_cancelled_run_saves_and_is_not_requeued(cluster):
    job = cluster.submit("--gpus_per_node=2")
    cluster.wait_for(lambda: len(cluster.started()) == 2)
    cluster.scancel(job.name)
    assert (
        cluster.ended(job).startswith("CANCELLED") and not cluster.requeued() and len(cluster.started()) == 2
    )
    cluster.wait_for(lambda: "0: saved" in cluster.log(job))


@pytest.mark.parametrize("code", [1, 137, 9])
def test_a_failed_job_is_not_requeued(code, cluster):
    cluster.behave(str(code))
    job = cluster.submit("--gpus_per_node=2")
    assert cluster.ended(job) == f"FAILED {code}" and not cluster.requeued() and len(cluster.started()) == 2
    assert f"ended with exit code {code}" in cluster.log(job)


def test_a_job_that_cannot_be_requeued_reports_it(cluster):
    cluster.script(no_requeue=True)
    cluster.behave("143")
    job = cluster.submit()
    assert cluster.ended(job) == "FAILED 143" and "Submit it again with the same arguments" in cluster.log(
        job
    )


def test_arguments_arrive_unchanged(cluster):
    nasty = hostile_arguments("%j", seed=1, more_letters="%")
    cluster.behave("0")
    job = cluster.submit(arguments=[*RUN, *nasty])
    assert cluster.ended(job) == "COMPLETED 0" and cluster.started()[0][2][2:] == [*RUN, *nasty]
    assert not list(cluster.root.parent.rglob("pwned"))


@pytest.mark.parametrize(
    ("workdir", "words"),
    [
        ("../home/runs/a", ["--workdir=~/runs/a"]),
        ("../home/runs/b", ["--workdir", "~/runs/b"]),
        ("runs/100%j $x", ["--workdir=no", "--workdir=runs/100%j $x"]),
        ("runs/b c", ["-workdir", "runs/b c"]),
    ],
)
def test_the_log_is_in_the_run_directory(workdir, words, cluster):
    cluster.behave("0")
    job = cluster.submit(arguments=["--config=c.py", *words])
    assert cluster.ended(job) == "COMPLETED 0" and "0: training" in cluster.log(job, workdir)
    assert f"--job-name={Path(workdir).name}" in cluster.calls("sbatch")[0]


def test_home_directories_are_expanded_here_and_for_the_run(cluster):
    home = cluster.root.parent / "home"
    home.mkdir()
    (home / "secrets").touch(mode=0o600)
    cluster.behave("0")
    arguments = ["--config=c.py", "--workdir=~/runs/a", "--config.data.datasets=~/corpus", "~"]
    job = cluster.submit("--env_file=~/secrets", "--sbatch=--error=~/errors", arguments=arguments)
    assert cluster.ended(job) == "COMPLETED 0" and not (cluster.checkout / "~").exists()
    words = ["--config=c.py", f"--workdir={home}/runs/a", f"--config.data.datasets={home}/corpus", "~"]
    assert cluster.started()[0][2][2:] == words
    (argv,) = cluster.calls("sbatch")
    assert f"--error={home}/errors" in argv and f"--output={home}/runs/a/slurm-%j.log" in argv


def test_the_log_of_a_run_in_a_bucket_is_in_the_checkout(cluster):
    cluster.behave("0")
    job = cluster.submit(arguments=["--config=c.py", "--workdir=gs://b/runs/a"])
    assert cluster.ended(job) == "COMPLETED 0" and "0: training" in cluster.log(job, ".")
    assert (cluster.checkout / ".venv" / "made").read_text() == "cuda,formats,buckets\n"
    assert not (cluster.checkout / "gs:").exists()


def test_secrets_come_from_a_file_and_are_in_no_command(cluster):
    secrets = cluster.root.parent / "my secrets"
    secrets.write_text("SECRET='a b $HOME'\n")
    secrets.chmod(0o644)
    loud = cluster.launch("--env_file=my secrets", "--", *RUN, directory=secrets.parent)
    assert loud.returncode == 1 and "others can read 'my secrets', expected mode 600" in loud.stderr
    secrets.chmod(stat.S_IRUSR | stat.S_IWUSR)
    cluster.behave("0")
    job = cluster.submit("--env_file=my secrets", "--sbatch=--export=NONE", directory=secrets.parent)
    assert cluster.ended(job) == "COMPLETED 0" and cluster.started()[0][4]["SECRET"] == "a b $HOME"
    assert not any(
        "a b" in word for program in ("sbatch", "srun") for argv in cluster.calls(program) for word in argv
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "node1,node2"), ({"no_proxy": "x.y"}, "node1,node2,x.y"), ({"NO_PROXY": "z"}, "node1,node2,z")],
)
def test_the_nodes_are_reached_without_the_proxy(before, after, cluster):
    cluster.environment |= {"https_proxy": "http://proxy:3128", **before}
    cluster.behave("0")
    assert cluster.ended(cluster.submit("--nodes=2")) == "COMPLETED 0"
    variables = cluster.started()[1][4]
    assert variables["no_proxy"] == variables["no_grpc_proxy"] == after


def test_a_checkout_that_the_nodes_do_not_see_is_reported(cluster):
    cluster.write("environment.sh", "make_environment() { :; }")
    job = cluster.submit()
    assert cluster.ended(job) == "FAILED 1" and ".venv/bin/python: not found on" in cluster.log(job)
    assert "compute nodes must see the checkout" in cluster.log(job) and not cluster.requeued()


def free_job():
    """The number of a job from which JAX derives a free port."""
    for number in random.SystemRandom().sample(range(1, 4096), 100):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("", 61_440 + number))
            return number
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_two_real_processes_behind_a_proxy_train_are_stopped_and_resume(cluster, data, environment):
    """The tiny run, whose processes find each other through SLURM's variables."""
    for name in ("electra_jax", "data_pipelines", "configs"):
        (cluster.checkout / name).symlink_to(ROOT / name)
    cluster.write(
        "environment.sh", "make_environment() { mkdir -p .venv/bin; cp launch/fake_python .venv/bin/python; }"
    )
    cluster.write("fake_python", f'#!/bin/bash\nexec {shlex.quote(sys.executable)} "$@"\n')
    cluster.script(first_job=free_job(), nodelist=os.uname().nodename)
    silent = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "grpc_proxy")}
    cluster.environment = environment | cluster.environment | silent
    workdir, num_steps = cluster.checkout / "runs" / "a", 24
    changes = {"train__num_steps": num_steps, "eval__every": num_steps, "log__every": 2}
    words = command("runs/a", data, **changes)[3:]  # for python -m electra_jax.pretrain
    job = cluster.submit("--gpus_per_node=2", arguments=[*words, "--distributed"])
    metrics = workdir / "metrics.jsonl"
    cluster.wait_for(
        lambda: (job / "ended").exists() or (metrics.exists() and metrics.read_bytes().count(b"\n") > 1), 600
    )
    cluster.scancel("--signal=TERM", job.name)
    cluster.wait_for((job / "ended").exists, 300)
    log = cluster.log(job)
    assert cluster.ended(job) == "COMPLETED 0", log
    assert cluster.requeued() == [job.name] and re.search(r"0: Told to stop: step \d+ is saved", log)
    assert log.count("process 1 of 2: 1 of 2 devices") == 2
    assert (
        checkpoints(workdir)[-1] == num_steps
        and len((workdir / "sessions.jsonl").read_text().splitlines()) == 2
    )
    steps = [row["step"] for row in read_metrics(workdir) if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == num_steps
