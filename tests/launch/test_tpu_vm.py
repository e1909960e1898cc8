"""launch/tpu_vm.py with a simulated gcloud, whose workers execute their commands in home directories."""

import re
import shlex
import shutil
import subprocess

import pytest

from support.hostile_arguments import hostile_arguments
from support.stand_in_gcloud import kill_run, write_program
from support.tpu_sandbox import QUICK, RUN, RUN_NAME, TYPE, commit


def test_create_waits_until_it_is_active(sandbox):
    sandbox.script(
        lives=[["ACCEPTED", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]]
    )
    outcome = sandbox.succeed("create", TYPE, QUICK, "--spot", "--valid_until=6h")
    lines = outcome.stderr.splitlines()
    assert [line.split()[1] for line in lines] == [
        "ACCEPTED",
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "small",
    ]
    assert "(after 0:00:0" in lines[0] and lines[-1].endswith("small is ACTIVE.")
    create = next(call for call in sandbox.calls() if call[3] == "create")
    assert create[3:] == [
        "create",
        "small",
        "--node-id=small",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
        "--valid-until-duration=6h",
        "--zone=us-west4-a",
        "--project=p",
        "--quiet",
    ]
    assert "small exists and is ACTIVE" in sandbox.succeed("create", TYPE).stderr
    assert sandbox.verbs() == ["create"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            {"create_errors": ["RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been exceeded."]},
            r"refused to create it: ERROR: .*Quota limit 'TPUV5sLitepod' has been exceeded\. "
            r".*another --zone, or ask for quota",
        ),
        (
            {"lives": [["WAITING_FOR_RESOURCES", "FAILED"]]},
            r"FAILED: no capacity until the deadline\..*Run `delete`, then",
        ),
        ({"lives": [["PROVISIONING", "SUSPENDED"]]}, r"small: SUSPENDED\. It will no longer become ACTIVE"),
    ],
)
def test_create_reports_why_there_is_no_tpu(script, message, sandbox):
    sandbox.script(**script)
    outcome = sandbox.launch("create", TYPE, QUICK)
    assert outcome.returncode == 1 and re.search(message, outcome.stderr.splitlines()[-1]), outcome.stderr


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["PROVISIONING", "ACTIVE"], "gcloud reported an error, but the request was taken: ERROR: "),
        (["ERROR", "ERROR", "ACTIVE"], "it may exist and cost money until you `delete` it"),
    ],
)
@pytest.mark.parametrize("command", ["create", "babysit"])
def test_a_lost_answer_to_the_request_is_no_refusal(command, states, said, sandbox):
    sandbox.behave("0")
    sandbox.script(lives=[states], lost_answers=["create"])
    words = ["--bucket=my-bucket", "--max_failures=1", *RUN] if command == "babysit" else []
    outcome = sandbox.succeed(command, TYPE, QUICK, *words)
    assert said in outcome.stderr and "failure" not in outcome.stderr, outcome.stderr
    assert sandbox.verbs().count("create") == 1


