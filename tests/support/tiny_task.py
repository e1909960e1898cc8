"""Small tasks, models for them, and the task classes of `transformers` with our weights."""

import jax
import numpy as np
import torch
import transformers

from data_pipelines.tasks.encoding import EncodedExample
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.task_types import make_task_type
from electra_jax.finetuning.trainer import Trainer
from electra_jax.huggingface.configuration import to_config_json
from electra_jax.huggingface.names import DEBERTA_V2, ELECTRA, to_file
from electra_jax.models.config import make_pretraining_config
from support import tiny_export
from support.random_parameters import random_parameters
from support.tiny import SPECIAL, key
from support.tiny_run import VOCAB

ONE = {"data": 1, "fsdp": 1, "tensor": 1}
HEADS = {
    "DebertaV2ForSequenceClassification": (("pooler", "pooler.dense"), ("classifier", "classifier")),
    "DebertaV2ForTokenClassification": (("classifier", "classifier"),),
    "DebertaV2ForQuestionAnswering": (("classifier", "qa_outputs"),),
    "ElectraForSequenceClassification": (
        ("pooler", "classifier.dense"),
        ("classifier", "classifier.out_proj"),
    ),
    "ElectraForTokenClassification": (("classifier", "classifier"),),
    "ElectraForQuestionAnswering": (("classifier", "qa_outputs"),),
}


def encoder_config(family):
    model = tiny_export.electra_model() if family == "electra" else tiny_export.deberta_model()
    return make_pretraining_config(model).discriminator


def random_params(model, ids):
    """Parameters whose biases and LayerNorms differ from their trivial initial values."""
    return random_parameters(lambda: model.init(key(), ids, False)["params"])


def torch_model(name, config, params, num_labels):
    """The class of `transformers` with our weights; the encoder's names come from the export's table."""
    family = ELECTRA if config.disentangled is None else DEBERTA_V2
    weights = to_file(family, "discriminator", {part: params[part] for part in ("embeddings", "encoder")})
    for ours, theirs in HEADS[name]:
        if ours in params["head"]:
            weights[f"{theirs}.weight"] = np.asarray(params["head"][ours]["kernel"]).T.copy()
            weights[f"{theirs}.bias"] = np.asarray(params["head"][ours]["bias"])
    fields = to_config_json(config, "discriminator", special=SPECIAL, dtype="float32") | {
        "num_labels": num_labels
    }
    for field in ("architectures", "model_type"):
        del fields[field]
    model_config = (transformers.ElectraConfig if family is ELECTRA else transformers.DebertaV2Config)(
        **fields
    )
    model = getattr(transformers, name)(model_config).eval()
    missing, unexpected = model.load_state_dict(
        {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}, strict=False
    )
    assert not unexpected and not [
        name for name in missing if "position_ids" not in name and "token_type_ids" not in name
    ]
    return model


def make_type(name, **task):
    config = load_config("configs/finetune.py:task=local").to_dict()
    labels = () if name == "regression" else ("low", "high")
    return make_task_type(config["task"] | {"kind": name, "metrics": ()} | task, labels)


def make_settings(task_type, **train):
    config = load_config("configs/finetune.py:task=trec6").to_dict()
    config["task"]["kind"] = task_type
    config["optimizer"]["learning_rate"] = 3e-3
    config["model"]["head_dropout"] = 0.0
    config["train"] |= {"num_epochs": 6, "batch_size": 16} | train
    return config


def task_examples(task_type, number, seed):
    """A solvable task: class or tag tell whether a token is in the upper half of the vocabulary, a number
    tells where in the vocabulary it is."""
    source = np.random.default_rng(seed)
    examples = []
    for _ in range(number):
        body = source.integers(5, VOCAB, size=source.integers(3, 8)).astype(np.int32)
        ids = np.concatenate([[1], body, [2]]).astype(np.int32)
        high = (ids > VOCAB // 2).astype(np.int32)
        label = {
            "classification": int(high[1]),
            "regression": float(ids[1] / VOCAB),
            "tagging": np.where((ids == 1) | (ids == 2), -1, high),
        }[task_type]
        examples.append(EncodedExample(ids, label, len(examples)))
    return examples


def predict(encoder, name, config, train, held_out, mesh=None, seed=0):
    task_type = make_type(name, label_scale=config["task"]["label_scale"])
    mesh = mesh or make_mesh(ONE, jax.devices()[:1])
    trainer = Trainer(encoder.config, encoder.special, task_type, config, len(train), mesh)
    outcome = trainer.run(encoder.params, seed, train, {"validation": held_out})
    return task_type.collect(held_out, held_out, outcome.outputs["validation"])


def make_encoder(data, tmp_path_factory):
    """(a randomly initialised encoder, the directory of the run with its shapes)."""
    run, _ = tiny_export.make_run(tmp_path_factory.mktemp("start") / "run", data, tiny_export.electra_model())
    return load_encoder(f"random:{run}", tmp_path_factory.mktemp("cache") / "tokenizer"), run
