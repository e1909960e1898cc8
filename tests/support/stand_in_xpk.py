"""A simulated xpk: a workload's command reaches its container as with xpk 1.16.

It is written into a script within YAML, for GPUs also into a quoted string, then goes through Kubernetes,
which replaces $(NAME) and $$, to bash. support/stand_in_gke.py has the cluster.
"""

import argparse
import re
import textwrap
from pathlib import Path

from support import stand_in_gke as gke
from support.stand_in_gcloud import fail

JOBSET = """
metadata: {{name: {name}}}
spec:
  failurePolicy: {{maxRestarts: {max_restarts}, restartOnExitCodes: [{codes}]}}
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
- {{name: NODE_RANK, value: "$(RANK)"}}
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
    root = gke.record_call("xpk", argv)
    options = parse(argv)
    return {"create": create, "list": list_workloads, "delete": delete}[options.verb](root, options)


def create(root, options):
    if (root / "refuse").exists():
        return fail((root / "refuse").read_text() + "\n[XPK] XPK failed, error code 1")
    if (root / "workloads" / options.workload).exists():
        return fail("EOFError: EOF when reading a line")  # it asks whether to replace it
    context = None if options.docker_image else options.script_dir
    assert options.docker_image or options.base_docker_image, options
    image = gke.make_image(root, options.docker_image or "made", context)
    gke.submit(root, options.workload, manifest(options, image))
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


def list_workloads(root, options):
    for path in sorted((root / "workloads").iterdir()):
        if (options.filter_by_job or "") in path.name:
            print(path.name, (path / "state").read_text())
    return 0


def delete(root, options):
    if gke.delete(root, options.workload):
        return 0
    return fail(
        f'Error from server (NotFound): jobsets "{options.workload}" not found\n'
        "[XPK] XPK failed, error code 1"
    )
