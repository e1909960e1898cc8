"""Where fine-tuning starts: encoder and tokenizer of a run, of a fine-tuned model or of a Hugging Face
directory, or fresh weights in their shape."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.finetuning.model_files import is_saved_model, load_model
from electra_jax.huggingface.configuration import from_config_json
from electra_jax.huggingface.names import flatten, from_file, unflatten
from electra_jax.huggingface.published_models import Params, PublishedModule, to_published
from electra_jax.huggingface.readers import merge_deltas, read_directory
from electra_jax.models.config import EncoderConfig, PretrainingConfig, make_encoder_config
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.runs.trained import load_run
from electra_jax.training.state import unbox

RANDOM = "random:"  # before a path: its shapes and its tokenizer, but weights as they start


class PretrainedEncoder(NamedTuple):
    """`name` is what was asked for. `params` are {"embeddings", "encoder"} on the host, None for weights a
    seed draws."""

    name: str
    config: EncoderConfig
    tokenizer: Tokenizer
    params: Params | None

    @property
    def special(self) -> SpecialTokens:
        return SpecialTokens.from_ids(self.tokenizer.special)


def load_encoder(name: str, cache: Path) -> PretrainedEncoder:
    """The encoder of a run (its newest checkpoint's discriminator, or its only encoder), of a model that was
    fine-tuned on another task, or of a Hugging Face directory of ELECTRA, BERT or DeBERTa-v2/v3, whose
    tokenizer is kept under `cache`.

    Raises:
      FileNotFoundError, ValueError, OSError: neither of them, or it cannot be read.
    """
    path = Path(name.removeprefix(RANDOM))
    described = path / "config.json"
    if is_saved_model(path):
        saved = load_model(path)
        initial = PretrainedEncoder(name, saved.encoder, saved.tokenizer, _encoder(saved.params))
    elif not described.is_file():
        raise FileNotFoundError(
            f"--init_from={name}: expected the directory of a run, of a model that was fine-tuned or of a "
            f"Hugging Face model, but there is no {described}."
        )
    elif "config" in json.loads(described.read_text()):
        run = load_run(path)
        initial = encoder_of_run(name, run.params, run.model, run.tokenizer)
    else:
        initial = _of_hugging_face(name, path, cache)
    return initial._replace(params=None) if name.startswith(RANDOM) else initial


def encoder_of_run(
    name: str, params: Params, model: PretrainingConfig, tokenizer: Tokenizer
) -> PretrainedEncoder:
    """The discriminator's encoder, or the only one, among the parameters of a pre-training run."""
    models = to_published(jax.device_get(params), model)
    published = models["discriminator" if "discriminator" in models else "generator"]
    wanted = flatten(_encoder(abstract_encoder(published.config, tokenizer)))
    leaves = flatten(published.params)
    # Positions that only an enhanced mask decoder reads are left behind.
    return PretrainedEncoder(
        name, published.config, tokenizer, unflatten({path: leaves[path] for path in wanted})
    )


def _of_hugging_face(name: str, path: Path, cache: Path) -> PretrainedEncoder:
    model, _ = merge_deltas(read_directory(path), None)
    fields = from_config_json(model.config, enhanced_mask_decoder=False, dtype="float32")
    config = make_encoder_config(fields)
    adopt_tokenizer(path, cache, lowercase=None)
    tokenizer = load_tokenizer(str(cache))
    shapes = {
        leaf: value.shape for leaf, value in flatten(_encoder(abstract_encoder(config, tokenizer))).items()
    }
    found = from_file(model.family, "discriminator", model.arrays, shapes)
    if found.missing:
        raise ValueError(
            f"{path}: the file has no arrays for {', '.join(found.missing[:4])}. Is it of another kind of "
            "model?"
        )
    return PretrainedEncoder(name, config, tokenizer, unflatten(found.leaves))


def abstract_encoder(config: EncoderConfig, tokenizer: Tokenizer) -> Any:
    """Shapes of the parameters of a published discriminator."""
    ids = jax.numpy.ones((1, 2), jax.numpy.int32)
    inputs = derive_inputs(ids, SpecialTokens.from_ids(tokenizer.special), config.type_vocab_size)
    model = PublishedModule(config, "discriminator")
    return jax.eval_shape(lambda key: unbox(model.init(key, ids, inputs)["params"]), jax.random.key(0))


def _encoder(params: Params) -> Params:
    return {"embeddings": params["embeddings"], "encoder": params["encoder"]}
