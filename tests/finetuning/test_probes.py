"""Probes of a run: they do not change it by one bit, learn, compile once, and report wrong settings."""

import functools
import json
import random
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.probes import Probe, mean_over_text
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.minimal_pairs.evaluation import Options, evaluate_minimal_pairs
from electra_jax.minimal_pairs.scoring import RULES
from electra_jax.models.config import make_pretraining_config
from electra_jax.runs import inputs as run_inputs
from electra_jax.runs import pretraining
from electra_jax.runs.directory import check_run_directory
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.probes import open_probe
from electra_jax.runs.trained import load_run
from support.run_records import comparable
from support.tiny import SPECIAL
from support.tiny_export import electra_model, make_config, make_run, random_params
from support.tiny_run import values

COMPILED = "/jax/core/compile/backend_compile_duration"
ONE = {"data": 1, "fsdp": 1, "tensor": 1}
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.fixture(scope="module")
def task(data, tmp_path_factory):
    """Keys of config.probe for a solvable task in files: the class of a text is which of two sets its words
    are from, and "number" is the same as 0 or 1. unlabelled.jsonl is in the same directory."""
    root = tmp_path_factory.mktemp("task")
    words = sorted({word for line in (data / "train.txt").read_text().splitlines() for word in line.split()})
    source = random.Random(0)
    for name, number in (("train", 120), ("validation", 60)):
        rows = []
        for index in range(number):
            label = index % 2
            text = " ".join(source.choices(words[:20] if label else words[20:40], k=4))
            rows.append({"sentence": text, "class": ("few", "many")[label], "number": float(label)})
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "unlabelled.jsonl").write_text(json.dumps({"sentence": words[0], "class": None}) + "\n")
    return {
        "train": str(root / "train.jsonl"),
        "validation": str(root / "validation.jsonl"),
        "text": "sentence",
        "label": "class",
    }


@pytest.fixture(scope="module")
def pairs(data, tmp_path_factory):
    """Keys of config.probe for ten minimal pairs in a file: neighbouring words, and the same the other way
    round."""
    words = (data / "train.txt").read_text().split()[:20]
    path = tmp_path_factory.mktemp("pairs") / "order.jsonl"
    records = [
        {"sentence_good": f"{one} {other}", "sentence_bad": f"{other} {one}"}
        for one, other in zip(words[::2], words[1::2], strict=True)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"minimal_pairs": str(path)}


def settings(data, task, **changes):
    """A whole configuration of a tiny run of twelve steps, with a probe every four."""
    config = load_config("configs/debug.py").to_dict()
    often = {
        "train__num_steps": 12,
        "eval__every": 4,
        "checkpoint__every": 4,
        "log__every": 3,
        "probe__every": 4,
        "probe__num_epochs": 1,
    }
    for key, value in values(
        data, **(often | {f"probe__{key}": value for key, value in task.items()} | changes)
    ).items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, config)[name] = value
    return config


def is_probe(row):
    return any(name.startswith("probe/") for name in row)


@pytest.mark.slow
def test_a_run_with_probes_equals_the_run_without_even_if_interrupted(
    data, task, pairs, tmp_path, monkeypatch
):
    mesh = make_mesh(EIGHT)
    monkeypatch.setattr(run_inputs, "make_mesh", lambda _: mesh)
    with_probes = settings(data, task)
    pretrain(settings(data, task, probe__every=0), tmp_path / "without")
    pretrain(with_probes, tmp_path / "with")
    expected, rows = comparable(tmp_path / "without"), comparable(tmp_path / "with")
    probed = [row for row in rows if is_probe(row)]
    assert [row for row in rows if not is_probe(row)] == expected and not any(map(is_probe, expected))
    assert [row["step"] for row in probed] == [4, 8, 12]
    assert all(set(row) == {"step", "probe/frozen_accuracy", "probe/finetuned_accuracy"} for row in probed)
    pretrain(settings(data, pairs, probe__kind="minimal_pairs"), tmp_path / "pairs")
    scored = comparable(tmp_path / "pairs")
    assert [row for row in scored if not is_probe(row)] == expected
    names = {f"probe/minimal_pairs_{rule}" for rule in RULES}
    assert [(row["step"], set(row)) for row in scored if is_probe(row)] == [
        (step, {"step", *names}) for step in (4, 8, 12)
    ]
    params = jax.device_get(load_run(tmp_path / "without").params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(load_run(tmp_path / "pairs").params), params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(load_run(tmp_path / "with").params), params)

    calls, call, batch_at = [], Probe.__call__, pretraining.Loader.batch_at
    monkeypatch.setattr(Probe, "__call__", lambda self, params: calls.append(1) or call(self, params))

    def break_off(self, step):
        if step == 9:
            raise InterruptedError
        return batch_at(self, step)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(pretraining.Loader, "batch_at", break_off)
        pretrain(with_probes, tmp_path / "broken")
    assert len(calls) == 2
    summary = pretrain(with_probes, tmp_path / "broken")
    assert len(calls) == 3  # that of step 8, from whose checkpoint the run resumed, was there
    assert comparable(tmp_path / "broken") == rows
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(load_run(tmp_path / "broken").params), params)
    assert summary["probe_frozen_accuracy"] == probed[-1]["probe/frozen_accuracy"]


