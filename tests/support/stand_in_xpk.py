"""A simulated xpk that keeps its cluster in a directory, and makes that directory.

A workload's command reaches its container as with xpk 1.16: it is written into a script within YAML, for
GPUs also into a quoted string, then goes through Kubernetes, which replaces $(NAME) and $$, to bash.
Containers are processes of this machine. The directory holds calls.jsonl, one argv a line; "refuse", if it
exists, the message with which xpk refuses to create a workload; workloads/NAME with the JobSet, the pids of
its containers in pods/, and "state"; images/NAME, the working directory of an image.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import yaml

from support.stand_in_gcloud import fail, write_program

JOBSET = """
metadata: {{name: {name}}}
spec:
  failurePolicy: {{maxRestarts: {max_restarts}}}
  restartOnExitCodes: [{codes}]
  pods: {pods}
  template:
    terminationGracePeriodSeconds: {grace}
    image: "{image}"
    env:
{env}
    command:
    - bash
    - -c
    - |
      echo begins;
      tell() (kill -TERM $! 2>/dev/null;);
      trap tell TERM;
      ({command}) & RUN=$!;
      while kill -0 $RUN 2>/dev/null;
          do sleep 0.05;
      done;
      wait $RUN;
      CODE=$?;
      echo ends with $CODE;
      exit $CODE
"""
GPU_ENV = """
- {{name: JOBSET_NAME, value: "{name}"}}
- {{name: NNODES, value: "{pods}"}}
- {{name: COMMAND, value: "{command}"}}
- {{name: JAX_COORDINATOR_PORT, value: "6002"}}
- {{name: JAX_COORDINATOR_ADDRESS, value: "$(JOBSET_NAME)-0.$(JOBSET_NAME)"}}
"""


def name_type(value):
    if len(value) > 40 or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", value):
        raise argparse.ArgumentTypeError(f"invalid name {value}")
    return value


def parse(argv):
    """Parse as xpk does, with the options that are used here."""
    parser = argparse.ArgumentParser(prog="xpk")
    verbs = (
        parser.add_subparsers(required=True).add_parser("workload").add_subparsers(dest="verb", required=True)
    )
    for verb in ("create", "list", "delete"):
        command = verbs.add_parser(verb)
        command.add_argument("--cluster", type=name_type, required=True)
        command.add_argument("--project")
        command.add_argument("--zone")
        if verb == "list":
            command.add_argument("--filter-by-job")
        else:
            command.add_argument("--workload", type=name_type, required=True)
        if verb == "create":
            command.add_argument("--command", required=True)
            device = command.add_mutually_exclusive_group(required=True)
            device.add_argument("--tpu-type")
            device.add_argument("--device-type")
            for option in (
                "--base-docker-image",
                "--docker-image",
                "--script-dir",
                "--env-file",
                "--restart-on-exit-codes",
            ):
                command.add_argument(option)
            for option, default in (
                ("num-slices", 1),
                ("num-nodes", 1),
                ("max-restarts", 0),
                ("termination-grace-period-seconds", 30),
            ):
                command.add_argument(f"--{option}", type=int, default=default)
            command.add_argument("--storage", action="append")
            command.add_argument("--spot", action="store_true")
    return parser.parse_args(argv)


def main(argv):
    root = Path(os.environ["STAND_IN"])
    with (root / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(argv) + "\n")
    options = parse(argv)
    return {"create": create, "list": list_workloads, "delete": delete}[options.verb](root, options)


def create(root, options):
    if (root / "refuse").exists():
        return fail((root / "refuse").read_text() + "\n[XPK] XPK failed, error code 1")
    workload = root / "workloads" / options.workload
    if workload.exists():
        return fail("EOFError: EOF when reading a line")  # it asks whether to replace it
    image = root / "images" / (options.docker_image or "made").replace("/", "_")
    if not options.docker_image:
        assert options.base_docker_image, options
        shutil.copytree(options.script_dir, image)
    text = manifest(options, image)
    jobset = yaml.safe_load(text)
    (workload / "pods").mkdir(parents=True)
    (workload / "manifest.yaml").write_text(text)
    (workload / "state").write_text("Running")
    if os.fork() == 0:
        os.setsid()
        output = os.open(workload / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(target, descriptor)
        control(workload, jobset)
        os._exit(0)
    print(f"[XPK] Follow your workload here: https://console/{options.workload}")
    return 0


def manifest(options, image):
    """The JobSet as text, with all values unquoted, as xpk writes it."""
    is_tpu = bool(options.tpu_type)
    pods = (
        options.num_slices * max(1, int(options.tpu_type.rpartition("-")[2]) // 4)
        if is_tpu
        else options.num_nodes
    )
    values = {"name": options.workload, "pods": pods, "command": options.command}
    env = "" if is_tpu else GPU_ENV.format(**values)
    if options.env_file:
        for name, value in re.findall(
            "^([a-zA-Z_][a-zA-Z0-9_]*)=(.*)$", Path(options.env_file).read_text(), re.MULTILINE
        ):
            env += f'- {{name: {name}, value: "{value}"}}\n'
    codes = [42, *range(127, 256), *filter(None, [options.restart_on_exit_codes])]
    return JOBSET.format(
        **values,
        max_restarts=options.max_restarts,
        codes=", ".join(map(str, codes)),
        image=image,
        grace=options.termination_grace_period_seconds,
        env=textwrap.indent(env, "    "),
    )


def expand(text, env):
    """Replace variables in a container's command as Kubernetes does."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)", lambda part: "$" if part[0] == "$$" else env.get(part[1], part[0]), text
    )


