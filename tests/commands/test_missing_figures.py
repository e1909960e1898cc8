"""`python -m electra_jax.compare` where runs lack a metric, or diverged."""

import contextlib
import json
import types

import pytest
from ml_collections import ConfigDict

from electra_jax.comparison import downstream, learning_curves, pretraining, suites
from electra_jax.comparison.budgets import Budget
from electra_jax.comparison.curve_plots import plot_curves
from electra_jax.comparison.downstream import evaluate_on_tasks, pretrained_inits
from electra_jax.comparison.judging import Judges
from electra_jax.comparison.one_length import compare
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.experiment import DivergedError
from electra_jax.finetuning.results import Result
from electra_jax.models.inputs import SpecialTokens
from electra_jax.training.watch import NonFiniteLossError

RECIPE = ConfigDict(with_assumed_sizes(load_config("configs/debug.py").to_dict()))


def lines_of(workdir, variants, num_seeds, tasks=()):
    judges = Judges({task: {"task": {"metrics": ("f1",)}} for task in tasks}, (), 0)
    return compare("ablations", RECIPE, num_seeds, variants, judges, workdir, lambda: None)


@pytest.mark.parametrize("undefined", [None, float("nan")], ids=["null", "nan"])
def test_an_undefined_metric_of_one_run_leaves_the_others_their_table(undefined, monkeypatch, tmp_path):
    def pretrain(config, directory):
        auc = undefined if directory.name == "seed_1" and directory.parent.name == "mlm" else 0.5
        return {"heldout_mlm_loss": 5.0, "heldout_rtd_auc": auc}

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    lines = list(lines_of(tmp_path, ["electra", "mlm"], 3))
    assert [line.split(" | ")[4] for line in lines[-3:-1]] == ["0.500 (0.500–0.500)", "– (2 of 3 seeds)"]
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    assert [len(result["metrics"]) for result in results] == [2, 2, 2, 1, 2, 2]


def test_without_any_metric_there_is_still_a_table(monkeypatch, tmp_path):
    summary = {"heldout_mlm_loss": None, "heldout_rtd_auc": None}
    monkeypatch.setattr(pretraining, "pretrain", lambda *_: summary)
    assert list(lines_of(tmp_path, ["electra"], 2))[-2] == "| electra | 2 |"


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
    plot_curves({Budget(10, 1): [Result("a", 0, {})]}, [], "a", tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


@pytest.fixture()
def trained(monkeypatch):
    """Pre-training and fine-tuning that only remember what they were asked for; runs in `bad` diverge."""

    def pretrain(config, directory):
        name = f"{directory.parent.name}/{directory.name}"
        asked.append(name)
        if name in bad:
            raise NonFiniteLossError("The loss of step 7 is not finite.")
        return {"heldout_mlm_loss": 5.0 + config["train"]["seed"], "heldout_rtd_auc": 0.5}

    def finetune(config, workdir, plan):
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps({"config": {"task": {"metrics": ["f1"]}}}))
        runs = [
            (init, seed) for init in plan.inits for seed in plan.seeds if (init, seed) not in plan.without
        ]
        tuned.extend(runs)
        return [Result(init, seed, {"f1": 0.25}) for init, seed in runs]

    asked, bad, tuned = [], set(), []
    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    monkeypatch.setattr(downstream, "finetune", finetune)
    return asked, bad, tuned


def read_until_error(lines):
    """The lines before the error, and its text."""
    found = []
    with pytest.raises(FloatingPointError) as error:
        for line in lines:
            found.append(line)
    return found, str(error.value)


