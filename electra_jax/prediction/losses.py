"""How well the generator predicts a text: the mean loss of masked tokens, one number for each text.

This is perplexity (its logarithm) for a model that sees both sides, as CCNet chooses documents by that of an
n-gram model (Wenzek et al. 2020, arXiv:1911.00359, section 4.3). Pseudo-perplexity masks one token at a time
(Salazar et al. 2020, arXiv:1910.14659), with a forward pass for each token. Here 15 % are masked at once, as
in pre-training: one pass for 126 tokens of a row of 128, or up to seven, after which every token was masked.

Shapes: B batch, L length, P masked positions, n tokens of a row without [CLS] and [SEP].
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from data_pipelines.tasks.unlabelled import Unlabelled, Wanted
from electra_jax.finetuning.padding import padded_length
from electra_jax.huggingface.reference import in_float32
from electra_jax.prediction.demonstration import MASKED_SHARE
from electra_jax.prediction.pretrained import Networks, Pretrained
from electra_jax.prediction.records import Record, number, one_line
from electra_jax.prediction.tasks import Columns
from electra_jax.prediction.tokens import parts_of


class _Query(NamedTuple):
    """A row with some of its tokens masked."""

    text: int  # index of its text
    row_n: np.ndarray  # the tokens, not masked
    masked_P: np.ndarray  # their indices

    @property
    def length(self) -> int:
        """What the row is padded to, which depends on nothing else."""
        return padded_length(2 + len(self.row_n))


class LossPredictor:
    """A pre-trained model that gives each text a loss.

    Args:
      field: of the records, for the loss.
      seed: which tokens are masked.
      copies: of each row, each with other tokens masked; of short rows fewer.

    Raises:
      ValueError: the model has no generator.
    """

    kind = "losses"

    def __init__(
        self, pretrained: Pretrained, batch_size: int, mesh: Mesh, field: str, seed: int, copies: int
    ):
        if pretrained.generator is None:
            raise ValueError(
                f"--loss_field: got {pretrained.name} ({pretrained.row.title}), which has no generator that "
                "fills in masks, expected a model with one. Give another --model; of an export with two "
                "folders give the directory above them."
            )
        exact = pretrained.generator._replace(config=in_float32(pretrained.generator.config))
        self._pretrained = pretrained._replace(generator=exact, discriminator=None)
        self._networks = Networks(self._pretrained, mesh)
        self._batch_size, self._field, self._seed, self._copies = batch_size, field, seed, copies
        self.table = one_line("text", field)
        self.title = f"{pretrained.row.title}: the mean loss of masked tokens"

    def wanted(self, file_format: str, given: Columns) -> Wanted:
        """The columns to read."""
        if given.pair:
            raise ValueError(f"--pair_column: got {given.pair!r}, expected none for a pre-trained model.")
        text = given.text or "text"
        # Records of other formats have the text under this name, whatever their column.
        self.table = one_line(text if file_format == "jsonl" else "text", self._field)
        return Wanted(text, "")

    def predict(self, inputs: Sequence[Unlabelled]) -> tuple[list[Record], list[str]]:
        """One record for each input: the fields of its JSON line, or its text, and the loss in nats a token;
        None for a text without tokens.

        Raises:
          ValueError: a record has the field already. FloatingPointError: the model's numbers are not finite.
        """
        records = [one.fields or {"text": one.text} for one in inputs]
        for one, record in zip(inputs, records, strict=True):
            if self._field in record:
                raise ValueError(
                    f"{one.where}: the record has a field {self._field!r} already; name another with "
                    "--loss_field"
                )
        losses = self.losses([one.text for one in inputs])
        scored = [
            _finite(record) | {self._field: None if math.isnan(loss) else number(loss)}
            for record, loss in zip(records, losses, strict=True)
        ]
        return scored, []

    def losses(self, texts: Sequence[str]) -> np.ndarray:
        """The mean loss of each text's masked tokens, float64 [texts]; NaN without tokens. Which tokens are
        masked depends on the text and the seed alone."""
        totals, counts = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        special = self._pretrained.tokenizer.special
        for queries, length in self._batches(self._queries(texts)):
            num_masked = mask_count(length - 2)
            ids_BL = np.full((self._batch_size, length), special.pad, np.int32)
            positions_BP = np.zeros((self._batch_size, num_masked), np.int32)
            tokens_BP = np.zeros_like(positions_BP)
            for at, (_, row_n, masked_P) in enumerate(queries):
                ids_BL[at, : len(row_n) + 2] = [special.cls, *row_n, special.sep]
                ids_BL[at, 1 + masked_P] = special.mask
                positions_BP[at, : len(masked_P)] = 1 + masked_P
                tokens_BP[at, : len(masked_P)] = row_n[masked_P]
            losses_BP = -np.float64(self._networks.log_probs(ids_BL, positions_BP, tokens_BP))
            for losses_P, query in zip(losses_BP, queries, strict=False):
                totals[query.text] += losses_P[: len(query.masked_P)].sum()
                counts[query.text] += len(query.masked_P)
        return np.where(counts, totals / np.maximum(counts, 1), np.nan)

    def _queries(self, texts: Sequence[str]) -> list[_Query]:
        spelled = self._pretrained.speller.spell(texts, with_masks=False)
        sources = [np.random.default_rng((self._seed, _hash(text))) for text in texts]
        queries = []
        for part in parts_of(spelled, self._pretrained.max_length):
            row_n = spelled[part.text].ids[part.start : part.stop]
            order_n, count = sources[part.text].permutation(len(row_n)), mask_count(len(row_n))
            for start in range(0, min(len(row_n), self._copies * count), count):
                queries.append(_Query(part.text, row_n, order_n[start : start + count]))
        return queries

    def _batches(self, queries: Sequence[_Query]) -> Iterator[tuple[list[_Query], int]]:
        """Queries of one length, and that length."""
        by_length: dict[int, list[_Query]] = {}
        for query in queries:
            # No longer than the model's rows: there are no positions beyond.
            by_length.setdefault(min(query.length, self._pretrained.max_length), []).append(query)
        for length, some in sorted(by_length.items()):
            for start in range(0, len(some), self._batch_size):
                yield some[start : start + self._batch_size], length


def mask_count(num_tokens: int) -> int:
    """How many tokens of a row are masked at once."""
    return max(1, round(MASKED_SHARE * num_tokens))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _finite(value: Any) -> Any:
    """A value as JSON has it: null in place of NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
