"""ModernBERT in the form of `transformers`: names of its arrays, and its config.json.

transformers 4 describes layers and positions by `global_attn_every_n_layers` and two `…_rope_theta`, 5 by
`layer_types` and `rope_parameters`. Exports have the fields of 4, which 5 reads too, and `layer_types`;
imports read both forms.
"""

from typing import Any

from electra_jax.huggingface.names import TORCH, Family, Rows
from electra_jax.models.config import EncoderConfig, RotaryConfig
from electra_jax.models.inputs import SpecialTokens

MODEL_TYPE = "modernbert"
# Role → class of `transformers` that loads the export.
CLASSES = {"discriminator": "ModernBertModel", "generator": "ModernBertForMaskedLM"}
GLOBAL, LOCAL = "full_attention", "sliding_attention"

_LAYER, _THEIR_LAYER = "encoder/layer_{n}/", "model.layers.{n}."
_HEAD: Rows = (("dense", "head/dense", "head.dense"), ("norm", "head/LayerNorm", "head.norm"))
_TASK_HEAD: Rows = (
    ("dense", "head/pooler", "head.dense"),
    ("norm", "head/LayerNorm", "head.norm"),
    ("dense", "head/classifier", "classifier"),
)
# ModernBertModel, ModernBertForMaskedLM and the task classes, which have one head. The detection head has its
# shape, too: with it, the discriminator is a ModernBertForTokenClassification of one label.
MODERN_BERT = Family(
    TORCH,
    "model.",
    (
        ("table", "embeddings/word_embeddings", "model.embeddings.tok_embeddings"),
        ("norm", "embeddings/LayerNorm", "model.embeddings.norm"),
        ("norm", f"{_LAYER}attention_LayerNorm", f"{_THEIR_LAYER}attn_norm"),  # not in layer 0
        *(
            ("dense", f"{_LAYER}attention/{role}", f"{_THEIR_LAYER}attn.Wqkv[{part}/3]")
            for part, role in enumerate(("query", "key", "value"))
        ),
        ("dense", f"{_LAYER}attention/output", f"{_THEIR_LAYER}attn.Wo"),
        ("norm", f"{_LAYER}mlp_LayerNorm", f"{_THEIR_LAYER}mlp_norm"),
        ("dense", f"{_LAYER}intermediate", f"{_THEIR_LAYER}mlp.Wi[0/2]"),
        ("dense", f"{_LAYER}gate", f"{_THEIR_LAYER}mlp.Wi[1/2]"),
        ("dense", f"{_LAYER}output", f"{_THEIR_LAYER}mlp.Wo"),
        ("norm", "encoder/final_LayerNorm", "model.final_norm"),
    ),
    {
        "discriminator": (*_HEAD, ("dense", "head/dense_prediction", "classifier")),
        "generator": (*_HEAD, ("array", "head/bias", "decoder.bias")),
        **dict.fromkeys(("classification", "regression", "tagging", "question_answering"), _TASK_HEAD),
        "embedding": (),
    },
)

# Field of config.json → our field.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "attention_dropout": "attention_dropout",
    "mlp_dropout": "hidden_dropout",
    "norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
}
# The same for our section "rotary".
ROTARY_FIELDS = {
    "global_attn_every_n_layers": "global_attention_every",
    "local_attention": "window",
    "global_rope_theta": "global_theta",
    "local_rope_theta": "local_theta",
}
# Field → the only values that our encoder can compute; the field may be missing.
SUPPORTED = {
    **dict.fromkeys(("hidden_activation", "classifier_activation"), ("gelu",)),
    **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), (False,)),
    **dict.fromkeys(("decoder_bias", "tie_word_embeddings"), (True,)),
    **dict.fromkeys(("is_causal", "causal_mask", "is_decoder"), (False, None)),
    "rope_scaling": (None,),
}


def write_fields(encoder: EncoderConfig, role: str, special: SpecialTokens) -> dict[str, Any]:
    """Fields of config.json."""
    rotary = encoder.rotary
    return {
        "architectures": [CLASSES[role]],
        "model_type": MODEL_TYPE,
        **{theirs: getattr(encoder, ours) for theirs, ours in FIELDS.items()},
        **{theirs: getattr(rotary, ours) for theirs, ours in ROTARY_FIELDS.items()},
        "layer_types": _layer_types(rotary, encoder.num_layers),
        "embedding_dropout": encoder.hidden_dropout,
        **{name: values[0] for name, values in SUPPORTED.items() if name.endswith(("activation", "_bias"))},
        "initializer_cutoff_factor": 2.0,
        "classifier_pooling": "cls",
        "classifier_dropout": 0.0,
        # The defaults are ids of ModernBERT's own vocabulary.
        "bos_token_id": special.cls,
        "cls_token_id": special.cls,
        "eos_token_id": special.sep,
        "sep_token_id": special.sep,
        "mask_token_id": special.mask,
        "reference_compile": False,  # transformers 4 would compile parts of the model, which changes rounding
    }


