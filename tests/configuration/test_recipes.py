"""Every recipe with every argument: it builds, resolves, and has no key that nobody reads."""

import functools
import os
import re

import pytest
from flax.traverse_util import flatten_dict
from ml_collections import config_dict

from configs import common, deberta_v3, debug, electra, evaluate, finetune, mcl, modernbert
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.value_table import (
    CHECKED_ELSEWHERE,
    OF_PRETRAINING,
    OWN_SETTING,
    RULES,
    find_rule,
)
from electra_jax.conversion.import_checkpoint import RECIPES
from electra_jax.objectives.registry import OBJECTIVES, ROWS
from support.commands import run_python
from support.paths import ROOT

ELECTRA_OBJECTIVES = sorted(OBJECTIVES.keys() - {"deberta_v3", "mcl"})
PRETRAINING = [
    *(
        f"configs/electra.py:size={size},objective={name}"
        for size in electra.RECIPES
        for name in ELECTRA_OBJECTIVES
    ),
    *(
        f"configs/deberta_v3.py:size={size},objective={name}"
        for size in deberta_v3.RELEASED_MODEL_RATES
        for name in ("deberta_v3", "mlm", "fast_electra")
    ),
    *(f"configs/deberta_v3.py:size={size},variant=released_script" for size in deberta_v3.RELEASED_SCRIPT),
    *(
        f"configs/mcl.py:size={size},objective={name}"
        for size in mcl.RECIPES
        for name in ("mcl", "electra", "mlm")
    ),
    *(
        f"configs/modernbert.py:size={size},objective={name}"
        for size in modernbert.FIRST_PHASES
        for name in ("electra", "mlm")
    ),
    *(f"configs/debug.py:model={model}" for model in debug.MODELS),
    *(f"configs/debug.py:objective={name}" for name in ELECTRA_OBJECTIVES),
    *(f"configs/laptop.py:objective={name}" for name in ("deberta_v3", "electra", "mlm")),
    "configs/laptop.py:objective=distillation,regime=data_limited",
    *(f"configs/evening_gpu.py:objective={name}" for name in ("deberta_v3", "electra", "mlm")),
]
FINETUNING = [
    f"configs/finetune.py:task={task},model={model},size={size},sift={sift}"
    for task in finetune.TASKS
    for model, sizes in finetune.MODELS.items()
    for size in sizes
    for sift in (("false",) if task == "local_embedding" else ("true", "false"))  # SiFT compares classes
]


@functools.cache
def recipe(argument):
    return load_config(argument).to_dict()


@pytest.mark.parametrize("argument", PRETRAINING)
def test_a_recipe_of_pretraining_resolves(argument):
    config = recipe(argument)
    resolved = resolve(config)
    assert resolved.stages[0].config == resolved.values == with_assumed_sizes(config)
    assert (config["model"]["vocab_size"], config["data"]["sequence_length"]) == (0, 0)


def test_modernbert_has_the_values_of_its_sources():
    """Peak rate, weight decay, rows, and tokens of warm-up and of phase 1: AnswerDotAI/ModernBERT,
    yamls/modernbert, and JHU-CLSP/ettin-encoder-vs-decoder at 496a3f42, pretraining/configs/standard."""
    published = {
        "17m": (3e-3, 3e-4, 4608, 4_000_000_000, 1_700_000_000_000),
        "32m": (3e-3, 3e-4, 4608, 4_000_000_000, 1_700_000_000_000),
        "68m": (3e-3, 3e-4, 4608, 3_000_000_000, 1_700_000_000_000),
        "base": (8e-4, 1e-5, 4608, 3_000_000_000, 1_719_000_000_000),
        "large": (5e-4, 1e-5, 4928, 2_000_000_000, 1_719_000_000_000),
        "1b": (5e-4, 5e-5, 4608, 2_000_000_000, 1_700_000_000_000),
    }
    for size, (rate, decay, rows, warmup, tokens) in published.items():
        config = recipe(f"configs/modernbert.py:size={size},objective=mlm")
        optimizer, train = config["optimizer"], config["train"]
        found = (optimizer["learning_rate"], optimizer["weight_decay"], train["batch_size"])
        assert found == (rate, decay, rows), size
        assert abs(optimizer["warmup_steps"] * rows * 1024 - warmup) <= rows * 512, size
        assert abs(train["num_steps"] * rows * 1024 - tokens) <= rows * 512, size


def test_recipes_of_finetuning_have_allowed_values():
    for argument in FINETUNING:
        check_values(recipe(argument))


@pytest.mark.parametrize("argument", ["data=x", "data=x,model=electra,size=base", "data=x,tasks=ud+squad"])
def test_the_recipe_of_an_evaluation_resolves(argument):
    config = evaluate.get_config(argument).to_dict()
    resolve(config["pretraining"])
    for task in config["tasks"].values():
        check_values(task)


