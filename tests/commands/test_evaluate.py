"""`python -m electra_jax.evaluate`: equal FLOPs, every encoder on every task, one table."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from electra_jax.comparison import downstream, pretraining
from electra_jax.comparison.downstream import Evaluation, evaluate_on_tasks, raise_diverged
from electra_jax.comparison.equal_flops import equal_steps
from electra_jax.comparison.pretraining import DivergedRun, pretrain_objectives
from electra_jax.comparison.suites import objective
from electra_jax.comparison.tables import write_evaluation
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.experiment import DivergedError
from electra_jax.finetuning.results import Result
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.mlm import mlm_flops
from support import tiny_run
from support.commands import run_module


def with_objective(config, name):
    """The configuration with another objective, as a dict."""
    changed = config.copy_and_resolve_references()
    objective(name)(changed)
    return changed.to_dict()


def test_objectives_cost_the_same():
    config = with_assumed_sizes(load_config("configs/evaluate.py").pretraining.to_dict())
    recipe = ConfigDict(config)
    model = make_pretraining_config(config["model"])
    tokens = config["train"]["num_steps"] * config["train"]["batch_size"] * 128
    steps = equal_steps(config, with_objective(recipe, "mlm"))
    assert equal_steps(config, config) == config["train"]["num_steps"] < steps
    cost = steps * config["train"]["batch_size"] * 128 * mlm_flops(model, 128, config["objective"])
    np.testing.assert_allclose(cost, tokens * electra_flops(model, 128, config["objective"]), rtol=1e-3)


def test_an_objective_brings_the_settings_that_it_needs():
    recipe = load_config("configs/evaluate.py").pretraining
    config = recipe.to_dict()
    assert with_objective(recipe, "electra") == config
    changed = with_objective(recipe, "electric")
    assert changed["objective"] == config["objective"] | {"name": "electric"}
    resolved, before = resolve(changed).values, resolve(config).values
    assert resolved["model"] == before["model"] and before["objective"]["vocab_chunk_size"] == 0
    assert resolved["objective"]["vocab_chunk_size"] == 2048


def test_some_of_the_tasks_can_be_chosen():
    assert set(load_config("configs/evaluate.py").tasks) == {"sst2", "cola", "ud", "squad"}
    assert set(load_config("configs/evaluate.py:data=DIR,tasks=ud+cola").tasks) == {"ud", "cola"}
    with pytest.raises(
        ValueError,
        match=r"argument tasks: got 'udd', expected one or more of sst2, cola, ud, squad, rte, mnli, qqp, "
        r"trec, local, joined by \+",
    ):
        load_config("configs/evaluate.py:tasks=ud+udd")


def test_settings_can_be_chosen_on_training_examples():
    published = load_config("configs/evaluate.py:data=DIR,tasks=cola").tasks.cola.task
    chosen = load_config("configs/evaluate.py:data=DIR,tasks=cola,validation_fraction=0.1").tasks.cola.task
    assert (chosen.train, chosen.test) == (published.train, published.validation)
    assert (chosen.validation, chosen.validation_fraction) == ("", 0.1)
    assert (published.test, published.validation_fraction) == ("", 0.0)
    trec = load_config("configs/evaluate.py:data=DIR,tasks=trec,validation_fraction=0.1").tasks.trec.task
    assert (trec.test, trec.validation, trec.validation_fraction) == ("DIR/trec/test.tsv", "", 0.1)
    with pytest.raises(ValueError, match="argument validation_fraction: got 'a tenth', expected a share"):
        load_config("configs/evaluate.py:validation_fraction=a tenth")


@pytest.fixture()
def config(data, tmp_path):
    """Two small tasks, a run of a few steps."""
    for split, number in (("train", 32), ("validation", 16)):
        rows = [f"{'abc defg' if i % 2 else 'hij klm'}\t{i % 2}\n" for i in range(number)]
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    config = load_config("configs/evaluate.py").to_dict()
    pretraining = load_config("configs/debug.py")
    pretraining.update_from_flattened_dict(
        {
            key: value
            for key, value in tiny_run.values(
                data,
                train__num_steps=4,
                optimizer__warmup_steps=2,
                eval__every=4,
                checkpoint__every=4,
                log__every=2,
            ).items()
            if key != "data.datasets"
        }
    )
    pretraining.data.datasets = (str(data / "corpus"),)
    task = load_config("configs/finetune.py:task=local").to_dict()
    task["task"] |= {split: str(tmp_path / f"{split}.tsv") for split in ("train", "validation")} | {
        "text": "0",
        "label": "1",
    }
    task["train"] |= {"num_epochs": 1, "batch_size": 8}
    task["log"] = {"progress": False}
    other = task | {"task": task["task"] | {"metrics": ("f1", "matthews")}}
    return config | {"pretraining": pretraining.to_dict(), "tasks": {"one": task, "two": other}}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "evaluate --config=configs/evaluate.py:data={data},tasks=sst2 --sweep=optimizer.warmup_steps=99",
            "error: task sst2: config.tasks.sst2.optimizer.warmup_steps: got 99, expected fewer than the 3",
        ),
        (
            "compare --config=configs/debug.py --tasks=configs/evaluate.py:data={data},tasks=sst2+cola",
            "error: task cola: ",
        ),
    ],
)
def test_a_wrong_task_is_found_before_the_pretraining(command, message, environment, tmp_path):
    (tmp_path / "sst2").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "sst2" / f"{name}.tsv").write_text("good\t1\nbad\t0\n" * 16)
    words = f"electra_jax.{command} --workdir={{data}}/run".format(data=tmp_path).split()
    outcome = run_module(*words, environment=environment)
    assert outcome.returncode == 1 and message in outcome.stderr, outcome.stderr
    assert not (tmp_path / "run").exists()


def test_every_objective_keeps_the_share_of_warm_up(config, monkeypatch, tmp_path):
    trained = {}
    monkeypatch.setattr(
        pretraining, "pretrain", lambda config, directory: trained.update({directory.parent.name: config})
    )
    config["pretraining"]["train"]["num_steps"], config["pretraining"]["optimizer"]["warmup_steps"] = 400, 100
    pretrain_objectives(config["pretraining"], ["mlm", "electra"], tmp_path / "run", 1)
    steps = trained["mlm"]["train"]["num_steps"]
    assert trained["electra"]["optimizer"]["warmup_steps"] == 100 and steps > 500
    assert abs(trained["mlm"]["optimizer"]["warmup_steps"] - steps / 4) <= 0.5


@pytest.mark.slow
def test_every_encoder_is_fine_tuned_on_every_task(one_device, config, tmp_path):
    workdir = tmp_path / "run"
    runs, _ = pretrain_objectives(config["pretraining"], ["mlm", "electra"], workdir, 2)
    assert {name: sorted(path.name for path in directory.iterdir()) for name, directory in runs.items()} == {
        "mlm": ["seed_0", "seed_1"],
        "electra": ["seed_0", "seed_1"],
    }
    for name, directory in runs.items():
        described = json.loads((directory / "seed_1" / "config.json").read_text())["config"]
        assert (described["objective"]["name"], described["train"]["seed"], described["data"]["seed"]) == (
            name,
            1,
            1,
        )
    inits = {"random": f"random:{runs['electra']}/seed_0", "mlm": f"{runs['mlm']}/seed_{{seed}}"}
    results = evaluate_on_tasks(config["tasks"], workdir, inits, [0, 1]).results
    assert [(result.model, result.seed) for result in results] == [
        ("random", 0),
        ("random", 1),
        ("mlm", 0),
        ("mlm", 1),
    ]
    assert all(list(result.metrics) == ["one accuracy", "two f1", "two matthews"] for result in results)
    assert evaluate_on_tasks(config["tasks"], workdir, inits, [0, 1]).results == results

    tuned = workdir / "finetuning" / "one" / "results.json"
    before = json.loads(tuned.read_text())
    evaluate_on_tasks(config["tasks"], workdir, {"mlm": f"{runs['mlm']}/seed_0"}, [1])
    # Seed 1 from the pre-training of seed 0 is another run.
    assert len(json.loads(tuned.read_text())) == len(before) + 1


def test_every_encoder_gets_its_best_settings_of_the_sweep(monkeypatch, tmp_path):
    tasks = {
        task: {"task": {"metrics": ("accuracy", "f1")}, "optimizer": {"learning_rate": 1.0}} for task in "ab"
    }
    best = {("a", "x"): 2.0, ("a", "y"): 3.0, ("b", "x"): 3.0, ("b", "y"): 3.0}

    def finetune(config, workdir, plan):
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps({"config": config}))
        return [
            Result(
                init,
                seed,
                {"f1": -abs(rate - best[workdir.name, init]) + seed, "accuracy": 10.0 * rate, "mcc": 0.0},
                {"optimizer.learning_rate": rate},
            )
            for init in plan.inits
            for rate in (values["optimizer.learning_rate"] for values in plan.sweep)
            for seed in plan.seeds
        ]

    monkeypatch.setattr(downstream, "finetune", finetune)
    sweep = ["optimizer.learning_rate=2.0,3.0"]
    evaluation = evaluate_on_tasks(tasks, tmp_path, {"X": "x", "Y": "y"}, [0, 1], sweep)
    results, chosen = evaluation.results, evaluation.settings
    rate = lambda value: {"optimizer.learning_rate": value}
    assert chosen == {"a": {"X": rate(2.0), "Y": rate(3.0)}, "b": {"X": rate(3.0), "Y": rate(3.0)}}
    assert results[:2] == [
        Result("X", 0, {"a f1": 0.0, "a accuracy": 20.0, "b f1": 0.0, "b accuracy": 30.0}),
        Result("X", 1, {"a f1": 1.0, "a accuracy": 20.0, "b f1": 1.0, "b accuracy": 30.0}),
    ]
    assert [(result.model, result.seed) for result in results] == [("X", 0), ("X", 1), ("Y", 0), ("Y", 1)]


def test_runs_that_diverge_stop_no_task_and_no_table(monkeypatch, tmp_path):
    tasks = {task: {"task": {"metrics": ("f1",)}} for task in ("all", "some", "none")}
    lost = {"all": {"x", "y"}, "some": {"y"}, "none": set()}

    def finetune(config, workdir, plan):
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps({"config": config}))
        bad, runs = lost[workdir.name], [(init, seed) for init in plan.inits for seed in plan.seeds]
        kept = [run for run in runs if run[0] not in bad or (workdir.name == "some" and run[1])]
        results = [Result(init, seed, {"f1": 0.5 + seed / 4}) for init, seed in kept]
        if bad:
            raise DivergedError([f"{workdir.name}: the loss is nan."], len(runs), results)
        return results

    monkeypatch.setattr(downstream, "finetune", finetune)
    inits = {"X": "x", "Y": "y"}
    evaluation = evaluate_on_tasks(tasks, tmp_path, inits, [0, 1, 2])
    lines = list(write_evaluation({"tasks": {}}, inits, evaluation, tmp_path))
    assert [line.split(" | ")[2::2] for line in lines[2:]] == [
        ["0.750 (0.500–1.000)", "0.750 (0.500–1.000)"],
        ["– (2 of 3 seeds)", "0.750 (0.500–1.000)"],
    ]
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert [len(one["metrics"]) for one in written["results"]] == [2, 2, 2, 1, 2, 2]
    assert written["diverged_on_tasks"] == list(evaluation.diverged) and "diverged" not in written
    with pytest.raises(FloatingPointError) as error:
        raise_diverged(evaluation.diverged)
    assert str(error.value).splitlines()[:4] == [
        "task all: 1 of 6 runs diverged and have no result:",
        "all: the loss is nan.",
        "task some: 1 of 6 runs diverged and have no result:",
        "some: the loss is nan.",
    ]
    advice = str(error.value).splitlines()[-1]  # each command with the flags that it has
    assert "compare has them in the recipe of --tasks" in advice
    assert "evaluate in --config.tasks, and takes more values with --sweep" in advice
    raise_diverged(())


def test_without_any_result_there_is_still_a_table(monkeypatch, tmp_path):
    def finetune(config, workdir, plan):
        raise DivergedError(["the loss is nan."], 2, [])

    monkeypatch.setattr(downstream, "finetune", finetune)
    tasks, inits = {"one": {"task": {"metrics": ()}}}, {"X": "x", "Y": "y"}
    evaluation = evaluate_on_tasks(tasks, tmp_path, inits, [0])
    lines = list(write_evaluation({"tasks": {}}, inits, evaluation, tmp_path))
    assert lines[2:] == ["| X | 1 |", "| Y | 1 |"] and len(evaluation.diverged) == 1
    assert (tmp_path / "evaluation.json").is_file()


def test_a_lost_pretraining_is_named_below_the_table_and_in_the_file(tmp_path):
    evaluation = Evaluation([Result("electra", 0, {"a f1": 0.5})], {}, {})
    lost = [DivergedRun("mlm", 0, "the loss is nan.")]
    inits, copy = {"electra": "runs/electra"}, tmp_path / "copy.json"
    lines = list(write_evaluation({"tasks": {}}, inits, evaluation, tmp_path, str(copy), lost))
    assert lines[-1] == "not in the table: mlm/seed_0, which diverged"
    for path in (tmp_path / "evaluation.json", copy):
        written = json.loads(path.read_text())
        assert written["diverged"] == [{"model": "mlm", "seed": 0, "cause": "the loss is nan."}]
        assert "diverged_on_tasks" not in written


def test_figures_plots_and_table_are_written(tmp_path):
    results = [Result(name, seed, {"a f1": seed / 4}) for name in ("x", "y") for seed in range(3)]
    settings = {"a": {"x": {"optimizer.learning_rate": 2.0}, "y": {"optimizer.learning_rate": 3.0}}}
    evaluation = Evaluation(results, settings, {})
    inits, copy = {"x": "runs/x", "y": "runs/y"}, tmp_path / "new" / "copy.json"
    lines = list(write_evaluation({"tasks": {}}, inits, evaluation, tmp_path, str(copy)))
    assert lines[2:4] == [
        "| x | 3 | 0.250 (0.000–0.500) |  |",
        "| y | 3 | 0.250 (0.000–0.500) | +0.000 (+0.000 to +0.000) |",
    ]
    assert lines[-1] == "a: x learning_rate=2.0; y learning_rate=3.0"
    assert lines[-2].endswith("by the task's first metric on the split that is reported:\n")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["settings"] == settings and len(written["results"]) == 6
    assert json.loads(copy.read_text()) == written and not any("diverged" in key for key in written)
    assert (tmp_path / "plots" / "a_f1.png").is_file()


def test_the_table_says_which_split_has_chosen_the_settings(tmp_path):
    results = [Result("x", 0, {"a validation/f1": 0.5, "a test/f1": 0.25})]
    evaluation = Evaluation(results, {"a": {"x": {"train.num_epochs": 3}}}, {})
    lines = list(write_evaluation({"tasks": {}}, {"x": "runs/x"}, evaluation, tmp_path))
    assert lines[-2] == "\nThe best settings of each, by the task's first metric:\n"
    assert "validation/f1" in lines[0] and "test/f1" in lines[0]
