"""The model card, README.md of an exported model: true numbers from the run's own files; what they do not say
is left out."""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.configuration.migration import upgrade_config, upgrade_datasets
from electra_jax.configuration.stages import Stage, make_stages
from electra_jax.huggingface.configuration import RELATIVE_BIAS_FILE
from electra_jax.models.config import EncoderConfig
from electra_jax.objectives.registry import find_row, has_generator

FIGURES = {  # of summary.json, with what they are
    "heldout_mlm_loss": "masked language modelling loss, nats",
    "heldout_mlm_accuracy": "masked token accuracy",
    "heldout_unigram_entropy": "loss of a model that only counts tokens, nats",
    "heldout_rtd_auc": "replaced token detection AUC",
    "heldout_rtd_loss": "replaced token detection loss",
    "heldout_replaced_rate": "share of tokens replaced",
}
USE = {
    "discriminator": (
        'tokens = tokenizer("A sentence.", return_tensors="pt")',
        "states = model(**tokens).last_hidden_state",
    ),
    "generator": (
        'fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)',
        'print(fill("The [MASK] of a sentence."))',
    ),
}


class RunRecord(NamedTuple):
    """What a run directory says about itself; a part is None, or empty, where there is no such file (an
    imported model)."""

    config: dict[str, Any]
    step: int
    origin: str | None  # from where it was imported
    summary: dict[str, Any] | None  # of the last step, if that is `step`
    datasets: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    soup: dict[str, Any] | None  # soup.json, of an average of checkpoints


class Publication(NamedTuple):
    """What only the publisher can say."""

    license: str | None
    data_license: str | None
    language: str | None


