"""A token view as tables: a column for each token, a row for each checkpoint."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from electra_jax.prediction.demonstration import VERDICTS
from electra_jax.prediction.tokens import SUSPICIOUS
from electra_jax.reports.token_views import TokenView

WIDTH = 96  # letters of a table; longer sentences continue in another one
MIN_CELL = 4  # letters


class Cell(NamedTuple):
    """A token at a checkpoint."""

    wrote: str  # what the generator drew; "" where nothing was masked
    share: str  # the generator's probability of it, in percent
    percent: int | None  # the discriminator's probability that it was replaced; None without one
    energy: str  # of Electric, which gives no probability
    verdict: str  # found, missed, wrong; "" for a token that was rightly believed
    is_replaced: bool


class Block(NamedTuple):
    """Neighbouring tokens of a sentence."""

    tokens: list[str]
    is_masked: list[bool]
    rows: list[tuple[int, list[Cell]]]  # (step, cells)


def blocks_of(views: Sequence[TokenView]) -> list[list[Block]]:
    """For each sentence its blocks. A checkpoint without the sentence is left out."""
    count = max((len(view.sentences) for view in views), default=0)
    return [
        _blocks([(view.step, view.sentences[at]) for view in views if at < len(view.sentences)])
        for at in range(count)
    ]


def _blocks(rows: Sequence[tuple[int, list[dict[str, Any]]]]) -> list[Block]:
    tokens = [token["token"] for token in rows[0][1]]
    rows = [(step, found) for step, found in rows if [token["token"] for token in found] == tokens]
    sizes = [
        max([MIN_CELL, len(token), *(len(found[at].get("drawn", "")) for _, found in rows)])
        for at, token in enumerate(tokens)
    ]
    blocks, start, used = [], 0, 0
    for at, size in enumerate([*sizes, WIDTH + 1]):
        if at > start and used + size > WIDTH:
            part = slice(start, at)
            masked = ["drawn" in token for token in rows[0][1][part]]
            cells = [(step, [_cell(token) for token in found[part]]) for step, found in rows]
            blocks.append(Block(tokens[part], masked, cells))
            start, used = at, 0
        used += size
    return blocks


def _cell(token: dict[str, Any]) -> Cell:
    is_replaced = token.get("is_replaced", False)
    percent, verdict = None, ""
    if "replaced" in token:
        percent = round(100 * min(max(token["replaced"], 0.0), 1.0))
        verdict = VERDICTS[is_replaced, token["replaced"] > SUSPICIOUS]
    return Cell(
        token.get("drawn", ""),
        f"{token['probability']:.0%}" if "probability" in token else "",
        percent,
        f"{token['energy']:.1f}" if "energy" in token else "",
        verdict,
        is_replaced,
    )


def verdict_counts(views: Sequence[TokenView]) -> list[tuple[int, dict[str, int]]]:
    """(step, how many tokens were replaced, and how many the discriminator found, missed and wrongly
    suspected), over all sentences."""
    counted = []
    for view in views:
        cells = [_cell(token) for sentence in view.sentences for token in sentence]
        verdicts = [cell.verdict for cell in cells]
        counts = {"tokens": len(cells), "masked": sum(bool(cell.share) for cell in cells)}
        counts["replaced"] = sum(cell.is_replaced for cell in cells)
        counted.append(
            (view.step, counts | {name: verdicts.count(name) for name in VERDICTS.values() if name})
        )
    return counted
