"""The warm-up of every fine-tuning ends before the run does, or the run is refused before its first step."""

import itertools
import re

import pytest

from configs import finetune as recipe
from electra_jax.comparison.downstream import check_tasks
from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.batches import TrainingSteps, training_steps
from electra_jax.finetuning.experiment import Plan, finetune
from electra_jax.finetuning.sweep import parse_sweep
from support.tiny_task import ONE, make_encoder

# Training examples: GLUE (Wang et al. 2019, table 1) and SQuAD as TFDS counts them, XNLI trained on MNLI.
EXAMPLES = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "stsb": 5_749,
    "qqp": 363_849,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
    "wnli": 635,
    "xnli": 392_702,
    "trec6": 5_452,
    "trec47": 5_452,
    "squad1": 87_599,
    "squad2": 130_319,
}


def presets():
    """(task, family, size, sift) of every preset."""
    for family, sizes in recipe.MODELS.items():
        yield from itertools.product(recipe.TASKS, (family,), sizes, ("false", "true"))


def settings(task, family, size, sift="false"):
    argument = f"task={task},model={family},size={size},sift={sift}"
    return load_config(f"configs/finetune.py:{argument}").to_dict()


def test_every_preset_warms_up_within_its_run():
    """By the task's own size; a tenth of the steps where no script gives a number."""
    checked = 0
    for task, family, size, sift in presets():
        config = settings(task, family, size, sift)
        swaps = config["task"]["swaps_pairs"]
        num_rows = EXAMPLES.get(task, 100) * (2 if swaps else 1)  # of one's own files there may be few
        steps = training_steps(config, num_rows)
        assert 0 <= steps.warmup < steps.total
        has_script = family == "deberta" and (task, size) in recipe.DEBERTA
        if family == "deberta" and sift == "true" and size in recipe.SIFT:
            has_script = task == "mnli"
        assert (config["optimizer"]["warmup_steps"] > 0) == has_script
        assert has_script or steps.warmup == int(0.1 * steps.total)
        checked += 1
    assert checked == len(recipe.TASKS) * 2 * (3 + 4)


@pytest.mark.parametrize(
    ("task", "size", "sift", "expected"),
    [
        ("mnli", "xsmall", "false", TrainingSteps(18_408, 1000)),
        ("mnli", "base", "true", TrainingSteps(36_816, 1000)),
        ("rte", "large", "false", TrainingSteps(467, 50)),
        ("rte", "xsmall", "false", TrainingSteps(117, 11)),  # MNLI's 1000 would not end
        ("rte", "base", "true", TrainingSteps(234, 23)),
        ("cola", "small", "false", TrainingSteps(401, 40)),
        ("wnli", "large", "false", TrainingSteps(20, 2)),
    ],
)
def test_steps_of_presets_by_hand(task, size, sift, expected):
    assert training_steps(settings(task, "deberta", size, sift), EXAMPLES[task]) == expected


def test_a_warmup_that_does_not_end_is_an_error():
    config = settings("rte", "deberta", "base")
    config["optimizer"]["warmup_steps"] = 116
    assert training_steps(config, 2_490) == TrainingSteps(117, 116)
    config["optimizer"]["warmup_steps"] = 117
    message = (
        r"config\.optimizer\.warmup_steps: got 117, expected fewer than the 117 steps of the run \(2490 "
        r"rows, config\.train\.num_epochs=3, config\.train\.batch_size=64\): .* never reach its peak\. "
        r"Pass --config\.optimizer\.warmup_steps=0, .*, or more --config\.train\.num_epochs"
    )
    with pytest.raises(ValueError, match=message):
        training_steps(config, 2_490)


@pytest.fixture()
def task(tmp_path):
    """A task of 32 pairs, 8 steps of 8 rows in two epochs."""
    rows = "".join(f"one {i}\ttwo {i}\t{'low' if i % 2 else 'high'}\n" for i in range(32))
    (tmp_path / "rows.tsv").write_text(f"a\tb\tlabel\n{rows}")
    config = load_config("configs/finetune.py:task=local").to_dict()
    columns = {"text": "a", "pair": "b", "label": "label"}
    config["task"] |= columns | dict.fromkeys(("train", "validation"), str(tmp_path / "rows.tsv"))
    config["train"] |= {"num_epochs": 2, "batch_size": 8}
    config["mesh"] = ONE | {"data": 8}
    return config


