"""How each family of encoders is published: a row for every value of config.model.position.

Names of arrays are in names.py and modernbert.py, fields of config.json in configuration.py and
modernbert.py; what else differs between the families' classes in `transformers` is here.
"""

from typing import NamedTuple

from electra_jax.huggingface.configuration import RELATIVE_BIAS_PREFIX
from electra_jax.huggingface.modernbert import MODERN_BERT
from electra_jax.huggingface.names import DEBERTA_V2, ELECTRA, Family
from electra_jax.huggingface.tokenizer import INPUT_NAMES
from electra_jax.models.config import EncoderConfig


class PublishedFamily(NamedTuple):
    """What distinguishes a family in an export."""

    names: Family  # of its arrays
    class_prefix: str  # of its classes
    input_names: tuple[str, ...]  # that its classes take, for the tokenizer
    needs_token_types: bool  # its classes have a table of token types in any case
    has_head_file: bool  # its discriminator's class has no detection head, which is exported beside it
    detector: str | None  # class of `transformers` that loads the discriminator with that head
    name: str  # for people
    card_name: str | None  # in the title of a pre-training model's card; None: the objective's name for it
    tag: str  # in the front matter of cards
    head_text: str  # a sentence of the discriminator's card about its head, or ""
    head_code: str  # the same if the head is part of the model by code of ours, or ""
    dropout_fields: dict[str, str]  # task type → field of config.json with the dropout of the task's head
    pooling_field: str | None  # of config.json, with what the head for whole texts reads; None: always [CLS]

    @property
    def has_position_table(self) -> bool:
        """Whether a table limits the length of rows; without one, it is limited by the rows of training."""
        return any(ours == "embeddings/position_embeddings" for _, ours, _ in self.names.rows)


_OF_SEQUENCES = ("classification", "regression")

_ELECTRA = PublishedFamily(
    names=ELECTRA,
    class_prefix="Electra",
    input_names=INPUT_NAMES,
    needs_token_types=True,
    has_head_file=False,
    detector=None,
    name="ELECTRA",
    card_name=None,
    tag="electra",
    head_text="",
    head_code="",
    dropout_fields=dict.fromkeys((*_OF_SEQUENCES, "tagging"), "classifier_dropout"),
    pooling_field=None,
)
# config.model.position → its family.
FAMILIES = {
    "absolute": _ELECTRA,
    "relative_bias": _ELECTRA._replace(class_prefix=RELATIVE_BIAS_PREFIX, needs_token_types=False),
    "disentangled": PublishedFamily(
        names=DEBERTA_V2,
        class_prefix="DebertaV2",
        input_names=INPUT_NAMES,
        needs_token_types=False,
        has_head_file=True,
        detector=None,
        name="DeBERTa",
        card_name="DeBERTaV3",
        tag="deberta-v2",
        head_text=(
            "Its replaced token detection head is in `rtd_head.safetensors` (LayerNorm(state + state of "
            "[CLS]), dense, GELU, one logit): `transformers` has no class for it."
        ),
        head_code=(
            "Its replaced token detection head is part of the model (`AutoModelForPreTraining` with "
            "`trust_remote_code=True`)."
        ),
        dropout_fields=dict.fromkeys(_OF_SEQUENCES, "cls_dropout"),
        pooling_field=None,
    ),
    "rotary": PublishedFamily(
        names=MODERN_BERT,
        class_prefix="ModernBert",
        input_names=("input_ids", "attention_mask"),
        needs_token_types=False,
        has_head_file=True,
        detector="ModernBertForTokenClassification",
        name="ModernBERT",
        card_name="ModernBERT",
        tag="modernbert",
        head_text=(
            "Its replaced token detection head is in `rtd_head.safetensors`: `AutoModelForTokenClassification"
            '.from_pretrained(path, variant="detector", num_labels=1)` loads both and gives one logit for '
            "each token, positive for a replaced one."
        ),
        head_code="",
        dropout_fields=dict.fromkeys((*_OF_SEQUENCES, "tagging", "question_answering"), "classifier_dropout"),
        pooling_field="classifier_pooling",
    ),
}


def family_of(encoder: EncoderConfig) -> PublishedFamily:
    """How the family of an encoder is published."""
    return FAMILIES[encoder.position]


def readable_length(encoder: EncoderConfig, trained_length: int) -> int:
    """Tokens in the longest row that an encoder reads, as its exported tokenizer states them.

    Args:
      trained_length: ids in the longest rows that it was trained on.
    Raises:
      ValueError: that is not a length.
    """
    if trained_length < 1:
        raise ValueError(
            f"trained_length: got {trained_length}, expected at least 1. Restore the file that holds it."
        )
    limit = encoder.max_position_embeddings
    return limit if family_of(encoder).has_position_table else min(limit, trained_length)
