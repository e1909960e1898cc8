"""The models of ELECTRA's ablations (ELECTRA §3.2, §3.5 and its appendix on adversarial training) and of
Electric.

Shapes: B batch, L length, P masked positions, D hidden, E embedding_size, V vocab.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.deberta_encoder import shift
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.heads import DiscriminatorPredictions, GeneratorPredictions, VocabularyLogits
from electra_jax.models.initializers import last_kernel_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense
from electra_jax.models.pretraining import PretrainingModel, encode_masked, gather_positions, make_encoder

LEFT, RIGHT = 1, -1  # `EncoderInputs.direction`


class DiscriminatorModel(nn.Module):
    """A discriminator alone, for a fixed generator, which has no parameters."""

    config: PretrainingConfig

    def setup(self):
        self.embeddings = Embeddings(self.config.discriminator)
        self.discriminator = make_encoder(self.config.discriminator, self.config.execution)
        self.discriminator_predictions = DiscriminatorPredictions(self.config.discriminator)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array) -> jax.Array:
        """`discriminate` without dropout; used by `init`."""
        del positions_BP
        return self.discriminate(ids_BL, inputs, is_training=False)

    def discriminate(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        """Corrupted ids [B, L] → logits [B, L]; positive means "replaced"."""
        x_BLE = self.embeddings(ids_BL, inputs, is_training)
        return self.discriminator_predictions(self.discriminator(x_BLE, inputs, is_training), inputs)


class TokenModel(PretrainingModel):
    """A generator, and in the discriminator's place an encoder of its shape that predicts tokens (ELECTRA
    §3.5).

    With a gate, a linear map of each state also gives the logit of D_t, the weight of copying the input
    token. The paper calls it a sigmoid layer; that it is a linear map of the last state is not verified.
    """

    has_gate: bool  # whether it can copy the input token

    def setup(self):
        super().setup()
        encoder = self.config.discriminator
        self.discriminator_tokens = GeneratorPredictions(encoder)
        if self.has_gate:
            self.discriminator_gate = Dense(
                1, ("embed", "label"), last_kernel_initializer(encoder), "float32"
            )

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array):
        """Run both encoders without dropout; touches every parameter, so `init` uses it."""
        return (
            self.generate(ids_BL, inputs, positions_BP, is_training=False),
            self.predict_tokens(ids_BL, inputs, None if self.has_gate else positions_BP, is_training=False),
        )

    def predict_tokens(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array | None, is_training: bool
    ) -> tuple[VocabularyLogits, jax.Array | None]:
        """Corrupted ids [B, L] → logits over the vocabulary at `positions_BP` (None: everywhere), and the
        gate's logits [B, L] (None without a gate)."""
        shared = self._shared_tables()
        x_BLE = self.embeddings_of["discriminator"](ids_BL, inputs, is_training, shared)
        x_BLD = self.discriminator(x_BLE, inputs, is_training)
        gate_BL = self.discriminator_gate(x_BLD)[..., 0] if self.has_gate else None
        x_BPD = x_BLD if positions_BP is None else gather_positions(x_BLD, positions_BP)
        return self.discriminator_tokens(
            x_BPD, self.embeddings_of["discriminator"].word_table(shared)
        ), gate_BL


class AdversarialModel(PretrainingModel):
    """ELECTRA's model with a baseline for the generator's reward at a position: a linear map of its state
    there."""

    def setup(self):
        super().setup()
        generator = self.config.generator
        self.generator_baseline = Dense(1, ("embed", "label"), last_kernel_initializer(generator), "float32")

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array):
        """Run both encoders without dropout; touches every parameter, so `init` uses it."""
        return (
            self.generate_with_baseline(ids_BL, inputs, positions_BP, is_training=False),
            self.discriminate(ids_BL, inputs, is_training=False),
        )

    def generate_with_baseline(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool
    ) -> tuple[VocabularyLogits, jax.Array]:
        """`generate`, and the baseline's logits [B, P], whose gradient stops at the generator's states."""
        embeddings = self.embeddings_of["generator"]
        x_BPD = gather_positions(
            encode_masked(self.generator, embeddings, ids_BL, inputs, is_training), positions_BP
        )
        baseline_BP = self.generator_baseline(jax.lax.stop_gradient(x_BPD))[..., 0]
        return self.generator_predictions(x_BPD, embeddings.word_table()), baseline_BP


class TwoTowerModel(nn.Module):
    """Electric: a discriminator whose logit is an energy, and a noise model that sees both sides of a token
    but not the token.

    The noise model consists of two encoders of the generator's shape, each of which attends in one direction
    (google-research/electra run_pretraining.py, two_tower_generator). All three encoders share embeddings.
    """

    config: PretrainingConfig

    def setup(self):
        generator, discriminator, execution = (
            self.config.generator,
            self.config.discriminator,
            self.config.execution,
        )
        self.embeddings = Embeddings(discriminator)
        self.generator_left = make_encoder(generator, execution)
        self.generator_right = make_encoder(generator, execution)
        self.generator_predictions = GeneratorPredictions(generator)
        self.discriminator = make_encoder(discriminator, execution)
        self.discriminator_predictions = DiscriminatorPredictions(discriminator)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array):
        """Run all encoders without dropout; touches every parameter, so `init` uses it."""
        del positions_BP
        return self.generate(ids_BL, inputs, is_training=False), self.discriminate(
            ids_BL, inputs, is_training=False
        )

    def generate(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> VocabularyLogits:
        """Unmasked ids [B, L] → logits at every position t, from the left tower's state at t − 1 and the
        right tower's at t + 1; zeros beyond the edge of a document. The released code wraps around there, to
        a state that has seen t.
        """
        x_BLE = self.embeddings(
            ids_BL, inputs, is_training, hidden_dropout=self.config.generator.hidden_dropout
        )

        def states_beside(tower: nn.Module, direction: int) -> jax.Array:
            x_BLD = tower(x_BLE, inputs._replace(direction=jnp.int32(direction)), is_training)
            is_inside_BL = shift(inputs.segments_BL, -direction) == inputs.segments_BL
            return shift(x_BLD, -direction) * is_inside_BL[:, :, None]

        x_BLD = jnp.concatenate(
            [states_beside(self.generator_left, LEFT), states_beside(self.generator_right, RIGHT)], axis=-1
        )
        return self.generator_predictions(x_BLD, self.embeddings.word_table())

    def discriminate(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        """Corrupted ids [B, L] → energies [B, L]: the larger, the less likely the token in its place."""
        x_BLE = self.embeddings(ids_BL, inputs, is_training)
        return self.discriminator_predictions(self.discriminator(x_BLE, inputs, is_training), inputs)
