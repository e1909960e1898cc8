"""launch/gpu_slurm.sh and its job with simulated SLURM commands, which run the processes on this machine."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electra_jax.training.writers import read_metrics
from support.hostile_arguments import hostile_arguments
from support.paths import ROOT
from support.run_records import checkpoints
from support.stand_in_slurm import ENVIRONMENT, PYTHON, end, make_sandbox
from support.tiny_run import command

RUN = ["--config=c.py", "--workdir=runs/a", "--distributed"]
FILES = ("gpu_slurm.sh", "options.sh", "slurm_job.sh")


class Cluster:
    """A checkout to submit from, and a simulated cluster."""

    def __init__(self, root):
        self.root, self.checkout = root / "cluster", root / "the checkout"
        make_sandbox(self.root)
        (self.checkout / "launch").mkdir(parents=True)
        for name in FILES:
            shutil.copy(ROOT / "launch" / name, self.checkout / "launch")
        self.write("environment.sh", ENVIRONMENT)
        self.write("fake_python", f"#!{sys.executable} -S\n{PYTHON}")
        self.environment = {
            "PATH": f"{self.root}/path:/usr/bin:/bin",
            "STAND_IN": str(self.root),
            "LANG": "C.UTF-8",
            "HOME": str(root / "home"),
        }

    def write(self, name, text):
        path = self.checkout / "launch" / name
        path.write_text(text)
        path.chmod(0o755)

    def behave(self, words):
        (self.root / "behaviour").write_text(words)

    def script(self, **values):
        (self.root / "script.json").write_text(json.dumps(values))

    def launch(self, *words, directory=None):
        """The outcome of gpu_slurm.sh WORDS, run in the checkout or in `directory`."""
        return subprocess.run(
            ["bash", self.checkout / "launch" / "gpu_slurm.sh", *words],
            cwd=directory or self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def submit(self, *words, arguments=RUN, directory=None):
        """Submit a job; returns the path of its record."""
        outcome = self.launch(*words, "--", *arguments, directory=directory)
        assert outcome.returncode == 0, outcome.stderr
        return self.root / "jobs" / re.match(r"Submitted job (\d+)\. Its log: ", outcome.stdout)[1]

    def scancel(self, *words):
        subprocess.run(["scancel", *words], env=self.environment, check=True)

    def calls(self, program):
        return [
            argv
            for name, argv in map(json.loads, (self.root / "calls.jsonl").read_text().splitlines())
            if name == program
        ]

    def requeued(self):
        return [argv[1] for argv in self.calls("scontrol") if argv[0] == "requeue"]

    def started(self):
        """[rank, start, arguments, directory, variables] of every process so far, in order."""
        return sorted(
            map(json.loads, (self.root / "started.jsonl").read_text().splitlines()),
            key=lambda row: (row[1], row[0]),
        )

    def ended(self, job):
        """State and exit code of a job that ended, as "FAILED 1"."""
        self.wait_for((job / "ended").exists)
        return (job / "ended").read_text()

    def log(self, job, workdir="runs/a"):
        return (self.checkout / workdir / f"slurm-{job.name}.log").read_text()

    def wait_for(self, condition, seconds=40):
        deadline = time.monotonic() + seconds  # far more than needed, for a busy machine
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.script(no_requeue=True)
        for job in (self.root / "jobs").iterdir():
            (job / "requeued").unlink(missing_ok=True)
            end(job)
            self.ended(job)


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A cluster for commands that end before they submit a job."""
    return Cluster(tmp_path_factory.mktemp("untouched"))