def make_probe(data, task, tmp_path, **changes):
    """(a probe of a tiny ELECTRA, random parameters of one)."""
    config = make_config(electra_model(), data)
    config["probe"] |= {"every": 1, "num_epochs": 1} | task | changes
    tokenizer = load_tokenizer(str(data / "tokenizer_corpus"))
    mesh = make_mesh(ONE, jax.devices()[:1])
    return (
        Probe(config, make_pretraining_config(config["model"]), tokenizer, mesh, tmp_path / "probe"),
        jax.tree.map(jnp.asarray, random_params(config)),
    )


@pytest.mark.slow
def test_it_learns_compiles_once_and_keeps_the_functions_of_the_run(data, task, tmp_path):
    probe, params = make_probe(data, task, tmp_path)
    compiled = []

    def count(name, seconds, **_):
        if name == COMPILED:
            compiled.append(seconds)

    of_the_run = jax.jit(lambda x: 3 * x)
    argument = jnp.ones(3)
    of_the_run(argument)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        first = probe(params)
        assert len(compiled) > 2
        compiled.clear()
        of_the_run(argument)
        second = probe(params)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert first == second and first["frozen_accuracy"] > 0.8  # chance: 0.5
    assert 0 <= first["finetuned_accuracy"] <= 1


@pytest.mark.slow
def test_other_task_types_are_only_fine_tuned_and_divergence_gives_nan(data, task, tmp_path, monkeypatch):
    probe, params = make_probe(
        data, task, tmp_path, config="configs/finetune.py:task=local_regression", label="number"
    )
    assert set(probe(params)) == {"finetuned_pearson", "finetuned_spearman"}

    def diverge(self, encoder, settings, seed):
        raise FloatingPointError

    monkeypatch.setattr(TaskFinetuner, "finetune", diverge)
    assert np.isnan([*probe(params).values()]).all()


@pytest.mark.slow
def test_minimal_pairs_of_a_run_are_those_of_its_checkpoint(data, pairs, tmp_path):
    place, params = make_run(tmp_path / "run", data, electra_model())
    config = make_config(electra_model(), data)
    config["probe"] |= {"every": 1, "kind": "minimal_pairs"} | pairs
    mesh = make_mesh(ONE, jax.devices()[:1])
    tokenizer = load_tokenizer(str(data / "tokenizer_corpus"))
    probe = open_probe(config, make_pretraining_config(config["model"]), tokenizer, mesh, tmp_path)
    got = probe(jax.tree.map(jnp.asarray, params))
    options = Options([pairs["minimal_pairs"]], [str(place)], tmp_path / "work", 0, "")
    list(evaluate_minimal_pairs(options, lambda: None))
    results = json.loads((tmp_path / "work" / "minimal_pairs.json").read_text())["results"]
    assert got == {f"minimal_pairs_{one['score']}": one["accuracy"] for one in results}
    broken = probe(jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), params))
    assert list(broken) == list(got) and np.isnan([*broken.values()]).all()


