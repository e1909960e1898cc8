"""Generator and discriminator of MCL: ELECTRA's, with a head of its own for each way in which a token can be
wrong.

Shapes: B batch, L length, C courses.
"""

from typing import Any

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
        return logits, [
            self.detect(ids_BL, inputs, (course,), is_training=False) for course in ("rtd", "std", "itd")
        ]

    def detect(
        self, ids: jax.Array, inputs: EncoderInputs, courses: tuple[str, ...], is_training: bool
    ) -> list[jax.Array]:
        """Corrupted ids [B·C, L] of `courses`, those of a row beside each other → logits [B, L] of each, by
        its own head."""
        heads = {
            "rtd": self.discriminator_predictions,
            "std": self.discriminator_swap_predictions,
            "itd": self.discriminator_insert_predictions,
        }
        states = self.discriminator_states(ids, inputs, is_training), inputs
        return [
            heads[course](*of_course)
            for course, of_course in zip(courses, unstack(states, len(courses)), strict=True)
        ]


def unstack(tree: Any, num_courses: int) -> list[Any]:
    """Of arrays [B·C, …], those of a row beside each other, one tree of [B, …] for each course."""

    def of_course(index: int) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, num_courses, *x.shape[1:])[:, index], tree)

    return [of_course(index) for index in range(num_courses)]
