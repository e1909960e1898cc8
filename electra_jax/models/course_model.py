"""Generator and discriminator of MCL: ELECTRA's, with a head of its own for each way in which a token can be wrong.

Shapes: B batch, L length, C courses.
"""

import jax

from electra_jax.models.heads import DiscriminatorPredictions
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.pretraining import PretrainingModel


class CourseModel(PretrainingModel):
    """`detect` judges the rows of several courses in one pass; the rest is `PretrainingModel`'s."""

    def setup(self):
        super().setup()
        self.discriminator_swap_predictions = DiscriminatorPredictions(self.config.discriminator)
        self.discriminator_insert_predictions = DiscriminatorPredictions(self.config.discriminator)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array):
        """Run both encoders and all heads without dropout; touches every parameter, so `init` uses it."""
        logits = self.generate(ids_BL, inputs, positions_BP, is_training=False)
        return logits, [self.detect(ids_BL, inputs, (course,), is_training=False) for course in ("rtd", "std", "itd")]

    def detect(self, ids: jax.Array, inputs: EncoderInputs, courses: tuple[str, ...], is_training: bool) -> list[jax.Array]:
        """Corrupted ids [B·C, L] of `courses`, those of a row beside each other → logits [B, L] of each, by its own head."""
        heads = {"rtd": self.discriminator_predictions, "std": self.discriminator_swap_predictions,
                 "itd": self.discriminator_insert_predictions}
        states = self.discriminator_states(ids, inputs, is_training), inputs
        # Of each course every C-th row.
        take = lambda x, index: x.reshape(-1, len(courses), *x.shape[1:])[:, index]  # noqa: E731
        return [heads[course](*jax.tree.map(lambda x: take(x, index), states)) for index, course in enumerate(courses)]  # noqa: B023
