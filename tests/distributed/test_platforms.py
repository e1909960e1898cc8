"""JAX_PLATFORMS with what this machine lacks: every command names it, without a traceback."""

import os
import subprocess
import sys

import pytest

from support.paths import ROOT

# With flags that pass until devices are needed; all in one process, which has started no device.
COMMANDS = """
import sys

from absl import flags

from electra_jax import convert, predict, soup
from electra_jax.benchmarks.suites import run_suite
from electra_jax.configuration.flags import run_command
from electra_jax.distributed.processes import define_process_flags, join_by_flags
from electra_jax.reports.command_line import make_report

here, values = sys.argv[1], flags.FlagValues()
define_process_flags(values)
values(["command"])
calls = {
    "pretrain, finetune and doctor": lambda: join_by_flags(values),
    "predict": lambda: predict.main([f"--model={here}", f"--input={here}/in.txt"]),
    "soup": lambda: soup.main([f"--runs={here}", f"--workdir={here}/soup"]),
    "convert": lambda: convert.main(["export", f"--workdir={here}", f"--out={here}/out"]),
    "benchmark": lambda: run_suite("input", {}, rounds=1, steps=1),
    "report": lambda: make_report([], here, None, device="accelerator"),
}
sys.argv = ["compare", "--config=configs/debug.py", f"--workdir={here}"]
calls["compare and evaluate"] = lambda: run_command(lambda: None, on_devices=True)
for name, call in calls.items():
    try:
        call()
    except (ValueError, SystemExit) as error:
        print(f"{name}: {error}")
"""
NAMES = ["pretrain, finetune and doctor", "predict", "soup", "convert"]
NAMES += ["benchmark", "report", "compare and evaluate"]


@pytest.mark.parametrize("platform", ["cuda", "coda"])
def test_every_command_names_a_platform_that_is_not_here(platform, tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    paths = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path)],
        env=os.environ | paths | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "JAX_PLATFORMS: got" in line]
    assert [line.split(": ")[0] for line in lines] == NAMES, done.stderr
    assert all(f"got '{platform}', but JAX finds no such device on this machine" in line for line in lines)
    assert "Traceback" not in done.stderr
