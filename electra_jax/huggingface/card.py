"""The model card (README.md) of an exported pre-training model, from the files in the run's directory. A card
leaves out what the files do not contain."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.json_files import Maybe, read_json
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.datasets_read import read_datasets, tokens_read
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.session_lines import SESSIONS_FILE, Session, read_session_lines
from electra_jax.configuration.stages import Stage, make_stages
from electra_jax.huggingface.card_parts import (
    Publication,
    describe_shape,
    explain_code,
    front_matter,
    metrics_table,
    usage_code,
    with_trust,
)
from electra_jax.huggingface.families import PublishedFamily, family_of
from electra_jax.huggingface.public_names import name_of, public_command
from electra_jax.models.config import EncoderConfig
from electra_jax.objectives.denoisers import denoisers_of, mean_mask_prob
from electra_jax.objectives.registry import find_row, has_generator

# Metric in summary.json → its description in the card.
METRICS = {
    "heldout_mlm_loss": "masked language modelling loss, nats",
    "heldout_mlm_accuracy": "masked token accuracy",
    "heldout_unigram_cross_entropy": "masked language modelling loss of counting the training tokens, nats",
    "heldout_rtd_auc": "replaced token detection AUC",
    "heldout_rtd_loss": "replaced token detection loss",
    "heldout_replaced_rate": "fraction of tokens replaced",
}


class RunRecord(NamedTuple):
    """The files of a run directory. A part is None or empty if its file is missing (in an imported model)."""

    config: dict[str, Any]
    step: int
    origin: str | None  # name of what it was imported from
    summary: dict[str, Any] | None  # summary.json, if it describes `step`
    datasets: list[dict[str, Any]]  # datasets.json, those read by `step`
    sessions: list[Session]  # sessions.jsonl
    soup: dict[str, Any] | None  # soup.json, of an average of checkpoints


def read_record(workdir: Path, step: int) -> RunRecord:
    """Read the files of a run directory."""
    description = read_json(workdir / "config.json", {"config": dict, "imported_from": Maybe(str)})

    def read(name: str, form: Any, missing: Any) -> Any:
        path = workdir / name
        return read_json(path, form) if path.is_file() else missing

    config = upgrade_config(description["config"])
    summary = read("summary.json", {str: (float, type(None))}, None)
    return RunRecord(
        config,
        step,
        name_of(description["imported_from"]) if "imported_from" in description else None,
        summary if summary and summary.get("steps") == step else None,
        read_datasets(workdir, config, step),
        read_session_lines(workdir / SESSIONS_FILE),
        read("soup.json", dict, None),
    )


def make_card(
    role: str,
    encoder: EncoderConfig,
    record: RunRecord,
    publication: Publication,
    *,
    is_exact: bool,
    with_code: bool,
) -> str:
    """README.md of one model.

    Args:
      role: "discriminator" or "generator".
      encoder: its shape.
      record: the run's files.
      publication: what the publisher states.
      is_exact: whether `transformers` computes the logits that were trained.
      with_code: whether DeBERTa's detection head is part of the model, with a class that loads it.
    """
    family = family_of(encoder)
    row = find_row(record.config["objective"]["name"])
    title = f"{family.card_name or row.card_model} {role}"
    if row.predicts_tokens:
        title = "Encoder with a masked language modelling head"
    usage = usage_code(role if row.fills_masks else "discriminator")
    parts = [
        front_matter(
            publication,
            "fill-mask" if role == "generator" and is_exact and row.fills_masks else None,
            (family.tag, "replaced-token-detection", "pre-training", "jax"),
        ),
        f"# {title}",
        _what(role, record.config["objective"], is_exact, family, with_code),
        explain_code(encoder),
        "```python\n" + with_trust(usage, encoder) + "\n```",
        describe_shape(encoder),
        _training(record),
        _data(record, publication),
        _metrics(record),
        _reproduce(record),
        _limits(record, is_exact, role),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(
    role: str, objective: dict[str, Any], is_exact: bool, family: PublishedFamily, with_code: bool
) -> str:
    text = find_row(objective["name"]).card_text or _role_text(role, objective, family, with_code)
    if not is_exact:
        text += (
            " It was trained with an enhanced mask decoder, which `transformers` does not have: loaded "
            "there, **its predictions differ from those it was trained to make**. The decoder's position "
            "table is in `enhanced_mask_decoder.safetensors`."
        )
    return text


def _role_text(role: str, objective: dict[str, Any], family: PublishedFamily, with_code: bool) -> str:
    if role == "generator":
        return (
            "The generator: a model that fills in masks. **For fine-tuning, use the discriminator that was "
            "trained with it.**"
        )
    text = "The discriminator: **the model to fine-tune**."
    if has_generator(objective):
        text += " The generator that was trained with it fills in masks."
    if family.head_code and with_code:
        text += f" {family.head_code}"
    elif family.head_text:
        text += f" {family.head_text}"
    return text


def _training(record: RunRecord) -> str:
    """How the model was made: its origin, the steps, tokens and hours of its training."""
    config, sentences = record.config, []
    if record.origin:
        sentences.append(f"Imported from {record.origin}.")
    if record.soup:
        sentences.append(_soup(record.soup))
    initial = config["checkpoint"]["init_from"]
    if initial:
        name = parse_checkpoint(initial)
        step = f", step {name.step:,}" if name.step else ""  # imported parameters are those of step 0
        sentences.append(
            f"Pre-training continued from {name_of(name.directory)}{step}, with a fresh optimizer."
        )
    if record.step:
        sentences += _steps_taken(record)
    return "\n".join(["## Training", "", *sentences]) if sentences else ""


def _steps_taken(record: RunRecord) -> list[str]:
    """Sentences about method, steps, tokens and time."""
    stages = [stage for stage in make_stages(record.config) if stage.first_step < record.step]
    train = record.config["train"]
    done = f"{record.step:,}" + (f" of {train['num_steps']:,}" if record.step < train["num_steps"] else "")
    sentences = [
        f"{_method(record.config['objective'])}: {done} steps of {', '.join(map(_batch_shape, stages))}, "
        f"peak learning rate {_in_stages(stages, 'optimizer', 'learning_rate', 'g')}, "
        f"{_in_stages(stages, 'optimizer', 'warmup_steps', ',')} steps of warm-up, "
        f"masking {_masking(stages)}, seed {train['seed']}."
    ]
    if train["ema_decay"]:
        sentences.append(
            f"The weights are exponential moving averages of the parameters, decay {train['ema_decay']:g}."
        )
    tokens = tokens_read(record.config, record.datasets, record.step)
    if tokens:
        sentences.append(f"It read about {tokens / 1e6:,.1f} million tokens, not counting padding.")
    speed = record.summary and record.summary.get("tokens_per_second")
    devices = sorted({session["devices"] for session in record.sessions if "devices" in session})
    if tokens and speed and devices:
        sentences.append(
            f"About {tokens / speed / 3600:,.2f} hours of training on {', '.join(devices)} "
            f"({speed:,.0f} tokens per second)."
        )
    return sentences


def _in_stages(stages: list[Stage], section: str, key: str, form: str) -> str:
    """The values of a key in the order of the stages, each as often as it changes."""
    return _one_after_the_other([format(stage.config[section][key], form) for stage in stages])


def _masking(stages: list[Stage]) -> str:
    """The share of the tokens that is masked, and by how many denoisers, as `_in_stages`."""
    texts = []
    for objective in (stage.config["objective"] for stage in stages):
        number = len(denoisers_of(objective))
        by = f" by a mixture of {number} denoisers" if number > 1 else " by one denoiser" if number else ""
        texts.append(f"{mean_mask_prob(objective):.0%}{by}")
    return _one_after_the_other(texts)


def _one_after_the_other(texts: list[str]) -> str:
    return " then ".join(text for text, _ in itertools.groupby(texts))


def _method(objective: dict[str, Any]) -> str:
    """The name of the method, with its paper."""
    row = find_row(objective["name"])
    method = row.title
    if objective["generator"] != "model":
        method += f" with a {objective['generator']} distribution as the generator"
    return method + (f" ({row.paper})" if row.paper else "")


def _batch_shape(stage: Stage) -> str:
    """The size of a stage's batches, with the step from which it holds."""
    since = "" if stage.first_step == 0 else f" from step {stage.first_step:,}"
    rows, length = stage.config["train"]["batch_size"], stage.config["data"]["sequence_length"]
    return f"{rows:,} rows of {length} tokens{since}"


