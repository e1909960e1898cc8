"""Predictions of a pre-trained model: fillings of [MASK], or how much each token looks replaced.

Shapes: B batch, L length, n tokens of a text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from scipy.special import expit

from data_pipelines.tasks.unlabelled import Unlabelled, Wanted
from electra_jax.finetuning.batches import padded_length
from electra_jax.prediction.pretrained import Networks, Pretrained
from electra_jax.prediction.records import Record, Table, number
from electra_jax.prediction.spelling import Spelled
from electra_jax.prediction.tasks import Columns

SUSPICIOUS = 0.5  # a token whose probability of being replaced is higher


class Part(NamedTuple):
    """Neighbouring tokens of a text that fit into a row."""

    text: int  # index of the text
    start: int  # index of the first token
    stop: int


def parts_of(spelled: Sequence[Spelled], max_length: int) -> list[Part]:
    """Rows for all tokens, as fine-tuning divides long sentences: no token is left out or in two rows."""
    room = max_length - 2
    return [
        Part(number, start, min(start + room, len(one.ids)))
        for number, one in enumerate(spelled)
        for start in range(0, len(one.ids), room)
    ]


def batches_of(
    parts: Sequence[Part], ids: Sequence[np.ndarray], pretrained: Pretrained, batch_size: int
) -> Iterator[tuple[list[Part], np.ndarray]]:
    """(parts, their ids [B, L] with [CLS] and [SEP]), parts of similar length together, in few shapes."""
    special = pretrained.tokenizer.special
    ordered = sorted(parts, key=lambda part: part.stop - part.start)
    for at in range(0, len(ordered), batch_size):
        batch = ordered[at : at + batch_size]
        length = padded_length(2 + max(part.stop - part.start for part in batch))
        ids_BL = np.full((batch_size, length), special.pad, np.int32)
        for ids_L, part in zip(ids_BL, batch, strict=False):
            row = [special.cls, *ids[part.text][part.start : part.stop], special.sep]
            ids_L[: len(row)] = row
        yield batch, ids_BL


class TokenPredictor:
    """A pre-trained model that fills in masks and judges tokens."""

    kind = "tokens"

    def __init__(self, pretrained: Pretrained, batch_size: int, num_fillings: int, mesh: Mesh):
        self.pretrained, self._batch_size = pretrained, batch_size
        weights = pretrained.generator or pretrained.discriminator
        self._num_fillings = min(num_fillings, weights.config.vocab_size)
        self.networks = Networks(pretrained, mesh)
        self.table = Table(("text", "fillings", "tokens"), lambda record: [_fields(record)])

    @property
    def title(self) -> str:
        """What it is, for people."""
        abilities = {
            f"fills in {self.pretrained.speller.mask}": self.pretrained.generator,
            "judges the tokens of texts without it": self.pretrained.discriminator,
        }
        return f"{self.pretrained.row.title}: " + " and ".join(what for what, model in abilities.items() if model)

    def wanted(self, file_format: str, given: Columns) -> Wanted:
        """The columns to read."""
        if given.pair:
            raise ValueError(f"--pair_column: got {given.pair!r}, expected none for a pre-trained model.")
        return Wanted(given.text or "text", "")

    def predict(self, inputs: Sequence[Unlabelled]) -> tuple[list[Record], list[str]]:
        """One record for each input: fillings for a text with [MASK], else a judgement of each token.

        Raises:
          ValueError: the model cannot do that; names the input.
          FloatingPointError: the model computes something that is not a number.
        """
        has_mask = [self.pretrained.speller.has_mask(one.text) for one in inputs]
        for one, is_masked in zip(inputs, has_mask, strict=True):
            check_can(self.pretrained, one.where, fills=is_masked)
        spelled = self.pretrained.speller.spell([one.text for one in inputs], with_masks=True)
        masked = [one if is_masked else None for one, is_masked in zip(spelled, has_mask, strict=True)]
        whole = [None if is_masked else one for one, is_masked in zip(spelled, has_mask, strict=True)]
        fillings, scores = self._fill(masked), self.scores(whole)
        records = []
        for number_, (one, is_masked) in enumerate(zip(inputs, has_mask, strict=True)):
            found = (
                {"masks": fillings[number_]}
                if is_masked
                else {"tokens": self._judged(one.text, spelled[number_], scores[number_])}
            )
            records.append({"text": one.text} | found)
        return records, []

    def _fill(self, spelled: Sequence[Spelled | None]) -> dict[int, list[list[Record]]]:
        """Text → fillings of each mask."""
        found: dict[int, list[tuple[int, list[Record]]]] = {}
        for batch, ids_BL in self._batches(spelled):
            is_mask_BL = self.mask_of(batch, spelled, ids_BL)
            if not is_mask_BL.any():
                continue
            filled = self.networks.fill(ids_BL, is_mask_BL, self._num_fillings)
            rows, columns = np.nonzero(is_mask_BL)
            for mask, (row, column) in enumerate(zip(rows, columns, strict=True)):
                choices = [
                    {"token": self.pretrained.speller.piece(piece), "id": int(piece), "probability": number(share)}
                    for piece, share in zip(filled.ids_MK[mask], filled.probabilities_MK[mask], strict=True)
                ]
                part = batch[row]
                found.setdefault(part.text, []).append((part.start + column, choices))
        return {text: [choices for _, choices in sorted(masks, key=lambda one: one[0])] for text, masks in found.items()}

    def scores(self, spelled: Sequence[Spelled | None]) -> dict[int, np.ndarray]:
        """Text → score [n] of each token: the probability that it was replaced, or its energy."""
        found = {number: np.zeros(len(one.ids)) for number, one in enumerate(spelled) if one is not None}
        for batch, ids_BL in self._batches(spelled):
            logits_BL = np.float64(self.networks.logits(ids_BL))
            scores_BL = expit(logits_BL) if self.pretrained.row.logit_is_log_odds else logits_BL
            for part, scores_L in zip(batch, scores_BL, strict=False):
                found[part.text][part.start : part.stop] = scores_L[1 : 1 + part.stop - part.start]
        return found

    def _batches(self, spelled: Sequence[Spelled | None]) -> Iterator[tuple[list[Part], np.ndarray]]:
        empty = np.zeros(0, np.int32)
        ids = [empty if one is None else one.ids for one in spelled]
        kept = [Spelled(empty, empty, empty) if one is None else one for one in spelled]
        return batches_of(parts_of(kept, self.pretrained.max_length), ids, self.pretrained, self._batch_size)

    def mask_of(
        self, batch: Sequence[Part], spelled: Sequence[Spelled | None], ids_BL: np.ndarray
    ) -> np.ndarray:
        """Bool [B, L], where the rows of a batch have masks."""
        is_mask_BL = np.zeros(ids_BL.shape, bool)
        for is_mask_L, part in zip(is_mask_BL, batch, strict=False):
            is_mask_L[1 : 1 + part.stop - part.start] = spelled[part.text].is_mask[part.start : part.stop]
        return is_mask_BL

    def _judged(self, text: str, spelled: Spelled, scores_n: np.ndarray) -> list[Record]:
        is_probability = self.pretrained.row.logit_is_log_odds
        tokens = []
        for (start, end), piece, score in zip(spelled.offsets.tolist(), spelled.ids, scores_n, strict=True):
            token = {"token": self.pretrained.speller.piece(piece), "start": start, "end": end}
            suspicious = {"is_suspicious": bool(score > SUSPICIOUS)} if is_probability else {}
            tokens.append(token | {"replaced" if is_probability else "energy": number(score)} | suspicious)
        return tokens


def check_can(pretrained: Pretrained, where: str, *, fills: bool) -> None:
    """Raises ValueError if the model cannot fill in masks, or with `fills` False cannot judge tokens."""
    if (pretrained.generator if fills else pretrained.discriminator) is not None:
        return
    mask, title = pretrained.speller.mask, pretrained.row.title
    got, lacks, remedy = (
        (f"a text with {mask}", "generator that fills it in", "Leave it out to have the tokens judged")
        if fills
        else (f"a text without {mask}", "discriminator that judges tokens", f"Put {mask} where it is to fill in")
    )
    raise ValueError(
        f"{where}: got {got}, but {pretrained.name} ({title}) has no {lacks}. {remedy}, or give another --model; "
        "of an export with two folders give the directory above them."
    )


def _fields(record: Record) -> list[str]:
    """Fields of a table: the text, the fillings of each mask, the tokens with "!" after suspicious ones."""
    fillings = " | ".join(
        ", ".join(f"{one['token']} {one['probability']:.3f}" for one in choices)
        for choices in record.get("masks", [])
    )
    tokens = ", ".join(
        f"{one['token']} {one.get('replaced', one.get('energy')):.3f}{'!' * one.get('is_suspicious', False)}"
        for one in record.get("tokens", [])
    )
    return [record["text"], fillings, tokens]
