"""launch/gke.sh with simulated gcluster and xpk, whose containers are processes of this machine."""

import os
import re
import shlex
import signal

import pytest

from support.gke_sandbox import DISTRIBUTED, IMAGE, RUN, STORAGE, TPU, Cluster, words_of
from support.hostile_arguments import hostile_arguments
from support.stand_in_gke import expand
from support.tpu_sandbox import commit


@pytest.fixture(params=["gcluster", "xpk"])
def cluster(request, tmp_path):
    with Cluster(tmp_path, request.param) as cluster:
        yield cluster


@pytest.fixture
def xpk_cluster(tmp_path):
    with Cluster(tmp_path, "xpk") as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["gcluster", "xpk"])
def untouched(request, tmp_path_factory):
    """A cluster for commands that end before they call a tool."""
    return Cluster(tmp_path_factory.mktemp("untouched"), request.param)


def test_a_refusal_is_passed_on(cluster):
    (cluster.root / "refuse").write_text("v6e-4 is not available in cluster c.")
    outcome = cluster.launch("create", TPU, IMAGE, STORAGE[cluster.tool], "--", *RUN)
    assert outcome.returncode == 1 and "not available in cluster c" in outcome.stderr
    assert cluster.launch("stop", name="other").returncode == 1  # no such workload


CALLS = {
    "gcluster": {
        "status": "gcluster job list --cluster=c --project=p --location=z --name-contains=base",
        "stop": "gcluster job cancel base --cluster=c --project=p --location=z",
        "create": "gcluster job submit --cluster=c --project=p --location=z --name=base --restarts=20 "
        "--restart-on-exit-codes=1,134,137,139,143 --grace-period=120s --compute-type=ct5lp-hightpu-4t "
        "--topology=4x4 --num-slices=1 --image=mine --mount=gs://bucket;/data;rw;options=implicit-dirs,metadata-cache:ttl-secs:60",
    },
    "xpk": {
        "status": "xpk workload list --cluster=c --project=p --zone=z --filter-by-job=base",
        "stop": "xpk workload delete --cluster=c --project=p --zone=z --workload=base",
        "create": "xpk workload create --cluster=c --project=p --zone=z --workload=base --max-restarts=20 "
        "--restart-on-exit-codes=1 --termination-grace-period-seconds=120 --tpu-type=v5litepod-16 "
        "--num-slices=1 --docker-image=mine --storage=one",
    },
}


def test_create_status_and_stop(cluster):
    cluster.create("--tpu_type=v5litepod-16", IMAGE, "--", *DISTRIBUTED)
    cluster.wait_for(lambda: len(cluster.started()) == 4)
    program = ["-m", "electra_jax.pretrain", *DISTRIBUTED]
    assert [row[:3] for row in cluster.started()] == [[rank, 0, program] for rank in range(4)]
    assert cluster.started()[0][3] == str(cluster.root / "images" / "mine")
    assert cluster.started()[0][4] == {"MADE": None, "SECRET": None, "PYTHONUNBUFFERED": "1", "COMMAND": None}
    assert "base Running\n" in cluster.succeed("status").stdout
    assert "Running" not in cluster.succeed("status", name="other").stdout
    cluster.succeed("stop")
    assert cluster.ended() == "Deleted"
    assert (cluster.root / "workloads" / "base" / "log").read_text().count("saved") == 4
    create, status, _, stop = cluster.calls()
    calls = CALLS[cluster.tool]
    assert status == calls["status"].split() and stop == calls["stop"].split()
    command = "--command=exec env PYTHONUNBUFFERED=1 python -m electra_jax.pretrain "
    assert create == [*calls["create"].split(), command + " ".join(DISTRIBUTED)]


