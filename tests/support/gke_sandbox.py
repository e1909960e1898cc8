"""A checkout to run launch/gke.sh from, and a simulated cluster with a simulated gcluster or xpk."""

import json
import shutil
import subprocess

from support.cluster_sandbox import ClusterSandbox
from support.paths import ROOT
from support.stand_in_gke import ENVIRONMENT, make_sandbox, tell
from support.tpu_sandbox import commit

RUN = ["--config=c.py", "--workdir=/data/runs/a"]
DISTRIBUTED = [*RUN, "--distributed"]
# Four chips, on one host with either tool.
TPU, IMAGE = "--tpu_type=v6e-4", "--docker_image=mine"
# What `create` needs besides, for each tool.
STORAGE = {"gcluster": "--mount=gs://bucket:/data", "xpk": "--storage=one"}


class Cluster(ClusterSandbox):
    """A checkout to launch from, and a simulated cluster. `tools`: those that are installed."""

    def __init__(self, root, *tools):
        self.root, self.checkout, self.tool = root / "cluster", root / "the checkout", tools[0]
        make_sandbox(self.root, *tools)
        (self.root / "images" / "mine").mkdir()
        subprocess.run(["git", "init", "--quiet", "--template=", self.checkout], check=True)
        (self.checkout / "launch").mkdir()
        for name in ("gke.sh", "gke_tools.sh", "options.sh"):
            shutil.copy(ROOT / "launch" / name, self.checkout / "launch")
        (self.checkout / "launch" / "environment.sh").write_text(ENVIRONMENT)
        commit(self.checkout)
        (root / "temporary").mkdir()
        (root / "home").mkdir()
        self.environment = {
            "PATH": f"{self.root}/path:/usr/bin:/bin",
            "STAND_IN": str(self.root),
            "LANG": "C.UTF-8",
            "TMPDIR": str(root / "temporary"),
            "HOME": str(root / "home"),
            "GCLUSTER_IMAGE_REPO": "repository",
        }

    def launch(self, verb, *words, name="base"):
        """The outcome of gke.sh VERB with the usual names and WORDS."""
        script = self.checkout / "launch" / "gke.sh"
        return subprocess.run(
            ["bash", script, verb, "--cluster=c", f"--workload={name}", "--project=p", "--zone=z", *words],
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

    def create(self, *words, **names):
        """The outcome of `create` with a storage."""
        return self.succeed("create", STORAGE[self.tool], *words, **names)

    def calls(self):
        return [json.loads(line) for line in (self.root / "calls.jsonl").read_text().splitlines()]

    def ended(self, name="base"):
        """The state in which a workload ended."""
        path = self.root / "workloads" / name / "state"
        self.wait_for(lambda: path.read_text() != "Running")
        return path.read_text()

    def __exit__(self, *exception):
        for workload in (self.root / "workloads").iterdir():
            (workload / "deleted").touch()
            # Again and again, since its containers may only be starting.
            self.wait_for(lambda path=workload: tell(path) or (path / "state").read_text() != "Running")


def words_of(printed):
    """A tool's name and arguments as bash reads them from a printed command."""
    tool = printed.partition(" ")[0]
    script = f"{tool}() {{ printf '%s\\0' {tool} \"$@\"; }}; {printed}"
    outcome = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return outcome.stdout.split("\0")[:-1]
