"""When alarms are raised: each function here looks at the last block of training rows, or at the last
evaluation, and returns what it found, or None. alarms.py has the table.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from electra_jax.objectives.metrics import Detection
from electra_jax.training.run_facts import RunFacts

TREND = 4  # blocks over which a detection should become better; with BLOCK_SHARE a fifth of the run
MIN_RISE = 0.005  # of an AUC in that time: the noise of a block of 100,000 tokens is 0.003
NO_RECALL, SAME_ACCURACY = 0.001, 0.001  # of a discriminator that always gives the same answer
COUNTING = 0.1  # nats above which a loss is below that of counting tokens
BY_HEART = 0.5  # the same in training, for a generator that learnt from its training text alone
# Replaced rates of neighbouring blocks; of the lowest one and a later one.
RATE_JUMP, RATE_RISE = 0.25, 0.1
OVERCONFIDENT = 0.5  # entropy of a distribution over its loss: equal if it is as sure as it is right
# Of the lengths of the two tables. With configs/debug.py, GDES ends at 1.24 and a cosine of 0.86.
NORM_RATIO = 4.0
WORTH_SECONDS = 1.0  # of waiting in a block; less is not worth a change, as in a run of seconds
# An update by Adam is about as large as the learning rate. Parameters of 0.02, as initialised, have a
# spacing of 1.9e-9 in float32: an update of less than half of it is rounded away.
NO_UPDATE = 9e-10


class Block(NamedTuple):
    """Means of training rows, or one evaluation, without "eval/" in names. What is not finite is left out."""

    step: int
    means: Mapping[str, float]
    num_rows: int = 1


class History(NamedTuple):
    """What an alarm judges, the oldest first. The last block or evaluation is the one to judge."""

    training: Sequence[Block]
    evaluations: Sequence[Block]
    # The evaluation with the lowest held-out loss so far, and the training block before it.
    best: tuple[Block, Block | None] | None
    lowest_rates: Mapping[str, float]  # rate of a detection → its lowest block of this stage


class Finding(NamedTuple):
    """Why an alarm is raised."""

    message: str  # the cause, with figures
    figures: Mapping[str, float]


def held_out_loss(block: Block, facts: RunFacts) -> tuple[str, float] | None:
    """(metric, value) of the loss that should fall on held-out text: that of predicting tokens, or where
    nothing learns to predict them that of detecting them."""
    for name in facts.held_out:
        if name in block.means:
            return name, block.means[name]
    return None


def _rise(blocks: Sequence[Block], metric: str) -> float | None:
    """By how much a metric rose in TREND blocks; None if there are not as many."""
    if len(blocks) <= TREND or metric not in blocks[-1 - TREND].means:
        return None
    return blocks[-1].means[metric] - blocks[-1 - TREND].means[metric]


def _is_stuck(history: History, facts: RunFacts, auc: str) -> bool:
    rise = _rise(history.training, auc)
    step = history.training[-1].step
    return step >= facts.late_at(step) and rise is not None and rise < MIN_RISE


def majority_class(history: History, facts: RunFacts, detection: Detection) -> Finding | None:
    name, means = detection.name, history.training[-1].means
    recall, accuracy, rate = means[f"{name}_recall"], means[f"{name}_accuracy"], means[detection.rate]
    if recall > NO_RECALL or abs(accuracy - (1 - rate)) > SAME_ACCURACY:
        return None
    if not _is_stuck(history, facts, f"{name}_auc"):
        return None
    return Finding(
        f"The discriminator calls every token original: {name}_recall={recall:.4f}, {name}_accuracy="
        f"{accuracy:.4f} = 1 - {detection.rate} ({rate:.4f}), and {name}_auc={means[f'{name}_auc']:.3f} does "
        "not rise.",
        {"recall": recall, "accuracy": accuracy, "rate": rate, "auc": means[f"{name}_auc"]},
    )


def auc_stuck(history: History, facts: RunFacts, detection: Detection) -> Finding | None:
    metric, blocks = f"{detection.name}_auc", history.training
    auc = blocks[-1].means[metric]
    if auc >= facts.limit("min_auc") or not _is_stuck(history, facts, metric):
        return None
    before = blocks[-1 - TREND]
    return Finding(
        f"The discriminator has learnt nothing that tells tokens apart: {metric}={auc:.3f}, and "
        f"{before.means[metric]:.3f} at step {before.step} (chance: 0.5).",
        {"auc": auc, "auc_before": before.means[metric]},
    )


def generator_strong(history: History, facts: RunFacts, detection: Detection) -> Finding | None:
    last = history.training[-1]
    rate, drawn = last.means[detection.rate], facts.drawn_at(last.step).get(detection.name)
    if drawn is None or rate / drawn >= facts.limit("min_replaced"):
        return None
    return Finding(
        f"The generator is too strong: only {rate / drawn:.0%} of the tokens that it draws differ from the "
        f"original, {detection.rate}={rate:.4f}. The discriminator has little left to find.",
        {"replaced_share": rate / drawn, "rate": rate},
    )


def generator_weak(history: History, facts: RunFacts, detection: Detection) -> Finding | None:
    block = history.evaluations[-1]
    if not facts.trains_generator_at(block.step):
        return None
    auc, loss = block.means[f"{detection.name}_auc"], block.means["mlm_loss"]
    level = block.means["unigram_cross_entropy"]
    if block.step < facts.late_at(block.step) or auc < facts.limit("trivial_auc") or loss < level - COUNTING:
        return None
    return Finding(
        f"The replacements are trivial: {detection.name}_auc={auc:.3f} on held-out text, while the "
        f"generator's mlm_loss={loss:.2f} is that of counting tokens ({level:.2f}).",
        {"auc": auc, "mlm_loss": loss, "unigram_cross_entropy": level},
    )


def rate_drift(history: History, facts: RunFacts, detection: Detection) -> Finding | None:
    blocks, metric = history.training, detection.rate
    if len(blocks) < 2 or detection.name not in facts.drawn_at(blocks[-1].step):
        return None
    if metric not in blocks[-2].means:
        return None
    if blocks[-2].step <= facts.beginning_at(blocks[-1].step):
        return None
    if facts.stage_of(blocks[-1].step) != facts.stage_of(blocks[-2].step):
        return None
    rate, before, lowest = blocks[-1].means[metric], blocks[-2].means[metric], history.lowest_rates[metric]
    if abs(rate - before) <= RATE_JUMP * before and rate <= (1 + RATE_RISE) * lowest:
        return None
    return Finding(
        f"The share of replaced tokens drifts: {metric}={rate:.4f}, {before:.4f} in the block before, "
        f"{lowest:.4f} at its lowest.",
        {"rate": rate, "rate_before": before, "lowest_rate": lowest},
    )


def entropy_collapse(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    step, means = history.evaluations[-1].step, history.evaluations[-1].means
    entropy, loss = means["generator_entropy"], means["mlm_loss"]
    if entropy >= OVERCONFIDENT * loss or not facts.trains_generator_at(step):
        return None
    return Finding(
        f"The generator's distribution has collapsed: generator_entropy={entropy:.2f} nats on held-out text "
        f"at mlm_loss={loss:.2f}; a generator that is as sure as it is right has both equal.",
        {"generator_entropy": entropy, "mlm_loss": loss},
    )


def embeddings_apart(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    means = history.evaluations[-1].means
    cosine, ratio = means["embedding_cosine"], means["embedding_norm_ratio"]
    # Separate tables start at a cosine of 0; only the discriminator's own part can take GDES there.
    is_apart = facts.settings["model.embedding_sharing"] == "gdes" and cosine < facts.limit(
        "min_embedding_cosine"
    )
    if not is_apart and 1 / NORM_RATIO <= ratio <= NORM_RATIO:
        return None
    return Finding(
        f"The embeddings of generator and discriminator drift apart: their cosine is {cosine:.2f}, the "
        f"discriminator's are {ratio:.2g} times as long.",
        {"embedding_cosine": cosine, "embedding_norm_ratio": ratio},
    )


def _loss_rise(history: History, facts: RunFacts) -> tuple[str, float, float] | None:
    """(metric, value, lowest value) of a held-out loss that has risen too far."""
    found = held_out_loss(history.evaluations[-1], facts)
    if found is None or history.best is None or (found[0] == "mlm_loss" and not facts.minimizes_mlm):
        return None
    metric, loss = found
    lowest = history.best[0].means.get(metric, loss)
    return (metric, loss, lowest) if loss > (1 + facts.limit("max_loss_rise")) * lowest else None


def _falls_in_training(history: History, metric: str) -> bool:
    before = history.best and history.best[1]
    return bool(
        before
        and metric in before.means
        and metric in history.training[-1].means
        and history.training[-1].means[metric] < before.means[metric]
    )


def _is_repeating(history: History, facts: RunFacts, metric: str) -> bool:
    passes = facts.passes(history.evaluations[-1].step)
    return passes > facts.limit("max_passes") and _falls_in_training(history, metric)


def data_repeating(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    rise = _loss_rise(history, facts)
    if rise is None or not _is_repeating(history, facts, rise[0]):
        return None
    metric, loss, lowest = rise
    passes = facts.passes(history.evaluations[-1].step)
    return Finding(
        f"The model learns its training text by heart: after {passes:.1f} passes over the same rows the "
        f"held-out {metric} is {loss:.3f}, above {lowest:.3f} at step {history.best[0].step}, while the "
        f"training loss falls ({history.training[-1].means[metric]:.3f}).",
        {"passes": passes, "held_out": loss, "lowest": lowest},
    )


def held_out_rising(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    rise = _loss_rise(history, facts)
    if rise is None or _is_repeating(history, facts, rise[0]):
        return None
    metric, loss, lowest = rise
    return Finding(
        f"The held-out {metric} rises: {loss:.3f}, {lowest:.3f} at step {history.best[0].step}.",
        {"held_out": loss, "lowest": lowest},
    )


def data_wait(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    block = history.training[-1]
    share = block.means["data_wait_share"]
    seconds = block.means["data_wait_seconds"] * block.num_rows
    if share <= facts.limit("max_data_wait") or seconds < WORTH_SECONDS:
        return None
    return Finding(
        f"The devices wait for data {share:.0%} of the time, {seconds:.1f} seconds in the last "
        f"{block.num_rows} rows.",
        {"data_wait_share": share, "data_wait_seconds": seconds},
    )


def unigram_plateau(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    block = history.evaluations[-1]
    loss, level = block.means["mlm_loss"], block.means["unigram_cross_entropy"]
    in_training = history.training[-1].means.get("mlm_loss", loss) if history.training else loss
    if in_training < level - BY_HEART:  # it has learnt its training text, which is another trouble
        return None
    if block.step < facts.late_at(block.step) or loss < level - COUNTING or not facts.minimizes_mlm:
        return None
    return Finding(
        f"The generator is still where counting tokens would be: mlm_loss={loss:.2f} on held-out text, "
        f"{level:.2f} by counting.",
        {"mlm_loss": loss, "unigram_cross_entropy": level},
    )


def zero_learning_rate(history: History, facts: RunFacts, _: Detection | None) -> Finding | None:
    rate = history.training[-1].means["learning_rate"]
    if rate > NO_UPDATE:
        return None
    return Finding(
        f"The learning rate is {rate:.1e}: updates are too small to change the parameters.",
        {"learning_rate": rate},
    )
