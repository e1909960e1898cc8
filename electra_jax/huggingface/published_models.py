"""The models that a pre-training run publishes: each is one encoder with its own embeddings and head.

The parameters of a published model are {"embeddings", "encoder", "head"}. `to_published` makes them from a
run's parameters and writes shared tables out in full; `from_published` is the inverse for a given way of
sharing embeddings.

Shapes: B batch, L length, P positions, D hidden, V vocab, E embedding_size.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from electra_jax.models.config import EncoderConfig, PretrainingConfig
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.heads import DiscriminatorPredictions, GeneratorPredictions, VocabularyLogits
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.pretraining import encode_masked, gather_positions, has_decoder, make_encoder
from electra_jax.objectives.registry import NOT_PUBLISHED

Params = dict[str, Any]
ROLES = ("discriminator", "generator")
SHARED_TABLES = ("word_embeddings", "position_embeddings")
MODULES = (
    "embeddings",
    "discriminator_tokens",
    *(f"{role}{part}" for role in ROLES for part in ("", "_embeddings", "_predictions")),
)


class PublishedModule(nn.Module):
    """One encoder with its own embeddings and head, for the parameters that `to_published` returns."""

    config: EncoderConfig
    role: str  # one of ROLES

    def setup(self):
        is_generator = self.role == "generator"
        self.embeddings = Embeddings(self.config, stores_positions=is_generator and has_decoder(self.config))
        self.encoder = make_encoder(self.config)
        self.head = (GeneratorPredictions if is_generator else DiscriminatorPredictions)(self.config)

    def __call__(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array | None = None
    ) -> jax.Array | VocabularyLogits:
        """Detection logits [B, L], or the generator's `VocabularyLogits`, at `positions_BP` or, with None, at
        all positions; no dropout."""
        if self.role == "generator":
            x_BLD = encode_masked(self.encoder, self.embeddings, ids_BL, inputs, is_training=False)
            x_BLD = x_BLD if positions_BP is None else gather_positions(x_BLD, positions_BP)
            return self.head(x_BLD, self.embeddings.word_table())
        return self.head(self.encoder(self.embeddings(ids_BL, inputs, False), inputs, False), inputs)


class ModelWeights(NamedTuple):
    """A model to publish."""

    config: EncoderConfig
    params: Params  # {"embeddings", "encoder", "head"}


def to_published(params: Params, config: PretrainingConfig) -> dict[str, ModelWeights]:
    """Role → model, from the parameters of a run.

    Plain masked language modelling gives a generator alone. An ablation (models/ablations.py) gives the
    encoder that it trains: as a generator if it predicts tokens, without its gate; as a discriminator alone
    if it has no generator, or one that is not an encoder (two towers).

    The tables of gradient-disentangled embedding sharing (GDES) are summed here in float32: E_D = E_G + E_Δ
    (DeBERTaV3 §3.3). NOT_PUBLISHED modules are left out.

    Raises:
      ValueError: the run has a module that belongs to no role.
    """
    params = {name: tree for name, tree in params.items() if name not in NOT_PUBLISHED}
    unknown = [name for name in params if name not in MODULES]
    if unknown:
        raise ValueError(
            f"parameters: got the modules {unknown}, which no published model has, expected some of "
            f"{MODULES}. To leave them out of exports, name them in `not_published` of the objective's row."
        )
    if "discriminator" not in params:
        return {"generator": mask_filler(params, config)}
    shared = params.get("embeddings")
    generator_embeddings = params["generator_embeddings"] if shared is None else shared
    discriminator_embeddings = shared
    if shared is None:
        discriminator_embeddings = _with_tables(
            params["discriminator_embeddings"], generator_embeddings, config.discriminator.has_input_positions
        )
    if "discriminator_tokens" in params:
        encoder = {
            "embeddings": discriminator_embeddings,
            "encoder": params["discriminator"],
            "head": params["discriminator_tokens"],
        }
        return {"generator": ModelWeights(config.discriminator, encoder)}
    return {
        role: ModelWeights(
            encoder,
            {"embeddings": embeddings, "encoder": params[role], "head": params[f"{role}_predictions"]},
        )
        for role, encoder, embeddings in (
            ("discriminator", config.discriminator, discriminator_embeddings),
            ("generator", config.generator, generator_embeddings),
        )
        if role in params
    }


def mask_filler(params: Params, config: PretrainingConfig) -> ModelWeights | None:
    """The model of a run that was trained to fill in [MASK], also where it is not published; None if no
    encoder was (a fixed generator, two towers)."""
    if "generator" not in params:
        return None
    generator = {
        "embeddings": params["embeddings" if "embeddings" in params else "generator_embeddings"],
        "encoder": params["generator"],
        "head": params["generator_predictions"],
    }
    # Plain masked language modelling trains one encoder, of the discriminator's shape.
    return ModelWeights(config.generator if "discriminator" in params else config.discriminator, generator)


def with_token_types(params: Params, config: EncoderConfig) -> Params:
    """The parameters with a table of token types: a row of zeros if the model has none."""
    if config.type_vocab_size:
        return params
    row = np.zeros((1, config.embedding_size), np.float32)
    return params | {"embeddings": params["embeddings"] | {"token_type_embeddings": {"embedding": row}}}


def _with_tables(embeddings: Params, generator_embeddings: Params, has_positions: bool) -> Params:
    """The discriminator's embeddings with the tables that it shares with the generator written out."""
    complete = dict(embeddings)
    for name in SHARED_TABLES if has_positions else SHARED_TABLES[:1]:
        base, own = generator_embeddings[name], embeddings.get(name, {})
        if "delta" in own:
            complete[name] = {"embedding": base["embedding"] + own["delta"]}
        elif not own:
            complete[name] = base
    return complete


