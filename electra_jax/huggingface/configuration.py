"""Our EncoderConfig as the config.json of `transformers`, and back.

Every field that differs from the class's default is written, and those that libraries or versions disagree
about.
"""

from typing import Any

from electra_jax.models.config import DisentangledConfig, EncoderConfig, RelativeBiasConfig

ACTIVATION = "gelu"  # the exact one

# Field of config.json → our field, where the meaning is the same in all families.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
}
# Role → class of `transformers` that loads the export.
ELECTRA_CLASSES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}
DEBERTA_CLASSES = {"discriminator": "DebertaV2Model", "generator": "DebertaV2ForMaskedLM"}
# An ELECTRA with a relative bias has no class in `transformers`; its own are in a file that travels with the
# model. It has a type of its own, too: with ELECTRA's it would load as one where the file is not trusted, and
# the bias be left out.
RELATIVE_BIAS_TYPE, RELATIVE_BIAS_FILE = "electra_relative_bias", "modeling_electra_relative_bias.py"
RELATIVE_BIAS_PREFIX = "ElectraRelativeBias"
RELATIVE_BIAS_TASKS = (
    "ForPreTraining",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
# model_type → (fields that must have one of these values when they are there, what else would be needed).
_SUPPORTED = {
    "hidden_act": (ACTIVATION,),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "relative_attention": (True,),
    "share_att_key": (True,),
    "norm_rel_ebd": ("layer_norm",),
    "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c"),
    "conv_act": (ACTIVATION,),
    "conv_groups": (1,),
}
_REQUIRED_OF_ELECTRA = (
    "embedding_size",
)  # the others' embeddings are as wide as the model, unless they say it
_REQUIRED_OF_DEBERTA = ("relative_attention", "share_att_key", "norm_rel_ebd", "pos_att_type")
_REQUIRED_OF_RELATIVE_BIAS = {
    "relative_bias_num_buckets": "num_buckets",
    "relative_bias_max_distance": "max_distance",
    "position_biased_input": "position_biased_input",
}
MODEL_TYPES = ("electra", "bert", "deberta-v2", RELATIVE_BIAS_TYPE)


def to_config_json(encoder: EncoderConfig, role: str, *, pad_token_id: int, dtype: str) -> dict[str, Any]:
    """config.json of a published model. `dtype` is that of its weights, "float32" or "bfloat16"."""
    fields = {theirs: getattr(encoder, ours) for theirs, ours in _FIELDS.items()}
    # `torch_dtype` is the name in transformers 4, which 5 still reads.
    common = {
        "hidden_act": ACTIVATION,
        "pad_token_id": pad_token_id,
        "torch_dtype": dtype,
        "tie_word_embeddings": True,
    }
    if encoder.disentangled is None:
        electra = (
            {
                "architectures": [ELECTRA_CLASSES[role]],
                "model_type": "electra",
                "embedding_size": encoder.embedding_size,
                "position_embedding_type": "absolute",
                "summary_type": "first",
                "summary_use_proj": True,
                "summary_activation": ACTIVATION,
                "summary_last_dropout": encoder.hidden_dropout,
            }
            | fields
            | common
        )
        if encoder.relative_bias is None:
            return electra | {"type_vocab_size": max(encoder.type_vocab_size, 1)}  # parts.with_token_types
        return electra | _relative_bias_fields(
            encoder.relative_bias, ELECTRA_CLASSES[role].removeprefix("Electra")
        )
    disentangled = encoder.disentangled
    convolution = {
        "conv_kernel_size": disentangled.conv_kernel_size,
        "conv_act": ACTIVATION,
        "conv_groups": 1,
    }
    return (
        {
            "architectures": [DEBERTA_CLASSES[role]],
            "model_type": "deberta-v2",
            "relative_attention": True,
            "position_buckets": disentangled.position_buckets,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "max_relative_positions": disentangled.max_relative_positions,
            "position_biased_input": disentangled.position_biased_input,
            "attention_head_size": encoder.head_size,
            "pooler_hidden_size": encoder.hidden_size,
            "pooler_dropout": 0,
            "pooler_hidden_act": ACTIVATION,
            # The head computes the same in both forms, but transformers 4 ties that of legacy=False to the
            # wrong matrix.
            "legacy": True,
        }
        | fields
        | common
        | (convolution if disentangled.conv_kernel_size else {})
    )


