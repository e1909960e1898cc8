"""`launch/tpu_vm.py babysit` through preemptions, lost connections and failures of the run."""

import contextlib
import errno
import shlex
import signal
import subprocess

import pytest

from support.tpu_sandbox import LAUNCH, QUICK, RUN, TYPE


def babysit(sandbox, *words, run=RUN):
    return sandbox.launch("babysit", TYPE, "--spot", "--bucket=my-bucket", QUICK, *words, *run)


def test_babysit_recreates_a_preempted_tpu_and_deletes_it_when_done(sandbox):
    sandbox.behave("run run 0")
    sandbox.script(
        lives=[
            ["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDED"],
            ["PROVISIONING", "ACTIVE", "NODE_PREEMPTED"],
            ["ACTIVE"],
        ]
    )
    outcome = babysit(sandbox, "--delete_when_done")
    assert outcome.returncode == 0, outcome.stderr
    assert sandbox.verbs() == ["create", "setup", "start", "delete"] * 3
    assert (
        "SUSPENDED. Deleting it, then creating it again" in outcome.stderr
        and "its node is PREEMPTED. Del" in outcome.stderr
    )
    assert "failure" not in outcome.stderr and "the run is complete" in outcome.stderr
    assert [run[0] for run in sandbox.started()] == [["-m", "electra_jax.pretrain", *RUN[1:]]] * 3


def test_a_complete_run_is_only_deleted_when_the_answer_to_the_deletion_is_lost(sandbox):
    sandbox.behave("0")
    sandbox.script(lost_answers=["delete"])
    outcome = babysit(sandbox, "--delete_when_done")
    assert outcome.returncode == 0, outcome.stderr
    assert "could not be deleted, and may still cost money" in outcome.stderr
    assert sandbox.verbs() == ["create", "setup", "start", "delete", "delete"]
    # It no longer asks for the state, in which a TPU that is being deleted would look preempted.
    assert [call[3] for call in sandbox.calls()][-2:] == ["delete", "delete"]
    assert outcome.stderr.count("the run is complete") == len(sandbox.started()) == 1


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "preempted"])
def test_a_lost_answer_to_the_first_deletion_is_asked_for_again(is_complete, sandbox):
    """Also where it is the first that a babysitter does: gcloud has told the state, so the login is there."""
    sandbox.behave("0")
    if is_complete:
        sandbox.script(lives=[["ACTIVE"]])
        assert babysit(sandbox).returncode == 0
    else:
        sandbox.script(lives=[["ACTIVE", "SUSPENDED"]])
        sandbox.succeed("create", TYPE, QUICK)
    before = len(sandbox.verbs())
    sandbox.script(lost_answers=["delete"])
    outcome = babysit(sandbox, "--delete_when_done")
    assert outcome.returncode == 0, outcome.stderr
    assert "could not be deleted, and may still cost money" in outcome.stderr
    again = ["delete"] if is_complete else ["create", "setup", "start", "delete"]
    assert sandbox.verbs()[before:] == ["delete", *again]


def test_a_deletion_that_is_never_confirmed_ends_after_ten_attempts(monkeypatch):
    monkeypatch.syspath_prepend(str(LAUNCH))
    import tpu_machine
    import tpu_run

    class Machine:
        pauses = []
        options = type("Options", (), {"poll_seconds": 30})
        sleep, log = pauses.append, staticmethod(lambda text: None)

    def tick():
        raise tpu_machine.DeletionError("small: could not be deleted.")

    with pytest.raises(tpu_machine.UnreachableError, match=r"deleted\. Giving up\. A TPU that"):
        tpu_run.poll_until_done(Machine, tick)
    assert Machine.pauses == [60, 120, 240, 480, *[600] * 5]


def test_babysit_tells_of_the_costs_when_gcloud_is_gone(sandbox):
    sandbox.ready()
    sandbox.succeed("start", *RUN)
    stderr = sandbox.root / "stderr"
    with stderr.open("w") as output:
        watching = subprocess.Popen(
            sandbox.command("babysit", TYPE, "--spot", "--bucket=my-bucket", QUICK, *RUN),
            env=sandbox.environment | {"PATH": f"{sandbox.root}/path"},
            stderr=output,
        )
    sandbox.wait_for(lambda: "worker 0: running" in stderr.read_text())
    (sandbox.root / "path" / "gcloud").unlink()
    assert watching.wait(timeout=20) == 1
    last = stderr.read_text().splitlines()[-1]
    assert last.startswith("gcloud: not found on PATH, but every command needs it. Install it: https://")
    assert last.endswith("A TPU that exists costs money until you `delete` it, here or on another machine.")


