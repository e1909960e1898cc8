"""launch/gke.sh: mistakes, which tool it takes, what a TPU type becomes. No command reaches a cluster."""

import re
import subprocess

import pytest

from support.gke_sandbox import DISTRIBUTED, IMAGE, RUN, TPU, Cluster, words_of
from support.paths import ROOT

MOUNT, STORAGE, GPU = "--mount=gs://bucket:/data", "--storage=s", "--gpu_type=h100-80gb-8"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A checkout on a machine with both tools."""
    return Cluster(tmp_path_factory.mktemp("untouched"), "gcluster", "xpk")


@pytest.mark.parametrize("words", [["--help"], ["create", "--help"]])
def test_help_shows_a_command_and_every_option(words):
    outcome = subprocess.run(
        ["bash", ROOT / "launch" / "gke.sh", *words], capture_output=True, text=True, check=True
    )
    assert "bash launch/gke.sh create $on --tpu_type=v5litepod-16 --mount=gs://my-bucket" in outcome.stdout
    assert "Not yet run on a real cluster" in outcome.stdout and "xpk 1.16" in outcome.stdout
    script = (ROOT / "launch" / "gke.sh").read_text()
    options = set(re.findall(r"^ +(?:\*\) )?(--\w+)=[?*-]+", script, re.MULTILINE))
    assert len(options) >= 10 and all(f"{option}=" in outcome.stdout for option in options)


def check_refused(outcome, message):
    assert outcome.returncode == 1 and outcome.stderr.startswith(message), outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1 and outcome.stderr.endswith("See --help.\n")
    assert not outcome.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start"], "got 'start', expected create, status or stop as the first word"),
        (["stop", "--cluster=c.d"], "--cluster: got 'c.d'"),
        (["stop", "--tool=kubectl"], "--tool: got 'kubectl', expected gcluster or xpk"),
        (["stop", TPU], f"{TPU}: not an option of stop, expected --cluster, --workload"),
        (["stop", "--", "a"], "stop: got arguments of a run"),
        (["create", "--", *RUN], "--tpu_type: missing, expected it or --gpu_type"),
        (["create", TPU, GPU, "--", *RUN], f"{GPU}: got a second type"),
        (["create", TPU, "--num_nodes=2", "--", *DISTRIBUTED], "--num_nodes: got it with --tpu_type"),
        (["create", GPU, "--num_slices=2", "--", *RUN], "--num_slices: got it with --gpu_type"),
        (["create", TPU, "--num_slices=x", "--", *RUN], "--num_slices: got 'x', expected a whole number"),
        (
            ["create", TPU, "--num_slices=0", "--", *RUN],
            "--num_slices: got 0, expected a whole number from 1",
        ),
        (["create", TPU, "--max_restarts=-1", "--", *RUN], "--max_restarts: got '-1'"),
        (
            ["create", TPU, IMAGE, "--base_docker_image=b", "--", *RUN],
            "--docker_image: got it with --base_docker_image",
        ),
        (["create", TPU, "--xpk=spot", "--", *RUN], "--xpk=spot: not an option, or not a valid value"),
        (["create", TPU, "--gcluster=x", "--", *RUN], "--gcluster=x: not an option, or not a valid value"),
        (["create", TPU, "--storage=", "--", *RUN], "--storage=: not an option, or not a valid value"),
        (["create", TPU, "--env_file=no", "--", *RUN], "--env_file: got 'no', expected a file"),
        (["create", TPU, "--env_file=~bob/x", "--", *RUN], "--env_file: got '~bob/x', expected ~/"),
        (["create", TPU], "got no arguments of the run, expected some after --"),
        (["create", TPU, "--", "--workdir=/a"], "--config: missing among the run's arguments"),
        (
            ["create", TPU, "--", "--config=a", "--workdir=runs/a"],
            "--workdir: got 'runs/a', on a container's",
        ),
        (
            ["create", TPU, "--", "--config=a", "--workdir=~/a"],
            "--workdir: got '~/a', but ~ is not your home",
        ),
        (["create", TPU, "--", "--config=a", "--workdir", "~/a"], "--workdir: got '~/a', on a container's"),
        (
            ["create", TPU, MOUNT, "--", *RUN, "--config.data.datasets=~/corpus"],
            "--config.data.datasets: got '~/corpus', but ~ is not your home",
        ),
        (["create", GPU, "--num_nodes=2", STORAGE, "--", *RUN], "--distributed: missing among the run's"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_1(words, message, untouched):
    check_refused(untouched.launch(words[0], "--dry_run", *words[1:]), message)


@pytest.mark.parametrize("tool", ["gcluster", "xpk"])
@pytest.mark.parametrize("name", ["Base", "base_1", "a.b", "a-", "-a", "1a", "", "a b", "ä", "a" * 29])
def test_a_name_that_one_of_the_tools_refuses_is_refused_for_both(tool, name, untouched):
    outcome = untouched.launch("stop", f"--tool={tool}", name=name)
    check_refused(outcome, f"--workload: got '{name}', expected at most 28 lower-case letters")
    assert not untouched.calls()


def test_a_name_of_28_characters_is_accepted(untouched):
    name = "a" + 26 * "-" + "b"
    assert untouched.succeed("stop", "--dry_run", name=name).stdout.startswith(f"gcluster job cancel {name} ")


@pytest.mark.parametrize("missing", ["cluster", "workload"])
def test_a_missing_name_is_reported(missing):
    words = [word for word in ("--cluster=c", "--workload=w") if missing not in word]
    outcome = subprocess.run(
        ["bash", ROOT / "launch" / "gke.sh", "stop", "--dry_run", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    check_refused(outcome, f"--{missing}: missing, expected")


@pytest.mark.parametrize(
    ("installed", "words", "tool"),
    [
        (["gcluster"], [], "gcluster"),
        (["xpk"], [], "xpk"),
        (["gcluster", "xpk"], [], "gcluster"),
        (["gcluster", "xpk"], ["--tool=xpk"], "xpk"),
        (["gcluster", "xpk"], ["create", TPU, IMAGE, STORAGE, "--", *RUN], "xpk"),
        (["gcluster", "xpk"], ["create", TPU, IMAGE, "--xpk=--spot", "--", *RUN], "xpk"),
        (["gcluster", "xpk"], ["create", TPU, IMAGE, MOUNT, "--", *RUN], "gcluster"),
    ],
)
def test_the_tool_is_the_one_that_is_installed_or_meant(installed, words, tool, tmp_path):
    with Cluster(tmp_path, *installed) as cluster:
        outcome = cluster.launch(*(words if words[:1] == ["create"] else ["status", *words]))
        assert outcome.returncode == 0 and [call[0] for call in cluster.calls()] == [tool]
        is_open = installed == ["gcluster", "xpk"] and not words
        assert ("gcluster and xpk are installed: using gcluster" in outcome.stderr) == is_open


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status"], "gcluster: not found on PATH. Put it there from https://github.com/GoogleCloudPlatform"),
        (["status", "--tool=xpk"], "xpk: not found on PATH. Run `pip install xpk`"),
        (["create", TPU, IMAGE, STORAGE, "--", *RUN], "xpk: not found on PATH"),
    ],
)
def test_a_missing_tool_is_reported_with_the_way_to_get_it(words, message, tmp_path):
    with Cluster(tmp_path, "gcluster") as cluster:
        cluster.environment["PATH"] = "/usr/bin:/bin"
        check_refused(cluster.launch(*words), message)
        assert cluster.succeed(words[0], "--dry_run", *words[1:]).stdout  # it needs none


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [MOUNT, STORAGE],
            "--storage: got it with --mount, but --storage is for xpk and --mount for gcluster",
        ),
        (["--gcluster=--priority=low", "--env_file=f"], "--env_file: got it with --gcluster"),
        ([MOUNT, "--tool=xpk"], "--tool: got xpk with --mount, which is for gcluster"),
        (
            [STORAGE, "--tool=gcluster"],
            "--tool: got gcluster with --storage, which is for xpk. Instead give --mount=",
        ),
    ],
)
def test_options_of_two_tools_are_not_mixed(words, message, untouched):
    check_refused(untouched.launch("create", "--dry_run", TPU, IMAGE, *words, "--", *RUN), message)


@pytest.mark.parametrize(
    "mount",
    [
        *(
            "",
            "gs://bucket",
            "gs://bucket:rw",
            "gs://bucket:data",
            "gs://bucket:/",
            "gs://Bucket:/data",
            "/data",
        ),
        *("gs://b;/data", "s3://b:/data", "gs://:/data", ":/data", "My_Claim:/data", "gs://b:/data;ro"),
    ],
)
def test_a_mount_that_gcluster_would_refuse_or_misread_is_refused(mount, untouched):
    outcome = untouched.launch("create", "--dry_run", TPU, IMAGE, f"--mount={mount}", "--", *RUN)
    check_refused(outcome, f"--mount: got '{mount}', expected SOURCE:/DIRECTORY")


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        (
            "gs://bucket/folder:/data/",
            "gs://bucket/folder;/data;rw;options=implicit-dirs,metadata-cache:ttl-secs:60",
        ),
        ("gs://bucket:/data:rw", "gs://bucket;/data;rw;options=implicit-dirs,metadata-cache:ttl-secs:60"),
        ("filestore://10.0.0.2:2049/share:/data", "filestore://10.0.0.2:2049/share;/data;rw"),
        ("my-claim:/data", "my-claim;/data;rw"),
        ("/mnt/disk:/data", "/mnt/disk;/data;rw"),
    ],
)
def test_a_mount_becomes_gclusters(mount, expected, untouched):
    printed = untouched.succeed("create", "--dry_run", TPU, IMAGE, f"--mount={mount}", "--", *RUN).stdout
    assert f"--mount={expected}" in words_of(printed)


@pytest.mark.parametrize(
    ("words", "workdir", "is_kept"),
    [
        ([MOUNT], "/data/runs/a", True),
        ([MOUNT], "/data", False),  # the storage itself
        ([MOUNT], "/database/runs/a", False),
        ([MOUNT + ":ro"], "/data/runs/a", False),
        ([MOUNT + ":ro", "--mount=claim:/runs"], "/runs/a", True),
        (["--tool=gcluster"], "/data/runs/a", False),
        (["--gcluster=--mount=claim;/data;rw"], "/data/runs/a", True),
        (["--tool=gcluster"], "gs://bucket/runs/a", True),
        (["--tool=gcluster"], "gs://bucket", False),
        ([STORAGE], "/anywhere/a", True),  # xpk alone knows where
    ],
)
def test_the_run_directory_must_outlive_the_containers(words, workdir, is_kept, untouched):
    outcome = untouched.launch(
        "create", "--dry_run", TPU, IMAGE, *words, "--", "--config=c", f"--workdir={workdir}"
    )
    if is_kept:
        assert outcome.returncode == 0, outcome.stderr
    else:
        check_refused(outcome, f"--workdir: got '{workdir}', on a container's own disk, expected a directory")


@pytest.mark.parametrize("tool", ["gcluster", "xpk"])
@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["--workdir=gs://b/runs/a"], "tpu,formats,buckets"),
        (["--workdir", "s3://b/runs/a"], "tpu,formats,buckets"),
        (["--workdir=gs://b/runs/a", "--config.data.datasets=s3://b/c,/data/d"], "tpu,formats,buckets"),
        (["--workdir=/data/runs/a", "--config.data.datasets=gs://b/c"], "tpu,formats,buckets"),
        (["--workdir=/data/runs/a"], "tpu,formats"),
    ],
)
def test_buckets_bring_their_packages(arguments, extras, tool, untouched):
    storage = MOUNT if tool == "gcluster" else STORAGE
    outcome = untouched.launch("create", "--dry_run", TPU, storage, "--", "--config=c", *arguments)
    assert outcome.returncode == 0 and f"make_environment {extras};" in outcome.stdout.replace("\\", "")


def test_several_hosts_cannot_write_to_s3(untouched):
    words = ("--config=c", "--workdir=s3://b/runs/a", "--distributed")
    outcome = untouched.launch("create", "--tool=xpk", GPU, "--num_nodes=2", "--", *words)
    check_refused(outcome, "--workdir: got 's3://b/runs/a' in a run of several processes, expected gs://")
    assert untouched.launch("create", "--dry_run", GPU, IMAGE, "--", *words).returncode == 0


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        # What counts TensorCores elsewhere counts chips in gcluster: only machine and topology are clear.
        ("v4-8", "ct4p-hightpu-4t 2x2x1"),
        ("v5p-8", "ct5p-hightpu-4t 2x2x1"),
        ("v5p-128", "ct5p-hightpu-4t 4x4x4"),
        ("v5litepod-1", "ct5lp-hightpu-1t 1x1"),
        ("v5litepod-8", "ct5lp-hightpu-8t 2x4"),
        ("v5e-256", "ct5lp-hightpu-4t 16x16"),
        ("v6e-4x8", "ct6e-standard-4t 4x8"),
        ("tpu7x-4x4x8", "tpu7x-standard-4t 4x4x8 --gke-disable-parallel-containers"),
        ("ct6e-standard-4t", "ct6e-standard-4t"),
    ],
)
def test_a_tpu_type_becomes_gclusters_machine_and_topology(device, expected, untouched):
    printed = untouched.succeed(
        "create", "--dry_run", f"--tpu_type={device}", IMAGE, MOUNT, "--", *DISTRIBUTED
    ).stdout
    words = words_of(printed)
    first = words.index("--grace-period=120s") + 1
    machine, *rest = expected.split()
    topology = [f"--topology={word}" if word[0] != "-" else word for word in rest]
    assert words[first : words.index("--num-slices=1")] == [f"--compute-type={machine}", *topology]


@pytest.mark.parametrize(
    "device",
    ["v3-8", "v5p-7", "v5p-24", "v6e-2", "v6e-2x2x2", "v4-2x2", "tpu7x-16", "TPU7X-8", "ironwood", "v6e"],
)
def test_a_tpu_type_that_gcluster_does_not_have_is_refused(device, untouched):
    outcome = untouched.launch(
        "create", "--dry_run", f"--tpu_type={device}", IMAGE, MOUNT, "--", *DISTRIBUTED
    )
    check_refused(outcome, f"--tpu_type: got '{device}', expected v5litepod-N or v6e-N")


@pytest.mark.parametrize(
    ("tool", "device", "more", "is_one"),
    [
        ("gcluster", "v5litepod-8", [], True),  # ct5lp-hightpu-8t
        ("xpk", "v5litepod-8", [], False),  # two hosts with four chips
        ("xpk", "v6e-4", [], True),
        ("xpk", "v5p-8", [], True),  # four chips
        ("xpk", "v5p-16", [], False),
        ("xpk", "tpu7x-8", [], True),
        ("xpk", "tpu7x-4x4x4", [], False),
        ("gcluster", "v4-16", [], False),
        ("gcluster", "tpu7x-2x2x2", [], False),
        ("gcluster", "tpu7x-2x2x1", [], True),
        ("gcluster", "v6e-4", ["--num_slices=2"], False),
        ("gcluster", "ct6e-standard-4t", ["--gcluster=--topology=2x4"], False),
        ("gcluster", "ct6e-standard-8t", ["--gcluster=--topology=2x4"], True),
    ],
)
def test_several_hosts_need_distributed(tool, device, more, is_one, untouched):
    storage = MOUNT if tool == "gcluster" else STORAGE
    outcome = untouched.launch(
        "create", "--dry_run", f"--tpu_type={device}", IMAGE, storage, *more, "--", *RUN
    )
    if is_one:
        assert outcome.returncode == 0, outcome.stderr
    else:
        check_refused(outcome, "--distributed: missing among the run's arguments")


@pytest.mark.parametrize("value", ["=True", "=T", "=1"])
def test_hosts_with_gpus_find_each_other_whatever_the_spelling_of_distributed(value, untouched):
    words = ("--num_nodes=2", STORAGE, "--", *RUN, f"--distributed{value}")
    assert "--coordinator=" in untouched.succeed("create", "--dry_run", GPU, IMAGE, *words).stdout


def test_gcluster_needs_a_place_for_its_image_and_takes_no_file_of_secrets(tmp_path):
    with Cluster(tmp_path, "gcluster") as cluster:
        secrets = tmp_path / "secrets"
        secrets.touch(mode=0o600)
        outcome = cluster.launch("create", "--tool=gcluster", TPU, IMAGE, f"--env_file={secrets}", "--", *RUN)
        check_refused(
            outcome, "--tool: got gcluster with --env_file, which is for xpk. Instead give --gcluster=--env"
        )
        del cluster.environment["GCLUSTER_IMAGE_REPO"]
        check_refused(
            cluster.launch("create", TPU, MOUNT, "--", *RUN), "GCLUSTER_IMAGE_REPO: not set, expected"
        )
        cluster.succeed("create", TPU, IMAGE, MOUNT, "--", *RUN)
