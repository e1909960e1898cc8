"""Converts between our EncoderConfig and the config.json of `transformers`.

Every field is written whose value differs from the class's default, or whose default differs between
libraries or releases.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from data_pipelines.problems import errors_in
from electra_jax.huggingface import modernbert
from electra_jax.huggingface.sizes import RATES, check_sizes
from electra_jax.models.config import SECTIONS, EncoderConfig, make_encoder_config
from electra_jax.models.inputs import SpecialTokens

ACTIVATION = "gelu"  # exact, not the tanh approximation

# Field of config.json → our field, for fields with the same meaning in all families but ModernBERT.
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
# `transformers` has no class for an ELECTRA with a relative bias; a file that travels with the model defines
# one. The model also has its own model_type: with ELECTRA's it would load as an ELECTRA without the bias if
# the user does not trust the file.
RELATIVE_BIAS_TYPE, RELATIVE_BIAS_FILE = "electra_relative_bias", "modeling_electra_relative_bias.py"
RELATIVE_BIAS_PREFIX = "ElectraRelativeBias"
RELATIVE_BIAS_TASKS = (
    "ForPreTraining",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
# Field → the values that our encoders can compute; the field may be missing.
_SUPPORTED = {
    "hidden_act": (ACTIVATION,),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "relative_attention": (True,),
    "share_att_key": (True,),
    "norm_rel_ebd": ("layer_norm",),
    "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"]),
    "conv_act": (ACTIVATION,),
    "conv_groups": (1,),
}
# Field of config.json → our field, of the relative bias.
_RELATIVE_BIAS_FIELDS = {
    "relative_bias_num_buckets": "num_buckets",
    "relative_bias_max_distance": "max_distance",
    "position_biased_input": "position_biased_input",
}
# Field of our sections → that of config.json, where the names differ.
_SECTION_NAMES = {ours: theirs for theirs, ours in (_RELATIVE_BIAS_FIELDS | modernbert.ROTARY_FIELDS).items()}


def to_config_json(
    encoder: EncoderConfig, role: str, *, special: SpecialTokens, dtype: str
) -> dict[str, Any]:
    """config.json of a published model.

    Args:
      encoder: the model's shape.
      role: "discriminator" or "generator".
      special: ids of the special tokens.
      dtype: of the stored weights, "float32" or "bfloat16".
    """
    # transformers 4 calls it `torch_dtype`, and 5 still reads that name.
    common = {"pad_token_id": special.pad, "torch_dtype": dtype, "tie_word_embeddings": True}
    return common | _WRITE_FIELDS[encoder.position](encoder, role, special)


def _bert_fields(encoder: EncoderConfig) -> dict[str, Any]:
    """Fields of all families whose layers are BERT's."""
    return {theirs: getattr(encoder, ours) for theirs, ours in _FIELDS.items()} | {"hidden_act": ACTIVATION}


def _absolute_fields(encoder: EncoderConfig, role: str, special: SpecialTokens) -> dict[str, Any]:
    """Fields of ELECTRA."""
    return _bert_fields(encoder) | {
        "architectures": [ELECTRA_CLASSES[role]],
        "model_type": "electra",
        # ELECTRA's classes require token types: published_models.with_token_types adds the table.
        "type_vocab_size": max(encoder.type_vocab_size, 1),
        "embedding_size": encoder.embedding_size,
        "position_embedding_type": "absolute",
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": ACTIVATION,
        "summary_last_dropout": encoder.hidden_dropout,
    }


def _disentangled_fields(encoder: EncoderConfig, role: str, special: SpecialTokens) -> dict[str, Any]:
    """Fields of DeBERTa-v2/v3."""
    disentangled = encoder.disentangled
    convolution = {
        "conv_kernel_size": disentangled.conv_kernel_size,
        "conv_act": ACTIVATION,
        "conv_groups": 1,
    }
    fields = {
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
        # The head computes the same with both values, but transformers 4 ties the head of legacy=False to
        # the wrong matrix.
        "legacy": True,
    }
    return _bert_fields(encoder) | fields | (convolution if disentangled.conv_kernel_size else {})


