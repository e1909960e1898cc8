"""How replaced token detection works, on the user's own sentences: some tokens are masked, the generator
fills them in, and the discriminator gives for each token the probability that it was replaced.

Shapes: n tokens of a text.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from data_pipelines.tasks.unlabelled import Unlabelled
from electra_jax.prediction.records import Record, number
from electra_jax.prediction.spelling import Spelled
from electra_jax.prediction.tokens import SUSPICIOUS, TokenPredictor

MASKED_SHARE = 0.15  # of the tokens; the default of config.objective.mask_prob
WIDTH = 100  # columns of text, unless a terminal has another width
GAP = "  "
# (is the token another one, is it suspicious) → the discriminator's success.
VERDICTS = {(True, True): "found", (True, False): "missed", (False, True): "wrong", (False, False): ""}


class Demonstrator:
    """Masks, fills in and judges; what a model cannot do is left out."""

    def __init__(self, predictor: TokenPredictor, seed: int):
        self._predictor, self._seed, self._count = predictor, seed, 0
        self.wanted, self.title, self.kind, self.table = (
            predictor.wanted,
            predictor.title,
            predictor.kind,
            predictor.table,
        )

    def predict(self, inputs: Sequence[Unlabelled]) -> tuple[list[Record], list[str]]:
        """One record for each input: for each token what was drawn for it, and how suspicious it looks.

        Raises:
          ValueError: a text has masks already. FloatingPointError: as `TokenPredictor.predict`.
        """
        pretrained = self._predictor.pretrained
        for one in inputs:
            if pretrained.speller.has_mask(one.text):
                raise ValueError(
                    f"{one.where}: got a text with {pretrained.speller.mask}, expected whole sentences: "
                    "--demo chooses the masks itself. Leave out --demo to have this one filled in."
                )
        spelled = pretrained.speller.spell([one.text for one in inputs], with_masks=False)
        judged = self.demonstrate(spelled)
        return [{"text": one.text, "tokens": tokens} for one, tokens in zip(inputs, judged, strict=True)], []

    def demonstrate(self, spelled: Sequence[Spelled]) -> list[list[Record]]:
        """For each token of each text what was drawn for it, and how suspicious it looks.

        Raises:
          FloatingPointError: as `TokenPredictor.predict`.
        """
        pretrained = self._predictor.pretrained
        # The text's number decides, so that the masks do not depend on how many texts are read at once.
        sources = [np.random.default_rng((self._seed, self._count + at)) for at in range(len(spelled))]
        self._count += len(spelled)
        drawn = [{} for _ in spelled]
        if pretrained.generator is not None:
            masked = [
                _masked(one, source, pretrained.tokenizer.special.mask)
                for one, source in zip(spelled, sources, strict=True)
            ]
            uniforms = [
                source.random(len(one.ids), np.float32) for one, source in zip(spelled, sources, strict=True)
            ]
            drawn = self._predictor.filled(masked, uniforms)
        corrupted = [_written(one, filled) for one, filled in zip(spelled, drawn, strict=True)]
        scores = None if pretrained.discriminator is None else self._predictor.scores(corrupted)
        judged = []
        for at, one in enumerate(spelled):
            tokens = [{"token": pretrained.speller.piece(piece)} for piece in one.ids]
            for place, filled in drawn[at].items():
                tokens[place] |= {
                    "drawn": pretrained.speller.piece(filled.ids[0]),
                    "probability": number(filled.probabilities[0]),
                    "is_replaced": bool(filled.ids[0] != one.ids[place]),
                }
            if scores is not None:
                name = "replaced" if pretrained.row.logit_is_log_odds else "energy"
                tokens = [
                    token | {name: number(score)} for token, score in zip(tokens, scores[at], strict=True)
                ]
            judged.append(tokens)
        return judged


def _masked(spelled: Spelled, source: np.random.Generator, mask: int) -> Spelled:
    """The text with MASKED_SHARE of its tokens masked, at least one."""
    count = len(spelled.ids)
    chosen = source.permutation(count)[: max(1, round(MASKED_SHARE * count))]
    is_mask = np.isin(np.arange(count), chosen)
    return spelled._replace(ids=np.where(is_mask, mask, spelled.ids).astype(np.int32), is_mask=is_mask)


def _written(spelled: Spelled, drawn: dict) -> Spelled:
    """The text with the drawn tokens in the place of the masked ones."""
    ids = spelled.ids.copy()
    for place, filled in drawn.items():
        ids[place] = filled.ids[0]
    return spelled._replace(ids=ids)


def shown(record: Record, mask: str, width: int) -> str:
    """A record for people: a block of aligned lines for as many tokens as fit into `width` columns, and a
    summary."""
    rows = _rows(record["tokens"], mask)
    columns = [list(cells) for cells in zip(*rows.values(), strict=True)]
    names = list(rows)
    margin = max(map(len, names))
    lines, block, used = [], [[name.ljust(margin)] for name in names], margin
    for cells in columns:
        size = max(map(_columns, cells))
        if used + len(GAP) + size > width and used > margin:
            lines += [*_joined(block), ""]
            block, used = [[name.ljust(margin)] for name in names], margin
        for line, cell in zip(block, cells, strict=True):
            line.append(cell + " " * (size - _columns(cell)))
        used += len(GAP) + size
    return "\n".join([*lines, *_joined(block), *_summary(record["tokens"]), "", ""])


def _joined(block: list[list[str]]) -> list[str]:
    return [GAP.join(cells).rstrip() for cells in block]


def _rows(tokens: Sequence[Record], mask: str) -> dict[str, list[str]]:
    """Name → a cell for each token; lines without content are left out."""
    rows = {
        "text": [token["token"] for token in tokens],
        "masked": [mask if "drawn" in token else "" for token in tokens],
        "generator": [token.get("drawn", "") for token in tokens],
        "its probability": [f"{token['probability']:.0%}" if "drawn" in token else "" for token in tokens],
        "replaced?": [f"{token['replaced']:.0%}" if "replaced" in token else "" for token in tokens],
        "verdict": [_verdict(token) for token in tokens],
        "energy": [f"{token['energy']:.1f}" if "energy" in token else "" for token in tokens],
    }
    return {name: cells for name, cells in rows.items() if any(cells)} or {"text": []}


def _verdict(token: Record) -> str:
    if "replaced" not in token:
        return ""
    return VERDICTS[token.get("is_replaced", False), token["replaced"] > SUSPICIOUS]


def _summary(tokens: Sequence[Record]) -> list[str]:
    """What happened, in a line; nothing if nothing was masked."""
    drawn = [token for token in tokens if "drawn" in token]
    if not drawn:
        return []
    num_replaced = sum(token["is_replaced"] for token in drawn)
    line = (
        f"{len(drawn)} of {len(tokens)} tokens masked: the generator restored {len(drawn) - num_replaced} "
        f"and replaced {num_replaced}."
    )
    if any("replaced" in token for token in tokens):
        verdicts = [_verdict(token) for token in tokens]
        most = sorted(tokens, key=lambda token: -token["replaced"])[:num_replaced]
        line += (
            f" The discriminator found {verdicts.count('found')} of {num_replaced}, and suspects "
            f"{verdicts.count('wrong')} of the other {len(tokens) - num_replaced}; "
            f"{sum(token.get('is_replaced', False) for token in most)} of its {num_replaced} most suspicious "
            "tokens are replaced."
        )
    return [line]


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)
