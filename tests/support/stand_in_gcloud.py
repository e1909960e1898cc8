"""A simulated gcloud that keeps its TPU in a directory, and makes that directory.

The directory holds calls.jsonl, one argv a line; script.json, the failures to simulate; state.json, the
TPU's state; homes/N, the home directory of worker N, where bash executes remote commands; shared/, which
outlives the TPU. Keys of the script:
  workers        number of workers (1)
  lives          for each creation, the states that consecutive `describe`s return; the last one stays. Three
                 are not Google's: NODE_PREEMPTED, only the node is preempted; ERROR, gcloud does not answer;
                 any text beginning with "{", the answer itself
  create_errors  messages with which the next creations are refused
  lost_answers   verbs, as "delete": the next such call is carried out, but its answer is lost
  ssh_errors     for each of the next ssh and scp calls, whether it fails as without a network
  no_login       whether gcloud never answers
  repeat_ssh     execute each command twice, as gcloud does when the connection breaks
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

GONE = ("SUSPENDED", "SUSPENDING", "FAILED")


def main(argv):
    root = Path(os.environ["STAND_IN"])
    with (root / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(argv) + "\n")
    script, state = (json.loads((root / name).read_text()) for name in ("script.json", "state.json"))
    assert argv[:2] == ["compute", "tpus"] and "--quiet" in argv and "--zone=us-west4-a" in argv, argv
    code = COMMANDS[argv[2], argv[3]](
        root,
        script,
        state,
        [word for word in argv[4:] if not word.startswith("--")],
        dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--")),
    )
    if argv[3] in script.get("lost_answers", []):
        script["lost_answers"].remove(argv[3])
        code = fail(f"ERROR: (gcloud.compute.tpus.queued-resources.{argv[3]}) Connection reset by peer")
    for name, value in (("script.json", script), ("state.json", state)):
        (root / name).write_text(json.dumps(value))
    return code


def fail(message, code=1):
    print(message, file=sys.stderr)
    return code


def not_found(verb, name):
    return fail(
        f"ERROR: (gcloud.compute.tpus.{verb}) NOT_FOUND: Resource '{name}' was not found\n- '@type': details"
    )


def is_cut_off(script):
    """Whether this ssh or scp fails."""
    return bool(script.get("ssh_errors")) and script["ssh_errors"].pop(0)


def kill_run(home):
    """Kill a worker's run like a power cut: first the process that would write its exit code."""
    for pid in sorted(home.glob("pids/*")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.name.partition("-")[2]), signal.SIGKILL)
        pid.unlink()


def end_machine(root, state):
    """End the workers, and delete their disks."""
    for home in sorted((root / "homes").glob("*")):
        kill_run(home)
        shutil.move(home, root / "lost" / f"{len(list((root / 'lost').iterdir()))}")
    state["node"] = ""


def create(root, script, state, names, flags):
    if script.get("create_errors"):
        return fail(
            f"ERROR: (gcloud.compute.tpus.queued-resources.create) {script['create_errors'].pop(0)}\n- "
            "'@type': more"
        )
    if state["exists"]:
        return fail(
            "ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource already exists"
        )
    lives = script.get("lives") or [["ACTIVE"]]
    state.update(exists=True, states=lives[0], node="READY")
    script["lives"] = lives[1:]
    for number in range(script.get("workers", 1)):
        (root / "homes" / str(number) / "pids").mkdir(parents=True)
    return 0


def describe(root, script, state, names, flags):
    if script.get("no_login") or state["states"][:1] == ["ERROR"]:
        state["states"] = state["states"][1:]
        return fail(
            "ERROR: (gcloud.compute.tpus.queued-resources.describe) There was a problem refreshing your "
            "auth tokens."
        )
    if not state["exists"]:
        return not_found("queued-resources.describe", names[0])
    word = state["states"][0]
    state["states"] = state["states"][1:] or [word]
    if word.startswith("{"):
        print(word)
        return 0
    if word in GONE or word == "NODE_PREEMPTED":
        end_machine(root, state)
    data = (
        {"failedData": {"error": {"message": "no capacity until the deadline"}}} if word == "FAILED" else {}
    )
    word, state["node"] = ("ACTIVE", "PREEMPTED") if word == "NODE_PREEMPTED" else (word, state["node"])
    print(json.dumps({"name": names[0], "state": {"state": word, **data}}))
    return 0


def delete(root, script, state, names, flags):
    if not state["exists"]:
        return not_found("queued-resources.delete", names[0])
    assert "force" in flags
    end_machine(root, state)
    state["exists"] = False
    return 0


def describe_node(root, script, state, names, flags):
    if not state["node"]:
        return not_found("tpu-vm.describe", names[0])
    print(state["node"])
    return 0