def test_setup_sends_the_last_commit_and_keeps_files_that_runs_wrote(sandbox):
    (sandbox.repository / "old name.txt").write_text("committed")
    commit(sandbox.repository)
    secrets = sandbox.root / "secrets"
    secrets.write_text("SECRET='a b $HOME'\nexport EXTRAS='finetune'  # for a probe\n")
    sandbox.script(workers=2)
    sandbox.succeed("create", TYPE, QUICK)
    loud = sandbox.launch("setup", f"--env_file={secrets}")
    assert loud.returncode == 1 and "expected 600" in loud.stderr and f"chmod 600 {secrets}" in loud.stderr
    secrets.chmod(0o600)
    assert "not sent" not in sandbox.succeed("setup", "--bucket=my-bucket", f"--env_file={secrets}").stderr
    (sandbox.home() / "electra_jax" / "mine").write_text("written by a run")
    (sandbox.repository / "old name.txt").rename(sandbox.repository / "new.txt")
    commit(sandbox.repository)
    (sandbox.repository / "uncommitted").touch()
    assert (
        "uncommitted changes of this checkout are not sent"
        in sandbox.succeed("setup", "--bucket=my-bucket").stderr
    )
    for worker in (0, 1):
        checkout = sandbox.home(worker) / "electra_jax"
        assert (checkout / "new.txt").read_text() == "committed" and not (checkout / "old name.txt").exists()
        assert not (checkout / "uncommitted").exists()
        assert (checkout / ".venv" / "made").read_text() == "tpu,formats,buckets,finetune with python3.13\n"
        assert (checkout / "bucket").resolve() == sandbox.root / "shared" / "my-bucket"
        assert (sandbox.home(worker) / ".electra_jax" / "env").stat().st_mode & 0o777 == 0o600
    assert (sandbox.home() / "electra_jax" / "mine").exists()
    other = sandbox.launch("setup", "--bucket=other")
    assert other.returncode == 1 and "got --bucket=other, but ~/bucket is my-bucket" in other.stderr
    sandbox.behave("0")
    sandbox.succeed("start", *RUN)
    sandbox.wait_for(lambda: sandbox.started(1))
    assert sandbox.started()[0][1:] == [str(sandbox.home() / "electra_jax"), "a b $HOME"]
    assert not any("a b" in word for call in sandbox.calls() for word in call)
    assert not list(sandbox.root.parent.glob("electra_jax-*.tar.gz"))  # nothing is left over
    # At names that nobody can foresee, another one for each call of `setup`.
    sent = {word for call in sandbox.calls() for word in call if word.endswith("tar.gz") and ":" not in word}
    assert len(sent) >= 2 and all(re.search(r"/electra_jax-[a-z0-9_]{8}\.tar\.gz$", name) for name in sent)


def test_setup_installs_gcsfuse_and_a_newer_python_if_they_are_missing(sandbox):
    shutil.move(sandbox.root / "bin" / "gcsfuse", sandbox.root / "later")
    for name in ("python3.13", "python3.12", "python3.11"):
        write_program(sandbox.root / "bin" / name, "exit 1")
    write_program(
        sandbox.root / "bin" / "python3",
        'case "$*" in -c*) exit 1 ;; *find*) echo /uv/python3.11 ;; '
        '*) echo "$*" >> "$STAND_IN/python3" ;; esac',
    )
    sandbox.succeed("create", TYPE, QUICK)
    sandbox.succeed("setup", "--bucket=my-bucket")
    assert (
        sandbox.home() / "electra_jax" / ".venv" / "made"
    ).read_text() == "tpu,formats,buckets with /uv/python3.11\n"
    assert (sandbox.root / "python3").read_text().splitlines() == [
        "-m pip install --quiet --user uv",
        "-m uv python install --quiet 3.11",
    ]
    assert "--metadata-cache-ttl-secs=60 my-bucket " in (sandbox.root / "mounts").read_text()
    sudo = (sandbox.root / "sudo").read_text()
    assert "apt-get install --yes" in sudo and (sandbox.home() / "electra_jax" / "bucket").is_dir()