def start_pods(workload, jobset, restart):
    spec, processes = jobset["spec"], []
    for rank in range(spec["pods"]):
        root = os.environ["STAND_IN"]
        env = {
            "PATH": f"{root}/bin:/usr/bin:/bin",
            "STAND_IN": root,
            "NODE_RANK": str(rank),
            "RESTART": str(restart),
        }
        for pair in spec["template"]["env"] or ():
            env[pair["name"]] = expand(pair["value"], env)
        command = [expand(word, env) for word in spec["template"]["command"]]
        processes.append(
            subprocess.Popen(command, cwd=spec["template"]["image"], env=env, start_new_session=True)
        )
        (workload / "pods" / str(processes[-1].pid)).touch()
    return processes


def control(workload, jobset):
    """Run the pods of a JobSet as the cluster does, until all are done or a failure allows no restart."""
    for restart in range(jobset["spec"]["failurePolicy"]["maxRestarts"] + 1):
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
        if (
            (workload / "deleted").exists()
            or not failed
            or failed not in jobset["spec"]["restartOnExitCodes"]
        ):
            break
    state = "Deleted" if (workload / "deleted").exists() else f"Failed {failed}" if failed else "Complete"
    (workload / "new").write_text(state)
    (workload / "new").rename(workload / "state")


def tell(workload):
    """Send SIGTERM to the first process of every container, as Kubernetes does."""
    for path in (workload / "pods").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.name), signal.SIGTERM)


def list_workloads(root, options):
    for path in sorted((root / "workloads").iterdir()):
        if (options.filter_by_job or "") in path.name:
            print(path.name, (path / "state").read_text())
    return 0


def delete(root, options):
    workload = root / "workloads" / options.workload
    if not workload.exists():
        return fail(
            f'Error from server (NotFound): jobsets "{options.workload}" not found\n'
            "[XPK] XPK failed, error code 1"
        )
    (workload / "deleted").touch()
    tell(workload)
    return 0


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
line = json.dumps([int(os.environ["NODE_RANK"]), restart, sys.argv[1:], os.getcwd(), variables])
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


def make_sandbox(root):
    """Make `root` the directory described above; xpk itself is in root/path."""
    for name in ("workloads", "images"):
        (root / name).mkdir(parents=True)
    start = (
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom support import "
        f"{Path(__file__).stem} as xpk\n"
    )
    write_program(root / "path" / "xpk", f"{start}sys.exit(xpk.main(sys.argv[1:]))", sys.executable)
    write_program(root / "bin" / "python", PYTHON, f"{sys.executable} -S")
    (root / "behaviour").write_text("run")
    for name in ("calls.jsonl", "started.jsonl"):
        (root / name).touch()