def test_a_diverged_run_leaves_the_others_their_table(trained, tmp_path, capsys):
    asked, bad, tuned = trained
    bad.add("mlm/seed_0")
    lines, text = read_until_error(lines_of(tmp_path, ["mlm", "electra"], 3, ["one"]))
    assert asked == [f"{name}/seed_{seed}" for seed in range(3) for name in ("mlm", "electra")]
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[:3] for row in rows[1:]] == [
        ["| electra", "3", "6.000 (5.000–7.000)"],
        ["| mlm", "2", "6.500 (6.000–7.000)"],
        ["| random", "3", "–"],
    ]
    path = str(tmp_path / "comparison.json")
    assert lines[-2:] == ["not in the table: mlm/seed_0, which diverged", path]
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert len(written["results"]) == 8
    cause = "The loss of step 7 is not finite."
    assert written["diverged"] == [{"model": "mlm", "seed": 0, "cause": cause}]
    assert f"mlm/seed_0: {cause} The other runs follow." in capsys.readouterr().err
    assert text.startswith(f"1 pre-training run diverged and has no result:\nmlm/seed_0: {cause}\n")
    assert all(word in text for word in ("the same command", "config.trouble", "--variants", "--seeds"))
    # Fine-tuning starts from the runs that there are.
    own = [(init.removeprefix(f"{tmp_path}/"), seed) for init, seed in tuned if "random" not in init]
    assert own == [("electra/seed_{seed}", seed) for seed in range(3)] + [
        ("mlm/seed_{seed}", seed) for seed in (1, 2)
    ]
    assert {init for init, _ in tuned if "random" in init} == {f"random:{tmp_path}/electra/seed_0"}
    bad.clear()
    asked.clear()
    assert "| mlm | 3 |" in "\n".join(lines_of(tmp_path, ["mlm", "electra"], 3, ["one"]))
    assert len(asked) == 6 and "diverged" not in json.loads((tmp_path / "comparison.json").read_text())


def test_other_errors_stop_the_comparison_at_once(trained, monkeypatch, tmp_path):
    asked, *_ = trained

    def pretrain(config, directory):
        asked.append(directory.name)
        raise OSError("the disk is full")

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    with pytest.raises(OSError, match="the disk is full"):
        list(lines_of(tmp_path, ["mlm"], 3))
    assert asked == ["seed_0"]


def test_without_any_run_there_is_only_the_error(trained, tmp_path):
    _, bad, tuned = trained
    bad |= {"mlm/seed_0", "mlm/seed_1"}
    lines, text = read_until_error(lines_of(tmp_path, ["mlm"], 2, ["one"]))
    assert lines == tuned == [] and text.startswith("2 pre-training runs diverged and have no result:\n")
    assert not (tmp_path / "comparison.json").exists()


def test_runs_that_diverged_on_a_task_are_named_in_the_file(trained, monkeypatch, tmp_path):
    def finetune(config, workdir, plan):
        raise DivergedError(["the loss is nan."], 2, [])

    monkeypatch.setattr(downstream, "finetune", finetune)
    lines, text = read_until_error(lines_of(tmp_path, ["electra"], 1, ["one"]))
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert lines[-1] == str(tmp_path / "comparison.json") and "diverged" not in written
    [cause] = written["diverged_on_tasks"]
    assert cause.startswith("task one: ") and cause in text


def test_a_soup_of_a_diverged_run_is_left_out(trained, monkeypatch, tmp_path):
    _, bad, _ = trained
    bad.add("mcl/seed_1")
    made = []
    monkeypatch.setattr(pretraining, "make_soup", lambda runs, directory, options: made.append(directory))
    suite = suites.SUITES["courses"]._replace(measure_soup=lambda directory: {"mlm_loss": 4.0})
    config = ConfigDict(with_assumed_sizes(load_config("configs/debug.py:model=mcl").to_dict()))
    results, diverged = pretraining.pretrain_suite(suite, config, tmp_path, 2)
    assert made == [tmp_path / "soup" / "seed_0"]
    assert [(one.model, one.seed) for one in diverged] == [("mcl", 1)]
    assert sorted(one.seed for one in results if one.model in ("soup", "mcl")) == [0, 0]