def _relative_bias_fields(relative_bias: RelativeBiasConfig, task: str) -> dict[str, Any]:
    """What a model with custom code has of its own in config.json, and where its classes are."""
    place = f"{RELATIVE_BIAS_FILE.removesuffix('.py')}.{RELATIVE_BIAS_PREFIX}"
    autos = {"AutoConfig": f"{place}Config", "AutoModel": f"{place}Model"}
    return {
        "architectures": [f"{RELATIVE_BIAS_PREFIX}{task}"],
        "model_type": RELATIVE_BIAS_TYPE,
        "auto_map": autos | {f"AutoModel{task}": f"{place}{task}" for task in RELATIVE_BIAS_TASKS},
        **{theirs: getattr(relative_bias, ours) for theirs, ours in _REQUIRED_OF_RELATIVE_BIAS.items()},
    }


def from_config_json(config: dict[str, Any], *, enhanced_mask_decoder: bool, dtype: str) -> dict[str, Any]:
    """Fields of an EncoderConfig from a config.json of BERT, ELECTRA (with or without our relative bias) or
    DeBERTa-v2/v3; the last two are ours to choose.

    Raises: ValueError: another kind of model, a field is missing, or it has a value that our encoders cannot
      compute.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(
            f"config.json: got model_type {kind!r}, expected one of {MODEL_TYPES}. Only these can be "
            "imported."
        )
    required = {
        "electra": _REQUIRED_OF_ELECTRA,
        "deberta-v2": _REQUIRED_OF_DEBERTA,
        RELATIVE_BIAS_TYPE: (*_REQUIRED_OF_ELECTRA, *_REQUIRED_OF_RELATIVE_BIAS),
    }
    needed = [*_FIELDS, *required.get(kind, ())]
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(
            f"config.json: {', '.join(missing)} missing. The defaults of transformers differ from release to "
            "release, so they are not guessed: add the fields."
        )
    for name, allowed in _SUPPORTED.items():
        if name in config and config[name] not in allowed:
            raise ValueError(
                f"config.json: got {name}={config[name]!r}, expected {' or '.join(map(repr, allowed))}. Our "
                "encoders cannot compute anything else."
            )
    fields = {ours: config[theirs] for theirs, ours in _FIELDS.items()}
    fields |= {
        "initializer": "published",
        "dtype": dtype,
        "embedding_size": config.get("embedding_size", config["hidden_size"]),
        "relative_bias": None,
    }
    if kind == RELATIVE_BIAS_TYPE:
        relative_bias = {ours: config[theirs] for theirs, ours in _REQUIRED_OF_RELATIVE_BIAS.items()}
        return fields | {"position": "relative_bias", "disentangled": None, "relative_bias": relative_bias}
    if kind != "deberta-v2":
        return fields | {"position": "absolute", "disentangled": None}
    limit = config.get("max_relative_positions", -1)
    buckets = config.get("position_buckets", -1)
    if buckets < 1:
        raise ValueError(
            f"config.json: got position_buckets={buckets}, expected 2 or more: DeBERTa's first version, "
            "without logarithmic buckets, cannot be imported."
        )
    disentangled = DisentangledConfig(
        position_buckets=buckets,
        max_relative_positions=config["max_position_embeddings"] if limit < 1 else limit,
        position_biased_input=config.get("position_biased_input", True),
        enhanced_mask_decoder=enhanced_mask_decoder,
        conv_kernel_size=config.get("conv_kernel_size", 0),
    )
    return fields | {"position": "disentangled", "disentangled": vars(disentangled)}
