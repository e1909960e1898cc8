"""Shapes of the parameters of an encoder, and whether parameters from a file have them."""

import functools
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from data_pipelines.json_files import misread
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.huggingface.published_models import Params, PublishedModule
from electra_jax.huggingface.sizes import check_layers
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.training.state import unbox


def abstract_encoder(config: EncoderConfig, tokenizer: Tokenizer) -> Any:
    """Shapes of the parameters of a published discriminator."""
    return _abstract_encoder(config, SpecialTokens.from_ids(tokenizer.special))


def _abstract_encoder(config: EncoderConfig, special: SpecialTokens) -> Any:
    ids = jax.numpy.ones((1, 2), jax.numpy.int32)
    inputs = derive_inputs(ids, special, config.type_vocab_size)
    model = PublishedModule(config, "discriminator")
    return jax.eval_shape(lambda key: unbox(model.init(key, ids, inputs)["params"]), jax.random.key(0))


@functools.cache
def num_encoder_parameters(config: EncoderConfig) -> int:
    """Number of parameters of an encoder with its embeddings: what fine-tuning starts from."""
    special = SpecialTokens(pad=0, cls=1, sep=2, unk=3, mask=4)  # shapes do not depend on the ids
    shapes = encoder_params(_abstract_encoder(config, special))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def encoder_params(params: Params) -> Params:
    """The part of a published model that is not its head."""
    return {"embeddings": params["embeddings"], "encoder": params["encoder"]}


def check_encoder(params: dict[str, Any], config: EncoderConfig, tokenizer: Tokenizer, path: Any) -> None:
    """Compare the parameters of a file, path → array, with the encoder that they are said to be of.

    Raises:
      ValueError: a parameter is missing or has another shape; begins with the file's `path`.
    """
    with misread(path):
        check_layers(config.num_layers, params)
    for name, leaf in flatten_dict(encoder_params(abstract_encoder(config, tokenizer)), sep="/").items():
        got = params[name].shape if name in params else "no array"
        if got != leaf.shape:
            raise ValueError(
                f"{path}: got {got} for {name}, expected {leaf.shape}, as the configuration beside it gives. "
                "The two files do not belong together: copy the whole directory again."
            )
