"""Families of encoders: how they differ in all but attention. config.model.position names the family."""

from typing import NamedTuple


class Family(NamedTuple):
    """One row for each family; what it computes is in the modules that read a field."""

    truncates_initial_values: bool  # tables and kernels: normal, truncated at two standard deviations
    # Initial values of embeddings_project and of the last layer of the discriminator's head: "glorot",
    # "as_others", or "inverse_root", truncated normal with a standard deviation of 1/√hidden_size.
    last_kernels: str
    # Kernels whose products are added to the residual stream start smaller, by 1/√(2 · num_layers).
    shrinks_residual_kernels: bool
    has_biases: bool  # of products and LayerNorms; the last layer of a head always has one
    inner_width: float  # usual width of the feed-forward layer, in multiples of hidden_size
    zeroes_padding: bool  # the embeddings of padding are zero
    adds_cls_in_head: bool  # the discriminator's head adds the state of [CLS] to each token, then a LayerNorm
    normalizes_in_head: bool  # the discriminator's head has a LayerNorm after GELU
    ties_whole_embeddings: (
        bool  # embedding_sharing "tied": all of Embeddings, not only word and position tables
    )
    task_head: str  # "electra", "deberta" or "modern": the head of downstream tasks (finetuning/models.py)


BERT = Family(
    truncates_initial_values=True,
    last_kernels="glorot",
    shrinks_residual_kernels=False,
    has_biases=True,
    inner_width=4.0,
    zeroes_padding=False,
    adds_cls_in_head=False,
    normalizes_in_head=False,
    ties_whole_embeddings=True,
    task_head="electra",
)
# COCO-LM, whose encoder is BERT's, draws a plain normal for every table and kernel (microsoft/COCO-LM,
# init_bert_params).
COCO_LM = BERT._replace(truncates_initial_values=False, last_kernels="as_others")
DEBERTA = Family(
    truncates_initial_values=False,
    last_kernels="as_others",
    shrinks_residual_kernels=False,
    has_biases=True,
    inner_width=4.0,
    zeroes_padding=True,
    adds_cls_in_head=True,
    normalizes_in_head=False,
    ties_whole_embeddings=False,
    task_head="deberta",
)
MODERN = Family(
    truncates_initial_values=True,
    last_kernels="inverse_root",
    shrinks_residual_kernels=True,
    has_biases=False,
    inner_width=1.5,  # all sizes but large and 1b
    zeroes_padding=False,
    adds_cls_in_head=False,
    normalizes_in_head=True,
    # The LayerNorm of the embeddings scales the residual stream, and the two encoders have different depths.
    ties_whole_embeddings=False,
    task_head="modern",
)

# config.model.position → family.
FAMILIES = {"absolute": BERT, "disentangled": DEBERTA, "relative_bias": COCO_LM, "rotary": MODERN}