def test_a_diverged_run_leaves_the_other_numbers_of_tokens_their_curves(trained, tmp_path):
    asked, bad, tuned = trained
    bad.add("mlm/seed_0")
    recipe, judges = ConfigDict(RECIPE.to_dict()), Judges({"one": {"task": {"metrics": ("f1",)}}}, (), 0)
    recipe.train.num_steps, recipe.optimizer.warmup_steps = 1000, 100
    step = recipe.train.batch_size * recipe.data.sequence_length
    budgets = [Budget(step * 200, 2), Budget(step * 400, 1)]
    lines, text = read_until_error(
        learning_curves.learning_curves(
            "ablations", recipe, budgets, ["mlm", "electra"], judges, tmp_path, lambda: None
        )
    )
    points = json.loads((tmp_path / "curves.json").read_text())["points"]
    assert [[(one["model"], one["seed"]) for one in point["results"]] for point in points] == [
        [("electra", 0), ("mlm", 1), ("electra", 1)],
        [("electra", 0)],
    ]
    folders = [budget.folder for budget in budgets]
    assert [line for line in lines if line.startswith("not in the table")] == [
        f"not in the table: {folders[0]}/mlm/seed_0, {folders[1]}/mlm/seed_0, which diverged"
    ]
    assert lines[-1] == str(tmp_path / "curves.json")
    assert f"{folders[1]}/mlm/seed_0: The loss" in text and len(asked) == 6
    starts = {init for init, _ in tuned if "random" in init}
    assert starts == {f"random:{tmp_path}/{folders[0]}/electra/seed_0"}


@pytest.mark.parametrize(
    ("num_seeds", "has_curves"),
    [((1, 1), False), ((1, 2), True), ((2, 1), True)],
    ids=["all", "first", "last"],
)
def test_numbers_of_tokens_without_any_run_have_no_curves(num_seeds, has_curves, trained, tmp_path):
    _, bad, tuned = trained
    bad.add("mlm/seed_0")
    recipe, judges = ConfigDict(RECIPE.to_dict()), Judges({"one": {"task": {"metrics": ("f1",)}}}, (), 0)
    recipe.train.num_steps, recipe.optimizer.warmup_steps = 1000, 100
    step = recipe.train.batch_size * recipe.data.sequence_length
    budgets = [Budget(step * 200 * (i + 1), number) for i, number in enumerate(num_seeds)]
    lines, text = read_until_error(
        learning_curves.learning_curves("ablations", recipe, budgets, ["mlm"], judges, tmp_path, lambda: None)
    )
    assert text.startswith("2 pre-training runs diverged and have no result:\n")
    path = tmp_path / "curves.json"
    assert bool(lines) == bool(tuned) == path.exists() == has_curves
    if has_curves:
        written = json.loads(path.read_text())
        assert len(written["diverged"]) == 2
        [point] = written["points"]
        assert point["tokens"] == budgets[num_seeds.index(2)].tokens


@pytest.mark.parametrize(("num_pretrainings", "expected"), [(1, ["random", "electra"]), (2, None)])
def test_a_diverged_objective_leaves_evaluate_the_others(num_pretrainings, expected, trained, tmp_path):
    _, bad, _ = trained
    bad.add("mlm/seed_0")
    config = {"pretraining": RECIPE.to_dict(), "objectives": ("mlm", "electra")}
    inits, diverged = pretrained_inits(config, tmp_path, num_pretrainings, 2)
    assert [(one.model, one.seed) for one in diverged] == [("mlm", 0)]
    assert [*inits] == (expected or ["random", "mlm", "electra"])
    evaluation = evaluate_on_tasks(
        {"one": {"task": {"metrics": ("f1",)}}},
        tmp_path,
        inits,
        range(2),
        without=[(one.model, one.seed) for one in diverged],
    )
    found = [(one.model, one.seed) for one in evaluation.results if one.model == "mlm"]
    assert found == ([] if expected else [("mlm", 1)])
    bad.add("electra/seed_0")
    if num_pretrainings == 1:
        with pytest.raises(FloatingPointError, match=r"^2 pre-training runs diverged"):
            pretrained_inits(config, tmp_path, num_pretrainings, 2)
    else:
        inits, _ = pretrained_inits(config, tmp_path, num_pretrainings, 2)
        assert inits["random"].endswith("electra/seed_1")