REFUSED = [
    ({"warmup_steps": 8}, {}, [], "warmup_steps: got 8, expected fewer than the 8 steps"),
    ({"warmup_steps": 8}, {"max_train_examples": 20}, [], "got 8, expected fewer than the 5 steps"),
    ({"warmup_steps": 16}, {"swaps_pairs": True}, [], "got 16, expected fewer than the 16 steps"),
    ({}, {}, ["optimizer.warmup_steps=2,9"], "got 9, expected fewer than the 8 steps"),
    ({"warmup_steps": 5}, {}, ["train.num_epochs=2,1"], "got 5, expected fewer than the 4 steps"),
    ({"learning_rate": 0.0}, {}, [], "learning_rate: got 0.0, expected a number above 0"),
    ({"learning_rate": -1e-4}, {}, [], "learning_rate: got -0.0001, expected a number above 0"),
    ({"learning_rate": float("nan")}, {}, [], "learning_rate: got nan, expected a number above 0"),
    ({"warmup_share": 1.0}, {}, [], "warmup_share: got 1.0, expected 0 or a number below 1"),
    ({}, {}, ["optimizer.learning_rate=1e-4,0.0"], "learning_rate: got 0.0, expected a number above 0"),
]


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("model", "head_dropout", 1.0, "head_dropout: got 1.0, expected 0 or a probability below 1"),
        ("model", "hidden_dropout", -0.1, "hidden_dropout: got -0.1, expected 0 or a probability below 1"),
        ("model", "dtype", "float16", "dtype: got 'float16', expected one of bfloat16, float32"),
        ("sift", "vat_lambda", float("nan"), "vat_lambda: got nan, expected 0 or more"),
        ("train", "num_epochs", 0.5, "num_epochs: got 0.5, expected 1 or more"),
        ("optimizer", "top_exponent", -1, "top_exponent: got -1, expected 0 or more"),
    ],
)
def test_other_wrong_values_are_found_before_anything_is_written(
    section, name, value, message, task, tmp_path
):
    task[section][name] = value
    with pytest.raises(ValueError, match=rf"config\.{section}\.{message}"):
        finetune(task, tmp_path / "run", Plan(["nowhere"], [0]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("optimizer", "changes", "sweep", "message"), REFUSED)
def test_a_run_is_refused_before_anything_is_written(optimizer, changes, sweep, message, task, tmp_path):
    task["optimizer"] |= optimizer
    task["task"] |= changes
    with pytest.raises(ValueError, match=message):
        finetune(task, tmp_path / "run", Plan(["nowhere"], [0], parse_sweep(sweep, task)))
    with pytest.raises(ValueError, match=f"task pairs: .*{message}"):  # before a pre-training begins
        check_tasks({"pairs": task}, tmp_path / "run", sweep)
    assert not (tmp_path / "run").exists()


def test_a_missing_file_of_a_task_is_found_before_the_pretraining(task, tmp_path):
    task["task"]["train"] = str(tmp_path / "nowhere.tsv")
    with pytest.raises(OSError, match=r"task pairs: .*nowhere\.tsv"):
        check_tasks({"pairs": task}, tmp_path / "run")


@pytest.mark.slow
def test_rows_that_depend_on_the_tokenizer_are_counted_before_the_first_step(
    data, tmp_path, tmp_path_factory
):
    _, directory = make_encoder(data, tmp_path_factory)
    sentence = "".join(f"word\t{'AB'[i % 2]}\n" for i in range(20)) + "\n"  # divided into several rows
    (tmp_path / "rows.conll").write_text(sentence * 8)
    config = load_config("configs/finetune.py:task=local_tagging").to_dict()
    config["task"] |= dict.fromkeys(("train", "validation"), str(tmp_path / "rows.conll"))
    config["task"] |= {"text": "0", "label": "1", "max_length": 12}
    config["train"] |= {"num_epochs": 1, "batch_size": 8}
    config["optimizer"]["warmup_steps"] = 1000
    config["mesh"], plan = ONE | {"data": 8}, Plan([str(directory)], [0])
    message = r"got 1000, expected fewer than the (\d+) steps of the run \((\d+) rows"
    with pytest.raises(ValueError, match=message) as error:
        finetune(config, tmp_path / "run", plan)
    num_steps, num_rows = map(int, re.search(message, str(error.value)).groups())
    assert num_rows >= 16 and num_steps == num_rows / 8
    assert not (tmp_path / "run" / "config.json").exists()  # the same directory takes other settings
