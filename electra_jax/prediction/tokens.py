"""Predictions of a pre-trained model: fillings of [MASK], or how much each token looks replaced.

Shapes: B batch, L length, n tokens of a text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from data_pipelines.tasks.unlabelled import Unlabelled, Wanted
from electra_jax.finetuning.padding import padded_length
from electra_jax.prediction.pretrained import Filled, Networks, Pretrained
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
        return f"{self.pretrained.row.title}: " + " and ".join(
            what for what, model in abilities.items() if model
        )

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
            if one.text.strip():  # a blank line has a record without tokens
                check_can(self.pretrained, one.where, fills=is_masked)
        spelled = self.pretrained.speller.spell([one.text for one in inputs], with_masks=True)
        fillings = self.filled(_only(spelled, has_mask))
        scores = self.scores(_only(spelled, [not is_masked for is_masked in has_mask]))
        records = []
        for at, (one, is_masked) in enumerate(zip(inputs, has_mask, strict=True)):
            if is_masked:
                found = {"masks": [self._choices(filled) for filled in fillings[at].values()]}
            else:
                found = {"tokens": self._judged(spelled[at], scores[at])}
            records.append({"text": one.text} | found)
        return records, []

    def _choices(self, filled: Filled) -> list[Record]:
        piece = self.pretrained.speller.piece
        return [
            {"token": piece(choice), "id": int(choice), "probability": number(share)}
            for choice, share in zip(*filled, strict=True)
        ]

    def filled(
        self, spelled: Sequence[Spelled], uniforms: Sequence[np.ndarray] | None = None
    ) -> list[dict[int, Filled]]:
        """For each text, the position of each mask → the likeliest tokens [K] and their probabilities [K].

        Args:
          uniforms: for each text, a number in [0, 1) for each token [n]; then K is 1, and the token is drawn
            as pre-training draws it.
        """
        found: list[dict[int, Filled]] = [{} for _ in spelled]
        for batch, ids_BL in self._batches(spelled):
            is_mask_BL = _rows_of(batch, [one.is_mask for one in spelled], ids_BL.shape)
            if not is_mask_BL.any():
                continue
            if uniforms is None:
                filled = self.networks.fill(ids_BL, is_mask_BL, self._num_fillings)
            else:
                uniforms_BL = _rows_of(batch, uniforms, ids_BL.shape)
                filled = self.networks.sample(ids_BL, is_mask_BL, uniforms_BL[is_mask_BL])
            for mask, (row, column) in enumerate(np.argwhere(is_mask_BL).tolist()):
                part = batch[row]
                found[part.text][part.start + column - 1] = Filled(*(side[mask] for side in filled))
        return [dict(sorted(masks.items())) for masks in found]

    def scores(self, spelled: Sequence[Spelled]) -> list[np.ndarray]:
        """For each text, a number for each token [n]: the probability that it was replaced, or its energy."""
        from scipy.special import expit  # slow to import

        found = [np.zeros(len(one.ids)) for one in spelled]
        for batch, ids_BL in self._batches(spelled):
            logits_BL = np.float64(self.networks.logits(ids_BL))
            scores_BL = expit(logits_BL) if self.pretrained.row.logit_is_log_odds else logits_BL
            for part, scores_L in zip(batch, scores_BL, strict=False):
                found[part.text][part.start : part.stop] = scores_L[1 : 1 + part.stop - part.start]
        return found

    def _batches(self, spelled: Sequence[Spelled]) -> Iterator[tuple[list[Part], np.ndarray]]:
        """(parts, their ids [B, L] with [CLS] and [SEP]), parts of similar length together, in few shapes."""
        special = self.pretrained.tokenizer.special
        parts = parts_of(spelled, self.pretrained.max_length)
        ordered = sorted(parts, key=lambda part: part.stop - part.start)
        for at in range(0, len(ordered), self._batch_size):
            batch = ordered[at : at + self._batch_size]
            longest = max(part.stop - part.start for part in batch)
            ids_BL = np.full((self._batch_size, padded_length(2 + longest)), special.pad, np.int32)
            for ids_L, part in zip(ids_BL, batch, strict=False):
                row = [special.cls, *spelled[part.text].ids[part.start : part.stop], special.sep]
                ids_L[: len(row)] = row
            yield batch, ids_BL

    def _judged(self, spelled: Spelled, scores_n: np.ndarray) -> list[Record]:
        is_probability = self.pretrained.row.logit_is_log_odds
        tokens = []
        for (start, end), piece, score in zip(spelled.offsets.tolist(), spelled.ids, scores_n, strict=True):
            token = {"token": self.pretrained.speller.piece(piece), "start": start, "end": end}
            token["replaced" if is_probability else "energy"] = number(score)
            tokens.append(token | ({"is_suspicious": bool(score > SUSPICIOUS)} if is_probability else {}))
        return tokens


def _only(spelled: Sequence[Spelled], is_wanted: Sequence[bool]) -> list[Spelled]:
    """The texts, without the tokens of those that are not wanted."""
    return [
        one if wanted else Spelled(*(side[:0] for side in one))
        for one, wanted in zip(spelled, is_wanted, strict=True)
    ]


def _rows_of(batch: Sequence[Part], of_texts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """[B, L] of what belongs to the tokens [n] of each text; zeros elsewhere."""
    rows_BL = np.zeros(shape, of_texts[0].dtype)
    for row_L, part in zip(rows_BL, batch, strict=False):
        row_L[1 : 1 + part.stop - part.start] = of_texts[part.text][part.start : part.stop]
    return rows_BL


def check_can(pretrained: Pretrained, where: str, *, fills: bool) -> None:
    """Raises ValueError if the model cannot fill in masks, or with `fills` False cannot judge tokens."""
    if (pretrained.generator if fills else pretrained.discriminator) is not None:
        return
    mask, title = pretrained.speller.mask, pretrained.row.title
    got, lacks, remedy = (
        (f"a text with {mask}", "generator that fills it in", "Leave it out to have the tokens judged")
        if fills
        else (
            f"a text without {mask}",
            "discriminator that judges tokens",
            f"Put {mask} where it is to fill in",
        )
    )
    raise ValueError(
        f"{where}: got {got}, but {pretrained.name} ({title}) has no {lacks}. {remedy}, or give "
        "another --model; of an export with two folders give the directory above them."
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
