"""launch/gke_xpk.sh with a simulated xpk, whose containers are processes of this machine."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from support.hostile_arguments import hostile_arguments
from support.paths import ROOT
from support.stand_in_xpk import ENVIRONMENT, expand, make_sandbox, tell
from support.tpu_sandbox import commit

RUN = ["--config=c.py", "--workdir=/data/runs/a"]
DISTRIBUTED = [*RUN, "--distributed"]
TPU, IMAGE = "--tpu_type=v5litepod-8", "--docker_image=mine"


class Cluster:
    """A checkout to launch from, and the cluster of a simulated xpk."""

    def __init__(self, root):
        self.root, self.checkout = root / "cluster", root / "the checkout"
        make_sandbox(self.root)
        (self.root / "images" / "mine").mkdir()
        subprocess.run(["git", "init", "--quiet", "--template=", self.checkout], check=True)
        (self.checkout / "launch").mkdir()
        for name in ("gke_xpk.sh", "options.sh"):
            shutil.copy(ROOT / "launch" / name, self.checkout / "launch")
        (self.checkout / "launch" / "environment.sh").write_text(ENVIRONMENT)
        commit(self.checkout)
        (root / "temporary").mkdir()
        self.environment = {
            "PATH": f"{self.root}/path:/usr/bin:/bin",
            "STAND_IN": str(self.root),
            "LANG": "C.UTF-8",
            "TMPDIR": str(root / "temporary"),
        }

    def behave(self, words):
        (self.root / "behaviour").write_text(words)

    def launch(self, verb, *words, name="base"):
        """The outcome of gke_xpk.sh VERB with the usual names and WORDS."""
        script = self.checkout / "launch" / "gke_xpk.sh"
        return subprocess.run(
            ["bash", script, verb, "--cluster=c", f"--workload={name}", *words],
            env=self.environment,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def succeed(self, *words, **names):
        outcome = self.launch(*words, **names)
        assert outcome.returncode == 0, outcome.stderr
        return outcome

    def calls(self):
        return [json.loads(line) for line in (self.root / "calls.jsonl").read_text().splitlines()]

    def started(self):
        """[rank, restart, arguments, directory, variables] of every process so far, in order."""
        return sorted(
            map(json.loads, (self.root / "started.jsonl").read_text().splitlines()),
            key=lambda row: (row[1], row[0]),
        )

    def ended(self, name="base"):
        """The state in which a workload ended."""
        path = self.root / "workloads" / name / "state"
        self.wait_for(lambda: path.read_text() != "Running")
        return path.read_text()

    def wait_for(self, condition):
        deadline = time.monotonic() + 40  # far more than needed, for a busy machine
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for workload in (self.root / "workloads").iterdir():
            (workload / "deleted").touch()
            tell(workload)
            self.ended(workload.name)


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A cluster for commands that end before they call xpk."""
    return Cluster(tmp_path_factory.mktemp("untouched"))