def test_help_shows_a_command_and_every_option(untouched):
    text = untouched.launch("--help").stdout
    assert "bash launch/gpu_slurm.sh --nodes=2" in text and "scancel --signal=TERM JOB" in text
    assert "Not yet run on a real cluster" in text and not untouched.calls("sbatch")
    script = (ROOT / "launch" / "gpu_slurm.sh").read_text()
    for option in set(re.findall(r"^ +(--\w+)=\*|(--dry_run)\)", script)):
        assert f"    {''.join(option)}" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got no arguments of the run, expected some after --: "),
        (["--"], "got no arguments of the run"),
        (["--nodes=0", "--", *RUN], "--nodes: got '0', expected a whole number from 1"),
        (["--nodes=two", "--", *RUN], "--nodes: got 'two'"),
        (["--gpus_per_node=a100:4", "--", *RUN], "--gpus_per_node: got 'a100:4'"),
        (["--cpus_per_gpu=", "--", *RUN], "--cpus_per_gpu: got ''"),
        (["--time=soon", "--", *RUN], "--time: got 'soon', expected a time limit as 24:00:00"),
        (["--time=5", "--", *RUN], "--time: got '5', expected ten minutes or more"),
        (["--time=00:09:59", "--", *RUN], "--time: got '00:09:59', expected ten minutes or more"),
        (["--partition=", "--", *RUN], "--partition=: not an option, or not a valid value"),
        (["--sbatch=qos", "--", *RUN], "--sbatch=qos: not an option, or not a valid value"),
        (["--node=2", "--", *RUN], "--node=2: not an option"),
        (
            ["--nodes", "2", "--", *RUN],
            "--nodes: not an option, or not a valid value. Expected options like --nodes=2",
        ),
        (["--env_file=nowhere", "--", *RUN], "--env_file: got 'nowhere', expected a file"),
        (["--", "--workdir=a"], "--config: missing among the run's arguments"),
        (["--", "--config=a"], "--workdir: missing among the run's arguments"),
        (
            ["--nodes=2", "--", "--config=a", "--workdir=s3://b/a", "--distributed"],
            "--workdir: got 's3://b/a' in a run of 2 processes, expected gs://BUCKET/…",
        ),
        (
            ["--gpus_per_node=2", "--nodes=2", "--", *RUN[:2]],
            "--distributed: missing among the run's arguments; without it each of 4 ",
        ),
        (
            ["--nodes=2", "--", *RUN[:2], "--distributed=false"],
            "--distributed: missing among the run's arguments",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_1(words, message, untouched):
    outcome = untouched.launch("--dry_run", *words)
    assert outcome.returncode == 1 and outcome.stderr.startswith(message), outcome.stderr
    assert (
        len(outcome.stderr.splitlines()) == 1
        and outcome.stderr.endswith("See --help.\n")
        and not outcome.stdout
    )


@pytest.mark.parametrize("time", ["10", "24:00:00", "0:10:00", "7-00", "1-00:00:00", "15:00"])
def test_slurms_forms_of_a_time_limit_are_accepted(time, untouched):
    outcome = untouched.launch("--dry_run", f"--time={time}", "--", *RUN)
    assert outcome.returncode == 0 and f" --time={time} " in outcome.stdout


def test_a_missing_sbatch_is_reported(cluster):
    cluster.environment["PATH"] = "/usr/bin:/bin"
    outcome = cluster.launch("--", *RUN)
    assert outcome.returncode == 1 and outcome.stderr.startswith("sbatch: not found on PATH")
    assert not (cluster.checkout / ".venv").exists()


def test_slurms_refusal_is_passed_on(cluster):
    cluster.script(refuse="Batch job submission failed: Invalid partition name specified")
    outcome = cluster.launch("--partition=x", "--", *RUN)
    assert outcome.returncode == 1 and "Submitted" not in outcome.stdout
    assert (
        outcome.stderr.splitlines()[0]
        == "sbatch: error: Batch job submission failed: Invalid partition name specified"
    )
    assert "sbatch refused the job" in outcome.stderr.splitlines()[1]


def test_a_dry_run_prints_the_real_commands_and_runs_none(cluster):
    words = [
        "--nodes=2",
        "--gpus_per_node=4",
        "--cpus_per_gpu=6",
        "--partition=gpu",
        "--account=a b",
        "--time=1-00:00:00",
        "--job_name=it's mine",
        "--sbatch=--qos=long",
        "--sbatch=--gres=gpu:a100:4",
        "--",
        *RUN,
        "a  b",
        "",
        "$x\n'",
    ]
    printed = cluster.launch("--dry_run", *words)
    assert printed.returncode == 0 and not printed.stderr and not cluster.calls("sbatch")
    assert {path.name for path in cluster.checkout.iterdir()} == {"launch"}
    lines = printed.stdout.splitlines()
    assert lines[0] == "source launch/environment.sh" and shlex.split(lines[1]) == [
        "make_environment",
        "cuda,formats",
    ]
    assert shlex.split(lines[2]) == ["mkdir", "-p", f"{cluster.checkout}/runs/a"]
    cluster.behave("0")
    assert cluster.launch(*words).returncode == 0
    (argv,) = cluster.calls("sbatch")
    assert (
        subprocess.run(
            ["bash", "-c", f"sbatch() {{ printf '%s\\0' \"$@\"; }}; {lines[3]}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")[:-1]
        == argv
    )
    assert argv == [
        "--parsable",
        "--job-name=it's mine",
        f"--output={cluster.checkout}/runs/a/slurm-%j.log",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gres=gpu:4",
        "--cpus-per-task=6",
        f"--chdir={cluster.checkout}",
        "--partition=gpu",
        "--account=a b",
        "--time=1-00:00:00",
        "--qos=long",
        "--gres=gpu:a100:4",
        "launch/slurm_job.sh",
        "",
        *RUN,
        "a  b",
        "",
        "$x\n'",
    ]


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--", "--config=c", "--workdir=~bob/a"],
            "--workdir: got '~bob/a', expected ~/… or an absolute path",
        ),
        (["--env_file=~bob/a", "--", *RUN], "--env_file: got '~bob/a', expected ~/"),
        (["--", "--config=c", "--workdir=~/a"], "--workdir: got '~/a', but HOME is not set"),
    ],
)
def test_a_home_directory_that_is_not_known_is_refused(words, message, cluster):
    del cluster.environment["HOME"]
    outcome = cluster.launch(*words)
    assert outcome.returncode == 1 and outcome.stderr.startswith(message)
    assert not cluster.calls("sbatch") and {path.name for path in cluster.checkout.iterdir()} == {"launch"}


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
    workdir, num_steps = cluster.checkout / "runs" / "a", 40
    words = command("runs/a", data, train__num_steps=num_steps)[3:]  # for python -m electra_jax.pretrain
    job = cluster.submit("--gpus_per_node=2", arguments=[*words, "--distributed"])
    metrics = workdir / "metrics.jsonl"
    cluster.wait_for(
        lambda: (job / "ended").exists() or (metrics.exists() and metrics.read_bytes().count(b"\n") > 2), 300
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
