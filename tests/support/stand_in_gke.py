"""A simulated GKE cluster in a directory, for the simulated xpk and gcluster.

Containers are processes of this machine. The directory holds calls.jsonl, one argv a line, the program's
name first; "refuse", if it exists, the message with which the tool refuses to create a workload;
workloads/NAME with the JobSet, the pids of its containers in pods/, and "state"; images/NAME, the root
directory of an image, in which its containers start.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import yaml

from support.stand_in_gcloud import THIS_PYTHON, write_program

# In a container an absolute directory is one of its image.
CD = '() { builtin cd "$IMAGE$1"; }'


def record_call(program, argv):
    """Write a call down; returns the cluster's directory."""
    root = Path(os.environ["STAND_IN"])
    with (root / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([program, *argv]) + "\n")
    return root


def make_image(root, name, context=None):
    """The image's directory; with `context`, filled with that directory's content."""
    image = root / "images" / name.replace("/", "_")
    if context:
        shutil.copytree(context, image)
    return image


def submit(root, name, manifest):
    """Run a JobSet, a YAML text, until it is done, without waiting for it."""
    workload = root / "workloads" / name
    jobset = yaml.safe_load(manifest)
    (workload / "pods").mkdir(parents=True)
    (workload / "manifest.yaml").write_text(manifest)
    (workload / "state").write_text("Running")
    if os.fork() == 0:
        os.setsid()
        output = os.open(workload / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(target, descriptor)
        control(workload, jobset)
        os._exit(0)


def expand(text, env):
    """Replace variables in a container's command as Kubernetes does."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)", lambda part: "$" if part[0] == "$$" else env.get(part[1], part[0]), text
    )


def start_pods(workload, jobset, restart):
    spec, processes = jobset["spec"], []
    for rank in range(spec["pods"]):
        root = os.environ["STAND_IN"]
        image = spec["template"]["image"]
        env = {
            "PATH": f"{root}/bin:/usr/bin:/bin",
            "STAND_IN": root,
            "IMAGE": image,
            "BASH_FUNC_cd%%": CD,
            "RANK": str(rank),
            "RESTART": str(restart),
            "JOB_COMPLETION_INDEX": str(rank),
        }
        for pair in spec["template"]["env"] or ():
            env[pair["name"]] = expand(str(pair["value"]), env)
        command = [expand(word, env) for word in spec["template"]["command"]]
        processes.append(subprocess.Popen(command, cwd=image, env=env, start_new_session=True))
        (workload / "pods" / str(processes[-1].pid)).touch()
    return processes


def may_restart(code, policy):
    """Whether a JobSet restarts after a container that ended with `code`."""
    codes = policy["restartOnExitCodes"]
    return codes is None or code in codes  # without a list, after any


def control(workload, jobset):
    """Run the pods of a JobSet as the cluster does, until all are done or a failure allows no restart."""
    policy = jobset["spec"]["failurePolicy"]
    for restart in range(policy["maxRestarts"] + 1):
        processes = start_pods(workload, jobset, restart)
        failed = None
        while failed is None and any(process.poll() is None for process in processes):
            failed = next((process.returncode for process in processes if process.poll()), None)
            time.sleep(0.01)
        failed = failed or next((process.returncode for process in processes if process.returncode), 0)
        tell(workload)
        for process in processes:
            process.wait()
        for path in (workload / "pods").iterdir():
            path.unlink()
        if (workload / "deleted").exists() or not failed or not may_restart(failed, policy):
            break
    state = "Deleted" if (workload / "deleted").exists() else f"Failed {failed}" if failed else "Complete"
    (workload / "new").write_text(state)
    (workload / "new").rename(workload / "state")


def tell(workload):
    """Send SIGTERM to the first process of every container, as Kubernetes does."""
    for path in (workload / "pods").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.name), signal.SIGTERM)


def delete(root, name):
    """Delete a workload; returns whether it was there."""
    workload = root / "workloads" / name
    if workload.exists():
        (workload / "deleted").touch()
        tell(workload)
    return workload.exists()


# The checkout's environment, and `python` in the image: it records its call, then follows the word of the
# workload's restart in the file "behaviour", or the last word: an exit code, or "run" until it is told to
# stop.
ENVIRONMENT = """make_environment() {
  [ ! -e broken ]
  export MADE="$1"
}
"""
PYTHON = r"""
import json, os, signal, sys, time
from pathlib import Path
root, restart = Path(os.environ["STAND_IN"]), int(os.environ["RESTART"])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
words = (root / "behaviour").read_text().split()
variables = {name: os.environ.get(name) for name in ("MADE", "SECRET", "PYTHONUNBUFFERED", "COMMAND")}
line = json.dumps([int(os.environ["RANK"]), restart, sys.argv[1:], os.getcwd(), variables])
with (root / "started.jsonl").open("a") as started:
    started.write(line + "\n")
word = words[min(restart, len(words) - 1)]
if word != "run":
    sys.exit(int(word))
while not stopped:
    time.sleep(0.01)
print("saved")
sys.exit(143)
"""


def make_sandbox(root, *tools):
    """Make `root` the directory described above; the tools, xpk or gcluster, are in root/path."""
    for name in ("workloads", "images"):
        (root / name).mkdir(parents=True)
    for tool in tools:
        start = (
            f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom support import "
            f"stand_in_{tool} as tool\n"
        )
        write_program(root / "path" / tool, f"{start}sys.exit(tool.main(sys.argv[1:]))", THIS_PYTHON)
    write_program(root / "bin" / "python", PYTHON, f"{THIS_PYTHON} -S")
    (root / "behaviour").write_text("run")
    for name in ("calls.jsonl", "started.jsonl"):
        (root / name).touch()
