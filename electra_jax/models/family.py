"""Families of encoders: how they differ in all but attention. config.model.position names the family."""

from typing import NamedTuple


class Family(NamedTuple):
    """One row for each family; what it computes is in the modules that read a field."""

    truncates_initial_values: bool  # tables and kernels: normal, truncated at two standard deviations
    has_glorot_last_kernels: bool  # in embeddings_project and in the last layer of the discriminator's head
    zeroes_padding: bool  # the embeddings of padding are zero
    adds_cls_in_head: bool  # the discriminator's head adds the state of [CLS] to each token, then a LayerNorm
    ties_whole_embeddings: (
        bool  # embedding_sharing "tied": all of Embeddings, not only word and position tables
    )


BERT = Family(
    truncates_initial_values=True,
    has_glorot_last_kernels=True,
    zeroes_padding=False,
    adds_cls_in_head=False,
    ties_whole_embeddings=True,
)
DEBERTA = Family(
    truncates_initial_values=False,
    has_glorot_last_kernels=False,
    zeroes_padding=True,
    adds_cls_in_head=True,
    ties_whole_embeddings=False,
)

# config.model.position → family.
FAMILIES = {"absolute": BERT, "disentangled": DEBERTA, "relative_bias": BERT}