def source():
    """The text of everything that may read a configuration."""
    paths = [path for package in ("electra_jax", "data_pipelines") for path in (ROOT / package).rglob("*.py")]
    unread = ("value_table.py", "migration.py")  # they name keys, and need none of the values
    return "\n".join(path.read_text(encoding="utf-8") for path in paths if path.name not in unread)


def test_every_key_of_every_recipe_is_read_somewhere():
    keys = {
        key for argument in (*PRETRAINING, *FINETUNING) for key in flatten_dict(recipe(argument), sep=".")
    }
    text = source()
    # Names that an f-string assembles around a longer literal, as f"re_{name}_weight".
    formats = re.findall(r'f"(\w*{\w+}\w*)"', text)
    assembled = [re.sub(r"{\w+}", r"\\w+", name) for name in formats if len(re.sub(r"{\w+}", "", name)) > 6]
    unread = [
        key
        for key in sorted(keys)
        if not re.search(rf"""["'.]{key.rpartition(".")[2]}\b""", text)
        and not any(re.fullmatch(name, key.rpartition(".")[2]) for name in assembled)
    ]
    assert unread == []


def keys_of(arguments):
    return {key for argument in arguments for key in flatten_dict(recipe(argument), sep=".")}


def test_every_rule_is_about_a_key_that_a_recipe_has():
    keys = keys_of((*PRETRAINING, *FINETUNING))
    assert {*RULES, *OF_PRETRAINING, *CHECKED_ELSEWHERE} - keys == set()


@pytest.mark.parametrize(("arguments", "is_pretraining"), [(PRETRAINING, True), (FINETUNING, False)])
def test_every_key_of_every_recipe_has_a_rule(arguments, is_pretraining):
    keys = keys_of(arguments)
    if is_pretraining:  # recipes have the keys of their own objective alone
        keys |= {f"objective.{key}" for row in ROWS for key in row.settings}
    without = {key for key in keys if find_rule(key, is_pretraining=is_pretraining) in (None, OWN_SETTING)}
    assert without <= CHECKED_ELSEWHERE.keys()


ELSEWHERE = """
import sys
from electra_jax.configuration.flags import find_recipe, load_config
from electra_jax.finetuning.probes import finetuning_config
for recipe in sys.argv[1:]:
    finetuning_config(load_config(recipe).to_dict())  # reads the recipe that config.probe names
print(open(find_recipe("configs/prices.json")).read())
"""


def test_recipes_are_found_from_any_folder(tmp_path):
    # The packages come from the environment, where this checkout is installed without configs/.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    recipes = {*RECIPES.values(), "configs/debug.py"}
    outcome = run_python("-c", ELSEWHERE, *recipes, environment=environment, cwd=tmp_path)
    assert outcome.returncode == 0 and '"v5e"' in outcome.stdout, outcome.stderr


def test_a_recipe_states_what_has_no_default_and_nothing_unknown():
    given = {
        "model": {"vocab_size": 8, "embedding_size": 8, "position": "absolute"},
        "objective": {"name": "electra"},
        "data": {"sequence_length": 8},
        "optimizer": {"learning_rate": 1.0, "schedule": "warmup_times_decay", "warmup_steps": 0},
        "train": {"num_steps": 1, "batch_size": 1},
        "eval": {"batch_size": 1},
    }
    config = common.make_recipe(**given)
    assert isinstance(config, config_dict.ConfigDict) and config.train.seed == 0 and config.stages == ()
    for changes, message in (
        ({"eval": {}}, r"eval\.\['batch_size'\] missing"),
        ({"train": given["train"] | {"steps": 1}}, r"train\.\['steps'\], expected some of \['attention', "),
        ({"training": {}}, r"sections \['training'\], expected some of \['assumed', 'checkpoint', "),
    ):
        with pytest.raises(ValueError, match=message):
            common.make_recipe(**given | changes)
    config.train.batch_size = 2
    assert common.make_recipe(**given).train.batch_size == 1  # recipes share no section


def test_every_task_has_settings_for_every_size_of_both_families():
    for task in finetune.TASKS:
        for model, sizes in finetune.MODELS.items():
            for size in sizes:
                config = load_config(f"configs/finetune.py:task={task},model={model},size={size}")
                assert config.train.num_epochs > 0 and config.train.keep == "last"
                # Tags decide these, and whether pairs of embeddings have numbers.
                assert config.task.metrics or config.task.kind in ("tagging", "embedding")
    large = load_config("configs/finetune.py:task=cola,model=deberta,size=large")
    assert (large.optimizer.learning_rate, large.train.num_epochs, large.task.max_length) == (5.5e-6, 10, 64)
    base = load_config("configs/finetune.py:task=rte,model=electra,size=base")
    assert (base.optimizer.learning_rate, base.optimizer.layer_decay, base.train.num_epochs) == (
        1e-4,
        0.8,
        10,
    )
