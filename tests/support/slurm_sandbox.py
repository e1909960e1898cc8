"""A checkout to run launch/gpu_slurm.sh from, and a simulated cluster."""

import json
import re
import shutil
import subprocess

from support.cluster_sandbox import ClusterSandbox
from support.paths import ROOT
from support.stand_in_gcloud import THIS_PYTHON
from support.stand_in_slurm import ENVIRONMENT, PYTHON, end, make_sandbox

RUN = ["--config=c.py", "--workdir=runs/a", "--distributed"]


FILES = ("gpu_slurm.sh", "options.sh", "slurm_job.sh")


class Cluster(ClusterSandbox):
    """A checkout to submit from, and a simulated cluster."""

    def __init__(self, root):
        self.root, self.checkout = root / "cluster", root / "the checkout"
        make_sandbox(self.root)
        (self.checkout / "launch").mkdir(parents=True)
        for name in FILES:
            shutil.copy(ROOT / "launch" / name, self.checkout / "launch")
        self.write("environment.sh", ENVIRONMENT)
        self.write("fake_python", f"#!{THIS_PYTHON} -S\n{PYTHON}")
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

    def ended(self, job):
        """State and exit code of a job that ended, as "FAILED 1"."""
        self.wait_for((job / "ended").exists)
        return (job / "ended").read_text()

    def log(self, job, workdir="runs/a"):
        return (self.checkout / workdir / f"slurm-{job.name}.log").read_text()

    def __exit__(self, *exception):
        self.script(no_requeue=True)
        for job in (self.root / "jobs").iterdir():
            (job / "requeued").unlink(missing_ok=True)
            end(job)
            self.ended(job)
