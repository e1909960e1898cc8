"""launch/gpu_slurm.sh: its options, and mistakes that it reports before it submits a job."""

import re
import shlex
import subprocess

import pytest

from support.paths import ROOT
from support.slurm_sandbox import RUN, Cluster


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
    options = set(re.findall(r"(?:^ +|\| )(--\w+)=[?*-]+", script, re.MULTILINE))
    assert len(options) == 9 and all(f"{option}=" in text for option in options) and "--dry_run " in text


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


@pytest.mark.parametrize("value", ["", "=true", "=True", "=TRUE", "=t", "=T", "=1"])  # as absl takes them
def test_every_spelling_of_distributed_is_accepted(value, untouched):
    outcome = untouched.launch("--dry_run", "--nodes=2", "--", *RUN[:2], f"--distributed{value}")
    assert outcome.returncode == 0 and f"--distributed{value}" in outcome.stdout


@pytest.mark.parametrize("time", ["10", "24:00:00", "0:10:00", "7-00", "1-00:00:00", "15:00"])
def test_slurms_forms_of_a_time_limit_are_accepted(time, untouched):
    outcome = untouched.launch("--dry_run", f"--time={time}", "--", *RUN)
    assert outcome.returncode == 0 and f" --time={time} " in outcome.stdout


def test_a_missing_sbatch_is_reported(cluster):
    cluster.environment["PATH"] = "/usr/bin:/bin"
    outcome = cluster.launch("--", *RUN)
    assert outcome.returncode == 1 and outcome.stderr.startswith("sbatch: not found on PATH")
    assert not (cluster.checkout / ".venv").exists()


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
