"""Experiments whose held-out examples are in the order of their published numbers."""

import pytest

from configs import finetune
from data_pipelines.tasks.datasets import Origin
from data_pipelines.tasks.load import TaskData
from electra_jax.finetuning.experiment_directory import (
    check_order,
    held_out_order,
    write_description,
    write_results,
)
from electra_jax.finetuning.results import Result


def data(**numbered):
    origins = {split: Origin("glue/rte", split, value) for split, value in numbered.items()}
    return TaskData((), {}, [], origins)


def test_only_numbered_examples_to_evaluate_on_have_another_order():
    assert held_out_order(data(train=True, validation=True)) == {"held_out_order": "idx"}
    assert held_out_order(data(train=True, validation=False)) == held_out_order(data()) == {}


def test_predictions_of_two_orders_are_not_mixed(tmp_path):
    config, order = finetune.get_config("task=rte").to_dict(), held_out_order(data(test=True))
    check_order(tmp_path, order)
    write_description(tmp_path, {"config": config, "files": {}})
    check_order(tmp_path, order)  # no run has ended in it
    write_results(tmp_path, [Result("a", 0, {"accuracy": 0.5}, {})])
    check_order(tmp_path, {})
    with pytest.raises(ValueError, match=r"older version, .*published order \(feature 'idx'\).*--workdir"):
        check_order(tmp_path, order)


def test_an_experiment_of_this_order_resumes(tmp_path):
    config, order = finetune.get_config("task=rte").to_dict(), held_out_order(data(test=True))
    write_description(tmp_path, {"config": config, "files": order})
    write_results(tmp_path, [Result("a", 0, {"accuracy": 0.5}, {})])
    check_order(tmp_path, order)