def _relative_bias_fields(encoder: EncoderConfig, role: str, special: SpecialTokens) -> dict[str, Any]:
    """Fields of ELECTRA with a relative bias, and where its classes are."""
    task = ELECTRA_CLASSES[role].removeprefix("Electra")
    place = f"{RELATIVE_BIAS_FILE.removesuffix('.py')}.{RELATIVE_BIAS_PREFIX}"
    autos = {"AutoConfig": f"{place}Config", "AutoModel": f"{place}Model"}
    own = {theirs: getattr(encoder.relative_bias, ours) for theirs, ours in _RELATIVE_BIAS_FIELDS.items()}
    return _absolute_fields(encoder, role, special) | {
        "architectures": [f"{RELATIVE_BIAS_PREFIX}{task}"],
        "model_type": RELATIVE_BIAS_TYPE,
        "type_vocab_size": encoder.type_vocab_size,  # its classes also work without token types
        "auto_map": autos | {f"AutoModel{task}": f"{place}{task}" for task in RELATIVE_BIAS_TASKS},
        **own,
    }


# config.model.position → the fields of its family.
_WRITE_FIELDS = {
    "absolute": _absolute_fields,
    "disentangled": _disentangled_fields,
    "relative_bias": _relative_bias_fields,
    "rotary": modernbert.write_fields,
}