def homes(root, flags):
    """(number, home) of the workers that --worker selects."""
    return [
        (home.name, home)
        for home in sorted((root / "homes").iterdir())
        if flags["worker"] in ("all", home.name)
    ]


def scp(root, script, state, names, flags):
    if is_cut_off(script):
        return fail("ssh: connect to host 10.0.0.2 port 22: Connection refused", 255)
    target = names[1].partition(":")[2]
    for _, home in homes(root, flags):
        shutil.copy(names[0], home / target)  # keeps the mode, as scp does
    return 0


def ssh(root, script, state, names, flags):
    if is_cut_off(script):
        return fail("ssh: connect to host 10.0.0.2 port 22: Connection refused", 255)
    codes = []
    for number, home in homes(root, flags):
        environment = {
            "HOME": str(home),
            "PATH": f"{root}/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "STAND_IN": str(root),
            "WORKER": number,
        }
        command = " ".join(flags["command"].split(" "))  # as gcloud and ssh do
        for _ in range(2 if script.get("repeat_ssh") else 1):
            session = subprocess.Popen(
                ["bash", "-c", command],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            codes.append(session.wait())
            # The session ends, and with it every process that was not detached from it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session.pid, signal.SIGKILL)
    return next((code for code in codes if code), 0)


COMMANDS = {
    ("queued-resources", "create"): create,
    ("queued-resources", "describe"): describe,
    ("queued-resources", "delete"): delete,
    ("tpu-vm", "describe"): describe_node,
    ("tpu-vm", "scp"): scp,
    ("tpu-vm", "ssh"): ssh,
}

# In place of an environment, the checkout on the workers has a `.venv/bin/python` that records its call, then
# follows the next word of shared/behaviour-N, or the last one again: an exit code, or "run" until it is told
# to stop.
ENVIRONMENT = """make_environment() {
  mkdir -p .venv/bin
  cp launch/fake_python .venv/bin/python
  echo "$1${EXTRAS:+,$EXTRAS} with $PYTHON" > .venv/made
}
"""
PYTHON = r"""
import json, os, signal, sys, time
from pathlib import Path
home, root, worker = Path(os.environ["HOME"]), Path(os.environ["STAND_IN"]), os.environ["WORKER"]
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
for order, pid in enumerate((os.getppid(), os.getpid())):
    (home / "pids" / f"{order}-{pid}").touch()
with (root / "shared" / f"started-{worker}.jsonl").open("a") as started:
    started.write(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("SECRET")]) + "\n")
behaviour = root / "shared" / f"behaviour-{worker}"
word, _, rest = behaviour.read_text().partition(" ")
behaviour.write_text(rest or word)
print("training on worker", worker)
if word != "run":
    sys.exit(int(word))
while not stopped:
    time.sleep(0.02)
print("saved")
sys.exit(143)
"""
# In place of programs on the workers that would leave the sandbox.
PROGRAMS = {
    "curl": 'case "$*" in *agent-worker-number*) echo -n "$WORKER" ;; *) echo key ;; esac',
    "gcsfuse": 'echo "$*" >> "$STAND_IN/mounts"; mkdir -p "$STAND_IN/shared/${@: -2:1}"; rmdir "${@: -1}"; '
    'ln -s "$STAND_IN/shared/${@: -2:1}" "${@: -1}"',
    "findmnt": 'basename "$(readlink "${@: -1}" || exit 1)"',
    "python3.13": "exit 0",
    "sudo": 'echo "$*" >> "$STAND_IN/sudo"; '
    'case "$*" in *install*) mv "$STAND_IN/later/gcsfuse" "$STAND_IN/bin" ;; esac; cat',
    "lsb_release": "echo jammy",
}


# For `write_program`: the kernel splits the first line of a program at blanks, which a path may have.
THIS_PYTHON = f"/usr/bin/env -S {shlex.quote(sys.executable)}"


def write_program(path, text, interpreter="/bin/bash"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter}\n{text}\n")
    path.chmod(0o755)


def make_sandbox(root):
    """Make `root` the directory described above; gcloud itself is in root/path."""
    for name in ("homes", "lost", "shared", "later"):
        (root / name).mkdir(parents=True)
    start = (
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom support import "
        f"{Path(__file__).stem} as gcloud\n"
    )
    write_program(
        root / "path" / "gcloud", f"{start}sys.exit(gcloud.main(sys.argv[1:]))", f"{THIS_PYTHON} -S"
    )
    for name, text in PROGRAMS.items():
        write_program(root / "bin" / name, text)
    (root / "state.json").write_text(json.dumps({"exists": False, "states": [], "node": ""}))
    (root / "script.json").write_text("{}")
    (root / "calls.jsonl").touch()