def test_features_are_means_over_the_text_only():
    ids_BL = jnp.asarray([[1, 9, 8, 2, 7, 2, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]])
    x_BLD = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 3)), jnp.bfloat16)
    means_BD = mean_over_text(x_BLD, ids_BL, SPECIAL)
    assert means_BD.dtype == jnp.float32
    np.testing.assert_allclose(
        means_BD[0], np.asarray(x_BLD[0], np.float32)[[1, 2, 4]].mean(axis=0), rtol=1e-6
    )
    np.testing.assert_array_equal(means_BD[1], 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"validation": "{unlabelled}"},
            ValueError,
            r"config\.probe: got the splits \['train', 'validation'\], expected one with labels",
        ),
        (
            {"validation": ""},
            ValueError,
            r"got the splits \['train'\], expected one with labels.* Set config\.probe\.validation",
        ),
        ({"label": "klass"}, ValueError, r"config\.probe: .*klass"),
        ({"train": "nowhere.jsonl"}, FileNotFoundError, r"config\.probe: .*nowhere\.jsonl"),
        ({"every": -1}, ValueError, r"config\.probe\.every: got -1, expected 0 \(never\) or more"),
        (
            {"kind": "pairs"},
            ValueError,
            r"config\.probe\.kind: got 'pairs', expected one of minimal_pairs, task",
        ),
        (
            {"kind": "minimal_pairs"},
            ValueError,
            r"config\.probe\.minimal_pairs: got '' with config\.probe\.kind='minimal_pairs', expected files",
        ),
        (
            {"kind": "minimal_pairs", "minimal_pairs": "nowhere"},
            FileNotFoundError,
            r"config\.probe\.minimal_pairs: nowhere: does not exist",
        ),
        (
            {"kind": "minimal_pairs", "minimal_pairs": "{unlabelled}"},
            ValueError,
            r"config\.probe\.minimal_pairs: .*unlabelled\.jsonl:1: no 'sentence_good' and no 'sentence_bad'",
        ),
        (
            {"minimal_pairs": "{unlabelled}"},
            ValueError,
            r"config\.probe\.minimal_pairs: got .* with config\.probe\.kind='task'",
        ),
        ({"num_epochs": 0}, ValueError, r"config\.probe\.num_epochs: got 0, expected 1 or more"),
        (
            {"max_examples": 1},
            ValueError,
            r"config\.probe: .*got one class in train, .*: raise config\.probe\.max_examples, or",
        ),
        (
            {"config": "configs/finetune.py:task=trec"},
            ValueError,
            r"config\.probe: .*config argument task: got 'trec'",
        ),
        ({"config": "nowhere.py"}, FileNotFoundError, r"config\.probe: .*there is no file nowhere\.py"),
        (
            {"config": "configs/debug.py"},
            ValueError,
            r"config\.probe: config: got 'configs/debug\.py' without task, sift, exp",
        ),
        (
            {"config": "{twelve}"},
            ValueError,
            r"the batch_size of fine-tuning: got 12, expected a multiple of .* = 8",
        ),
    ],
)
def test_a_wrong_setting_is_found_before_anything_is_written(changes, error, message, data, task, tmp_path):
    (tmp_path / "twelve.py").write_text(
        "from configs.finetune import get_config as original\ndef get_config(arg):\n"
        "    config = original(arg)\n    config.train.batch_size = 12\n    return config\n"
    )
    places = {
        "unlabelled": task["train"].replace("train.jsonl", "unlabelled.jsonl"),
        "twelve": tmp_path / "twelve.py",
    }
    config = settings(data, task)
    config["probe"] |= {
        key: value.format(**places) if isinstance(value, str) else value for key, value in changes.items()
    }
    with pytest.raises(error, match=message):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(data, task, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"config\.probe\.every: got 1 in a run of 2 processes, expected 0"):
        make_probe(data, task, tmp_path)


def test_without_probes_nothing_is_imported(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "electra_jax.finetuning.probes", None)  # importing it would fail
    config = {"probe": {"every": 0, "config": "nowhere.py"}}
    assert pretraining.make_probe(config, None, tmp_path, None, tmp_path) is None


def test_a_run_older_than_probes_resumes_and_is_continued(data, tmp_path):
    config = make_config(electra_model(), data)
    old = {"config": {name: section for name, section in config.items() if name != "probe"}, "data": []}
    (tmp_path / "config.json").write_text(json.dumps(old))
    check_run_directory(tmp_path, {"config": config, "data": []})
    continued = load_config(f"configs/continued.py:run={tmp_path}")
    assert continued.probe.to_dict() == load_config("configs/debug.py").probe.to_dict()