def _layer_types(rotary: RotaryConfig, num_layers: int) -> list[str]:
    return [GLOBAL if rotary.is_global(layer) else LOCAL for layer in range(num_layers)]


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json of transformers 4 or 5, with the fields of 4.

    Raises:
      ValueError: `rope_parameters` or `layer_types` describe what our encoder cannot compute, or contradict
        the fields of 4.
    """
    found = _thetas(config.get("rope_parameters")) | _interval(config)
    for name, value in found.items():
        if config.get(name) not in (None, value):
            raise ValueError(
                f"config.json: got {name}={config[name]!r:.60}, but layer_types and rope_parameters say "
                f"{value!r}. Remove whichever is wrong."
            )
    config = config | found
    if "local_rope_theta" in config and config["local_rope_theta"] is None:
        config["local_rope_theta"] = config.get("global_rope_theta")  # as transformers 4 reads it
    return config


def _thetas(parameters: Any) -> dict[str, Any]:
    """The bases of the wavelengths in `rope_parameters`, by the names of transformers 4."""
    if parameters is None:
        return {}
    names = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}
    is_known = isinstance(parameters, dict) and all(
        kind in names
        and isinstance(of_kind, dict)
        and of_kind.keys() <= {"rope_theta", "rope_type"}
        and of_kind.get("rope_type", "default") == "default"
        for kind, of_kind in parameters.items()
    )
    if not is_known:
        raise ValueError(
            f"config.json: got rope_parameters={parameters!r:.200}, expected rope_theta for {GLOBAL} and for "
            f"{LOCAL}, with rope_type 'default'. Our encoder cannot compute anything else."
        )
    return {
        names[kind]: of_kind["rope_theta"] for kind, of_kind in parameters.items() if "rope_theta" in of_kind
    }


def _interval(config: dict[str, Any]) -> dict[str, int]:
    """`global_attn_every_n_layers`, given or as `layer_types` shows it. A model with no more layers than the
    interval fits several intervals; the given one, or ModernBERT's 3, is then taken."""
    types = config.get("layer_types")
    if types is None:
        return {}
    num_layers = len(types) if isinstance(types, list) else 0
    later = types[1:] if num_layers else []
    shown = later.index(GLOBAL) + 1 if GLOBAL in later else num_layers
    for interval in (config.get("global_attn_every_n_layers", 3), shown):
        if isinstance(interval, int) and interval > 0:
            expected = [LOCAL if layer % interval else GLOBAL for layer in range(num_layers)]
            if types == expected and num_layers == config.get("num_hidden_layers", num_layers):
                return {"global_attn_every_n_layers": interval}
    raise ValueError(
        f"config.json: got layer_types={types!r:.200}, expected {GLOBAL!r} for every layer whose number is a "
        f"multiple of an interval, from 0, and {LOCAL!r} for the others. Our encoder has no other patterns."
    )


def read_fields(config: dict[str, Any], attention_output_dropout: float) -> dict[str, Any]:
    """Our fields that FIELDS does not give, from a config.json with the fields of transformers 4.

    Args:
      attention_output_dropout: that of our configuration. In `transformers`, attention_dropout is the rate of
        two dropouts: of the weights, as here, and of the attention's output.

    Raises:
      ValueError: a value that our encoder cannot compute.
    """
    embedding_dropout, mlp_dropout = (config.get(f"{part}_dropout", 0.0) for part in ("embedding", "mlp"))
    if embedding_dropout != mlp_dropout:
        raise ValueError(
            f"config.json: got embedding_dropout={embedding_dropout!r} and mlp_dropout={mlp_dropout!r}, "
            "expected equal values: config.model.hidden_dropout sets both."
        )
    rotary = {ours: config[theirs] for theirs, ours in ROTARY_FIELDS.items()}
    rotary |= {name: float(rotary[name]) for name in ("global_theta", "local_theta")}
    # Both libraries take half of it on each side.
    rotary |= {"window": rotary["window"] // 2 * 2, "attention_output_dropout": attention_output_dropout}
    return {"position": "rotary", "rotary": rotary, "type_vocab_size": 0}
