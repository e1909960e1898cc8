"""The alarms of a run: when each is raised, what it means and what helps. README.md has the table.

An alarm judges the means of blocks of training rows, or single evaluations. It applies to an objective that
has the metrics that it reads.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from electra_jax.objectives.metrics import Detection
from electra_jax.training.alarm_conditions import (
    COUNTING,
    MIN_RISE,
    NO_RECALL,
    NO_UPDATE,
    NORM_RATIO,
    OVERCONFIDENT,
    RATE_JUMP,
    RATE_RISE,
    TREND,
    WORTH_SECONDS,
    Finding,
    History,
    auc_stuck,
    data_repeating,
    data_wait,
    embeddings_apart,
    entropy_collapse,
    generator_strong,
    generator_weak,
    held_out_rising,
    majority_class,
    rate_drift,
    unigram_plateau,
    zero_learning_rate,
)
from electra_jax.training.run_facts import RunFacts

Judge = Callable[[History, RunFacts, Detection | None], Finding | None]


class Alarm(NamedTuple):
    """One kind of alarm."""

    name: str
    condition: str  # for the table
    cause: str
    # What helps. "{objective.mask_prob}" stands for the value in the configuration of the run; a sentence
    # about a key that the configuration lacks is left out.
    remedies: tuple[str, ...]
    judge: Judge
    reads: tuple[str, ...] = ()  # metrics without which it does not apply, beside those of its detection
    # The same of a detection, without its prefix, beside its rate: it is judged for each. None: it is not.
    of_detection: tuple[str, ...] | None = None
    in_evaluations: bool = False  # else in blocks of training rows
    hold: int = 2  # blocks or evaluations one after the other before it is raised


SMALLER_GENERATOR = (
    "Make the generator smaller: config.model.generator.hidden_size={model.generator.hidden_size}, "
    "num_layers={model.generator.num_layers} (ELECTRA: a quarter to a half of the discriminator)."
)
ALARMS: tuple[Alarm, ...] = (
    Alarm(
        "majority_class",
        f"late, recall at most {NO_RECALL}, accuracy = 1 − share of wrong tokens, and the AUC rises less "
        f"than {MIN_RISE} in {TREND} blocks",
        "The discriminator learns too little, or so few tokens are replaced that always answering "
        '"original" is the best that it can do.',
        (
            "Raise config.objective.disc_weight={objective.disc_weight} (published: 50).",
            "Mask more: config.objective.mask_prob={objective.mask_prob} (ELECTRA large: 0.25).",
            "Try another config.optimizer.learning_rate={optimizer.learning_rate}.",
        ),
        majority_class,
        of_detection=("recall", "accuracy", "auc"),
    ),
    Alarm(
        "auc_stuck",
        f"late, AUC below `min_auc`, and it rises less than {MIN_RISE} in {TREND} blocks",
        "The discriminator gets no useful gradient, or the generator's samples cannot be told from the text "
        "by a model of this size.",
        (
            "Raise config.objective.disc_weight={objective.disc_weight} (published: 50).",
            "Raise config.optimizer.learning_rate={optimizer.learning_rate}, or "
            "discriminator_learning_rate={optimizer.discriminator_learning_rate} (0: the same).",
            SMALLER_GENERATOR,
        ),
        auc_stuck,
        of_detection=("auc",),
    ),
    Alarm(
        "generator_strong",
        "less than `min_replaced` of the tokens that the generator draws differ from the original",
        "The generator is large for this text, or has learnt it by heart.",
        (
            SMALLER_GENERATOR,
            "Mask more: config.objective.mask_prob={objective.mask_prob} (ELECTRA large: 0.25).",
            "Draw more freely: config.objective.temperature={objective.temperature} above 1.",
        ),
        generator_strong,
        of_detection=(),
    ),
    Alarm(
        "generator_weak",
        "late, held-out AUC at least `trivial_auc`, and `mlm_loss` less than "
        f"{COUNTING} below `unigram_cross_entropy`",
        "The discriminator's gradient through shared embeddings keeps the generator from learning, or the "
        "generator is too small.",
        (
            "Lower config.objective.disc_weight={objective.disc_weight}.",
            "Set config.model.embedding_sharing={model.embedding_sharing} to gdes or none.",
            "Make the generator larger: config.model.generator.hidden_size={model.generator.hidden_size}, "
            "num_layers={model.generator.num_layers}.",
        ),
        generator_weak,
        reads=("mlm_loss", "unigram_cross_entropy"),
        of_detection=("auc",),
        in_evaluations=True,
    ),
    Alarm(
        "replaced_rate_drift",
        "after the warm-up and `early_steps`, the share of wrong tokens changes by more than "
        f"{RATE_JUMP:.0%} from block to block, or is more than {RATE_RISE:.0%} above its lowest block",
        "The generator becomes worse again, or the text has changed.",
        (
            "Lower config.optimizer.learning_rate={optimizer.learning_rate}.",
            "Look at mlm_loss and gradient_norm in metrics.jsonl, and at the text of those steps.",
        ),
        rate_drift,
        of_detection=(),
        hold=1,
    ),
    Alarm(
        "generator_entropy_collapse",
        f"held-out `generator_entropy` below {OVERCONFIDENT} of `mlm_loss`",
        "The generator is sure of wrong tokens: it has learnt the training text by heart, or diverged.",
        (
            "Train on more text, or for fewer steps (config.train.num_steps={train.num_steps}).",
            "Lower config.optimizer.learning_rate={optimizer.learning_rate}.",
            "Add dropout: config.model.hidden_dropout={model.hidden_dropout}.",
        ),
        entropy_collapse,
        reads=("generator_entropy", "mlm_loss"),
        in_evaluations=True,
    ),
    Alarm(
        "embeddings_apart",
        "`embedding_cosine` below `min_embedding_cosine` with GDES, or `embedding_norm_ratio` outside "
        f"1/{NORM_RATIO:g} … {NORM_RATIO:g} with GDES or NES",
        "The discriminator's own part outweighs what it shares, so it gains nothing from the generator's "
        "embeddings.",
        (
            "Lower config.optimizer.learning_rate={optimizer.learning_rate}, or "
            "discriminator_learning_rate={optimizer.discriminator_learning_rate} (0: the same).",
            "Raise config.optimizer.weight_decay={optimizer.weight_decay}: it draws that part to zero.",
        ),
        embeddings_apart,
        reads=("embedding_cosine", "embedding_norm_ratio"),
        in_evaluations=True,
    ),
    Alarm(
        "data_repeating",
        "more than `max_passes` over the rows of a dataset, and the held-out loss is more than "
        "`max_loss_rise` above its lowest value while the training loss has fallen",
        "There is too little text for this number of steps.",
        (
            "Add text, or stop earlier: config.train.num_steps={train.num_steps}.",
            "Add dropout: config.model.hidden_dropout={model.hidden_dropout}, "
            "attention_dropout={model.attention_dropout}.",
        ),
        data_repeating,
        in_evaluations=True,
    ),
    Alarm(
        "held_out_rising",
        "the held-out loss is more than `max_loss_rise` above its lowest value, and repeated text is not the "
        "reason",
        "The learning rate is too high, or the training text has moved away from the held-out text.",
        (
            "Lower config.optimizer.learning_rate={optimizer.learning_rate}.",
            "Compare the training text of these steps with the held-out text.",
        ),
        held_out_rising,
        in_evaluations=True,
    ),
    Alarm(
        "data_wait",
        f"more than `max_data_wait` of the time is spent waiting for batches, at least {WORTH_SECONDS:g} s a "
        "block",
        "Rows are read more slowly than the devices use them.",
        (
            "Read further ahead: config.data.prefetch={data.prefetch}.",
            "Put the datasets (config.data.datasets) on a local or faster disk.",
            "Leave CPU cores to the process that reads; on a CPU, training and reading share them.",
        ),
        data_wait,
        reads=("data_wait_share", "data_wait_seconds"),
    ),
    Alarm(
        "unigram_plateau",
        f"late, and held-out `mlm_loss` less than {COUNTING} below `unigram_cross_entropy`",
        "Attention has not found the neighbouring tokens yet, or the learning rate is wrong.",
        (
            "Start attention on neighbouring tokens: config.model.initializer={model.initializer}, set it to "
            "local.",
            "Try another config.optimizer.learning_rate={optimizer.learning_rate} or "
            "warmup_steps={optimizer.warmup_steps}, or train for longer.",
        ),
        unigram_plateau,
        reads=("mlm_loss", "unigram_cross_entropy"),
        in_evaluations=True,
    ),
    Alarm(
        "zero_learning_rate",
        f"learning rate at most {NO_UPDATE:g}",
        "The schedule has ended before the run, or its peak is too low.",
        (
            "Raise config.optimizer.learning_rate={optimizer.learning_rate}, or look at "
            "schedule={optimizer.schedule} and warmup_steps={optimizer.warmup_steps}.",
        ),
        zero_learning_rate,
        reads=("learning_rate",),
    ),
)
NAMES = tuple(alarm.name for alarm in ALARMS)


def advice(alarm: Alarm, settings: Mapping[str, Any]) -> str:
    """The remedies with the values of a run."""
    sentences = []
    for remedy in alarm.remedies:
        try:
            sentences.append(re.sub(r"\{(.+?)\}", lambda key: str(settings[key[1]]), remedy))
        except KeyError:
            continue
    return " ".join(sentences)


def table() -> list[str]:
    """The lines of the table in README.md."""
    code = lambda remedy: re.sub(r"(?:config\.)?[\w.]+=\{(.+?)\}", r"`\1`", remedy)
    return [
        f"| `{alarm.name}` | {alarm.condition} | {alarm.cause} | {' '.join(map(code, alarm.remedies))} |"
        for alarm in ALARMS
    ]
