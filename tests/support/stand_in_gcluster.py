"""A simulated `gcluster job` of Google's Cluster Toolkit, as its sources (v1.95) and guides (v1.103) say.

A command is the third word of /bin/bash -c in a YAML list, goes through Kubernetes, which replaces $(NAME)
and $$, and starts in the image's root directory. support/stand_in_gke.py has the cluster.
"""

import argparse
import json
import math
import os
import re

from support import stand_in_gke as gke
from support.stand_in_gcloud import fail

JOBSET = """
metadata: {{name: {name}}}
spec:
  failurePolicy: {{maxRestarts: {restarts}, restartOnExitCodes: {codes}}}
  pods: {pods}
  template:
    terminationGracePeriodSeconds: {grace}
    image: "{image}"
    env: {env}
    volumeMounts: {mounts}
    command:
    - "/bin/bash"
    - "-c"
    - {command}
"""
GPUS = re.compile(
    "(l4|a100-[48]0gb|h100-80gb|h200-141gb|b200)-[1248]|g2-standard-[0-9]+|a[234]-[a-z]+gpu-[0-9]+g"
)
TPUS = re.compile("(ct5lp-hightpu|ct6e-standard|ct4p-hightpu|ct5p-hightpu|tpu7x-standard)-([148])t")


def parse(argv):
    """Parse as gcluster does, with the options that are used here."""
    parser = argparse.ArgumentParser(prog="gcluster", allow_abbrev=False)
    verbs = parser.add_subparsers(required=True).add_parser("job").add_subparsers(dest="verb", required=True)
    for verb in ("submit", "list", "cancel"):
        command = verbs.add_parser(verb, allow_abbrev=False)
        for option in ("--cluster", "--location", "--project"):
            command.add_argument(option, default="")
        if verb == "list":
            command.add_argument("--name-contains", default="")
        if verb == "cancel":
            command.add_argument("name")
        if verb == "submit":
            for option in ("--name", "--command", "--compute-type"):
                command.add_argument(option, required=True)
            for option in ("--image", "--base-image", "--build-context", "--topology"):
                command.add_argument(option, default="")
            for option, default in (("--num-slices", 1), ("--num-nodes", None), ("--restarts", 1)):
                command.add_argument(option, type=int, default=default)
            for option, default in (
                ("--grace-period", "30s"),
                ("--restart-on-exit-codes", ""),
                ("--priority", ""),
            ):
                command.add_argument(option, default=default)
            for option in ("--mount", "--env"):
                command.add_argument(option, action="append", default=[])
            command.add_argument("--gke-disable-parallel-containers", action="store_true")
    return parser.parse_args(argv)


def main(argv):
    root = gke.record_call("gcluster", argv)
    options = parse(argv)
    for option in (
        "cluster",
        "location",
        "project",
    ):  # it takes them from `gcluster job config`, which is empty here
        if not getattr(options, option):
            return fail(f"Error: {option} is required; please specify it using the --{option} flag")
    try:
        return {"submit": submit, "list": list_jobs, "cancel": cancel}[options.verb](root, options)
    except ValueError as error:
        return fail(f"Error: {error}")


def submit(root, options):
    if len(options.name) > 28:
        raise ValueError(
            "workload name cannot exceed 28 characters due to Kubernetes/GCE resource name limits"
        )
    if bool(options.image) == bool(options.base_image) or bool(options.base_image) != bool(
        options.build_context
    ):
        raise ValueError("either --image or --base-image must be provided")
    if options.build_context and not os.environ.get("GCLUSTER_IMAGE_REPO"):
        raise ValueError("GCLUSTER_IMAGE_REPO environment variable is required when using --build-context")
    if (root / "refuse").exists():
        raise ValueError((root / "refuse").read_text())
    mounts = [parse_mount(text) for text in options.mount]
    if len({to for _, to, _ in mounts}) < len(mounts):
        raise ValueError("duplicate volume destination")
    pods = count_pods(options)
    if (root / "workloads" / options.name).exists():
        raise ValueError(f"job with name '{options.name}' already exists in state 'Running'.")
    image = gke.make_image(root, options.image or "made", options.build_context)
    codes = options.restart_on_exit_codes
    manifest = JOBSET.format(
        name=options.name,
        restarts=options.restarts,
        codes=f"[{codes}]" if codes else "null",
        pods=pods,
        grace=int(options.grace_period.removesuffix("s")),
        image=image,
        env=json.dumps(
            [dict(zip(("name", "value"), pair.split("=", 1), strict=True)) for pair in options.env]
        ),
        mounts=json.dumps(mounts),
        command=json.dumps(options.command, ensure_ascii=False),
    )
    gke.submit(root, options.name, manifest)
    print(f"gcluster job submit workflow completed: {options.name}")
    return 0


def count_pods(options):
    """Containers of a job: one a host."""
    machine = TPUS.fullmatch(options.compute_type)
    if machine is None:
        if not GPUS.fullmatch(options.compute_type):
            raise ValueError(f"unknown compute type {options.compute_type}")
        return options.num_slices * (options.num_nodes or 1)
    if options.num_nodes is not None:
        raise ValueError("--num-nodes cannot be used with TPU jobs")
    if not re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*){1,2}", options.topology):
        raise ValueError(f"provided topology has invalid format {options.topology!r}")
    hosts, rest = divmod(math.prod(map(int, options.topology.split("x"))), int(machine[2]))
    if rest:
        raise ValueError(f"topology {options.topology!r} is not divisible by machine_type capacity")
    is_parallel = machine[1] == "tpu7x-standard" and not options.gke_disable_parallel_containers
    return options.num_slices * hosts * (2 if is_parallel else 1)


def parse_mount(text):
    """(source, directory, mode) of SRC;DEST[;MODE][;options=…]."""
    source, *rest = text.split(";")
    if not rest or not rest[0].startswith("/"):
        raise ValueError(f"invalid volume format: {text}. Missing destination.")
    if not re.match("(gs|filestore|pvc)://[^/]|/|[a-z0-9][-.a-z0-9]*$", source):
        raise ValueError(f"invalid volume format: {text}. Unsupported scheme.")
    mode = "ro"
    for word in rest[1:]:
        if word in ("ro", "rw"):
            mode = word
        elif not (word.startswith("options=") and source.startswith("gs://")):
            raise ValueError(f"invalid volume format: {text}: options= can only be used with GCS")
    return source, rest[0], mode


def list_jobs(root, options):
    print("NAME   STATUS   CREATION_TIME   COMPLETION_TIME")
    for path in sorted((root / "workloads").iterdir()):
        if options.name_contains in path.name:
            print(path.name, (path / "state").read_text())
    return 0


def cancel(root, options):
    if not gke.delete(root, options.name):
        raise ValueError(f"job {options.name} not found")
    return 0
