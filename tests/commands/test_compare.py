"""`python -m electra_jax.compare`: its suites, its measures, and the run directories it reads."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.json_files import write_json
from electra_jax.comparison import downstream, pretraining
from electra_jax.comparison.downstream import Evaluation, add_downstream_metrics
from electra_jax.comparison.pretraining import plan_suite, pretrain_suite, suite_runs
from electra_jax.comparison.suites import ABLATIONS, COURSES, SUITES, average_cosine, measure_soup
from electra_jax.comparison.tables import write_comparison
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.length import SCALED
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.results import Result
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.runs.trained import load_run
from support import tiny_export
from support.tiny_run import NUM_STEPS, start


def test_average_cosine_is_that_of_all_pairs():
    table_VE = np.random.default_rng(0).normal(0.3, 1.0, size=(9, 4))
    cosine = lambda u, v: u @ v / np.sqrt((u @ u) * (v @ v))
    pairs = [cosine(table_VE[i], table_VE[j]) for i in range(9) for j in range(9) if i != j]
    assert average_cosine(table_VE) == pytest.approx(np.mean(pairs), abs=1e-12)


def sized(recipe):
    """A recipe with sizes, as the command has it after a look at the datasets."""
    return ConfigDict(with_assumed_sizes(load_config(recipe).to_dict()))


def runs_of(suite, config, workdir):
    """Variant → its runs with seed 3: directory, relative to `workdir` → configuration."""
    return {
        name: {
            str(directory.relative_to(workdir)): run
            for directory, run in suite_runs(SUITES[suite], config, name, 3, workdir).items()
        }
        for name in SUITES[suite].variants
    }


@pytest.mark.parametrize(
    ("suite", "model"),
    [
        ("courses", "mcl"),
        ("ablations", "electra"),
        ("embedding_sharing", "deberta_v3"),
        ("backbones", "deberta_v3"),
        ("objectives", "deberta_v3"),
    ],
)
def test_variants_cost_the_same(suite, model, tmp_path):
    config = sized(f"configs/debug.py:model={model}")
    variants = [list(runs.values()) for runs in runs_of(suite, config, tmp_path).values()]
    assert [run["train"]["num_steps"] for run in variants[0]] == [config.train.num_steps]
    costs = [
        sum(
            run["train"]["num_steps"] * forward_flops(run, make_pretraining_config(run["model"]))
            for run in runs
        )
        for runs in variants
    ]
    np.testing.assert_allclose(costs, costs[0], rtol=1e-3)
    assert all((run["train"]["seed"], run["data"]["seed"]) == (3, 3) for runs in variants for run in runs)


def test_every_run_keeps_the_recipes_share_of_warm_up_and_decay(tmp_path):
    config = sized("configs/debug.py:model=mcl")
    config.train.num_steps, config.optimizer.warmup_steps, config.optimizer.decay_steps = 3000, 100, 600
    lengths = lambda suite, config: {
        path.rpartition("/")[0]: (run["train"]["num_steps"], *map(run["optimizer"].get, SCALED))
        for runs in runs_of(suite, config, tmp_path).values()
        for path, run in runs.items()
    }
    assert lengths("courses", config) == {
        "rtd": (3000, 100, 600),
        "rtd_std": (1500, 50, 300),
        "rtd_std_itd": (1000, 33, 200),
        "mcl": (600, 20, 120),
    }
    config = sized("configs/debug.py")
    config.train.num_steps, config.optimizer.warmup_steps = 3000, 300
    found = lengths("ablations", config)
    assert found["two_stage/stage_1"] == found["two_stage"] != found["electra"] == (3000, 300, 0)
    assert all(abs(warmup - steps / 10) <= 0.5 for steps, warmup, _ in found.values()), found


def test_each_variant_adds_a_course(tmp_path):
    runs = runs_of("courses", sized("configs/debug.py:model=mcl"), tmp_path)
    objectives = {
        name: run["objective"] for name, ((_, run),) in ((name, runs[name].items()) for name in COURSES)
    }
    assert [one["re_std_weight"] for one in objectives.values()] == [0.0, 0.0, 0.0, 5.0]
    assert [one["itd_weight"] for one in objectives.values()] == [0.0, 0.0, 5.0, 5.0]
    assert [one["std_weight"] for one in objectives.values()] == [0.0, 5.0, 5.0, 5.0]


def test_ablations_are_objectives_that_can_be_made_and_differ(tmp_path):
    runs = {
        path: run
        for one in runs_of("ablations", sized("configs/debug.py"), tmp_path).values()
        for path, run in one.items()
    }
    assert set(runs) == {f"{name}/seed_3" for name in ABLATIONS} | {"two_stage/stage_1/seed_3"}
    assert len(
        {json.dumps([run["objective"], run["model"]], sort_keys=True) for run in runs.values()}
    ) == len(runs)
    for run in (resolve(one).values for one in runs.values()):
        make_objective(
            run, make_pretraining_config(run["model"]), SpecialTokens(pad=0, cls=1, sep=2, unk=3, mask=4)
        )
    first, second = runs["two_stage/stage_1/seed_3"], runs["two_stage/seed_3"]
    assert (first["objective"]["name"], second["objective"]["name"]) == ("mlm", "two_stage")
    assert second["checkpoint"]["init_from"] == str(tmp_path / "two_stage" / "stage_1" / "seed_3")
    assert first["model"] == second["model"] and first["train"] == second["train"]
    assert {path for path, run in runs.items() if run["checkpoint"]["init_from"]} == {"two_stage/seed_3"}
    bert = runs["bert/seed_3"]["objective"]
    assert (bert["name"], bert["mask_token_prob"], bert["random_token_prob"]) == ("mlm", 0.8, 0.1)


def test_courses_are_trained_averaged_and_measured_alike(data, tmp_path, monkeypatch):
    def pretrain(config, directory):
        """Copies a run at step 0, once."""
        if not directory.exists():
            shutil.copytree(made, directory)
            trained.append((directory.parent.name, config["train"]["num_steps"]))
        return {"heldout_mlm_loss": 5.0, "heldout_rtd_auc": 0.5}

    made, trained = tmp_path / "made", []
    tiny_export.make_run(made, data, tiny_export.relative_model(), "mcl")
    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    inits = {}

    def evaluate_on_tasks(tasks, workdir, named, seeds, without):
        assert not without
        inits.update(named)
        results = [Result(name, seed, {"task f1": 0.25}) for name in named for seed in seeds]
        return Evaluation(results, {}, {}, ("task f1: of another run",))

    monkeypatch.setattr(downstream, "evaluate_on_tasks", evaluate_on_tasks)
    config = sized("configs/debug.py:model=mcl")
    config.train.num_steps, config.optimizer.warmup_steps = 5, 1
    message = r"mcl/seed_0: config\.optimizer\.warmup_steps: got 1, expected fewer than .*num_steps=1"
    with pytest.raises(ValueError, match=message):
        pretrain_suite(SUITES["courses"], config, tmp_path, 1)
    assert not trained  # found before the first run
    config.train.num_steps, config.optimizer.warmup_steps = 100, 10
    results, _ = pretrain_suite(SUITES["courses"], config, tmp_path, 1)
    assert [result.model for result in results] == [*COURSES, "soup"]
    assert trained == [("rtd", 100), ("rtd_std", 50), ("rtd_std_itd", 33), ("mcl", 20)]
    # All are the same model here, and so is their average; it is measured as any of them would be.
    assert results[-1].metrics == pytest.approx(measure_soup(tmp_path / "mcl" / "seed_0"), rel=1e-4)
    assert pretrain_suite(SUITES["courses"], config, tmp_path, 1) == (results, []) and len(trained) == 4
    some, _ = pretrain_suite(SUITES["courses"], config, tmp_path / "some", 1, ["mcl", "rtd_std", "mcl"])
    assert [result.model for result in some] == ["mcl", "rtd_std"]  # and no average of all
    assert trained[4:] == [("mcl", 20), ("rtd_std", 50)]  # with the FLOPs of the suite's first variant
    steps = list(write_comparison("courses", config, some, tmp_path / "some"))[1:3]
    assert [line.split(" steps")[0] for line in steps] == ["rtd_std: 50", "mcl: 20"]
    with pytest.raises(ValueError, match=r"^--variants: got std, soup, expected some of rtd, rtd_std, "):
        pretrain_suite(SUITES["courses"], config, tmp_path, 1, ["std", "rtd", "soup"])

    results, diverged = add_downstream_metrics(results, {}, tmp_path, 1, {"random": "rtd"})
    assert diverged == ("task f1: of another run",)
    *results_of_runs, random = results
    assert all(list(result.metrics) == ["mlm_loss", "rtd_auc", "task f1"] for result in results_of_runs)
    assert random == Result("random", 0, {"task f1": 0.25})
    assert inits["random"] == f"random:{tmp_path}/rtd/seed_0"
    lines = list(write_comparison("courses", config, results, tmp_path))
    assert lines[:2] == [
        "courses: median (lowest–highest) of 1 seed, equal FLOPs",
        "rtd: 100 steps, 0.2 M tokens a run, 10 steps of warm-up",
    ]
    table = lines[5:]
    assert len(table) == 2 + 6 and "task f1" in table[0]
    assert table[2].startswith("| rtd | 1 | 5.000 (5.000–5.000)")
    assert (tmp_path / "comparison.png").is_file()
    assert len(json.loads((tmp_path / "comparison.json").read_text())["results"]) == 6


@pytest.mark.parametrize(
    ("recorded", "row", "difference"),
    [
        (
            {"max_batches": 3, "seed": 7},
            {"eval/loss": 1.0},
            r"max_batches: the run has 3, you gave 12\n  .*eval",
        ),
        ({"batch_size": 8}, {"eval/loss": 1.0}, r"batch_size: the run has 8, you gave 128\nIts figures"),
        ({"every": 7}, {"eval/loss": 1.0}, None),
        ({"seed": 7}, {"loss": 1.0}, None),  # it has not been evaluated yet
    ],
    ids=["two", "one", "how_often", "not_evaluated"],
)
def test_figures_of_other_evaluations_are_not_mixed(recorded, row, difference, tmp_path):
    config = sized("configs/debug.py")
    ((directory, run),) = suite_runs(SUITES["reference"], config, "recipe", 1, tmp_path).items()
    directory.mkdir(parents=True)
    write_json(directory / "config.json", {"config": run | {"eval": run["eval"] | recorded}})
    (directory / "metrics.jsonl").write_text(json.dumps({"step": 3000} | row) + "\n")
    plan = functools.partial(plan_suite, SUITES["reference"], config, tmp_path, variants=())
    assert [seed for seed, *_ in plan(1)] == [0]  # without the seed of that run
    if difference is None:
        assert [seed for seed, *_ in plan(2)] == [0, 1]
        return
    message = rf"^{directory} was evaluated by other settings:\n  config\.eval\.{difference}"
    with pytest.raises(ValueError, match=message):
        plan(2)


@pytest.mark.slow
def test_embedding_sharing_by_command_and_again(data, environment, tmp_path):
    choices = {
        "module": "electra_jax.compare",
        "config": "configs/debug.py",
        "train__num_steps": 8,
        "optimizer__warmup_steps": 2,
        "eval__every": 8,
        "checkpoint__every": 8,
        "arguments": ("--suite=embedding_sharing", "--seeds=1"),
    }
    outcome = start(tmp_path, data, environment, **choices)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[1] == "tied: 8 steps, 0.0 M tokens a run, 2 steps of warm-up"
    assert lines[4].startswith("| | seeds | mlm_loss | mlm_loss, mean difference to tied | rtd_auc |")
    assert [line.split(" ")[1] for line in lines[6:9]] == ["tied", "none", "gdes"]
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    tied, none, gdes = (result["metrics"] for result in results)
    assert tied["generator_cosine"] == tied["discriminator_cosine"]
    assert none["generator_cosine"] != none["discriminator_cosine"]
    # Eight steps have hardly moved the deltas, which started at zero; separate tables start apart.
    assert 0 < abs(gdes["generator_cosine"] - gdes["discriminator_cosine"]) < 0.05

    again = start(tmp_path, data, environment, **choices)
    assert again.stdout == outcome.stdout and again.stderr.count("the run is complete") == 3

    choices["arguments"] += ("--variants=gdes,tied",)
    some = start(tmp_path, data, environment, **choices).stdout.splitlines()
    assert [line.split(" ")[1] for line in some[5:7]] == ["gdes", "tied"], some


@pytest.mark.slow
def test_load_run_reads_the_requested_checkpoint(finished):
    workdir, _ = finished
    newest, older = load_run(workdir), load_run(workdir, NUM_STEPS - 10)
    assert (newest.step, older.step) == (NUM_STEPS, NUM_STEPS - 10)
    assert (
        newest.model.discriminator.hidden_size == newest.config["model"]["discriminator"]["hidden_size"] == 32
    )
    leaves = [jax.tree.leaves(run.params) for run in (newest, older, load_run(workdir, NUM_STEPS))]
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[1], strict=True))
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[2], strict=True))
    with pytest.raises(
        FileNotFoundError, match=rf"expected a checkpoint of step 3, found those of \[{NUM_STEPS - 10}, 60\]"
    ):
        load_run(workdir, 3)


def test_load_run_keeps_a_checkpoint_that_is_being_saved(data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    unfinished = run / "checkpoints" / "5.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert load_run(run).step == 0
    assert unfinished.is_dir()


def test_load_run_needs_a_run_directory(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected a run directory of electra_jax\.pretrain or of .* has no config"
    ):
        load_run(tmp_path)
