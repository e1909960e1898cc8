"""Simulated sbatch, srun, scontrol and scancel that keep their cluster in a directory, and make it.

They execute jobs as processes of this machine. The directory holds calls.jsonl, one [program, argv] a line;
script.json, the cluster's settings; jobs/N, the record of job N: its options, the pids of its batch script
and its tasks, and "ended", its final state and exit code. Keys of the script:
  first_job   the number of the first job (1); JAX derives its port from it
  nodelist    the names of the nodes, as SLURM writes them (node[1-2])
  refuse      the message with which sbatch refuses the job
  no_requeue  whether jobs cannot be requeued
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

from support.stand_in_gcloud import THIS_PYTHON, fail, write_program

PROGRAMS = ("sbatch", "srun", "scontrol", "scancel")


def main(program, argv):
    root = Path(os.environ["STAND_IN"])
    with (root / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([program, argv]) + "\n")
    return globals()[program](root, json.loads((root / "script.json").read_text()), argv)


def split_options(argv):
    """(options with their values, the last one counts; the words after them)."""
    cut = next((index for index, word in enumerate(argv) if not word.startswith("--")), len(argv))
    return dict(word[2:].partition("=")[::2] for word in argv[:cut]), argv[cut:]


def send(path, number):
    """Signal the process whose pid is a file's name."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(path.name), number)


def sbatch(root, script, argv):
    if script.get("refuse"):
        return fail(f"sbatch: error: {script['refuse']}")
    options, (path, *arguments) = split_options(argv)
    directives, _ = split_options(re.findall(r"^#SBATCH (\S+)$", Path(path).read_text(), re.MULTILINE))
    number = script.get("first_job", 1) + len(list((root / "jobs").iterdir()))
    job = root / "jobs" / str(number)
    (job / "tasks").mkdir(parents=True)
    (job / "batch").mkdir()
    (job / "options.json").write_text(json.dumps(directives | options))
    (job / "slurm_script").write_bytes(Path(path).read_bytes())  # SLURM runs a copy, too
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        keep(script, job, directives | options, arguments)
        os._exit(0)
    print(f"{number};cluster")
    return 0


