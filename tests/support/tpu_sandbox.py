"""A checkout to launch from and a TPU VM of a simulated gcloud, for the tests of launch/tpu_vm.py."""

import compileall
import json
import re
import shutil
import subprocess
import sys
import time

from support.paths import ROOT
from support.stand_in_gcloud import (
    ENVIRONMENT,
    PYTHON,
    THIS_PYTHON,
    kill_run,
    make_sandbox,
    write_program,
)

LAUNCH = ROOT / "launch"
RUN = ["--", "--config=c.py", "--workdir=bucket/runs/a", "--distributed"]
RUN_NAME = r"\d{8}-\d{6}\.\d{6}-[0-9a-f]{8}"
TYPE, QUICK = "--type=v5litepod-16", "--poll_seconds=0.02"


def commit(checkout):
    """Commit all files of a checkout."""
    for words in (["add", "--all"], ["commit", "--quiet", "--message=a"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=checkout, check=True)


class Sandbox:
    """A checkout to launch from, the TPU of a simulated gcloud, and a record of both."""

    def __init__(self, root, checkout):
        self.root, self.repository = root / "cloud", root / "checkout"
        make_sandbox(self.root)
        shutil.copytree(checkout, self.repository)
        self.environment = {
            "PATH": f"{self.root}/path:/usr/bin:/bin",
            "STAND_IN": str(self.root),
            "TMPDIR": str(root),
            "HOME": str(root),
            "LANG": "C.UTF-8",
        }
        self.behave("run")

    def behave(self, words, worker=None):
        for number in range(2) if worker is None else [worker]:
            (self.root / "shared" / f"behaviour-{number}").write_text(words)

    def script(self, **values):
        (self.root / "script.json").write_text(json.dumps(values))

    def command(self, command, *words, **changes):
        values = {"name": "small", "zone": "us-west4-a", "project": "p"} | changes
        return [
            sys.executable,
            "-S",
            str(self.repository / "launch" / "tpu_vm.py"),
            command,
            *(f"--{key}={value}" for key, value in values.items()),
            *words,
        ]

    def launch(self, command, *words, **changes):
        """The outcome of tpu_vm.py COMMAND with the usual flags and `changes`."""
        return subprocess.run(
            self.command(command, *words, **changes),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def succeed(self, *words):
        outcome = self.launch(*words)
        assert outcome.returncode == 0, outcome.stderr
        return outcome

    def calls(self):
        return [json.loads(line) for line in (self.root / "calls.jsonl").read_text().splitlines()]

    def verbs(self):
        """The commands to gcloud that change something, as "create" and "start"."""
        words = []
        for call in self.calls():
            command = next((word for word in call if word.startswith("--command=")), "")
            verb = re.search(r"worker\.sh (setup|start|stop|tail_log)\b", command)
            if call[3] in ("create", "delete"):
                words.append(call[3])
            elif verb:
                words.append(verb[1])
        return words

    def started(self, worker=0):
        """[arguments, directory, SECRET] of every run on a worker."""
        path = self.root / "shared" / f"started-{worker}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def home(self, worker=0):
        return self.root / "homes" / str(worker)

    def has_ended(self, worker):
        """Whether a worker's newest run has written its exit code and released its lock."""
        state = self.home(worker) / ".electra_jax"
        lock = ["flock", "--nonblock", state / "lock", "true"]
        run = state / "runs" / (state / "run").read_text().strip()
        return (run / "exit_code").exists() and not subprocess.call(lock)

    def wait_for(self, condition):
        for _ in range(2_000):  # far more than needed, for a busy machine
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError("the condition was not met within forty seconds")

    def ready(self):
        """Create the TPU and set it up."""
        self.succeed("create", TYPE, QUICK)
        self.succeed("setup")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for home in (self.root / "homes").iterdir():
            kill_run(home)


def make_checkout(checkout):
    """Make a repository with the launcher and a simulated environment. Tests only copy it."""
    subprocess.run(["git", "init", "--quiet", "--template=", checkout], check=True)
    (checkout / "launch").mkdir()
    for path in LAUNCH.glob("tpu_*"):
        shutil.copy(path, checkout / "launch")
    (checkout / "launch" / "environment.sh").write_text(ENVIRONMENT)
    write_program(checkout / "launch" / "fake_python", PYTHON, f"{THIS_PYTHON} -S")
    (checkout / ".gitignore").write_text("__pycache__/\n")
    commit(checkout)
    compileall.compile_dir(checkout, quiet=1)  # once for all copies
    return checkout