def from_config_json(
    config: dict[str, Any],
    *,
    enhanced_mask_decoder: bool,
    dtype: str,
    attention_output_dropout: float = 0.0,
) -> dict[str, Any]:
    """Fields of an EncoderConfig from the config.json of a BERT, a DeBERTa-v2/v3, a ModernBERT, or an ELECTRA
    with or without our relative bias.

    Args:
      config: config.json.
      enhanced_mask_decoder, dtype, attention_output_dropout: fields of ours that config.json does not
        determine.
    Raises:
      ValueError: another type of model, a missing field, or a value that our encoders cannot compute.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _FORMS:
        raise ValueError(
            f"config.json: got model_type {model_type!r}, expected one of {tuple(_FORMS)}. Only these can be "
            "imported."
        )
    form = _FORMS[model_type]
    # Renaming compares numbers. Where a value is None, the class has another field for it.
    check_sizes({name: value for name, value in config.items() if value is not None})
    config = form.rename(config)
    _check_config_json(config, form)
    # A file may say 0 for 0.0. Flags take the type that the run's configuration has.
    config = config | {name: float(config[name]) for name in RATES if name in config}
    common = {
        "initializer": "published",
        "dtype": dtype,
        "embedding_size": config["hidden_size"],
        "position": "absolute",
        **dict.fromkeys(SECTIONS),
    }
    fields = {ours: config[theirs] for theirs, ours in form.fields.items()}
    undetermined = {
        "enhanced_mask_decoder": enhanced_mask_decoder,
        "attention_output_dropout": attention_output_dropout,
    }
    found = common | fields | form.read(config, undetermined)
    _check_encoder(found, config, form)
    return found


def _check_config_json(config: dict[str, Any], form: "_Form") -> None:
    """Raises ValueError if a missing field or a value cannot be imported."""
    missing = [name for name in (*form.fields, *form.required) if name not in config]
    if missing:
        raise ValueError(
            f"config.json: {', '.join(missing)} missing. Add the fields: defaults of transformers differ "
            "between releases, so none are assumed."
        )
    check_sizes(config)
    for name, allowed in form.supported.items():
        if name in config and config[name] not in allowed:
            raise ValueError(
                f"config.json: got {name}={config[name]!r}, expected {' or '.join(map(repr, allowed))}. Our "
                "encoders cannot compute anything else."
            )


def _check_encoder(found: dict[str, Any], config: dict[str, Any], form: "_Form") -> None:
    """Raises ValueError with names of config.json if our encoders cannot have the fields that were found."""
    theirs = _SECTION_NAMES | {ours: name for name, ours in form.fields.items()}
    try:
        make_encoder_config(found)
    except ValueError as error:
        wrong = []
        for one in errors_in(error):
            field = one.field.rpartition(".")[2]
            name = theirs.get(field, field)
            wrong.append(f"got {name}={config.get(name, one.got)!r:.80}, expected {one.expected}")
        raise ValueError(
            f"config.json: {'; '.join(wrong)}. Our encoders cannot compute anything else."
        ) from error


def _read_relative_bias(config: dict[str, Any], undetermined: dict[str, Any]) -> dict[str, Any]:
    relative_bias = {ours: config[theirs] for theirs, ours in _RELATIVE_BIAS_FIELDS.items()}
    return {"position": "relative_bias", "relative_bias": relative_bias}


def _as_transformers_reads(config: dict[str, Any]) -> dict[str, Any]:
    """A DeBERTa-v2's config.json with the values that `transformers` takes for what others spell in several
    ways, or leave out."""
    types = config.get("pos_att_type")
    if isinstance(types, str):
        config = config | {"pos_att_type": [name.strip() for name in types.lower().split("|")]}
    return {"conv_act": "tanh"} | config if config.get("conv_kernel_size") else config


def _read_disentangled(config: dict[str, Any], undetermined: dict[str, Any]) -> dict[str, Any]:
    limit = config.get("max_relative_positions", -1)
    buckets = config.get("position_buckets", -1)
    if buckets < 1:
        raise ValueError(
            f"config.json: got position_buckets={buckets}, expected 2 or more: DeBERTa's first version, "
            "without logarithmic buckets, cannot be imported."
        )
    has_positions = config.get("position_biased_input", True)
    disentangled = {
        "position_buckets": buckets,
        "max_relative_positions": config["max_position_embeddings"] if limit < 1 else limit,
        "position_biased_input": has_positions,
        # The decoder adds the positions that the input does not have.
        "enhanced_mask_decoder": undetermined["enhanced_mask_decoder"] and not has_positions,
        "conv_kernel_size": config.get("conv_kernel_size", 0),
    }
    embedding_size = config.get("embedding_size", config["hidden_size"])
    return {"position": "disentangled", "embedding_size": embedding_size, "disentangled": disentangled}


# Others' embeddings are as wide as the hidden states.
_OWN_WIDTH = _FIELDS | {"embedding_size": "embedding_size"}


class _Form(NamedTuple):
    """How the config.json of one model_type describes an encoder."""

    required: tuple[str, ...]  # fields that it must have besides `fields`
    # (config.json, fields of ours that it does not determine) → our fields beside `fields`.
    read: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    fields: dict[str, str] = _FIELDS  # its field → our field
    supported: dict[str, tuple] = _SUPPORTED  # its field, which may be missing → the values of our encoders
    # config.json → the same with the names and values that the other parts read.
    rename: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config


# model_type → how to read its config.json.
_FORMS = {
    "electra": _Form((), lambda config, undetermined: {}, _OWN_WIDTH),
    "bert": _Form((), lambda config, undetermined: {}),
    "deberta-v2": _Form(
        ("relative_attention", "share_att_key", "norm_rel_ebd", "pos_att_type"),
        _read_disentangled,
        rename=_as_transformers_reads,
    ),
    RELATIVE_BIAS_TYPE: _Form(tuple(_RELATIVE_BIAS_FIELDS), _read_relative_bias, _OWN_WIDTH),
    modernbert.MODEL_TYPE: _Form(
        tuple(modernbert.ROTARY_FIELDS),
        lambda config, undetermined: modernbert.read_fields(config, undetermined["attention_output_dropout"]),
        modernbert.FIELDS,
        modernbert.SUPPORTED,
        modernbert.with_old_names,
    ),
}