def keep(script, job, options, arguments):
    """Run a job's script as SLURM does, and again while it is requeued."""
    number, tasks = options["nodes"], int(options["ntasks-per-node"])
    nodelist = script.get("nodelist", f"node[1-{number}]")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {
        "SLURM_JOB_ID": job.name,
        "SLURM_JOB_NODELIST": nodelist,
        "SLURM_NTASKS": str(int(number) * tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        "SLURM_GPUS_ON_NODE": options["gres"].rpartition(":")[2],
    }
    if "export" in options:
        environment["SLURM_EXPORT_ENV"] = options["export"]
    output = re.sub("%(.)", lambda sign: job.name if sign[1] == "j" else "%", options["output"])
    for restarts in range(10):
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        with open(output, "a" if options.get("open-mode") == "append" else "w") as log:
            process = subprocess.Popen(
                ["bash", job / "slurm_script", *arguments],
                cwd=options["chdir"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        (job / "batch" / str(process.pid)).touch()
        code = process.wait()
        (job / "batch" / str(process.pid)).unlink()
        while list((job / "tasks").iterdir()):  # SLURM waits until all processes of a job have ended
            time.sleep(0.01)
        if not (job / "requeued").exists():
            break
        (job / "requeued").unlink()
    state = "CANCELLED" if (job / "cancelled").exists() else "FAILED" if code else "COMPLETED"
    (job / "new").write_text(f"{state} {code}")
    (job / "new").rename(job / "ended")


def srun(root, script, argv):
    options, command = split_options(argv)
    job = root / "jobs" / os.environ["SLURM_JOB_ID"]
    gpus = ",".join(str(index) for index in range(int(os.environ["SLURM_GPUS_ON_NODE"])))
    exported = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "STAND_IN")
        or name.startswith("SLURM_")
        or options.get("export", os.environ.get("SLURM_EXPORT_ENV", "ALL")) == "ALL"
    }
    processes = []
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        local = rank % int(os.environ["SLURM_NTASKS_PER_NODE"])
        environment = exported | {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(local),
            "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
            "CUDA_VISIBLE_DEVICES": gpus if options.get("gpu-bind") == "none" else str(local),
            "SLURM_CPUS_PER_TASK": options.get("cpus-per-task", "1"),
        }
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        (job / "tasks" / str(process.pid)).touch()
        processes.append(process)
    printers = [
        threading.Thread(target=pass_on, args=(process, f"{rank}: " if "label" in options else ""))
        for rank, process in enumerate(processes)
    ]
    for printer in printers:
        printer.start()
    codes = {}
    signal.signal(signal.SIGTERM, lambda *_: None)  # the tasks of a cancelled job have got theirs
    while len(codes) < len(processes):
        time.sleep(0.01)
        for process in processes:
            if process not in codes and process.poll() is not None:
                (job / "tasks" / str(process.pid)).unlink()
                codes[process] = process.returncode if process.returncode >= 0 else 128 - process.returncode
                # The worst default that a cluster may have.
                if codes[process] and options.get("kill-on-bad-exit", "1") != "0":
                    for other in processes:
                        other.kill()
    for printer in printers:
        printer.join()
    return max(codes.values())


def pass_on(process, label):
    """Print a task's lines."""
    with process.stdout as lines:
        for line in lines:
            os.write(1, label.encode() + line)


def scontrol(root, script, argv):
    if argv[:2] == ["show", "hostnames"]:
        pattern = re.fullmatch(r"(.*)\[(\d+)-(\d+)\]", argv[2])
        indices = range(int(pattern[2]), int(pattern[3]) + 1) if pattern else ()
        print("\n".join(f"{pattern[1]}{index}" for index in indices) or argv[2])
        return 0
    assert argv[0] == "requeue", argv
    job = root / "jobs" / argv[1]
    if script.get("no_requeue") or "requeue" not in json.loads((job / "options.json").read_text()):
        return fail("Requested operation is presently disabled for job " + argv[1])
    (job / "requeued").touch()  # SLURM revives even a job that is being cancelled
    end(job)
    return 0


def end(job):
    """SIGTERM to all of a job's processes."""
    for path in (*(job / "tasks").iterdir(), *(job / "batch").iterdir()):
        send(path, signal.SIGTERM)


def scancel(root, script, argv):
    options, (number,) = split_options(argv)
    job = root / "jobs" / number
    if "signal" in options:  # goes only to the tasks, as the one before the time limit
        for path in (job / "tasks").iterdir():
            send(path, signal.Signals[f"SIG{options['signal']}"])
        return 0
    (job / "cancelled").touch()
    end(job)
    return 0


# In place of an environment, the checkout has a `.venv/bin/python` that records its call, then follows the
# word of the job's start in the file "behaviour", or the last word: an exit code, or "run" until it is told
# to stop.
ENVIRONMENT = """make_environment() {
  mkdir -p .venv/bin
  cp launch/fake_python .venv/bin/python
  echo "$1" >> .venv/made
}
"""
PYTHON = r"""
import json, os, signal, sys, time
from pathlib import Path
root, rank = Path(os.environ["STAND_IN"]), int(os.environ["SLURM_PROCID"])
start = int(os.environ.get("SLURM_RESTART_COUNT", 0))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
words = (root / "behaviour").read_text().split()
names = ["SECRET", "no_proxy", "no_grpc_proxy", "CUDA_VISIBLE_DEVICES"]
names += ["SLURM_LOCALID", "SLURM_CPUS_PER_TASK"]
line = json.dumps([rank, start, sys.argv[1:], os.getcwd(), {name: os.environ.get(name) for name in names}])
print("training", flush=True)
with (root / "started.jsonl").open("a") as started:
    started.write(line + "\n")
word = words[min(start, len(words) - 1)]
if word != "run":
    sys.exit(int(word))
while not stopped:
    time.sleep(0.01)
if rank == 0:
    time.sleep(0.3)  # it takes longer than the others, since it writes
    print("saved", flush=True)
sys.exit(143)
"""


def make_sandbox(root):
    """Make `root` the directory described above; the programs are in root/path."""
    (root / "jobs").mkdir(parents=True)
    start = (
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom support import "
        f"{Path(__file__).stem} as slurm\n"
    )
    for program in PROGRAMS:
        write_program(
            root / "path" / program,
            f"{start}sys.exit(slurm.main({program!r}, sys.argv[1:]))",
            f"{THIS_PYTHON} -S",
        )
    (root / "script.json").write_text("{}")
    (root / "behaviour").write_text("run")
    for name in ("calls.jsonl", "started.jsonl"):
        (root / name).touch()