def test_a_failed_creation_counts_when_the_answer_to_its_deletion_is_lost(sandbox):
    sandbox.behave("0")
    sandbox.script(lives=[["FAILED"]] * 2, lost_answers=["delete"] * 2)
    outcome = babysit(sandbox, "--max_failures=2")
    assert outcome.returncode == 1
    assert "failure 2 of 2: FAILED: no capacity" in outcome.stderr.splitlines()[-1]
    assert sandbox.verbs() == ["create", "delete"] * 2 and not sandbox.started()


def test_babysit_restarts_a_stopped_run(sandbox):
    sandbox.behave("143 143 0")
    outcome = babysit(sandbox)
    assert outcome.returncode == 0 and "failure" not in outcome.stderr
    assert sandbox.verbs() == ["create"] + ["setup", "start"] * 3


@pytest.mark.parametrize("how", ["2>&1 | true", "2>/dev/full", ">&- 2>&-", "2>&-"])
def test_babysit_continues_when_nobody_sees_what_it_prints(how, sandbox):
    """A pipe whose reader has gone, a full disk, closed streams."""
    sandbox.behave("143 143 0")
    command = sandbox.command("babysit", TYPE, "--spot", "--bucket=my-bucket", QUICK, "--delete_when_done")
    script = f"set -o pipefail; {shlex.join([*command, *RUN])} {how}"
    outcome = subprocess.run(["bash", "-c", script], env=sandbox.environment, timeout=120, check=False)
    assert outcome.returncode == 0
    assert sandbox.verbs()[0] == "create" and sandbox.verbs()[-1] == "delete"
    assert len(sandbox.started()) == 3


def test_babysit_gives_up_on_a_failing_run(sandbox):
    sandbox.behave("0")
    sandbox.behave("17", worker=1)
    sandbox.script(workers=2)
    outcome = babysit(sandbox, "--max_failures=2")
    assert outcome.returncode == 17 and outcome.stdout.count("training on worker 1\n") == 2
    assert "failure 1 of 2: worker 1 ended with exit code 17" in outcome.stderr
    assert (
        outcome.stderr.splitlines()[-1].startswith("small: failure 2 of 2: ")
        and "delete" not in sandbox.verbs()
    )


def test_babysit_asks_again_after_a_short_outage(sandbox):
    sandbox.behave("0")
    sandbox.script(
        ssh_errors=[True, True, False, True, False, False, False, True],  # in a set-up and a start, too
        lives=[["ACTIVE", "ACTIVE", "ERROR", "ERROR", "ACTIVE"]],
    )
    outcome = babysit(sandbox)
    assert (
        outcome.returncode == 0
        and "Asking again (5 of 9)" in outcome.stderr
        and "failure" not in outcome.stderr
    )
    assert sandbox.verbs().count("create") == 1 and "delete" not in sandbox.verbs()