def read_record(workdir: Path, step: int) -> RunRecord:
    """The run's files."""
    description = json.loads((workdir / "config.json").read_text())

    def read(name: str, missing: Any) -> Any:
        path = workdir / name
        return json.loads(path.read_text()) if path.is_file() else missing

    sessions_file = workdir / "sessions.jsonl"
    sessions = (
        [json.loads(line) for line in sessions_file.read_text().splitlines()]
        if sessions_file.is_file()
        else []
    )
    config = upgrade_config(description["config"])
    datasets = upgrade_datasets(read("datasets.json", []), config)
    datasets = [info for info in datasets if info["first_step"] < max(step, 1)]  # read by then
    summary = read("summary.json", None)
    return RunRecord(
        config,
        step,
        description.get("imported_from"),
        summary if summary and summary["steps"] == step else None,
        datasets,
        sessions,
        read("soup.json", None),
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
    """README.md of one model."""
    is_deberta = encoder.disentangled is not None
    row = find_row(record.config["objective"]["name"])
    title = f"{'DeBERTaV3' if is_deberta else row.card_model} {role}"
    if row.predicts_tokens:
        title = "Encoder with a masked language modelling head"
    usage = _usage(role if row.fills_masks else "discriminator")
    parts = [
        _front_matter(role, is_deberta, publication, is_exact and row.fills_masks),
        f"# {title}",
        _what(role, record.config["objective"], is_exact, is_deberta, with_code),
        explain_code(encoder),
        "```python\n" + with_trust(usage, encoder) + "\n```",
        describe_shape(encoder),
        _training(record),
        _data(record, publication),
        _figures(record),
        _reproduce(record),
        _limits(record, is_exact, role),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(role: str, is_deberta: bool, publication: Publication, fills_masks: bool) -> str:
    lines = ["---", "library_name: transformers"]
    stated = {"language": publication.language, "license": publication.license}
    lines += [f"{key}: {value}" for key, value in stated.items() if value]
    if role == "generator" and fills_masks:
        lines.append("pipeline_tag: fill-mask")
    lines += [
        "tags:",
        *(
            f"- {tag}"
            for tag in (
                "deberta-v2" if is_deberta else "electra",
                "replaced-token-detection",
                "pre-training",
                "jax",
            )
        ),
    ]
    return "\n".join([*lines, "---"])


def _what(role: str, objective: dict[str, Any], is_exact: bool, is_deberta: bool, with_code: bool) -> str:
    text = find_row(objective["name"]).card_text or _role_text(role, objective, is_deberta, with_code)
    if not is_exact:
        text += (
            " It was trained with an enhanced mask decoder, which `transformers` does not have: loaded "
            "there, **its predictions are not those it was trained to make**. The decoder's position table "
            "is in `enhanced_mask_decoder.safetensors`."
        )
    return text


def _role_text(role: str, objective: dict[str, Any], is_deberta: bool, with_code: bool) -> str:
    if role == "generator":
        return (
            "The generator: a model that fills in masks. **To fine-tune, take its sister, the "
            "discriminator.**"
        )
    text = "The discriminator: **the model to fine-tune**."
    if has_generator(objective):
        text += " Its sister, the generator, fills in masks."
    if is_deberta:
        text += (
            " Its replaced token detection head is part of the model (`AutoModelForPreTraining` with "
            "`trust_remote_code=True`)."
            if with_code
            else " Its replaced token detection head is in "
            "`rtd_head.safetensors` (LayerNorm(state + state of [CLS]), dense, GELU, one logit): "
            "`transformers` has no class for it."
        )
    return text


def _usage(role: str) -> str:
    names = {
        "discriminator": "AutoModel, AutoTokenizer",
        "generator": "AutoModelForMaskedLM, AutoTokenizer, pipeline",
    }[role]
    return "\n".join(
        [
            f"from transformers import {names}",
            'path = "."  # this directory, or the name it is published under',
            "tokenizer = AutoTokenizer.from_pretrained(path)",
            f"model = {names.partition(',')[0]}.from_pretrained(path)",
            *USE[role],
        ]
    )


def explain_code(encoder: EncoderConfig) -> str:
    """Why a model needs code of its own; empty where it does not."""
    if encoder.relative_bias is None:
        return ""
    return (
        f"**It needs the code in `{RELATIVE_BIAS_FILE}`**, and so `trust_remote_code=True`: its attention "
        "adds a learned bias for the distance of two tokens to the scores, which no class of "
        "`transformers` does for ELECTRA. The file adds it to ELECTRA's own classes."
    )


def with_trust(lines: str, encoder: EncoderConfig) -> str:
    """Lines of Python that load a model from `path`, as they have to be where it brings code."""
    if encoder.relative_bias is None:
        return lines
    for call in ("from_pretrained(path", "model=path"):
        lines = lines.replace(call, f"{call}, trust_remote_code=True")
    return lines


def describe_shape(encoder: EncoderConfig) -> str:
    """One sentence."""
    return (
        f"{encoder.num_layers} layers of {encoder.hidden_size} with {encoder.num_heads} heads, "
        f"feed-forward {encoder.intermediate_size}, embeddings of {encoder.embedding_size} "
        f"for a vocabulary of {encoder.vocab_size:,}, up to {encoder.max_position_embeddings} positions."
    )


def _training(record: RunRecord) -> str:
    config, lines = record.config, ["## Training", ""]
    row, train = find_row(config["objective"]["name"]), config["train"]
    if record.origin:
        lines.append(f"Imported from {record.origin}.")
    if record.soup:
        lines.append(_soup(record.soup))
    initial = config["checkpoint"]["init_from"]
    if initial:
        lines.append(f"Pre-training went on from {initial}, with a fresh optimizer.")
    if record.step:
        stages = [stage for stage in make_stages(config) if stage.first_step < record.step]
        shapes = [
            f"{'' if stage.first_step == 0 else f'from step {stage.first_step:,} on of '}"
            f"{stage.config['train']['batch_size']:,} rows of {stage.config['data']['sequence_length']} "
            "tokens"
            for stage in stages
        ]
        method = row.title
        if not has_generator(config["objective"]):
            method += f" with a {config['objective']['generator']} distribution for a generator"
        method += f" ({row.paper})" if row.paper else ""
        lines.append(
            f"{method}: {record.step:,} steps of {', '.join(shapes)}, "
            f"peak learning rate {config['optimizer']['learning_rate']:g}, "
            f"{config['optimizer']['warmup_steps']:,} steps of warm-up, masking "
            f"{config['objective']['mask_prob']:.0%}, seed {train['seed']}."
        )
        if train["ema_decay"]:
            lines.append(
                f"These are the exponential moving averages of its parameters, decay {train['ema_decay']:g}."
            )
        tokens = sum(
            stage._replace(end=min(stage.end, record.step)).num_examples * _tokens_per_row(record, stage)
            for stage in stages
        )
        if tokens:
            lines.append(f"It saw about {tokens / 1e6:,.1f} million tokens, padding not counted.")
        speed = record.summary and record.summary["tokens_per_second"]
        devices = sorted({session["devices"] for session in record.sessions})
        if tokens and speed and devices:
            lines.append(
                f"About {tokens / speed / 3600:,.2f} hours of training on {', '.join(devices)} "
                f"({speed:,.0f} tokens a second)."
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def _soup(soup: dict[str, Any]) -> str:
    """One or two sentences."""
    kept = [
        f"`{Path(one['workdir']).name}`, step {one['step']:,}" for one in soup["ingredients"] if one["weight"]
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


def _tokens_per_row(record: RunRecord, stage: Stage) -> float:
    """Mean number of real tokens in a row of a stage's mixture; 0 where it is not known."""
    begun = [info for info in record.datasets if info["first_step"] <= stage.first_step]
    mixture = [info for info in begun if info["first_step"] == begun[-1]["first_step"]]
    if not mixture:
        return 0.0
    tokens = [
        info["weight"] * info["splits"]["train"]["tokens"] / info["splits"]["train"]["rows"]
        for info in mixture
    ]
    return sum(tokens) / sum(info["weight"] for info in mixture)


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
        sources = ", ".join(f"`{Path(source).name}`" for source in info["sources"]["train"])
        since = f", from step {info['first_step']:,} on" if len(mixtures) > 1 else ""
        lines.append(
            f"| {sources} | {train['documents']:,} | {train['tokens']:,} | {info['weight']:g}{since} | "
            f"`{info['fingerprint'][:16]}` |"
        )
    return "\n".join(
        [*lines, "", f"Licence of the text: {publication.data_license or 'not stated by the publisher'}."]
    )


def _figures(record: RunRecord) -> str:
    summary = record.summary or {}
    rows = [f"| {text} | {summary[key]:.4f} |" for key, text in FIGURES.items() if key in summary]
    return (
        "\n".join([f"## Held-out text, after step {record.step:,}", "", "| | |", "|---|---|", *rows])
        if rows
        else ""
    )


def _reproduce(record: RunRecord) -> str:
    if not record.sessions:
        return ""
    first, last = record.sessions[0], record.sessions[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    commit = f", commit {last['commit']}" if last["commit"] else ""
    return "\n".join(
        [
            "## Reproduce",
            "",
            "```bash",
            shlex.join(first["command"]),
            "```",
            "",
            f"`training_config.json` holds every setting{' of the first checkpoint' if record.soup else ''}. "
            f"{'Averaged' if record.soup else 'Trained'} with {versions}{commit}.",
        ]
    )


def _limits(record: RunRecord, is_exact: bool, role: str) -> str:
    lines = ["## Limits", "", "The model repeats what its text says, errors and prejudices included."]
    if record.summary:
        lines.append("The figures above are of the pre-training task; downstream tasks were not evaluated.")
    if role == "generator" and is_exact:
        lines.append(
            'In the training data a word that spells a special token, such as "[MASK]", was ordinary text; the '
            "tokenizer here reads it as the token."
        )
    return "\n".join(lines)