def test_a_preempted_run_saves_and_is_restarted(cluster):
    cluster.behave("run run 0")
    cluster.create("--tpu_type=v5litepod-16", IMAGE, "--num_slices=2", "--", *DISTRIBUTED)
    for restart in (0, 1):
        cluster.wait_for(lambda restart=restart: len(cluster.started()) == 8 * (restart + 1))
        pods = sorted((cluster.root / "workloads" / "base" / "pods").iterdir())
        os.kill(int(pods[0].name), signal.SIGTERM)  # one of its hosts
    assert cluster.ended() == "Complete" and len(cluster.started()) == 24
    assert (cluster.root / "workloads" / "base" / "log").read_text().count("saved") == 16


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
    cluster.create("--gpu_type=a100-40gb-1", IMAGE, "--max_restarts=3", "--", *arguments)
    assert cluster.ended() == state and len(cluster.started()) == starts


def test_the_last_commit_is_put_on_the_base_image(cluster):
    (cluster.checkout / "new.txt").write_text("committed")
    commit(cluster.checkout)
    (cluster.checkout / "uncommitted").touch()
    cluster.behave("0")
    base = "gcr.io/p/python:3.13"
    outcome = cluster.create("--gpu_type=a100-40gb-1", f"--base_docker_image={base}", "--", *RUN)
    assert "Uncommitted changes of this checkout are not sent" in outcome.stderr
    assert cluster.ended() == "Complete"
    image = cluster.root / "images" / "made"
    checkout = image / "app" if cluster.tool == "gcluster" else image
    assert {path.name for path in checkout.iterdir()} == {"launch", "new.txt"}
    assert cluster.started()[0][3] == str(checkout) and cluster.started()[0][4]["MADE"] == "cuda,formats"
    assert f"--base-{'image' if cluster.tool == 'gcluster' else 'docker-image'}={base}" in cluster.calls()[0]
    assert not list((cluster.root.parent / "temporary").iterdir())  # nothing is left over


def test_a_failed_installation_fails_the_workload(cluster):
    (cluster.checkout / "broken").touch()
    commit(cluster.checkout)
    cluster.create(TPU, "--", *RUN)
    assert cluster.ended() == "Failed 1" and not cluster.started()
    assert any(word.endswith("image=python:3.12") for word in cluster.calls()[0])


def test_gpu_processes_find_their_coordinator(cluster):
    cluster.behave("0")
    cluster.create("--gpu_type=h100-80gb-8", IMAGE, "--num_nodes=2", "--", *DISTRIBUTED)
    assert cluster.ended() == "Complete"
    host = {"gcluster": "base-main-job-0-0.base", "xpk": "base-0.base"}[cluster.tool]
    for rank, row in enumerate(cluster.started()):
        coordinator = [f"--coordinator={host}:6002", "--num_processes=2", f"--process_id={rank}"]
        assert row[2][2:] == [*DISTRIBUTED, *coordinator]


@pytest.mark.parametrize("device", [TPU, "--gpu_type=h100-80gb-8"])
@pytest.mark.parametrize("image", [IMAGE, "--base_docker_image=b"])
def test_arguments_arrive_unchanged(device, image, cluster):
    arguments = hostile_arguments(
        "$$", "$(NODE_RANK)", "{args}", "a: b", "- c", "\x01", seed=2, more_letters="%:-"
    )
    cluster.behave("0")
    cluster.create(device, image, "--", *RUN, *arguments, name="all")
    assert cluster.ended("all") == "Complete" and cluster.started()[0][2][2:] == [*RUN, *arguments]
    assert not list(cluster.root.parent.rglob("pwned"))