def _soup(soup: dict[str, Any]) -> str:
    """One or two sentences."""
    kept = [
        f"`{name_of(one['workdir'])}`, step {one['step']:,}" for one in soup["ingredients"] if one["weight"]
    ]
    text = (
        f"The mean of the parameters of {len(kept)} checkpoint{'s' if len(kept) > 1 else ''} "
        f"({'; '.join(kept)})"
    )
    if soup["method"] == "greedy":
        text += (
            f", chosen out of {len(soup['ingredients'])} as a greedy soup (Wortsman et al. 2022, [Model "
            f"soups](https://arxiv.org/abs/2203.05482)) by {soup['score']['name']}"
        )
    return text + "."


def _data(record: RunRecord, publication: Publication) -> str:
    if not record.datasets:
        return ""
    mixtures = {info["first_step"] for info in record.datasets}
    lines = [
        "## Data",
        "",
        "| sources | documents | tokens | weight | fingerprint |",
        "|---|---|---|---|---|",
    ]
    for info in record.datasets:
        train = info["splits"]["train"]
        sources = ", ".join(f"`{name_of(source)}`" for source in info["sources"]["train"])
        since = f", from step {info['first_step']:,}" if len(mixtures) > 1 else ""
        lines.append(
            f"| {sources} | {train['documents']:,} | {train['tokens']:,} | {info['weight']:g}{since} | "
            f"`{info['fingerprint'][:16]}` |"
        )
    return "\n".join(
        [*lines, "", f"Licence of the text: {publication.data_license or 'not stated by the publisher'}."]
    )


