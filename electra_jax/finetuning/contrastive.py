"""Contrastive training of embeddings: the text that belongs to a query must be nearer to it than all other
texts of the batch.

InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4) with the cosine and a temperature as in
SimCSE (Gao et al. 2021, arXiv:2104.08821): in-batch negatives as in its equation 1, hard negatives as in its
equation 5. Without pairs, a text and the same text under another dropout mask are a pair (its section 3).
SimCSE trains through one more dense layer; here the vector that is used is also the one that is trained.

The batch is that of the whole mesh: each query is compared with the texts of all devices. A text is no
negative of a query if it is the same as its pair or as the query itself, or if the two are another pair of
the batch, in either order. The usual case is a paragraph to which several questions belong.

Matryoshka representation learning (Kusupati et al. 2022, arXiv:2205.13147, equation 1) adds up the losses of
the first dimensions of the vectors, for each of some widths, and of all, each with the weight 1.

Shapes: B batch, L length, D hidden, T texts beside each query (its pair, then its hard negatives), S = 1 + T,
C = B · T candidates.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.examples import TextExample
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.finetuning.padding import pad_rows
from electra_jax.models.layers import einsum_f32

ABSENT = -1  # number of a text that is missing
IMPOSSIBLE = -1e9  # logit of a text that is no candidate
SMALLEST_SQUARE = 1e-12  # of a vector's length; shorter ones are not normalised


class TextRow(NamedTuple):
    """The token ids of a text, and in training those of the texts beside it."""

    ids: np.ndarray  # int32 [n], [CLS] … [SEP]
    others: tuple[np.ndarray, ...]  # [T] of its pair and of its hard negatives; () if it stands alone
    numbers: tuple[int, ...]  # [S] of the text and the others: equal texts have equal ones, missing ABSENT
    example: int  # index of the first example with this text


class OtherTexts(NamedTuple):
    """What a batch has beside its queries."""

    ids_BTL: np.ndarray
    numbers_BS: np.ndarray  # see TextRow; rows that fill the batch have ABSENT


class Vectors(NamedTuple):
    """The outputs for a training batch."""

    queries_BD: jax.Array
    others_BTD: jax.Array


def check_widths(widths: Sequence[int], hidden_size: int) -> None:
    """Raises ValueError for a width of config.task.matryoshka that vectors do not have."""
    wide = [width for width in map(int, widths) if width > hidden_size]
    if wide:
        raise ValueError(
            f"config.task.matryoshka: got {', '.join(map(str, wide))}, expected at most {hidden_size}, the "
            f"dimensions of a vector of this encoder, such as {hidden_size // 4},{hidden_size // 2}."
        )


def number_texts(examples: Sequence[EmbeddingExample]) -> dict[str, int]:
    """Text → its number, for the distinct texts of examples: queries first, then pairs, then negatives."""
    texts = [example.text for example in examples]
    texts += [example.pair for example in examples if example.pair is not None]
    texts += [text for example in examples for text in example.negatives if text]
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}


def encode_texts(
    tokenizer: Tokenizer, examples: Sequence[EmbeddingExample], max_length: int
) -> tuple[list[TextRow], list[str]]:
    """A row for each distinct text, in the order of `number_texts`, and phrases that say what did not fit."""
    numbers = number_texts(examples)
    alone = [TextExample(text, None, None) for text in numbers]
    encoded, num_cut = encode_examples(tokenizer, alone, max_length)
    rows = [TextRow(row.ids, (), (number,), number) for number, row in enumerate(encoded)]
    phrase = f"{num_cut:,} of {len(rows):,} different texts cut to {max_length} tokens"
    return rows, [phrase] if num_cut else []


def encode_groups(
    tokenizer: Tokenizer, examples: Sequence[EmbeddingExample], max_length: int
) -> tuple[list[TextRow], list[str]]:
    """A row for each example, to train on."""
    numbers = number_texts(examples)
    alone, phrases = encode_texts(tokenizer, examples, max_length)
    nothing = np.zeros(0, np.int32)
    rows = []
    for index, example in enumerate(examples):
        pair = example.text if example.pair is None else example.pair
        of_group = [numbers.get(text, ABSENT) if text else ABSENT for text in (pair, *example.negatives)]
        others = tuple(nothing if number == ABSENT else alone[number].ids for number in of_group)
        query = numbers[example.text]
        rows.append(TextRow(alone[query].ids, others, (query, *of_group), index))
    return rows, phrases


def make_other_texts(rows: Sequence[TextRow], batch_size: int, pad: int) -> OtherTexts:
    """The texts beside the queries of a batch; all rows have as many."""
    num_others = len(rows[0].others)
    numbers_BS = np.full((batch_size, 1 + num_others), ABSENT, np.int32)
    if not num_others:
        return OtherTexts(np.zeros((batch_size, 0, 0), np.int32), numbers_BS)
    ids_CL = pad_rows([ids for row in rows for ids in row.others], batch_size * num_others, pad)
    numbers_BS[: len(rows)] = [row.numbers for row in rows]
    return OtherTexts(ids_CL.reshape(batch_size, num_others, -1), numbers_BS)


def all_texts(ids_BL: np.ndarray, others: OtherTexts, pad: int) -> np.ndarray:
    """The queries of a batch, and behind them the texts beside them: ids [B + C, L]."""
    rows = [*ids_BL, *others.ids_BTL.reshape(-1, others.ids_BTL.shape[-1])]
    return pad_rows(rows, len(rows), pad)


def contrastive_losses(
    vectors: Vectors, numbers_BS: jax.Array, temperature: float, widths: Sequence[int]
) -> jax.Array:
    """InfoNCE [B] of each query against the texts of the whole batch, see the head of this file.

    Args:
      numbers_BS: see TextRow.
      widths: first dimensions of the vectors whose losses are added to that of all.
    """
    hidden = vectors.queries_BD.shape[-1]
    is_candidate_BC = candidates(numbers_BS)
    candidates_CD = vectors.others_BTD.reshape(-1, hidden)
    # Every device compares its queries with all texts.
    candidates_CD = nn.with_logical_constraint(candidates_CD, (None, None))
    # Only the vectors are kept for the derivative, and not the similarities of every width.
    losses_of = jax.checkpoint(functools.partial(_losses, temperature=temperature))
    return sum(
        losses_of(vectors.queries_BD[:, :width], candidates_CD[:, :width], is_candidate_BC)
        for width in sorted({*widths, hidden})
    )


def candidates(numbers_BS: jax.Array) -> jax.Array:
    """Whether a text [B, C] is compared with a query: its own pair, and all that are no false negatives."""
    queries_B, pairs_B, texts_BT = numbers_BS[:, 0], numbers_BS[:, 1], numbers_BS[:, 1:]
    batch_size, num_others = texts_BT.shape
    texts_1C = nn.with_logical_constraint(texts_BT.reshape(1, -1), (None, None))
    is_query_BC = texts_1C == queries_B[:, None]
    # Query and text belong together if a row R has the two; each row counts in both orders.
    has_query_BR = jnp.concatenate(
        [queries_B[:, None] == queries_B[None], queries_B[:, None] == pairs_B[None]], axis=1
    )
    has_text_RC = jnp.concatenate([texts_1C == pairs_B[:, None], is_query_BC], axis=0)
    belongs_BC = einsum_f32("BR,RC->BC", "float32", has_query_BR, has_text_RC) > 0
    is_out_BC = belongs_BC | is_query_BC | (texts_1C == ABSENT)
    is_first_11T = (jnp.arange(num_others) == 0)[None, None]
    is_own_BC = (jnp.eye(batch_size, dtype=bool)[:, :, None] & is_first_11T).reshape(batch_size, -1)
    return nn.with_logical_constraint(is_own_BC | ~is_out_BC, ("batch", None))


def _losses(
    queries_BD: jax.Array, candidates_CD: jax.Array, is_candidate_BC: jax.Array, temperature: float
) -> jax.Array:
    batch_size = len(queries_BD)
    logits_BC = einsum_f32("BD,CD->BC", "float32", normalized(queries_BD), normalized(candidates_CD))
    logits_BC = nn.with_logical_constraint(logits_BC / temperature, ("batch", None))
    logits_BC = jnp.where(is_candidate_BC, logits_BC, IMPOSSIBLE)
    own_B1 = (jnp.arange(batch_size) * (len(candidates_CD) // batch_size))[:, None]
    own_logits_B = jnp.take_along_axis(logits_BC, own_B1, axis=1)[:, 0]
    return jax.nn.logsumexp(logits_BC, axis=1) - own_logits_B


def normalized(x_BD: jax.Array) -> jax.Array:
    """The vectors with the length 1."""
    return x_BD * jax.lax.rsqrt(jnp.maximum(jnp.square(x_BD).sum(axis=-1, keepdims=True), SMALLEST_SQUARE))
