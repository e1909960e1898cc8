"""The page "Adding an objective" of electra_jax/objectives/README.md, followed word for word in a copy of the
packages: one file, one row, one recipe."""

import json
import math
import re
import shutil
import subprocess
import sys

import pytest

from support import tiny_run
from support.paths import ROOT

OBJECTIVES = "electra_jax/objectives"
LAST_ROW = "    PROP,\n)"
COMPARED = ("electra", "focal_rtd")
SETTINGS = {
    "train__num_steps": 2,
    "eval__every": 2,
    "checkpoint__every": 2,
    "log__every": 2,
    "optimizer__warmup_steps": 1,
}
# Trains ELECTRA and the new objective, as the suite of ablations does, and prints their FLOPs and metrics.
COMPARE = """
import json, sys
from pathlib import Path
from electra_jax.comparison.pretraining import pretrain_suite, suite_runs
from electra_jax.comparison.suites import SUITES
from electra_jax.configuration.flags import load_config
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops

config, workdir = load_config("configs/focal_rtd.py"), Path(sys.argv[1])
config.update_from_flattened_dict(json.loads(sys.argv[2]))
suite = SUITES["ablations"]
suite = suite._replace(variants={name: suite.variants[name] for name in json.loads(sys.argv[3])})
costs = {
    name: sum(
        run["train"]["num_steps"] * forward_flops(run, make_pretraining_config(run["model"]))
        for run in suite_runs(suite, config, name, 0, workdir).values()
    )
    for name in suite.variants
}
results, _ = pretrain_suite(suite, config, workdir, 1)
print(json.dumps({"costs": costs, "metrics": {result.model: result.metrics for result in results}}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the packages with the objective, the row and the recipe that the README shows."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("electra_jax", "data_pipelines", "configs"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    page = (root / OBJECTIVES / "README.md").read_text(encoding="utf-8")
    section = page.partition("## Adding an objective")[2].partition("\n## ")[0]
    file, imported, recipe = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (root / OBJECTIVES / "focal_rtd.py").write_text(file, encoding="utf-8")
    (root / "configs" / "focal_rtd.py").write_text(recipe, encoding="utf-8")
    registry = root / OBJECTIVES / "registry.py"
    source = registry.read_text(encoding="utf-8")
    assert source.count(LAST_ROW) == source.count("\nROWS = (\n") == 1
    source = source.replace(LAST_ROW, LAST_ROW.replace("\n)", "\n    FOCAL_RTD,\n)"))
    registry.write_text(source.replace("\nROWS = (\n", f"\n{imported}\nROWS = (\n"), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def start(checkout, environment):
    """A function that starts a command in the copy."""

    def start_command(*command):
        return subprocess.Popen(
            command,
            cwd=checkout,
            env=environment | {"PYTHONPATH": str(checkout)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start_command


def output_of(process):
    """The output of a command, once it has succeeded."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_one_file_one_row_and_one_recipe_train_evaluate_export_compare_and_plan(start, data, tmp_path):
    recipe = "configs/focal_rtd.py"
    run = tmp_path / "run"
    pretraining = start(*tiny_run.command(run, data, config=recipe, **SETTINGS))
    settings = {f"--config.{key}={value}" for key, value in tiny_run.values(data, **SETTINGS).items()}
    planning = start(
        *(sys.executable, "-m", "electra_jax.plan", f"--config={recipe}", *settings),
        *("--device=cpu:1", f"--json={tmp_path / 'plan.json'}"),
    )
    output_of(pretraining)
    output_of(planning)

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = {name: value for row in rows for name, value in row.items()}
    for name in ("focal_loss", "rtd_loss", "mlm_loss"):
        assert math.isfinite(metrics[name]) and math.isfinite(metrics[f"eval/{name}"])
    # Every factor (1 − p) is less than 1.
    assert 0 < metrics["focal_loss"] < metrics["rtd_loss"]
    recorded = json.loads((run / "config.json").read_text())["config"]["objective"]
    assert recorded["name"] == "focal_rtd" and recorded["focal_gamma"] == 1.0
    (stage,) = json.loads((tmp_path / "plan.json").read_text())["stages"]
    assert stage["model_flops"] > 0 and stage["program_flops"] > 0

    values = tiny_run.values(data, **SETTINGS) | {"data.datasets": [str(data / "corpus")]}
    comparing = start(
        sys.executable,
        "-c",
        COMPARE,
        str(tmp_path / "compared"),
        json.dumps(values),
        json.dumps(COMPARED),
    )
    out = tmp_path / "exported"
    exported = output_of(
        start(sys.executable, "-m", "electra_jax.convert", "export", f"--workdir={run}", f"--out={out}")
    )
    assert "Not verified" not in exported and "hidden states" in exported
    assert sorted(path.name for path in out.iterdir()) == ["discriminator", "generator"]
    assert "ELECTRA with focal loss: 2 steps" in (out / "discriminator" / "README.md").read_text()
    compared = json.loads(output_of(comparing).splitlines()[-1])
    assert compared["costs"]["focal_rtd"] == compared["costs"]["electra"]
    assert all(set(compared["metrics"][name]) == {"mlm_loss", "rtd_auc"} for name in COMPARED)