def from_published(trees: dict[str, Params], config: PretrainingConfig) -> Params:
    """The inverse of `to_published`: a run's parameters under config.embedding_sharing.

    GDES: E_Δ is E_D − E_G rounded to float32. If any float32 E_Δ gives E_G + E_Δ = E_D exactly, it does.

    Raises:
      ValueError: the two models' embeddings differ, although they should be tied.
    """
    generator = trees["generator"]
    if "discriminator" not in trees:
        return {
            "embeddings": generator["embeddings"],
            "generator": generator["encoder"],
            "generator_predictions": generator["head"],
        }
    params = {role: trees[role]["encoder"] for role in ROLES}
    params |= {f"{role}_predictions": trees[role]["head"] for role in ROLES}
    discriminator_embeddings, generator_embeddings = (
        trees["discriminator"]["embeddings"],
        generator["embeddings"],
    )
    sharing = config.embedding_sharing
    if config.shares_embeddings:
        _check_equal(discriminator_embeddings, generator_embeddings)
        return params | {"embeddings": discriminator_embeddings}
    own = dict(discriminator_embeddings)
    if sharing != "none":
        for name in SHARED_TABLES:
            if name in own and sharing == "tied":
                _check_equal({name: own.pop(name)}, {name: generator_embeddings[name]})
            elif name in own:
                own[name] = {"delta": own[name]["embedding"] - generator_embeddings[name]["embedding"]}
    return params | {"generator_embeddings": generator_embeddings, "discriminator_embeddings": own}


def _check_equal(one: Params, other: Params) -> None:
    for path, value in jax.tree_util.tree_leaves_with_path(one):
        counterpart = other
        for part in path:
            counterpart = counterpart[part.key]
        if not np.array_equal(value, counterpart):
            raise ValueError(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')}: the generator's and the "
                "discriminator's differ, expected equal ones for tied embeddings. Use "
                "--embedding_sharing none or gdes."
            )


def shares_embeddings(trees: dict[str, Params], ties_whole_embeddings: bool) -> bool:
    """Whether all embeddings that tied models share are equal in both models: all, or the SHARED_TABLES."""
    one, other = (trees[role]["embeddings"] for role in ROLES)
    names = list(one) if ties_whole_embeddings else [name for name in SHARED_TABLES if name in one]
    return all(
        name in other and jax.tree.all(jax.tree.map(np.array_equal, one[name], other[name])) for name in names
    )
