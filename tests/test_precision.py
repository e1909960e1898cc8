"""float32 means float32 on every device: the lowered programs ask for the highest precision, in training and
in fine-tuning. Exports are in tests/huggingface."""

import ast
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.finetuning.batches import make_batch
from electra_jax.finetuning.trainer import Trainer
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.layers import einsum_f32
from electra_jax.objectives.registry import OBJECTIVES, make_objective
from electra_jax.planning.compiled import SPECIAL as PLANNED
from electra_jax.planning.compiled import trace_step
from electra_jax.training.program import dtype_note, make_program
from support.paths import ROOT
from support.programs import HIGHEST, ROUNDED, products
from support.tiny import SPECIAL, key
from support.tiny_task import ONE, encoder_config, make_settings, make_type, task_examples

NAMES = {"einsum", "dot", "matmul", "tensordot", "vdot", "inner", "vecdot", "matvec", "dot_general"}
NAMES |= {"convolve", "conv_general_dilated", "ragged_dot", "DenseGeneral"}
TORCH = ("torch_", "modeling_")  # beginnings of the names of PyTorch's modules
ABLATIONS = sorted(OBJECTIVES.keys() - {"electra", "deberta_v3", "mcl"})


def recipe(argument, **changes):
    """A debug recipe with other values, by key with "__" for the dot."""
    config = with_assumed_sizes(debug.get_config(argument).to_dict())
    config["model"] |= {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section][field] = value
    return config


def training_products(config):
    traced, _, _ = trace_step(config, jax.devices()[:1])
    return products(traced.lower().as_text())


def product_places(source):
    """Lines of the matrix products in a Python module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_operator = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
        if is_operator or (isinstance(node, ast.Attribute) and node.attr in NAMES):
            found.append(node.lineno)
    return found


def test_one_function_computes_all_products():
    """Then none can be forgotten. It is in models/layers.py."""
    places = {}
    for path in (ROOT / "electra_jax").rglob("*.py"):
        lines = product_places(path.read_text(encoding="utf-8"))
        if lines and not path.name.startswith(TORCH):
            places[str(path.relative_to(ROOT))] = len(lines)
    in_numpy = {
        "electra_jax/benchmarks/accelerator/kernels.py": 3,  # a reference, in float64
        "electra_jax/finetuning/retrieval.py": 2,  # a search on the host
    }
    assert places == {"electra_jax/models/layers.py": 1} | in_numpy
    assert product_places("y = x @ x\nz = jnp.dot(x, y)\n") == [1, 2]


@pytest.mark.parametrize("setting", ["bfloat16", "tensorfloat32", "highest"])
def test_the_setting_of_the_process_changes_no_product(setting):
    x = jnp.ones((4, 4))
    both = {"float32": HIGHEST, "bfloat16": ROUNDED}
    for dtype, expected in both.items():
        function = jax.grad(lambda x, dtype=dtype: einsum_f32("ab,bc->ac", dtype, x, x).sum())
        with jax.default_matmul_precision(setting):
            found = products(jax.jit(function).lower(x).as_text())
        assert set(found) == {expected} and len(found) >= 2


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("model=electra", {}),
        ("model=electra", {"objective__vocab_chunk_size": 300, "train__num_microbatches": 2}),
        ("model=deberta_v3", {"train__layers": "scanned", "train__remat": "dense"}),
        ("model=mcl", {}),
        *(pytest.param(f"objective={name}", {}, marks=pytest.mark.slow) for name in ABLATIONS),
    ],
)
def test_a_training_step_in_float32_multiplies_at_the_highest_precision(argument, changes):
    found = training_products(recipe(argument, **changes))
    assert len(found) > 20 and set(found) == {HIGHEST}


@pytest.mark.parametrize("model", ["electra", "deberta_v3"])
def test_a_training_step_in_bfloat16_keeps_its_speed(model):
    """Except that the detection logits are float32, as documented: a product with a single column."""
    found = training_products(recipe(f"model={model}", model__dtype="bfloat16"))
    assert set(found) == {ROUNDED, HIGHEST} and found.count(HIGHEST) == 3  # forward, and two backward


def test_an_evaluation_in_float32_multiplies_at_the_highest_precision():
    config = recipe("model=electra")
    model, mesh = make_pretraining_config(config["model"]), make_mesh(ONE, jax.devices()[:1])
    program = make_program(config, make_objective(config, model, PLANNED), mesh)
    ids_BL = jax.ShapeDtypeStruct((8, 64), jnp.int32)
    with axis_context(mesh):
        found = products(program.evaluation_step.lower(program.abstract_state.params, ids_BL, 0).as_text())
    assert len(found) > 10 and set(found) == {HIGHEST}


def finetuning_products(family, task_type, dtype, **sift):
    """Of the training step, and of the predictions."""
    config = make_settings(task_type)
    config["sift"] |= sift
    encoder = dataclasses.replace(encoder_config(family), num_layers=1, dtype=dtype)
    mesh, functions = make_mesh(ONE, jax.devices()[:1]), make_type(task_type)
    trainer = Trainer(encoder, SPECIAL, functions, config, 64, mesh)
    # Three labels of an answer are the same number here.
    rows = task_examples("classification" if task_type == "question_answering" else task_type, 16, 0)
    batch = make_batch(functions, rows, range(16), 16, SPECIAL.pad)
    params = jax.eval_shape(trainer.init_params, key())
    state = jax.eval_shape(trainer.optimizer.init, params)
    with axis_context(mesh):
        step = trainer.train_step.lower(params, state, trainer.place(batch), key()).as_text()
        return products(step), products(trainer.predict.lower(params, batch.ids_BL).as_text())


@pytest.mark.parametrize(
    ("family", "task_type", "sift"),
    [
        ("electra", "question_answering", {}),
        ("electra", "tagging", {}),
        ("deberta", "classification", {"vat_lambda": 5.0}),
        ("deberta", "regression", {}),
    ],
)
def test_fine_tuning_in_float32_multiplies_at_the_highest_precision(family, task_type, sift):
    for found in finetuning_products(family, task_type, "float32", **sift):
        assert len(found) > 5 and set(found) == {HIGHEST}


def test_fine_tuning_in_bfloat16_keeps_its_speed():
    """Except for the last layer of the head, whose outputs are float32."""
    for found in finetuning_products("electra", "classification", "bfloat16"):
        assert set(found) == {ROUNDED, HIGHEST} and found.count(HIGHEST) <= 3 < found.count(ROUNDED)


@pytest.mark.parametrize(
    ("dtype", "platform", "has_note"),
    [
        ("float32", "gpu", True),
        ("float32", "tpu", True),
        ("float32", "cpu", False),
        ("bfloat16", "gpu", False),
    ],
)
def test_a_slow_dtype_is_named_on_accelerators(dtype, platform, has_note):
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
    note = dtype_note(dtype, mesh)
    assert bool(note) == has_note and (not note or "--config.model.dtype=bfloat16" in note)
