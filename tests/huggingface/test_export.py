"""Exports in `transformers` 5 and 4: exact outputs, all files or none, and checks that find sabotage."""

import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from electra_jax.conversion.export_run import export_run, verify_all
from electra_jax.huggingface import export
from electra_jax.huggingface.verify import verify
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import MaskedLanguageModel, PretrainingModel
from support import aside, tiny_export
from support.edits import edit_arrays, edit_json, edit_tokenizer
from support.jitted import apply_jitted
from support.paths import ROOT
from support.tiny import SPECIAL
from support.tiny_export import PLAIN, VARIANTS


def batch(model):
    """(ids, our inputs, arguments for transformers): two padded rows; token types if the model has them."""
    ids = (
        np.random.default_rng(1).integers(5, tiny_export.VOCAB, size=(2, tiny_export.LENGTH)).astype(np.int32)
    )
    ids[:, 0] = SPECIAL.cls
    for row, (middle, end) in enumerate([(7, tiny_export.LENGTH - 1), (3, 15)]):
        ids[row, [middle, end]] = SPECIAL.sep
        ids[row, end + 1 :] = SPECIAL.pad
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, model["type_vocab_size"])
    arguments = {
        "input_ids": ids,
        "attention_mask": ids != 0,
        "token_type_ids": np.asarray(inputs.token_types_BL),
    }
    if not model["type_vocab_size"]:
        del arguments["token_type_ids"]
    return ids, inputs, {name: torch.from_numpy(value.astype(np.int64)) for name, value in arguments.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_computes_the_outputs_of_the_trained_model(name, exports):
    """Against the training model, which does not use the export code."""
    model, objective, options, folders = VARIANTS[name]
    directory, params = exports(name)
    ids, inputs, arguments = batch(model)
    # bfloat16 keeps 8 bits: about three digits of every weight.
    tolerance = 1e-5 if options.dtype == "float32" else 0.05
    real = ids != 0
    training_model = (MaskedLanguageModel if objective == "mlm" else PretrainingModel)(
        make_pretraining_config(model)
    )
    if "discriminator" in folders:
        expected = apply_jitted(
            training_model, params, jnp.asarray(ids), inputs, False, method="discriminate"
        )
        path = directory / "discriminator"
        if name.startswith("electra"):
            got = transformers.ElectraForPreTraining.from_pretrained(path).float()(**arguments).logits
        elif name == "modern":
            detector = transformers.AutoModelForTokenClassification.from_pretrained(
                path, variant="detector", num_labels=1
            )
            got = detector(**arguments).logits[..., 0]
        elif options.custom_code or name == "relative":
            got = transformers.AutoModelForPreTraining.from_pretrained(path, trust_remote_code=True)(
                **arguments
            ).logits
        else:
            states = transformers.DebertaV2Model.from_pretrained(path)(**arguments).last_hidden_state
            head = {
                key.removeprefix("mask_predictions."): torch.from_numpy(value)
                for key, value in load_file(path / export.HEAD_FILE).items()
            }
            states = torch.nn.functional.layer_norm(
                states + states[:, :1], (32,), head["LayerNorm.weight"], head["LayerNorm.bias"], 1e-7
            )
            states = torch.nn.functional.gelu(states @ head["dense.weight"].T + head["dense.bias"])
            got = (states @ head["classifier.weight"].T + head["classifier.bias"])[..., 0]
        np.testing.assert_allclose(
            got.detach().numpy()[real], np.asarray(expected)[real], atol=tolerance, rtol=0
        )
    if "generator" in folders and not options.inexact_generator:
        positions = jnp.tile(jnp.arange(ids.shape[1])[None], (2, 1))
        x, table, bias = apply_jitted(
            training_model, params, jnp.asarray(ids), inputs, positions, False, method="generate"
        )
        generator = transformers.AutoModelForMaskedLM.from_pretrained(
            directory / "generator", trust_remote_code=True
        )
        got = generator.float()(**arguments).logits
        np.testing.assert_allclose(
            got.detach().numpy()[real],
            np.asarray(x @ table.T + bias[None, None])[real],
            atol=tolerance,
            rtol=0,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra_tied", "deberta_gdes", "relative", "modern"])
def test_user_facing_classes_and_pipelines(name, exports):
    directory, _ = exports(name)
    trust = {"trust_remote_code": True} if name == "relative" else {}
    model, loading = transformers.AutoModel.from_pretrained(
        directory / "discriminator", output_loading_info=True, **trust
    )
    assert not loading["missing_keys"] and not loading["mismatched_keys"]
    # This class does not have the head.
    assert all("discriminator_predictions" in key for key in loading["unexpected_keys"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "discriminator", **trust)
    tokens = tokenizer(["one sentence", "and a pair"], ["", "of them"], padding=True, return_tensors="pt")
    states = model(**tokens).last_hidden_state
    assert states.shape[0] == 2 and torch.isfinite(states).all()
    # Its head for detection is not taken for that of another task.
    transformers.AutoModelForSequenceClassification.from_pretrained(
        directory / "discriminator", num_labels=3, **trust
    )
    generator = str(directory / "generator")
    fill = transformers.pipeline("fill-mask", model=generator, tokenizer=generator, **trust)
    guesses = fill("one [MASK] of text")
    assert len(guesses) == 5 and all(0 < guess["score"] < 1 for guess in guesses)


@pytest.mark.slow
def test_a_model_with_custom_code_states_it_and_never_loads_without_it(exports):
    """Nothing loads it as an ELECTRA without the bias. The Python in the cards runs."""
    directory, _ = exports("relative")
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModel.from_pretrained(directory / "discriminator", trust_remote_code=False)
    for role in ("discriminator", "generator"):
        card = (directory / role / export.CARD_FILE).read_text()
        assert (
            f"# ELECTRA {role}" in card
            and "**It needs the code in `modeling_electra_relative_bias.py`**" in card
        )
        code = card.partition("```python\n")[2].partition("```")[0]
        exec(code.replace('path = "."', f"path = {str(directory / role)!r}"), {})
    plain = (exports("electra_tied")[0] / "discriminator" / export.CARD_FILE).read_text()
    assert "trust_remote_code" not in plain and "needs the code" not in plain


@pytest.mark.slow
def test_transformers_4_agrees(exports):
    """The same checks, and the pipeline, in processes that import transformers 4."""
    script = (
        "import sys, pathlib, transformers\n"
        "from electra_jax.conversion.export_run import verify_all\n"
        "assert transformers.__version__.startswith('4.'), transformers.__version__\n"
        "failed = [path for path in sys.argv[2:] if not verify_all(pathlib.Path(path))]\n"
        "fill = transformers.pipeline('fill-mask', model=sys.argv[1], tokenizer=sys.argv[1])\n"
        "assert len(fill('one [MASK] of text')) == 5\n"
        "sys.exit(f'failed: {failed}' if failed else 0)\n"
    )
    paths = [str(directory) for directory, _ in map(exports, VARIANTS)]
    output = aside.run("transformers4", script, f"{exports('deberta_gdes')[0]}/generator", *paths)
    assert output.count("transformers loads it") == sum(len(folders) for *_, folders in VARIANTS.values())


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(exports, tmp_path):
    directory, _ = exports("deberta_gdes")
    export_run(directory.parent / "runs" / "deberta_gdes", 0, tmp_path / "again", PLAIN)
    for path in directory.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(directory)).read_bytes(), path


def swap(one, other):
    def change(arrays):
        return arrays | {one: arrays[other], other: arrays[one]}

    return change


LAYER, BIAS = "encoder.layer.1.attention.self", "electra.encoder.relative_bias.weight"
SABOTAGE = [
    (
        "electra_tied/discriminator",
        lambda d: edit_arrays(
            d / export.WEIGHTS_FILE, swap(f"electra.{LAYER}.query.weight", f"electra.{LAYER}.key.weight")
        ),
        {
            export.WEIGHTS_FILE: f"electra.{LAYER}.key.weight is not what was exported",
            "hidden states": "first differ after layer 1",
            "detection logits": "max",
        },
    ),
    (
        "electra_tied/discriminator",
        lambda d: edit_json(d / export.CONFIG_FILE, layer_norm_eps=1e-2),
        {
            export.CONFIG_FILE: "layer_norm_eps is 0.01, trained with 1e-12",
            "hidden states": "first differ after the embeddings",
        },
    ),
    (
        "electra_tied/discriminator",
        lambda d: edit_arrays(
            d / export.WEIGHTS_FILE,
            lambda arrays: {key: value for key, value in arrays.items() if "dense_prediction" not in key},
        ),
        {
            "transformers loads it": "missing_keys: discriminator_predictions.dense_prediction.bias",
            "detection logits": "max",
        },
    ),
    (
        "relative/discriminator",
        lambda d: edit_arrays(
            d / export.WEIGHTS_FILE, lambda arrays: arrays | {BIAS: np.ascontiguousarray(arrays[BIAS][::-1])}
        ),
        {
            export.WEIGHTS_FILE: f"{BIAS} is not what was exported",
            "transformers loads it": "not loaded, since a check above failed",  # it needs code
        },
    ),
    (
        "relative/discriminator",
        lambda d: edit_json(d / export.CONFIG_FILE, relative_bias_max_distance=40),
        {
            export.CONFIG_FILE: "relative_bias_max_distance is 40, trained with 14",
            "transformers loads it": "not loaded, since a check above failed",  # it needs code
        },
    ),
    (
        "deberta_gdes/discriminator",
        lambda d: (d / export.HEAD_FILE).unlink(),
        {export.HEAD_FILE: "missing", "detection logits": f"{export.HEAD_FILE} is missing"},
    ),
    (
        "modern/discriminator",
        lambda d: (d / export.DETECTOR_FILE).unlink(),
        {"detection logits": f"{export.DETECTOR_FILE} is missing"},
    ),
    (
        "deberta_gdes/discriminator",
        lambda d: edit_json(d / export.CONFIG_FILE, pos_att_type=["c2p"]),
        {
            export.CONFIG_FILE: r"pos_att_type is ['c2p'], trained with ['p2c', 'c2p']",
            "hidden states": "first differ after layer 0",
        },
    ),
    (
        "deberta_gdes/generator",
        lambda d: edit_arrays(
            d / export.WEIGHTS_FILE,
            swap("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias"),
        ),
        {"masked language model logits": "max"},
    ),
    (
        "modern/discriminator",
        lambda d: edit_json(d / export.DETECTOR_FILE, weight_map={"head.norm.weight": "/other/file"}),
        {
            export.DETECTOR_FILE: "is not what was exported",
            "transformers loads it": "not loaded, since a check above failed",  # it would read that file
        },
    ),
    (
        "deberta_gdes/generator",
        lambda d: edit_tokenizer(d / "tokenizer.json"),
        {"tokenizer": "differ from token"},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "sabotage", "found"), SABOTAGE)
def test_verify_names_the_change(model, sabotage, found, exports, tmp_path):
    name, _, role = model.partition("/")
    directory = tmp_path / role
    shutil.copytree(exports(name)[0] / role, directory)
    assert all(check.is_passed for check in verify(directory))
    sabotage(directory)
    failed = {check.name: check.detail for check in verify(directory) if not check.is_passed}
    for check, detail in found.items():
        assert detail in failed.get(check, ""), failed
    assert not verify_all(directory)


def test_a_failed_export_leaves_nothing(data, tmp_path, monkeypatch):
    """With a mistake in the table of names."""
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    to_file = export.to_file

    def mistaken(family, role, tree):
        arrays = to_file(family, role, tree)
        return swap(
            "electra.encoder.layer.0.attention.self.query.weight",
            "electra.encoder.layer.0.attention.self.key.weight",
        )(arrays)

    monkeypatch.setattr(export, "to_file", mistaken)
    with pytest.raises(ValueError, match="failed its verification and was not kept"):
        export_run(run, None, tmp_path / "out", PLAIN)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_export_without_pytorch_and_transformers(data, tmp_path, environment):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    script = (
        "import importlib.machinery, runpy\nfinder, absent = importlib.machinery.PathFinder, ('torch', "
        "'transformers')\nfind = finder.find_spec\nfinder.find_spec = lambda name, *rest: None if "
        "name.partition('.')[0] in absent else find(name, *rest)\nrunpy.run_module('electra_jax.convert', "
        "run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", script, "export", f"--workdir={run}", f"--out={tmp_path / 'out'}"]
    outcome = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "Not verified: torch and transformers not installed" in outcome.stdout
    assert outcome.stdout.splitlines()[-2:] == [
        str(tmp_path / "out" / role) for role in ("discriminator", "generator")
    ]
    assert verify_all(tmp_path / "out")
    again = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (
        again.returncode == 1
        and "out exists. Choose another --out" in again.stderr
        and "Traceback" not in again.stderr
    )
    imported = subprocess.run(
        [
            *command[:3],
            "import",
            f"--from={tmp_path / 'out'}",
            "--kind=huggingface",
            f"--out={tmp_path / 'imported'}",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr
    verified = subprocess.run(
        [*command[:3], "verify", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert verified.returncode == 1 and "error: No module named 'torch'" in verified.stderr
    assert "`pip install torch transformers`" in verified.stderr and "Traceback" not in verified.stderr
