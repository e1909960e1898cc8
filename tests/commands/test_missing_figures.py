"""`python -m electra_jax.compare` where runs lack a metric, or diverged."""

import contextlib
import json
import types

import pytest
from ml_collections import ConfigDict

from electra_jax.comparison import pretraining, suites
from electra_jax.comparison.budgets import Budget
from electra_jax.comparison.curve_plots import plot_curves
from electra_jax.comparison.judging import Judges
from electra_jax.comparison.one_length import compare
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.results import Result
from electra_jax.models.inputs import SpecialTokens

RECIPE = ConfigDict(with_assumed_sizes(load_config("configs/debug.py").to_dict()))


def lines_of(workdir, variants, num_seeds, tasks=()):
    judges = Judges(dict.fromkeys(tasks, {}), (), 0)
    return compare("ablations", RECIPE, num_seeds, variants, judges, workdir, lambda: None)


@pytest.mark.parametrize("undefined", [None, float("nan")], ids=["null", "nan"])
def test_an_undefined_metric_of_one_run_leaves_the_others_their_table(undefined, monkeypatch, tmp_path):
    def pretrain(config, directory):
        auc = undefined if directory.name == "seed_1" and directory.parent.name == "mlm" else 0.5
        return {"heldout_mlm_loss": 5.0, "heldout_rtd_auc": auc}

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    lines = list(lines_of(tmp_path, ["electra", "mlm"], 3))
    assert [line.split(" | ")[4] for line in lines[-2:]] == ["0.500 (0.500–0.500)", "– (2 of 3 seeds)"]
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    assert [len(result["metrics"]) for result in results] == [2, 2, 2, 1, 2, 2]


def test_without_any_metric_there_is_still_a_table(monkeypatch, tmp_path):
    summary = {"heldout_mlm_loss": None, "heldout_rtd_auc": None}
    monkeypatch.setattr(pretraining, "pretrain", lambda *_: summary)
    assert list(lines_of(tmp_path, ["electra"], 2))[-1] == "| electra | 2 |"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"mlm_loss": float("nan"), "rtd_auc": 0.5}, {"rtd_auc": 0.75}),
        ({"mlm_loss": 4.0, "rtd_auc": 0.5}, {"mlm_loss": 4.0, "rtd_auc": 0.75}),
    ],
    ids=["undefined", "defined"],
)
def test_an_undefined_loss_is_not_that_with_other_masks(numbers, expected, monkeypatch, tmp_path):
    ingredient = types.SimpleNamespace(
        config={"objective": {}, "mesh": {}},
        tokenizer=types.SimpleNamespace(special=SpecialTokens(pad=0, cls=1, sep=2, unk=3, mask=4)),
        **dict.fromkeys(["workdir", "step", "model", "datasets"]),
    )
    ingredient._replace = lambda **_: ingredient
    fakes = {
        "open_ingredient": lambda *_: ingredient,
        "make_objective": lambda *_: None,
        "make_mesh": lambda *_: None,
        "load_run": lambda *_: types.SimpleNamespace(params=None),
        "held_out": lambda *_: contextlib.nullcontext(lambda params: numbers),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(suites, name, fake)
    summary = {"heldout_mlm_loss": 9.0, "heldout_rtd_auc": 0.75}
    assert suites.measure_backbone(tmp_path, summary) == expected


def test_curves_without_any_metric_have_no_picture(tmp_path):
    plot_curves({Budget(10, 1): [Result("a", 0, {})]}, [], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
