"""The models whose minimal pairs are scored: pre-training runs, exports, Hugging Face directories, or newly
initialised ones of the same shapes."""

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from electra_jax.finetuning.encoders import RANDOM
from electra_jax.huggingface.array_files import digests
from electra_jax.huggingface.published_models import ROLES, ModelWeights, PublishedModule
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.prediction.models import load_pretrained
from electra_jax.prediction.pretrained import Pretrained
from electra_jax.training.state import unbox

FLAG = "--init_from"
SEED = 0  # of newly initialised weights


class ScoredModel(NamedTuple):
    """What identifies a model."""

    name: str  # as in --init_from
    step: int | None  # of the run's checkpoint; None: it comes from no run, or is newly initialised
    digest: str  # of its weights, its vocabulary, and of what else decides its scores


Read = Callable[[str, str], Pretrained]  # of `load_pretrained`


def load_model(name: str, read: Read = load_pretrained) -> Pretrained:
    """The model that a name of --init_from leads to: DIR, DIR:STEP, or random:DIR.

    Args:
      read: `load_pretrained`, or what keeps its results.
    Raises:
      FileNotFoundError, ValueError, OSError: see `load_pretrained`.
    """
    place = name.removeprefix(RANDOM)
    if not place.strip():
        raise ValueError(f"{FLAG}: got {name!r}, expected a directory, or {RANDOM}DIR.")
    pretrained = read(FLAG, place)
    if not name.startswith(RANDOM):
        return pretrained
    special = SpecialTokens.from_ids(pretrained.tokenizer.special)
    fresh = {
        role: weights and _initialised(role, weights, special)
        for role, weights in zip(ROLES, (pretrained.discriminator, pretrained.generator), strict=True)
    }
    return pretrained._replace(name=name, step=None, **fresh)


def identify(name: str, pretrained: Pretrained) -> ScoredModel:
    """The name, the step and the digest of a model."""
    weights = {"generator": pretrained.generator, "discriminator": pretrained.discriminator}
    parts = {
        role: [repr(one.config), sorted(digests(flatten_dict(one.params, sep="/")).items())]
        for role, one in weights.items()
        if one is not None
    }
    others = [pretrained.tokenizer.fingerprint, pretrained.max_length, pretrained.row.logit_is_log_odds]
    text = json.dumps([parts, others], sort_keys=True)
    return ScoredModel(name, pretrained.step, hashlib.sha256(text.encode()).hexdigest())


def _initialised(role: str, weights: ModelWeights, special: SpecialTokens) -> ModelWeights:
    module, ids = PublishedModule(weights.config, role), jnp.ones((1, 2), jnp.int32)
    inputs = derive_inputs(ids, special, weights.config.type_vocab_size)
    init = jax.jit(lambda key: unbox(module.init(key, ids, inputs)["params"]))
    return weights._replace(params=jax.device_get(init(jax.random.key(SEED))))
