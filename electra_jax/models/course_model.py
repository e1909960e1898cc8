"""Generator and discriminator of MCL: ELECTRA's, with one detection head for each kind of wrong token.

Shapes: B batch, L length, C courses.
"""

from typing import Any

import jax

from electra_jax.models.heads import DiscriminatorPredictions
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.pretraining import PretrainingModel


class CourseModel(PretrainingModel):
    """A `PretrainingModel` that judges the rows of several courses in one pass."""

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
        """Corrupted ids [B·C, L], in which the courses of a row are adjacent → logits [B, L] of each course,
        from its head."""
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
    """One tree of arrays [B, …] for each course, from arrays [B·C, …] in which the courses of a row are
    adjacent."""

    def of_course(index: int) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, num_courses, *x.shape[1:])[:, index], tree)

    return [of_course(index) for index in range(num_courses)]