def _metrics(record: RunRecord) -> str:
    summary = record.summary or {}
    measured = [(text, summary[key]) for key, text in METRICS.items() if key in summary]
    if not measured:
        return ""
    return "\n".join([f"## Held-out text, after step {record.step:,}", "", *metrics_table(measured)])


def _reproduce(record: RunRecord) -> str:
    if not record.sessions or "command" not in record.sessions[0]:
        return ""
    first, last = record.sessions[0], record.sessions[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last.get("versions", {}).items())
    commit = f", commit {last['commit']}" if last.get("commit") else ""
    changes = [session["num_steps"] for session in record.sessions if session.get("num_steps")]
    length = "".join(
        f" Resumed with {now:,} steps in place of {before:,} (`--change_num_steps`)."
        for before, now in changes
    )
    return "\n".join(
        [
            "## Reproduce",
            "",
            "```bash",
            public_command(first["command"]),
            "```",
            "",
            f"Paths are shortened to names.{length} "
            f"`training_config.json` holds every setting{' of the first checkpoint' if record.soup else ''}. "
            f"{'Averaged' if record.soup else 'Trained'} with {versions}{commit}.",
        ]
    )


def _limits(record: RunRecord, is_exact: bool, role: str) -> str:
    lines = ["## Limits", "", "The model reproduces errors and biases in its training text."]
    if record.summary:
        lines.append("The metrics above are those of pre-training; downstream tasks were not evaluated.")
    if role == "generator" and is_exact:
        lines.append(
            'In the training data a word that spells a special token, such as "[MASK]", was ordinary text; '
            "this tokenizer reads it as the token."
        )
    return "\n".join(lines)
