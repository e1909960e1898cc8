"""How far the discriminator's token embeddings have moved away from the generator's.

Shapes: V vocab, E embedding_size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

TABLES = ("generator_embeddings", "discriminator_embeddings")  # top-level modules
SMALL = 1e-12  # keeps a row of zeros from dividing by zero


def table_comparison(params: Any) -> Callable[[Any], dict[str, jax.Array]] | None:
    """The function parameters → metrics that compares the two token tables, to be jitted; None for a model
    whose encoders read one table.

    embedding_cosine: mean over the tokens of the cosine between their two embeddings. It is 1 at the start
      with gradient-disentangled embedding sharing (GDES) and about 0 with separate tables.
    embedding_norm_ratio: root mean square of the discriminator's table over that of the generator's.

    Args:
      params: parameters or their shapes; they are not read.
    """
    if not set(TABLES) <= set(params):
        return None
    if "word_embeddings" not in params["discriminator_embeddings"]:  # tied: it uses the generator's
        return None

    def compare(params: Any) -> dict[str, jax.Array]:
        generator_VE, discriminator_VE = _tables(params)
        length = lambda table_VE: jnp.sqrt(jnp.square(table_VE).sum(-1) + SMALL)
        products_V = (generator_VE * discriminator_VE).sum(-1)
        cosines_V = products_V / (length(generator_VE) * length(discriminator_VE))
        size = lambda table_VE: jnp.sqrt(jnp.square(table_VE).mean() + SMALL)
        return {
            "embedding_cosine": cosines_V.mean(),
            "embedding_norm_ratio": size(discriminator_VE) / size(generator_VE),
        }

    return compare


def _tables(params: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The token tables [V, E] that generator and discriminator use."""
    generator, discriminator = (params[name]["word_embeddings"] for name in TABLES)
    base_VE = generator["embedding"]
    return base_VE, discriminator["embedding"] if "embedding" in discriminator else (
        base_VE + discriminator["delta"]
    )
