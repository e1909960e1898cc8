"""launch/tpu_vm.py: its options, and mistakes that it reports before it calls gcloud."""

import re
import subprocess
import sys

import pytest

from support.tpu_sandbox import RUN, TYPE, Sandbox


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, checkout):
    """A sandbox for commands that end before they call gcloud."""
    return Sandbox(tmp_path_factory.mktemp("untouched"), checkout)


def test_help_shows_a_command_and_the_exit_codes(untouched):
    text = untouched.succeed("create", "--help").stdout
    assert "--spot" in text and "6h, 1d12h" in text
    assert "3 told to stop, 4 failed" in " ".join(untouched.succeed("status", "--help").stdout.split())
    program = untouched.repository / "launch" / "tpu_vm.py"
    text = subprocess.run(
        [sys.executable, program, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "tpu_vm.py babysit $tpu --type=v5litepod-16 --spot" in text and not untouched.calls()


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["create", TYPE], {"name": "Small_1"}, r"--name: got 'Small_1', expected at most 40 lower-case"),
        (["create", TYPE], {"name": "a" * 41}, r"--name: got 'a{41}'"),
        (["create", TYPE], {"name": "a-"}, r"--name: got 'a-'.* no hyphen last"),
        (["create", TYPE], {"zone": "us-west4"}, r"--zone: got 'us-west4', expected a zone as"),
        (
            ["create", "--type=v5e-16"],
            {},
            r"--type: got 'v5e-16', expected one of v2-N, .*v5litepod-N.*--runtime_version",
        ),
        (["create", "--type=v4"], {}, r"--type: got 'v4'"),
        (["create", TYPE, "--valid_until=soon"], {}, r"--valid_until: got 'soon', expected a duration"),
        (["create", TYPE, "--spot", "--reserved"], {}, r"--reserved: not allowed with argument --spot"),
        (["create"], {}, r"arguments are required: --type"),
        (["creat"], {}, r"invalid choice: 'creat'"),
        (["setup", "--bucket=gs://b"], {}, r"--bucket: got 'gs://b', expected the bucket's name alone"),
        (["setup", "--env_file=nowhere"], {}, r"--env_file: got 'nowhere', expected a file"),
        (["start"], {}, r"start: got \[\] as the run's arguments, expected some after --"),
        (["stop", "--", "a"], {}, r"stop: got \['a'\] .*none otherwise"),
        (
            ["babysit", TYPE, "--spot", *RUN],
            {},
            r"--bucket: got none with --spot.*buckets create gs://BUCKET --location=us-west4`",
        ),
        (
            ["babysit", TYPE, "--spot", "--bucket=bbb", "--", "--workdir=runs/a"],
            {},
            r"--workdir: got 'runs/a', which is on each",
        ),
        (
            ["babysit", TYPE, "--delete_when_done", "--bucket=bbb", "--", "--workdir=runs/a"],
            {},
            r"--workdir: got 'runs/a', which is on each",
        ),
        (
            ["babysit", TYPE, "--reserved", "--delete_when_done", *RUN],
            {},
            r"--bucket: got none with --delete_when_done, so the run directory would be deleted",
        ),
        (["babysit", TYPE, *RUN], {}, r"--bucket: got none with --workdir=bucket/runs/a, which would be on"),
        (
            ["babysit", TYPE, "--", "--workdir=~/bucket/a"],
            {},
            r"--workdir: got '~/bucket/a', but ~ is not your home directory on the workers",
        ),
        (
            ["babysit", TYPE, "--", "--workdir=bucket/a", "--config.data.datasets=~/corpus"],
            {},
            r"--config.data.datasets: got '~/corpus', but ~ is not",
        ),
        (
            ["babysit", TYPE, "--spot", "--bucket=bbb", "--", "--workdir=bucket/a", "--workdir=runs/a"],
            {},
            r"--workdir: got 'runs/a', which is on each",
        ),
        (["setup", "--env_file=~/nowhere"], {}, r"--env_file: got '/.*/nowhere', expected a file"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_1(words, changes, message, untouched):
    outcome = untouched.launch(*words, **changes)
    assert outcome.returncode == 1 and re.search(message, outcome.stderr), outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1 and not outcome.stdout and not untouched.calls()


@pytest.mark.parametrize(
    ("words", "flag", "values"),
    [
        (["create", TYPE], "poll_seconds", ["-1", "nan", "inf", "1e300", "86401", "soon", ""]),
        (["babysit", TYPE, "--bucket=bbb"], "poll_seconds", ["-1", "nan"]),
        (["babysit", TYPE, "--bucket=bbb"], "max_failures", ["0", "-1", "nan", "1.5", ""]),
        (["tail"], "worker", ["-1", "all", "1.5", ""]),
    ],
)
def test_a_wrong_number_of_a_launcher_is_an_error_that_names_the_flag(words, flag, values, untouched):
    run = RUN if words[0] == "babysit" else []
    for value in values:
        outcome = untouched.launch(*words, f"--{flag}={value}", *run)
        assert outcome.returncode == 1 and f"--{flag}: got '{value}', expected" in outcome.stderr, (
            outcome.stderr
        )
        assert len(outcome.stderr.splitlines()) == 1 and not untouched.calls()


@pytest.mark.parametrize("verb", ["create", "babysit"])
@pytest.mark.parametrize("more", [[], ["--runtime_version=v2-alpha-tpuv7"], ["--dry_run"]])
@pytest.mark.parametrize(
    "name",
    ["tpu7x-16", "TPU7X-8", "tpu7x-2x2x2", "tpu7-8", "v7x-8", "7x-8", "ironwood-4", "Ironwood", "tpu8i-4"],
)
def test_ironwood_and_newer_are_refused_with_the_way_to_them(verb, more, name, untouched):
    run = ["--", "--config=c.py", "--workdir=bucket/a"] if verb == "babysit" else []
    outcome = untouched.launch(verb, f"--type={name}", *more, *run)
    assert outcome.returncode == 1 and not outcome.stdout and not untouched.calls()
    assert outcome.stderr.startswith(f"--type: got '{name}', which the Cloud TPU API does not offer")
    assert "GKE 1.34" in outcome.stderr and "launch/gke.sh create --tpu_type=tpu7x" in outcome.stderr
    assert "Compute Engine" in outcome.stderr and len(outcome.stderr.splitlines()) == 1


def test_a_run_in_a_bucket_needs_no_mounted_one(untouched):
    run = ["--config=c.py", "--workdir=gs://b/runs/a", "--distributed"]
    for flag in ("--spot", "--delete_when_done"):
        assert untouched.succeed("babysit", TYPE, flag, "--dry_run", "--", *run).stdout


def test_a_run_stays_on_the_disk_of_a_tpu_that_is_not_deleted(untouched):
    assert untouched.succeed("babysit", TYPE, "--dry_run", "--", "--workdir=runs/a", "--distributed").stdout


def test_a_missing_gcloud_is_reported(sandbox):
    sandbox.environment["PATH"] = str(sandbox.root / "bin")
    outcome = sandbox.launch("status")
    assert outcome.returncode == 1 and outcome.stderr.startswith("gcloud: not found on PATH")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--type=v5p-8", "--reserved"],
            ["--accelerator-type=v5p-8", "--runtime-version=v2-alpha-tpuv5", "--reserved"],
        ),
        (["--type=v6e-8"], ["--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e"]),
        (["--type=v4-8"], ["--accelerator-type=v4-8", "--runtime-version=tpu-ubuntu2204-base"]),
        (["--type=v6x-4", "--runtime_version=new"], ["--accelerator-type=v6x-4", "--runtime-version=new"]),
    ],
)
def test_the_type_determines_the_vm_image(flags, expected, untouched):
    command = untouched.succeed("create", "--dry_run", *flags).stdout.splitlines()[1]
    assert command.split()[5:] == [
        "small",
        "--node-id=small",
        *expected,
        "--zone=us-west4-a",
        "--project=p",
        "--quiet",
    ]
