"""google-research/electra's TensorFlow checkpoints, written and read by TensorFlow in another process."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from electra_jax.huggingface.restore import read_source
from electra_jax.models.config import encoder_shape
from electra_jax.runs.trained import load_run
from support import aside, tiny_export
from support.commands import run_python

# One process, since importing TensorFlow takes seconds. The last of the commands ends it.
WRITE_AND_IMPORT = """
import json, sys
import tensorflow as tf
from safetensors.numpy import load_file
arrays = load_file(sys.argv[1])
names = sorted(arrays)
tf.raw_ops.SaveV2(prefix=sys.argv[2], tensor_names=[name.replace("|", "/") for name in names],
                  shape_and_slices=[""] * len(names), tensors=[tf.constant(arrays[name]) for name in names])
from electra_jax.convert import main
for words in json.loads(sys.argv[3]):
    main(words)
"""


def google_name(name: str, role: str) -> str:
    """The inverse of the rule of transformers' converter (load_tf_weights_in_electra, up to 4.57)."""
    scope = "electra" if role == "discriminator" or name.startswith("electra.embeddings.") else "generator"
    name = name.replace("electra.", f"{scope}.", 1).replace("encoder.layer.", "encoder.layer_")
    name = name.replace("dense_prediction", "dense_1").replace(
        "generator_lm_head.bias", "generator_predictions.output_bias"
    )
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    name = name.removesuffix(".weight") if "embeddings.weight" in name else name.replace(".weight", ".kernel")
    return name.replace(".", "/")


@pytest.mark.slow
def test_both_models_of_a_checkpoint_are_read(data, tmp_path):
    # Google's code fixes the head size at 64.
    model = tiny_export.electra_model(discriminator=encoder_shape(128, 2), generator=encoder_shape(64, 2))
    run, params = tiny_export.make_run(tmp_path / "run", data, model)
    tiny_export.export_unverified(run, tmp_path / "out")
    arrays = {"global_step": np.asarray(7, np.int64)}
    for role in ("discriminator", "generator"):
        for name, array in load_file(tmp_path / "out" / role / "model.safetensors").items():
            theirs = google_name(name, role)
            arrays[theirs] = array.T if theirs.endswith("/kernel") else array
            arrays[f"{theirs}/adam_m"] = np.ones_like(arrays[theirs])
    save_file(
        {name.replace("/", "|"): np.ascontiguousarray(array) for name, array in arrays.items()},
        tmp_path / "arrays.safetensors",
    )
    prefix = tmp_path / "model.ckpt-7"
    kind = "--kind=google"
    right = [f"--from={prefix}", kind, f"--out={tmp_path / 'imported'}"]
    right += [f"--tokenizer={data / 'tokenizer_corpus'}"]
    wrong = [f"--from={tmp_path / 'model.ckpt-8'}", kind, f"--out={tmp_path / 'no'}"]
    commands = json.dumps([["import", *right], ["import", *wrong]])
    words = "-c", WRITE_AND_IMPORT, tmp_path / "arrays.safetensors", prefix, commands
    outcome = run_python(*words, environment=aside.environment("tensorflow"))
    assert "embeddings: tied" in outcome.stdout and "newly initialised" not in outcome.stdout, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == str(tmp_path / "imported")
    imported = load_run(tmp_path / "imported")
    assert imported.config["model"]["generator"] == model["generator"]
    jax.tree.map(np.testing.assert_array_equal, imported.params, params)
    assert outcome.returncode == 1 and "expected the prefix of a TensorFlow checkpoint" in outcome.stderr
    assert "Traceback" not in outcome.stderr and not (tmp_path / "no").exists()


def test_the_error_without_tensorflow_names_it(tmp_path):
    from electra_jax.huggingface.readers import read_google

    with pytest.raises(
        ImportError, match="reading a TensorFlow checkpoint needs TensorFlow: `pip install tensorflow`"
    ):
        read_google(tmp_path / "model.ckpt-7")


def test_a_generator_beside_a_checkpoint_with_both_models_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^--generator: got .*/other with --kind=google, expected none: "):
        read_source(tmp_path / "model.ckpt-7", "google", tmp_path / "other")