def test_babysit_asks_again_after_an_answer_that_it_cannot_read(sandbox):
    sandbox.behave("0")
    answers = [
        '{"name": "small", "sta',
        '{"state": "ACTIVE"}',
        '{"state": {"state": "FAILED", "failedData": 1}}',
    ]
    sandbox.script(lives=[["PROVISIONING", *answers, "ACTIVE"]])
    outcome = babysit(sandbox)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr.count("gcloud's answer is not the JSON object expected: got '{") == 3
    assert sandbox.verbs() == ["create", "setup", "start"]


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        ("tempfile", "mkstemp", OSError(errno.ENOSPC, "No space left on device")),
        ("subprocess", "run", OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_babysit_gives_up_with_a_message_when_this_machine_is_short_of_something(
    module, name, error, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(str(LAUNCH))
    import tpu_machine
    import tpu_vm

    ready = tpu_machine.Condition("ready", "ACTIVE")
    monkeypatch.setattr(tpu_machine.Tpu, "condition", lambda tpu: ready)
    monkeypatch.setattr(tpu_machine.Tpu, "workers", lambda tpu: [])

    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(f"{module}.{name}", fail)
    words = ["--name=small", "--zone=us-west4-a", TYPE, "--bucket=my-bucket", "--poll_seconds=0"]
    assert tpu_vm.main(["babysit", *words, "--max_failures=2", *RUN]) in (1, 7)
    last = capsys.readouterr().err.splitlines()[-1]
    assert error.strerror in last and last.endswith("costs money until you `delete` it.")


def test_an_archive_that_could_not_be_written_is_made_again(monkeypatch):
    monkeypatch.syspath_prepend(str(LAUNCH))
    import tpu_machine
    import tpu_vm

    codes, words = iter([0, 128]), ["setup", "--name=small", "--zone=us-west4-a"]
    verbs = []

    def call(words, show=False):
        verbs.append(words[3] if words[0] == "git" else words[4])
        return subprocess.CompletedProcess(words, next(codes, 0), "", "fatal: no space left")

    with contextlib.closing(tpu_machine.Tpu(tpu_vm.make_parser().parse_args(words))) as tpu:
        tpu.call = call
        with pytest.raises(tpu_machine.LauncherError, match="no space left"):
            tpu.setup()
        tpu.setup()
        tpu.setup()
    assert verbs == ["status", "archive"] * 2 + ["scp", "ssh"] * 2


def test_babysit_ends_when_a_tpu_never_answers_and_does_not_delete_it(sandbox):
    sandbox.script(ssh_errors=[True] * 100)
    outcome = babysit(sandbox, "--poll_seconds=0.001")
    last = outcome.stderr.splitlines()[-1]
    assert outcome.returncode == 7 and last.startswith("small: not all workers answer")
    assert last.endswith("Giving up. A TPU that exists costs money until you `delete` it.")
    assert sandbox.verbs() == ["create"]


def test_babysit_tries_three_times_to_create_a_tpu(sandbox):
    sandbox.behave("0")
    sandbox.script(create_errors=["RESOURCE_EXHAUSTED: Quota exceeded."] * 2)
    outcome = babysit(sandbox)
    assert (
        outcome.returncode == 0
        and "failure 2 of 3: small: gcloud refused to create it: ERROR" in outcome.stderr
    )
    sandbox.succeed("delete")
    sandbox.script(lives=[["FAILED"]] * 3)
    outcome = babysit(sandbox)
    assert (
        outcome.returncode == 1 and "failure 3 of 3: FAILED: no capacity" in outcome.stderr.splitlines()[-1]
    )


def test_babysit_takes_over_a_running_run(sandbox):
    sandbox.ready()
    sandbox.succeed("start", *RUN)
    other = babysit(sandbox, run=[*RUN, "--other"])
    assert (
        other.returncode == 1
        and "a run with other arguments is running on it (worker 0: running" in other.stderr
    )
    stderr = sandbox.root / "stderr"
    with stderr.open("w") as output:
        watching = subprocess.Popen(
            sandbox.command("babysit", TYPE, "--bucket=my-bucket", QUICK, *RUN),
            env=sandbox.environment,
            stderr=output,
        )
    sandbox.wait_for(lambda: "worker 0: running" in stderr.read_text())
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=20) == 130 and "Interrupted. A started run continues" in stderr.read_text()
    assert sandbox.succeed("status").stdout.count("running") == 1 and len(sandbox.started()) == 1


def test_a_run_that_lasted_an_hour_resets_the_count_of_failures(monkeypatch):
    monkeypatch.syspath_prepend(str(LAUNCH))
    import tpu_run

    class Machine:
        name, lines = "small", []
        options = type("Options", (), {"max_failures": 2})
        log = lines.append

    sitter = tpu_run.Babysitter(Machine, ["a"])
    sitter.count_failure("a", 1, 10)
    sitter.count_failure("b", 1, 3_601)
    with pytest.raises(tpu_run.LauncherError, match="failure 2 of 2: c"):
        sitter.count_failure("c", 9, 3_599)
    assert Machine.lines == ["failure 1 of 2: a", "failure 1 of 2: b"]


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ("", ("never", 0, "")),
        ("never never", ("never", 0, "")),
        ("ended:0 never", ("never", 0, "")),  # Google has replaced a worker
        ("ended:1 running", ("running", 0, "")),
        ("ended:0 ended:0", ("complete", 0, "")),
        ("ended:0 ended:143", ("stopped", 143, "")),
        ("ended:143 ended:7", ("failed", 7, "1")),
        ("ended:0 lost", ("failed", 137, "1")),
    ],
)
def test_the_state_of_a_run_follows_from_all_workers(workers, expected, monkeypatch):
    monkeypatch.syspath_prepend(str(LAUNCH))
    import tpu_machine
    import tpu_run

    answers = [
        tpu_machine.Worker(str(number), state.partition(":")[0], "run", state.partition(":")[2])
        for number, state in enumerate(workers.split())
    ]
    assert tpu_run.summarize_workers(answers) == expected
