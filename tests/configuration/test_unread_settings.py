"""Settings of fine-tuning that nothing reads beside the others: another value than the default is refused."""

import re

import jax
import pytest

from configs import evaluate, finetune
from data_pipelines.json_files import write_json
from data_pipelines.tasks.examples import TextExample
from data_pipelines.tasks.load import TaskData
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.unread_settings import DEFAULTS, READERS, check_unread
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.batches import training_steps
from electra_jax.finetuning.experiment import open_task
from electra_jax.finetuning.probes import finetuning_config
from electra_jax.finetuning.results import Result, to_json
from electra_jax.finetuning.sweep import apply_settings, parse_sweep
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.training.optimizer import assign_groups, make_optimizer
from electra_jax.training.schedules import NAMES as SCHEDULES
from electra_jax.training.schedules import make_schedule
from electra_jax.training.update_rules import NAMES as OPTIMIZERS
from support.local_task import local_task
from support.paths import ROOT
from support.tiny_task import ONE

SPAN = "question_answering"


def settings(argument="task=local", **changes):
    config = load_config(f"configs/finetune.py:{argument}").to_dict()
    return apply_settings(config, {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize("task", finetune.TASKS)
def test_no_preset_has_a_setting_that_it_does_not_read(task):
    for model, sizes in finetune.MODELS.items():
        for size in sizes:
            for sift in ("false", "true"):
                check_unread([settings(f"task={task},model={model},size={size},sift={sift}")])


def test_the_defaults_are_those_of_the_recipe():
    sections = {key: key.split(".") for key in DEFAULTS}
    assert {key: finetune.DEFAULTS[section][name] for key, (section, name) in sections.items()} == DEFAULTS


def test_nor_have_the_tasks_of_evaluate():
    tasks = evaluate.get_config(f"tasks={'+'.join(evaluate.TASKS)}").tasks.to_dict()
    for config in tasks.values():
        check_unread([config])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer__final_share": 0.1},
            "config.optimizer.final_share: got 0.1 with config.optimizer.schedule='warmup_times_decay', "
            "expected 0.0: nothing reads it unless config.optimizer.schedule is warmup_constant_linear or "
            "warmup_constant_sqrt. Leave it at its default, or change config.optimizer.schedule.",
        ),
        (
            {"optimizer__schedule": "warmup_constant", "optimizer__decay_steps": 9},
            "config.optimizer.decay_steps: got 9 with config.optimizer.schedule='warmup_constant', expected",
        ),
        (
            {
                "optimizer__schedule": "warmup_constant_sqrt",
                "optimizer__decay_steps": 9,
                "optimizer__decay_share": 0.5,
            },
            "config.optimizer.decay_share: got 0.5 with config.optimizer.decay_steps=9, expected 0.1: "
            "nothing reads it unless config.optimizer.decay_steps is 0",
        ),
        (
            {"optimizer__warmup_steps": 10, "optimizer__warmup_share": 0.06},
            "config.optimizer.warmup_share: got 0.06 with config.optimizer.warmup_steps=10, expected 0.1",
        ),
        (
            {"optimizer__name": "adamw", "optimizer__muon_rms": 0.0},
            "config.optimizer.muon_rms: got 0.0 with config.optimizer.name='adamw', expected 0.2: nothing "
            "reads it unless config.optimizer.name is muon",
        ),
        (
            {"sift__learning_rate": 1e-3},
            "config.sift.learning_rate: got 0.001 with config.sift.vat_lambda=0.0, expected 0.0001: nothing "
            "reads it unless config.sift.vat_lambda is above 0",
        ),
        (
            {"task__label_scale": 5.0},
            "config.task.label_scale: got 5.0 with config.task.kind='classif",
        ),
        ({"task__doc_stride": 64}, "config.task.doc_stride: got 64 with config.task.kind='classification'"),
        (
            {"task__kind": SPAN, "task__text": "question"},
            "config.task.text: got 'question' with config.task.kind='question_answering', expected ''",
        ),
        (
            {"task__kind": "embedding", "task__labels": ["a", "b"]},
            "config.task.labels: got ['a', 'b'] with config.task.kind='embedding', expected ()",
        ),
        ({"task__kind": SPAN, "task__train_language": "de"}, "config.task.train_language: got 'de' with"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_unread([settings(**changes)])


def test_all_of_them_come_together():
    with pytest.raises(ValueError, match=r"decay_steps: got 5(?s:.*)muon_rms: got 1\.0"):
        check_unread([settings(optimizer__decay_steps=5, optimizer__muon_rms=1.0)])


def test_one_combination_of_a_sweep_has_to_read_a_setting():
    config = settings(optimizer__final_share=0.5, task__labels=[])  # as JSON has no tuples
    combinations = lambda *words: [apply_settings(config, one) for one in parse_sweep(words, config)]
    check_unread(combinations("optimizer.schedule=warmup_constant_sqrt,warmup_times_decay"))
    with pytest.raises(ValueError, match=r"final_share: got 0\.5 with .*schedule='warmup_then_decay'"):
        check_unread(combinations("optimizer.schedule=warmup_then_decay,warmup_times_decay"))
    swept = combinations("optimizer.schedule=warmup_constant_sqrt", "optimizer.update_clip=1.0,2.0")
    with pytest.raises(ValueError, match=r"^config\.optimizer\.update_clip: got 2\.0 with"):
        check_unread(swept)


class Watched(dict):
    """config.optimizer that keeps the keys which are read."""

    read: set

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_the_table_says_what_the_optimizer_reads(name, schedule, warmup_steps):
    config = settings(
        optimizer__name=name, optimizer__schedule=schedule, optimizer__warmup_steps=warmup_steps
    )
    watched = Watched(config["optimizer"])
    watched.read = set()
    training_steps(config | {"optimizer": watched}, 320)
    groups = assign_groups({"layer_0": {"kernel": jax.numpy.ones((2, 2))}}, [(".*", 1.0, 1.0)])
    make_optimizer(watched, make_schedule(watched, 30), groups)
    values = {f"{section}.{key}": value for section in config for key, value in config[section].items()}
    unread = {key for row in READERS for key in row.keys if not row.values.accepts(values[row.by])}
    of_layers = {"layer_decay", "top_exponent"}  # which the trainer makes groups of
    found = {f"optimizer.{key}" for key in watched.keys() - watched.read - of_layers}
    assert {key for key in unread if key.startswith("optimizer.")} == found


def test_a_new_experiment_is_refused_and_one_with_results_goes_on(data, tmp_path):
    config, workdir = local_task(data, tmp_path), tmp_path / "experiment"
    _, description = open_task(config, workdir, [{}])
    unread = {"optimizer.final_share": 0.25}
    with pytest.raises(ValueError, match=r"^config\.optimizer\.final_share: got 0\.25 with"):
        open_task(apply_settings(config, unread), workdir, [{}])
    with pytest.raises(ValueError, match=r"^config\.optimizer\.final_share: got 0\.25 with"):
        open_task(config, workdir, [unread])
    write_json(
        workdir / "config.json",
        description | {"config": apply_settings(description["config"], unread)},
        makes_directories=True,
    )
    write_json(workdir / "results.json", to_json([Result("a", 0, {"accuracy": 1.0})]))
    open_task(apply_settings(config, unread), workdir, [{}])


@pytest.mark.parametrize(
    ("held_out", "keep", "progress", "is_read"),
    [
        ("validation", "last", True, True),
        ("validation", "best", False, True),
        ("validation", "last", False, False),
        ("test", "last", True, False),
    ],
)
def test_validations_in_steps_need_something_to_score(held_out, keep, progress, is_read):
    examples = [TextExample("a", None, 0), TextExample("b", None, 1)] * 40
    config = settings(train__validate_every=2, train__keep=keep, log__progress=progress)
    data = TaskData(("x", "y"), {"train": examples, held_out: examples}, [])
    finetuner = TaskFinetuner(config, data, make_mesh(ONE, jax.devices()[:1]))
    finetuner.check_sweep([{}], has_begun=True)
    if is_read:
        finetuner.check_sweep([{}])
        return
    message = rf"^config\.train\.validate_every: got 2, expected 0: .* Splits with labels: {held_out}\. "
    with pytest.raises(ValueError, match=message):
        finetuner.check_sweep([{}])
    finetuner.check_sweep([{"train.validate_every": 0}])


def test_the_recipe_of_a_probe_is_checked_too(tmp_path):
    recipe = (
        (ROOT / "configs" / "finetune.py").read_text().replace('"final_share": 0.0', '"final_share": 0.5')
    )
    (tmp_path / "own.py").write_text(recipe)
    config = load_config("configs/debug.py").to_dict()
    config["probe"] |= {"config": f"{tmp_path}/own.py:task=local", "train": "a.tsv", "validation": "b.tsv"}
    with pytest.raises(ValueError, match=r"^config\.optimizer\.final_share: got 0\.5"):
        finetuning_config(config)
