"""The model of a directory: a pre-training run, a fine-tuned model, or an export of either."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.json_files import Maybe, misread, read_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.checkpoint_names import parse_checkpoint, with_step_flag
from electra_jax.configuration.migration import upgrade_encoder, upgrade_head
from electra_jax.finetuning.model_files import MODEL_FILE, SavedModel, is_saved_model, load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.huggingface.configuration import from_config_json
from electra_jax.huggingface.export import CONFIG_FILE, FINETUNING_FILE
from electra_jax.huggingface.names import from_file
from electra_jax.huggingface.published_models import (
    ROLES,
    ModelWeights,
    PublishedModule,
    mask_filler,
    to_published,
)
from electra_jax.huggingface.readers import SourceModel, read_directory
from electra_jax.huggingface.restore import check_output_table, read_source, stores_decoder
from electra_jax.huggingface.sizes import check_layers
from electra_jax.models.config import EncoderConfig, make_encoder_config
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.objectives.registry import find_row
from electra_jax.prediction.pretrained import Pretrained
from electra_jax.prediction.spelling import Speller
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.temporary_directories import temporary_directory
from electra_jax.runs.trained import TrainedRun, load_run
from electra_jax.training.state import unbox

PLAIN_OBJECTIVE = "electra"  # taken for that of a model whose files do not say how it was trained
EXPECTED = (
    "the directory of a pre-training run, of a fine-tuning (or one of its models/NAME), or of an export of "
    "one of them"
)
EXPECTED_PRETRAINED = "the directory of a pre-training run (or DIR:STEP), or of its export"


def load(place: str, step: int | None) -> SavedModel | Pretrained:
    """The model at `place`, a directory or its URL in a bucket, of a run also DIR:STEP.

    Args:
      step: the checkpoint of a pre-training run; None: the newest.

    Raises:
      FileNotFoundError: there is no model. ValueError: it has another form.
    """
    place, step = with_step_flag(place, step)
    path = local_directory(place)
    if not path.is_dir():
        raise FileNotFoundError(f"--model: {place} is not a directory, expected {EXPECTED}.")
    description = _read(path / CONFIG_FILE)
    if "config" in description and "task" not in description["config"]:
        return of_run(place, load_run(path, step))
    if step is not None:
        raise ValueError(
            f"--step: got {step} for {place}, expected it only for a pre-training run, which has "
            "checkpoints. Leave it out."
        )
    models = [model.parent for model in sorted(path.glob(f"models/*/{MODEL_FILE}"))]
    if is_saved_model(path):
        return load_model(path)
    if models:
        return load_model(best_model(models))
    if "config" in description:
        raise FileNotFoundError(
            f"--model: {place} is a fine-tuning that has no finished model yet, expected {EXPECTED}."
        )
    if (path / FINETUNING_FILE).is_file():
        return _of_exported_task(path)
    _check_is_pretrained("--model", place, path, description)
    return _of_export("--model", place, path)


def load_pretrained(flag: str, name: str, step: int | None = None) -> Pretrained:
    """The model of a pre-training run, DIR or DIR:STEP, or of an export, whose name a flag has.

    Args:
      step: of the checkpoint of a run whose name has none; None: the newest.

    Raises:
      FileNotFoundError, ValueError: it holds none; begins with `flag`.
    """
    place, own_step = parse_checkpoint(name)
    path = local_directory(place)
    if not path.is_dir():
        raise FileNotFoundError(f"{flag}: {place} is not a directory, expected {EXPECTED_PRETRAINED}.")
    description = _read(path / CONFIG_FILE)
    is_finetuning = is_saved_model(path) or (path / FINETUNING_FILE).is_file()
    if is_finetuning or "task" in description.get("config", {}):
        raise ValueError(f"{flag}: got {place}, a fine-tuning, expected {EXPECTED_PRETRAINED}.")
    if "config" in description:
        return of_run(name, load_run(path, step if own_step is None else own_step))
    if own_step is not None:
        raise ValueError(
            f"{flag}: got the step {own_step} of {place}, expected a step only of a pre-training run, which "
            "has checkpoints. Leave it out."
        )
    _check_is_pretrained(flag, place, path, description)
    return _of_export(flag, place, path)


def best_model(models: Sequence[Path]) -> Path:
    """Of the models of a fine-tuning, one for each encoder, the one with the best first metric, of equals the
    first; a line on stderr names it if there are several. Later metrics, which may be of a test split, choose
    none."""
    metrics = {model: read_json(model / MODEL_FILE, {"metrics": {str: float}})["metrics"] for model in models}
    name = next(iter(metrics[models[0]]))
    values = [metrics[model][name] for model in models]
    value = max(values)
    best, num_equal = models[values.index(value)], values.count(value)
    if len(models) > 1:
        tie = f", the first of {num_equal} with that value" if num_equal > 1 else ""
        print(f"{best}: of {len(models)} models the best {name}, {value:.3f}{tie}", file=sys.stderr)
    return best


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, {"config": Maybe(dict)}) if path.is_file() else {}


def _check_is_pretrained(flag: str, place: str, path: Path, description: dict[str, Any]) -> None:
    """Raises an error unless `description`, the config.json of `path`, is that of a pre-trained model."""
    if not description and not any((path / role).is_dir() for role in ROLES):
        raise FileNotFoundError(
            f"{flag}: {place} holds no model, expected "
            f"{EXPECTED if flag == '--model' else EXPECTED_PRETRAINED}."
        )
    architecture = next(iter(description.get("architectures") or []), "")
    if "For" in architecture and not architecture.endswith(("MaskedLM", "PreTraining", "Detection")):
        raise ValueError(
            f"{flag}: got {place}, a {architecture} without {FINETUNING_FILE}, expected an export of this "
            "project, which describes its inputs. Fine-tune the encoder here, or use transformers."
        )


def of_run(name: str, run: TrainedRun) -> Pretrained:
    """The encoders of a run with the heads that were trained, on the host. `name`: for messages."""
    params = jax.device_get(run.params)
    row = find_row(run.config["objective"]["name"])
    generator = mask_filler(params, run.model)
    discriminator = to_published(params, run.model).get("discriminator")
    limit = (discriminator or generator).config.max_position_embeddings
    return Pretrained(
        name,
        row,
        generator,
        discriminator,
        run.tokenizer,
        Speller(run.tokenizer),
        min(limit, run.row_length),
        run.step,
    )


def _of_export(flag: str, place: str, path: Path) -> Pretrained:
    """One or both models of an export, or of another directory with the same files."""
    source = read_source(path, "huggingface", None)
    training = source.training
    folder = next((path / role for role in ROLES if (path / role).is_dir()), path)
    with temporary_directory() as temporary:
        tokenizer = _adopt(folder, temporary)
        speller = Speller(tokenizer)
    found: dict[str, ModelWeights] = {}
    for role, model in source.models.items():
        other = next(name for name in ROLES if name != role)
        for candidate in [role] if len(source.models) > 1 else [role, other]:
            weights = _published(candidate, model, tokenizer)
            if weights is not None:
                found.setdefault(candidate, weights)
                break
    row = find_row(training["objective"]["name"] if training else PLAIN_OBJECTIVE)
    generator = found.get("generator") if row.fills_masks else None
    if generator is None and "discriminator" not in found:
        raise ValueError(
            f"{flag}: got {place} ({row.title}), an encoder without a head that fills in masks or judges "
            "tokens, expected one with such a head. Fine-tune it, or give the directory above of an export "
            "with two folders."
        )
    limits = [weights.config.max_position_embeddings for weights in found.values()]
    if training:
        limits.append(training["data"]["sequence_length"])
    return Pretrained(place, row, generator, found.get("discriminator"), tokenizer, speller, min(limits))


def _published(role: str, model: SourceModel, tokenizer: Tokenizer) -> ModelWeights | None:
    """The model with its head, None if the file has no head of that role.

    Raises:
      ValueError: the encoder is not complete, or the head has an output table of its own.
    """
    if role not in model.family.heads:
        return None
    has_decoder = role == "generator" and stores_decoder(model)
    fields = from_config_json(model.config, enhanced_mask_decoder=has_decoder, dtype="float32")
    config = make_encoder_config(fields)
    with misread(model.path):
        check_layers(config.num_layers, model.arrays)
    module = PublishedModule(config, role)
    inputs = derive_inputs(jnp.ones((1, 2), jnp.int32), SpecialTokens.from_ids(tokenizer.special), 0)
    params = _filled(
        model, role, lambda key: module.init(key, jnp.ones((1, 2), jnp.int32), inputs), head_may_lack=True
    )
    return None if params is None else ModelWeights(config, params)


def _filled(model: SourceModel, role: str, init: Any, *, head_may_lack: bool) -> Any:
    """The parameters that `init` describes, from a file; None if its head is missing and may be.

    Raises:
      ValueError: an array is missing, or a head has an output table of its own.
    """
    abstract = jax.eval_shape(lambda key: unbox(init(key)["params"]), jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract, sep="/").items()}
    with misread(model.path):
        found = from_file(model.family, role, model.arrays, shapes)
    check_output_table(role, model, found.leaves)
    lacking = [path for path in found.missing if not (head_may_lack and path.startswith("head/"))]
    if lacking:
        raise ValueError(f"{model.path}: the file has no arrays for {', '.join(lacking[:4])}.")
    return None if found.missing else unflatten_dict(found.leaves, sep="/")


def _of_exported_task(path: Path) -> SavedModel:
    """An exported fine-tuned model, with the head of its class in `transformers`."""
    with temporary_directory() as temporary:
        tokenizer = _adopt(path, temporary)
    model = read_directory(path)
    with misread(path / FINETUNING_FILE):
        description = _read(path / FINETUNING_FILE)
        encoder = make_encoder_config(upgrade_encoder(description.pop("encoder")))
        encoder = dataclasses.replace(encoder, dtype="float32")
        # The outputs of exported regressions have the units of the labels.
        description["task"] = description["task"] | {"label_scale": 1.0}
        settings = upgrade_head(description["config"]["model"]) | {"head": "transformers"}
        description["config"] = description["config"] | {"model": settings}
        check_layers(encoder.num_layers, model.arrays)
        params = _filled(
            model,
            description["task"]["kind"],
            _task_init(encoder, description, tokenizer),
            head_may_lack=False,
        )
    return SavedModel(encoder, description, tokenizer, params)


def _task_init(encoder: EncoderConfig, description: dict[str, Any], tokenizer: Tokenizer) -> Any:
    kind = description["task"]["kind"]
    num_outputs = {"regression": 1, "question_answering": 2}.get(kind, len(description["labels"]))
    special = SpecialTokens.from_ids(tokenizer.special)
    model = TaskModel(encoder, special, kind, num_outputs, "transformers", 0.0)
    return lambda key: model.init(key, jnp.ones((1, 2), jnp.int32), False)


def _adopt(directory: Path, temporary: Path) -> Tokenizer:
    adopt_tokenizer(directory, temporary / "tokenizer", lowercase=None)
    return load_tokenizer(str(temporary / "tokenizer"))
