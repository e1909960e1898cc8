"""Checks of the exports of fine-tuned models: what was changed or recorded wrongly is found, and a failed
export leaves nothing."""

import shutil

import jax
import numpy as np
import pytest

from electra_jax import convert
from electra_jax.conversion.export_task import export_task
from electra_jax.huggingface import task_heads
from electra_jax.huggingface.export import CONFIG_FILE, FINETUNING_FILE, WEIGHTS_FILE
from electra_jax.huggingface.task_checks import check_labels
from electra_jax.huggingface.verify import verify
from support.edits import edit_arrays, edit_json, edit_tokenizer
from support.programs import HIGHEST, products, recorded_programs, rounded_products
from support.tiny_task_exports import ELECTRA, SCALE, UNSAID, make_model


def edit_labels(directory):
    edit_json(
        directory / CONFIG_FILE,
        id2label={"0": "middle", "1": "low", "2": "high"},
        label2id={"middle": 0, "low": 1, "high": 2},
    )


def edit_description(directory):
    """Swap labels everywhere except in the recorded predictions."""
    edit_labels(directory)
    edit_json(directory / FINETUNING_FILE, labels=["middle", "low", "high"])


def changed(name, change):
    return lambda directory: edit_arrays(
        directory / WEIGHTS_FILE, lambda arrays: arrays | {name: change(arrays[name])}
    )


def upside_down(array):
    return np.ascontiguousarray(array[::-1])


HEAD = "classifier.out_proj"


SABOTAGE = [
    (
        "electra_classification",
        changed("electra.encoder.layer.1.output.dense.weight", upside_down),
        {
            WEIGHTS_FILE: "electra.encoder.layer.1.output.dense.weight is not what was exported",
            "hidden states": "first differ after layer 1",
        },
    ),
    (
        "electra_classification",
        changed(f"{HEAD}.bias", lambda array: array + np.float32([0, 0.01, 0])),
        {WEIGHTS_FILE: f"{HEAD}.bias is not what was exported", "logits": "max"},
    ),
    (
        "electra_classification",
        edit_labels,
        {CONFIG_FILE: "id2label is {'0': 'middle'", "predicted labels": "expected "},
    ),
    ("electra_classification", edit_description, {"predicted labels": "expected "}),
    (
        "electra_classification",
        lambda d: edit_json(d / CONFIG_FILE, classifier_dropout=0.1),
        {CONFIG_FILE: "classifier_dropout is 0.1, trained with 0.0"},
    ),
    (
        "electra_classification",
        lambda d: edit_tokenizer(d / "tokenizer.json"),
        {"tokenizer": "differ from token"},
    ),
    (
        "electra_regression",
        changed(f"{HEAD}.weight", lambda array: array / np.float32(SCALE)),
        {"logits": "max"},
    ),
    (
        "electra_tagging",
        changed("classifier.weight", upside_down),
        {"logits": "max", "predicted labels": "expected "},
    ),
    (
        "electra_tagging",
        lambda d: (d / "tokenizer.json").write_text("{}"),
        {"tokenizer": "Error: "},
    ),
    (
        "deberta_questions",
        changed("qa_outputs.weight", upside_down),
        {"start logits": "max", "end logits": "max"},
    ),
    (
        "deberta_classification",
        lambda d: edit_arrays(
            d / WEIGHTS_FILE,
            lambda arrays: {key: value for key, value in arrays.items() if not key.startswith("pooler")},
        ),
        {"transformers loads it": "missing_keys: pooler.dense.bias, pooler.dense.weight"},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sabotage", "found"), SABOTAGE)
def test_verify_names_the_change(name, sabotage, found, task_exports, tmp_path, capsys):
    directory = tmp_path / name
    shutil.copytree(task_exports(name)[1], directory)
    convert.main(["verify", str(directory)])
    assert "FAILED" not in capsys.readouterr().out
    sabotage(directory)
    failed = {check.name: check.detail for check in verify(directory) if not check.is_passed}
    for check, detail in found.items():
        assert detail in failed.get(check, ""), failed
    with pytest.raises(SystemExit, match="failed its verification"):
        convert.main(["verify", str(directory)])


def test_labels_with_nearly_equal_logits_may_differ():
    recorded = np.float32([[1.0, 1.00001, 0.0], [2.0, 0.0, 1.0]])
    check = check_labels(recorded[:, [1, 0, 2]], recorded, ["b", "a"], {0: "a", 1: "b", 2: "c"})
    assert not check.is_passed and check.detail == "got 'b', expected 'a'"
    assert check_labels(recorded[:1, [1, 0, 2]], recorded[:1], ["b"], {0: "a", 1: "b", 2: "c"}).is_passed


def test_outputs_are_recorded_at_the_highest_precision_whatever_the_settings(data, tmp_path):
    source = make_model(tmp_path / "model", data, ELECTRA(dtype="bfloat16"), "classification", "transformers")
    with (
        recorded_programs(tmp_path / "programs") as programs,
        jax.default_matmul_precision("bfloat16"),
    ):
        assert export_task(source, tmp_path / "out", "float32", UNSAID)
    found = [product for program in programs for product in products(program)]
    assert len(found) > 10 and set(found) == {HIGHEST}


@pytest.mark.parametrize("mantissa_bits", [7, 10], ids=["bfloat16", "TF32"])
def test_an_export_recorded_with_rounded_products_is_refused(mantissa_bits, data, tmp_path):
    """As a GPU or a TPU multiplies unless it is told not to."""
    source = make_model(tmp_path / "model", data, ELECTRA(), "tagging", "published")
    with (
        rounded_products(mantissa_bits),
        pytest.raises(ValueError, match="failed its verification and was not kept"),
    ):
        export_task(source, tmp_path / "out", "float32", UNSAID)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_export_leaves_nothing(data, tmp_path, monkeypatch):
    """With a mistake in the conversion of the head."""
    source = make_model(tmp_path / "model", data, ELECTRA(), "classification", "published")
    with_inner_layer = task_heads.with_inner_layer

    def mistaken(head):
        head = with_inner_layer(head)
        return head | {"classifier": head["classifier"] | {"kernel": abs(head["classifier"]["kernel"])}}

    monkeypatch.setattr(task_heads, "with_inner_layer", mistaken)
    with pytest.raises(ValueError, match="failed its verification and was not kept"):
        export_task(source, tmp_path / "out", "float32", UNSAID)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