def test_arguments_with_special_characters_are_encoded(untouched):
    """Each argument alone, since one such argument makes the whole command encoded."""
    words = ("", "a b", "it's", '"', "\\", "$(NNODES)", "$$", "a\nb", "日", "{x}", "(", "&", "~", "a;b", "#")
    for word in (*words, "$NNODES"):
        printed = untouched.create("--dry_run", TPU, IMAGE, "--", *RUN, word).stdout
        command = words_of(printed)[-1].removeprefix("--command=")
        assert re.fullmatch("source <\\(echo [A-Za-z0-9+/=]+ \\| base64 --decode\\)", command), word
        assert expand(command, {"NNODES": "2"}) == command
    plain = [*RUN, "--config.data.datasets=/data/a,/data/b", "--config.a.b=1e-4", "x@y:z+%_"]
    printed = untouched.create("--dry_run", TPU, IMAGE, "--", *plain).stdout
    assert "\\ ".join(plain).replace(",", "\\,") in printed


def test_secrets_come_from_a_file_and_are_in_no_command(xpk_cluster):
    cluster = xpk_cluster
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


def test_a_file_of_secrets_in_the_home_directory_is_found(xpk_cluster):
    secrets = xpk_cluster.root.parent / "home" / "secrets"
    secrets.touch(mode=0o600)
    xpk_cluster.succeed("create", TPU, IMAGE, "--env_file=~/secrets", "--", *RUN)
    assert f"--env-file={secrets}" in xpk_cluster.calls()[0]


MORE = {
    "gcluster": (
        ["--mount=my-claim:/cache:ro", "--gcluster=--priority=high", "--gcluster=--grace-period=300s"],
        "--restarts=0 --restart-on-exit-codes=134,137,139,143 --grace-period=120s "
        "--compute-type=ct6e-standard-4t --topology=2x2 --num-slices=1 --base-image=python:3.12 CONTEXT "
        "--mount=gs://bucket;/data;rw;options=implicit-dirs,metadata-cache:ttl-secs:60 "
        "--mount=my-claim;/cache;ro --priority=high --grace-period=300s",
        "--build-context=",
    ),
    "xpk": (
        ["--storage=two", "--xpk=--spot", "--xpk=--termination-grace-period-seconds=300"],
        "--max-restarts=0 --termination-grace-period-seconds=120 --tpu-type=v6e-4 --num-slices=1 "
        "--base-docker-image=python:3.12 CONTEXT --storage=one --storage=two --spot "
        "--termination-grace-period-seconds=300",
        "--script-dir=",
    ),
}


def test_a_dry_run_prints_the_real_commands_and_runs_none(cluster):
    more, expected, context = MORE[cluster.tool]
    words = [TPU, *more, "--max_restarts=0", "--project=a b", "--", *RUN, "it's"]
    printed = cluster.create("--dry_run", *words)
    assert (
        not printed.stderr and not cluster.calls() and not list((cluster.root.parent / "temporary").iterdir())
    )
    cluster.behave("0")
    cluster.create(*words)
    (call,) = cluster.calls()
    assert call[3:5] == ["--cluster=c", "--project=a b"]
    directory = next(word for word in call if word.startswith(context))
    assert call[call.index("--location=z" if cluster.tool == "gcluster" else "--zone=z") + 2 : -1] == [
        directory if word == "CONTEXT" else word for word in expected.split()
    ]
    lines = printed.stdout.splitlines()
    real = re.search("electra_jax[.][^/]+", directory)[0]
    assert [word.replace("electra_jax.DIRECTORY", real) for word in words_of(lines[-1])] == call
    made = f"{cluster.root.parent}/temporary/electra_jax.DIRECTORY"
    folder = "code/app" if cluster.tool == "gcluster" else "code"
    assert [shlex.split(line) for line in lines[:-1]] == [
        ["git", "-C", str(cluster.checkout), "archive", "--format=tar", f"--output={made}/code.tar", "HEAD"],
        ["mkdir", "-p", f"{made}/{folder}"],
        ["tar", "-xf", f"{made}/code.tar", "-C", f"{made}/{folder}"],
    ]
    for verb in ("status", "stop"):
        assert cluster.succeed(verb, "--dry_run").stdout == CALLS[cluster.tool][verb] + "\n"
    assert len(cluster.calls()) == 1