def test_a_run_from_start_to_end(sandbox):
    sandbox.script(workers=2)
    assert sandbox.launch("status").returncode == 6
    sandbox.succeed("create", TYPE, QUICK)
    bare = sandbox.launch("status")
    assert bare.returncode == 5 and "nothing is installed" in bare.stdout
    assert "Run `setup` first" in sandbox.launch("start", *RUN).stderr
    sandbox.succeed("setup")
    assert sandbox.launch("status").returncode == 5
    assert "--distributed" in sandbox.launch("start", "--", "--workdir=bucket/a").stderr
    assert "on each VM's own disk" in sandbox.launch("start", "--", "--workdir=a", "--distributed").stderr
    for distributed in ("--distributed", "-distributed=T", "--distributed=True", "--distributed=1"):
        on_s3 = sandbox.launch("start", "--", "--workdir=s3://b/a", distributed)
        assert "got 's3://b/a', expected gs://BUCKET/…" in on_s3.stderr
    assert "--distributed" in sandbox.launch("start", "--", "--workdir=bucket/a", "--distributed=0").stderr
    sandbox.succeed("start", *RUN)
    running = sandbox.succeed("status").stdout.splitlines()
    assert running[0] == "small: ACTIVE" and re.fullmatch(f"worker 1: running {RUN_NAME}", running[2])
    for refused in (["start", *RUN], ["setup"]):
        outcome = sandbox.launch(*refused)
        assert outcome.returncode == 1 and "a run is running" in outcome.stderr
    shown = sandbox.root / "shown"
    with shown.open("w") as output:
        follower = subprocess.Popen(
            sandbox.command("tail", "--worker=1"), env=sandbox.environment, stdout=output
        )
    sandbox.wait_for(
        lambda: shown.read_text() == "training on worker 1\n"
    )  # before the run ends, so it follows
    stopped = sandbox.succeed("stop").stdout
    assert "worker 0: run" in stopped and "worker 1: run" in stopped and "was told to save and end" in stopped
    assert follower.wait(timeout=20) == 0 and shown.read_text() == "training on worker 1\nsaved\n"
    sandbox.wait_for(lambda: sandbox.has_ended(0) and sandbox.has_ended(1))
    assert sandbox.launch("status").returncode == 3
    assert "worker 0: no run is running." in sandbox.succeed("stop").stdout
    assert len(sandbox.started()) == len(sandbox.started(1)) == 1
    assert sandbox.succeed("tail").stdout == "training on worker 0\nsaved\n"
    sandbox.succeed("delete")
    assert "nothing to delete" in sandbox.succeed("delete").stderr


def test_status_reports_how_a_run_ended(sandbox):
    sandbox.script(workers=2)
    sandbox.ready()
    sandbox.behave("0")
    for number, (behaviour, code, text) in enumerate(
        [
            ("0", 0, "ended with exit code 0"),
            ("1", 4, "ended with exit code 1"),
            ("143", 3, "exit code 143"),
            ("run", 4, "left no exit code"),
        ],
        1,
    ):
        sandbox.behave(behaviour, worker=1)
        sandbox.succeed("start", *RUN)
        sandbox.wait_for(lambda: sandbox.has_ended(0))
        sandbox.wait_for(lambda number=number: len(sandbox.started(1)) == number)
        if behaviour == "run":
            kill_run(sandbox.home(1))
        else:
            sandbox.wait_for(lambda: sandbox.has_ended(1))
        outcome = sandbox.launch("status")
        assert (
            outcome.returncode == code
            and text in outcome.stdout.splitlines()[2]
            and "exit code 0" in outcome.stdout
        )


def test_status_when_nothing_answers(sandbox):
    sandbox.ready()
    sandbox.script(ssh_errors=[True])
    outcome = sandbox.launch("status")
    assert outcome.returncode == 7 and "not all workers answer: ssh: connect to host" in outcome.stderr
    sandbox.script(no_login=True)
    for words in (["status"], ["create", TYPE], ["babysit", TYPE, "--bucket=b-b", *RUN]):
        outcome = sandbox.launch(*words)
        assert outcome.returncode == 7 and "refreshing your auth tokens" in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1  # it does not ask again


def test_a_repeated_command_is_executed_once(sandbox):
    sandbox.script(repeat_ssh=True)
    sandbox.ready()
    sandbox.succeed("start", *RUN)
    assert sandbox.succeed("status").stdout.count("running") == 2  # one worker, asked twice
    assert len(sandbox.started()) == 1


def test_arguments_arrive_unchanged(sandbox):
    sandbox.ready()
    sandbox.behave("0")
    arguments = hostile_arguments("a\tb", seed=0)
    sandbox.succeed("start", "--", *arguments)
    sandbox.wait_for(sandbox.started)
    assert sandbox.started()[0][0] == ["-m", "electra_jax.pretrain", *arguments]
    assert not list(sandbox.root.parent.rglob("pwned"))