@pytest.mark.parametrize("words", [["--help"], ["create", "--help"]])
def test_help_shows_a_command_and_every_option(words, untouched):
    outcome = subprocess.run(
        ["bash", ROOT / "launch" / "gke_xpk.sh", *words], capture_output=True, text=True, check=True
    )
    assert (
        "bash launch/gke_xpk.sh create $on --tpu_type=v5litepod-16" in outcome.stdout
        and "xpk 1.16" in outcome.stdout
    )
    assert "Not yet run on a real cluster" in outcome.stdout
    script = (ROOT / "launch" / "gke_xpk.sh").read_text()
    for option in set(re.findall(r"^ +(?:\*\) )?(--\w+)=[?*-]+", script, re.MULTILINE)):
        assert f"{option}=" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        (["start"], "a", "got 'start', expected create, status or stop as the first word"),
        (
            ["create", TPU, "--", *RUN],
            "Base_1",
            "--workload: got 'Base_1', expected at most 40 lower-case letters",
        ),
        (["create", TPU, "--", *RUN], "a" * 41, "--workload: got 'aaa"),
        (["status"], "a-", "--workload: got 'a-', "),
        (["status"], "1a", "--workload: got '1a', "),
        (["stop"], "", "--workload: got ''"),
        (["stop", "--cluster=c.d"], "a", "--cluster: got 'c.d'"),
        (["stop", TPU], "a", f"{TPU}: not an option of stop, expected --cluster, --workload"),
        (["stop", "--", "a"], "a", "stop: got arguments of a run"),
        (["create", "--", *RUN], "a", "--tpu_type: missing, expected it or --gpu_type"),
        (
            ["create", TPU, "--gpu_type=h100-80gb-8", "--", *RUN],
            "a",
            "--gpu_type=h100-80gb-8: got a second type",
        ),
        (
            ["create", TPU, "--num_nodes=2", "--", *DISTRIBUTED],
            "a",
            "--num_nodes: got it with --tpu_type, expected --num_slices",
        ),
        (
            ["create", "--gpu_type=h100-80gb-8", "--num_slices=2", "--", *RUN],
            "a",
            "--num_slices: got it with --gpu_type",
        ),
        (
            ["create", TPU, "--num_slices=x", "--", *RUN],
            "a",
            "--num_slices: got 'x', expected a whole number",
        ),
        (
            ["create", TPU, "--num_slices=0", "--", *RUN],
            "a",
            "--num_slices: got 0, expected a whole number from 1",
        ),
        (["create", TPU, "--max_restarts=-1", "--", *RUN], "a", "--max_restarts: got '-1'"),
        (
            ["create", TPU, IMAGE, "--base_docker_image=b", "--", *RUN],
            "a",
            "--docker_image: got it with --base_docker_image",
        ),
        (["create", TPU, "--xpk=spot", "--", *RUN], "a", "--xpk=spot: not an option, or not a valid value"),
        (["create", TPU, "--storage=", "--", *RUN], "a", "--storage=: not an option, or not a valid value"),
        (
            ["create", TPU, "--env_file=nowhere", "--", *RUN],
            "a",
            "--env_file: got 'nowhere', expected a file",
        ),
        (["create", TPU], "a", "got no arguments of the run, expected some after --"),
        (["create", TPU, "--", "--workdir=/a"], "a", "--config: missing among the run's arguments"),
        (
            ["create", TPU, "--", "--config=a", "--workdir=runs/a"],
            "a",
            "--workdir: got 'runs/a', on a container's own disk",
        ),
        (
            ["create", TPU, "--", "--config=a", "--workdir=s3://b/runs/a"],
            "a",
            "--workdir: got 's3://b/runs/a', on a container's own disk",
        ),
        (
            ["create", TPU, "--num_slices=2", "--", *RUN],
            "a",
            "--distributed: missing among the run's arguments",
        ),
        (
            ["create", "--tpu_type=v5litepod-16", "--", *RUN],
            "a",
            "--distributed: missing among the run's arguments",
        ),
        (
            ["create", "--gpu_type=a3", "--num_nodes=2", "--", *RUN],
            "a",
            "--distributed: missing among the run's arguments",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_1(words, name, message, untouched):
    outcome = untouched.launch(words[0], "--dry_run", *words[1:], name=name)
    assert outcome.returncode == 1 and outcome.stderr.startswith(message), outcome.stderr
    assert (
        len(outcome.stderr.splitlines()) == 1
        and outcome.stderr.endswith("See --help.\n")
        and not outcome.stdout
    )


@pytest.mark.parametrize("missing", ["cluster", "workload"])
def test_a_missing_name_is_reported(missing, untouched):
    words = [word for word in ("--cluster=c", "--workload=w") if missing not in word]
    outcome = subprocess.run(
        ["bash", ROOT / "launch" / "gke_xpk.sh", "stop", "--dry_run", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 1 and outcome.stderr.startswith(f"--{missing}: missing, expected")


def test_a_missing_xpk_is_reported(cluster):
    cluster.environment["PATH"] = "/usr/bin:/bin"
    outcome = cluster.launch("status")
    assert outcome.returncode == 1 and outcome.stderr.startswith("xpk: not found on PATH")


def test_xpks_refusal_is_passed_on(cluster):
    (cluster.root / "refuse").write_text("[XPK] v5litepod-8 is not available in cluster c.")
    outcome = cluster.launch("create", TPU, IMAGE, "--", *RUN)
    assert outcome.returncode == 1 and "not available in cluster c" in outcome.stderr
    assert cluster.launch("stop", name="other").returncode == 1  # no such workload


def test_create_status_and_stop(cluster):
    cluster.succeed("create", "--tpu_type=v5litepod-16", IMAGE, "--project=p", "--zone=z", "--", *DISTRIBUTED)
    cluster.wait_for(lambda: len(cluster.started()) == 4)
    program = ["-m", "electra_jax.pretrain", *DISTRIBUTED]
    assert [row[:3] for row in cluster.started()] == [[rank, 0, program] for rank in range(4)]
    assert cluster.started()[0][3] == str(cluster.root / "images" / "mine")
    assert cluster.started()[0][4] == {"MADE": None, "SECRET": None, "PYTHONUNBUFFERED": "1", "COMMAND": None}
    assert (
        cluster.succeed("status").stdout == "base Running\n"
        and cluster.succeed("status", name="other").stdout == ""
    )
    cluster.succeed("stop")
    assert cluster.ended() == "Deleted"
    assert (cluster.root / "workloads" / "base" / "log").read_text().count("saved") == 4
    common = ["--cluster=c", "--workload=base"]
    create, status, _, stop = cluster.calls()
    assert status == ["workload", "list", "--cluster=c", "--filter-by-job=base"] and stop == [
        "workload",
        "delete",
        *common,
    ]
    assert create == [
        "workload",
        "create",
        *common,
        "--project=p",
        "--zone=z",
        "--max-restarts=20",
        "--restart-on-exit-codes=1",
        "--termination-grace-period-seconds=120",
        "--tpu-type=v5litepod-16",
        "--num-slices=1",
        "--docker-image=mine",
        "--command=exec env PYTHONUNBUFFERED=1 python -m electra_jax.pretrain " + " ".join(DISTRIBUTED),
    ]


def test_a_preempted_run_saves_and_is_restarted(cluster):
    cluster.behave("run run 0")
    cluster.succeed("create", TPU, IMAGE, "--num_slices=2", "--", *DISTRIBUTED)
    for restart in (0, 1):
        cluster.wait_for(lambda restart=restart: len(cluster.started()) == 4 * (restart + 1))
        pods = sorted((cluster.root / "workloads" / "base" / "pods").iterdir())
        os.kill(int(pods[0].name), signal.SIGTERM)  # one of its hosts
    assert cluster.ended() == "Complete" and len(cluster.started()) == 12
    assert (cluster.root / "workloads" / "base" / "log").read_text().count("saved") == 8


@pytest.mark.parametrize(
    ("arguments", "behaviour", "state", "starts"),
    [
        (RUN, "1", "Failed 1", 1),
        (DISTRIBUTED, "1 0", "Complete", 2),  # as on the other hosts when one is lost
        (DISTRIBUTED, "1", "Failed 1", 4),
        (DISTRIBUTED, "2", "Failed 2", 1),
        (RUN, "143 137 0", "Complete", 3),
    ],
)
def test_which_exit_codes_restart_a_run_and_how_often(arguments, behaviour, state, starts, cluster):
    cluster.behave(behaviour)
    cluster.succeed("create", "--gpu_type=a100-40gb-1", IMAGE, "--max_restarts=3", "--", *arguments)
    assert cluster.ended() == state and len(cluster.started()) == starts


def test_the_last_commit_is_put_on_the_base_image(cluster):
    (cluster.checkout / "new.txt").write_text("committed")
    commit(cluster.checkout)
    (cluster.checkout / "uncommitted").touch()
    cluster.behave("0")
    outcome = cluster.succeed(
        "create", "--gpu_type=a100-40gb-1", "--base_docker_image=gcr.io/p/python:3.13", "--", *RUN
    )
    assert "Uncommitted changes of this checkout are not sent" in outcome.stderr
    assert cluster.ended() == "Complete"
    image = cluster.root / "images" / "made"
    assert {path.name for path in image.iterdir()} == {"launch", "new.txt"}
    assert cluster.started()[0][3] == str(image) and cluster.started()[0][4]["MADE"] == "cuda,formats,buckets"
    assert "--base-docker-image=gcr.io/p/python:3.13" in cluster.calls()[0]
    assert not list((cluster.root.parent / "temporary").iterdir())  # nothing is left over


def test_a_failed_installation_fails_the_workload(cluster):
    (cluster.checkout / "broken").touch()
    commit(cluster.checkout)
    cluster.succeed("create", TPU, "--", *RUN)
    assert cluster.ended() == "Failed 1" and not cluster.started()
    assert "--base-docker-image=python:3.12" in cluster.calls()[0]


def test_gpu_processes_take_their_coordinator_from_xpks_variables(cluster):
    cluster.behave("0")
    cluster.succeed("create", "--gpu_type=h100-80gb-8", IMAGE, "--num_nodes=2", "--", *DISTRIBUTED)
    assert cluster.ended() == "Complete"
    for rank, row in enumerate(cluster.started()):
        assert row[2][2:] == [
            *DISTRIBUTED,
            "--coordinator=base-0.base:6002",
            "--num_processes=2",
            f"--process_id={rank}",
        ]


@pytest.mark.parametrize("device", [TPU, "--gpu_type=h100-80gb-8"])
def test_arguments_arrive_unchanged(device, cluster):
    arguments = hostile_arguments(
        "$$", "$(NODE_RANK)", "{args}", "a: b", "- c", "\x01", seed=2, more_letters="%:-"
    )
    cluster.behave("0")
    cluster.succeed("create", device, IMAGE, "--", *RUN, *arguments, name="all")
    assert cluster.ended("all") == "Complete" and cluster.started()[0][2][2:] == [*RUN, *arguments]
    assert not list(cluster.root.parent.rglob("pwned"))


def words_of(printed):
    """xpk's arguments as bash reads them from a printed command."""
    script = f"xpk() {{ printf '%s\\0' \"$@\"; }}; {printed}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split(
        "\0"
    )[:-1]


def test_arguments_with_special_characters_are_encoded(untouched):
    """Each argument alone, since one such argument makes the whole command encoded."""
    for word in (
        "",
        "a b",
        "it's",
        '"',
        "\\",
        "$(NNODES)",
        "$$",
        "a\nb",
        "日",
        "{x}",
        "(",
        "&",
        "~",
        "a;b",
        "#",
        "$NNODES",
    ):
        printed = untouched.succeed("create", "--dry_run", TPU, IMAGE, "--", *RUN, word).stdout
        command = words_of(printed)[-1].removeprefix("--command=")
        assert re.fullmatch("source <\\(echo [A-Za-z0-9+/=]+ \\| base64 --decode\\)", command), word
        assert expand(command, {"NNODES": "2"}) == command
    plain = [*RUN, "--config.data.datasets=/data/a,/data/b", "--config.a.b=1e-4", "x@y:z+%_"]
    assert (
        "\\ ".join(plain).replace(",", "\\,")
        in untouched.succeed("create", "--dry_run", TPU, IMAGE, "--", *plain).stdout
    )


def test_secrets_come_from_a_file_and_are_in_no_command(cluster):
    secrets = cluster.root / "my secrets"
    secrets.touch()
    words = ["create", TPU, IMAGE, "--env_file=my secrets", "--", *RUN]
    secrets.chmod(0o640)
    loud = cluster.launch(*words)
    assert loud.returncode == 1 and "others can read 'my secrets', expected mode 600" in loud.stderr
    secrets.chmod(0o600)
    for line in ('S=a"b', "S=a\\b", "S=a$b", "S='a'", "export S=a", "S", "S=a\r", "1A=b"):
        secrets.write_text(f"A=b\n{line}")
        wrong = cluster.launch(*words)
        assert wrong.returncode == 1 and wrong.stderr.startswith(
            "--env_file: line 2 of 'my secrets' is not NAME=VALUE"
        ), line
    secrets.write_text("# of the tracker\n\nSECRET=a b#=c/d\nA=")
    cluster.behave("0")
    cluster.succeed(*words)
    assert cluster.ended() == "Complete" and cluster.started()[0][4]["SECRET"] == "a b#=c/d"
    (call,) = cluster.calls()
    assert "--env-file=my secrets" in call and not any("a b" in word for word in call)


def test_a_dry_run_prints_the_real_commands_and_runs_none(cluster):
    words = [
        "--tpu_type=v5litepod-8",
        "--storage=one",
        "--storage=two",
        "--max_restarts=0",
        "--xpk=--spot",
        "--project=a b",
        "--xpk=--termination-grace-period-seconds=300",
        "--",
        *RUN,
        "it's",
    ]
    printed = cluster.succeed("create", "--dry_run", *words)
    assert (
        not printed.stderr and not cluster.calls() and not list((cluster.root.parent / "temporary").iterdir())
    )
    cluster.behave("0")
    cluster.succeed("create", *words)
    (call,) = cluster.calls()
    assert call[2:12] == [
        "--cluster=c",
        "--workload=base",
        "--project=a b",
        "--max-restarts=20",
        "--termination-grace-period-seconds=120",
        "--storage=one",
        "--storage=two",
        "--max-restarts=0",
        "--spot",
        "--termination-grace-period-seconds=300",
    ]
    lines = printed.stdout.splitlines()
    real = next(
        re.search("electra_jax[.][^/]+", word)[0] for word in call if word.startswith("--script-dir=")
    )
    assert [word.replace("electra_jax.DIRECTORY", real) for word in words_of(lines[-1])] == call
    made = f"{cluster.root.parent}/temporary/electra_jax.DIRECTORY"
    assert [shlex.split(line) for line in lines[:-1]] == [
        ["git", "-C", str(cluster.checkout), "archive", "--format=tar", f"--output={made}/code.tar", "HEAD"],
        ["mkdir", f"{made}/code"],
        ["tar", "-xf", f"{made}/code.tar", "-C", f"{made}/code"],
    ]
    for verb, expected in (
        ("status", "list --cluster=c --filter-by-job=base"),
        ("stop", "delete --cluster=c --workload=base"),
    ):
        assert cluster.succeed(verb, "--dry_run").stdout == f"xpk workload {expected}\n"
    assert len(cluster.calls()) == 1