GOLDEN = """\
gcloud compute tpus queued-resources describe small --format=json ZONE
gcloud compute tpus queued-resources create small --node-id=small --accelerator-type=v5litepod-16 \
--runtime-version=v2-alpha-tpuv5-lite --spot ZONE
gcloud compute tpus queued-resources describe small --format=json ZONE
gcloud compute tpus tpu-vm describe small '--format=value(state)' ZONE
gcloud compute tpus tpu-vm ssh small --worker=all '--command=bash .electra_jax/worker.sh status' ZONE
git -C CHECKOUT status --porcelain
git -C CHECKOUT archive --format=tar.gz --output=ARCHIVE HEAD
gcloud compute tpus tpu-vm scp ARCHIVE small:.electra_jax.tar.gz --worker=all ZONE
gcloud compute tpus tpu-vm ssh small --worker=all '--command=mkdir -p .electra_jax && \
tar -xzOf .electra_jax.tar.gz launch/tpu_worker.sh > .electra_jax/worker.new && \
mv .electra_jax/worker.new .electra_jax/worker.sh && bash .electra_jax/worker.sh setup my-bucket' ZONE
gcloud compute tpus tpu-vm ssh small --worker=all '--command=bash .electra_jax/worker.sh status' ZONE
gcloud compute tpus tpu-vm ssh small --worker=all '--command=bash .electra_jax/worker.sh start RUN \
--config=c.py --workdir=bucket/runs/a --distributed' ZONE
# If the TPU is preempted or fails; then all of the above again:
gcloud compute tpus queued-resources delete small --force ZONE
"""
KEPT = "# When the run is complete, the TPU stays and costs money: see --delete_when_done.\n"
DELETED = """\
# When the run is complete:
gcloud compute tpus queued-resources delete small --force ZONE
"""


def masked(text, sandbox):
    """`text` without the parts that differ between two runs of a command."""
    text = text.replace(str(sandbox.repository), "CHECKOUT").replace(
        "--zone=us-west4-a --project=p --quiet", "ZONE"
    )
    text = re.sub(re.escape(str(sandbox.root.parent)) + r"/electra_jax-\w+\.tar\.gz", "ARCHIVE", text)
    return re.sub(RUN_NAME, "RUN", text)


def test_a_dry_run_of_babysit_prints_every_command_and_runs_none(sandbox):
    for words, end in ((RUN, KEPT), (["--delete_when_done", *RUN], DELETED)):
        outcome = sandbox.succeed("babysit", "--dry_run", TYPE, "--spot", "--bucket=my-bucket", *words)
        assert masked(outcome.stdout, sandbox) == GOLDEN + end and not outcome.stderr
    assert not sandbox.calls() and not list(sandbox.root.parent.glob("*.tar.gz"))


def test_a_dry_run_prints_the_commands_that_a_real_run_executes(sandbox):
    for words in (
        ["create", TYPE, QUICK, "--reserved"],
        ["setup"],
        ["start", *RUN],
        ["stop"],
        ["tail"],
        ["status"],
        ["delete"],
    ):
        printed = sandbox.succeed(words[0], "--dry_run", *words[1:]).stdout
        before = len(sandbox.calls())
        sandbox.launch(*words)
        ran = "".join(f"{shlex.join(['gcloud', *call])}\n" for call in sandbox.calls()[before:])
        printed = "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("git "))
        assert masked(printed, sandbox) == masked(ran, sandbox) != ""


@pytest.mark.parametrize(("how", "code"), [(">/dev/full", 1), ("| true", 141), (">/dev/null", 0)])
def test_a_result_that_is_lost_decides_the_exit_code(how, code, sandbox):
    words = shlex.join(sandbox.command("create", TYPE, "--dry_run"))
    # The shell must not be faster than the launcher, which would find the pipe's reader at work.
    script = f"set -o pipefail; {{ sleep 0.2; {words}; }} {how}"
    outcome = subprocess.run(
        ["bash", "-c", script], env=sandbox.environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == code, outcome.stderr
    lost = "standard output could not be written: No space left on device. The result is lost"
    assert (lost in outcome.stderr) == (code == 1)
