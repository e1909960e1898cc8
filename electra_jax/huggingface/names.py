"""Names of parameters in other checkpoints: one table for each family of encoders, used to write and to read.

A row of a table is (layer type, our path, their name); `{n}` stands for a layer's number. Our paths are those
of a published model, which has "embeddings", "encoder" and "head" (published_models.py). The layer type
determines the arrays of a row and their layout: PyTorch stores kernels as [out, in], TensorFlow as [in, out];
both flatten the attention heads. A name with `[1/3]` is the second of three equal parts, along the first
axis, of the array whose name lacks it: some files store several of our arrays as one.

Shapes: D input width, F output width, H heads, K head dim, T taps of a convolution.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from electra_jax.huggingface.published_models import Params


class Layout(NamedTuple):
    """How one array is stored in a file."""

    store: Callable[[np.ndarray], np.ndarray]
    restore: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]  # (stored array, our shape) → our array


_UNCHANGED = Layout(lambda x: x, lambda x, shape: x)
_FLAT = Layout(lambda x: x.reshape(-1), lambda x, shape: x.reshape(shape))
# [D, F] or [D, H, K] ↔ [F, D], and without the transposition.
_TRANSPOSED = Layout(lambda x: x.reshape(x.shape[0], -1).T, lambda x, shape: x.T.reshape(shape))
_MATRIX = Layout(lambda x: x.reshape(x.shape[0], -1), lambda x, shape: x.reshape(shape))
_TAPS = Layout(lambda x: x.transpose(2, 1, 0), lambda x, shape: x.transpose(2, 1, 0))  # [T, D, F] ↔ [F, D, T]

# Layer type → (suffix of our path, suffix of their name, layout) of each of its arrays.
Leaves = dict[str, tuple[tuple[str, str, Layout], ...]]
TORCH: Leaves = {
    "dense": (("/kernel", ".weight", _TRANSPOSED), ("/bias", ".bias", _FLAT)),
    "convolution": (("/kernel", ".weight", _TAPS), ("/bias", ".bias", _FLAT)),
    "norm": (("/scale", ".weight", _UNCHANGED), ("/bias", ".bias", _UNCHANGED)),
    "table": (("/embedding", ".weight", _UNCHANGED),),
    "array": (("", "", _UNCHANGED),),
}
TENSORFLOW: Leaves = {
    "dense": (("/kernel", "/kernel", _MATRIX), ("/bias", "/bias", _FLAT)),
    "norm": (("/scale", "/gamma", _UNCHANGED), ("/bias", "/beta", _UNCHANGED)),
    "table": (("/embedding", "", _UNCHANGED),),
    "array": (("", "", _UNCHANGED),),
}

_PART = re.compile(r"\[(\d+)/(\d+)\]")  # of a name: number and count of parts

Rows = tuple[tuple[str, str, str], ...]  # (layer type, our path, their name)


class Family(NamedTuple):
    """The names that one family of encoders uses in one file format."""

    leaves: Leaves  # of the file format
    prefix: str  # of the encoder's names; a file that holds the encoder alone may omit it
    rows: Rows  # of the embeddings and the encoder
    heads: dict[str, Rows]  # role or task type → rows of its head


def _embeddings(prefix: str, separator: str = ".") -> Rows:
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    return (
        *(("table", f"embeddings/{name}", f"{prefix}embeddings{separator}{name}") for name in tables),
        ("norm", "embeddings/LayerNorm", f"{prefix}embeddings{separator}LayerNorm"),
    )


def _layer(prefix: str, attention: tuple[str, str, str], separator: str = ".") -> Rows:
    """BERT's layer, whose names all families kept. `attention` is (query, key, value) projections' names."""
    ours, theirs = "encoder/layer_{n}/", separator.join((f"{prefix}{{n}}", ""))
    at = lambda *words: theirs + separator.join(words)
    return (
        *(
            ("dense", f"{ours}attention/{role}", at("attention", "self", name))
            for role, name in zip(("query", "key", "value"), attention, strict=True)
        ),
        ("dense", f"{ours}attention/output", at("attention", "output", "dense")),
        ("norm", f"{ours}attention_LayerNorm", at("attention", "output", "LayerNorm")),
        ("dense", f"{ours}intermediate", at("intermediate", "dense")),
        ("dense", f"{ours}output", at("output", "dense")),
        ("norm", f"{ours}output_LayerNorm", at("output", "LayerNorm")),
    )


def _task_heads(pooler: str, classifier: str) -> dict[str, Rows]:
    """Heads of the task classes in transformers. Families differ only in the sequence classification head."""
    sequence = (("dense", "head/pooler", pooler), ("dense", "head/classifier", classifier))
    return {
        "classification": sequence,
        "regression": sequence,
        "tagging": (("dense", "head/classifier", "classifier"),),
        "question_answering": (("dense", "head/classifier", "qa_outputs"),),
        "embedding": (),
    }


_BERT_LIKE = ("query", "key", "value")

# transformers: ElectraForPreTraining, ElectraForMaskedLM and ELECTRA's task classes. Only the classes in
# custom_code/ have a relative_bias.
ELECTRA = Family(
    TORCH,
    "electra.",
    (
        *_embeddings("electra."),
        ("dense", "encoder/embeddings_project", "electra.embeddings_project"),
        ("table", "encoder/relative_bias", "electra.encoder.relative_bias"),
        *_layer("electra.encoder.layer.", _BERT_LIKE),
    ),
    {
        "discriminator": (
            ("dense", "head/dense", "discriminator_predictions.dense"),
            ("dense", "head/dense_prediction", "discriminator_predictions.dense_prediction"),
        ),
        "generator": (
            ("dense", "head/dense", "generator_predictions.dense"),
            ("norm", "head/LayerNorm", "generator_predictions.LayerNorm"),
            ("array", "head/bias", "generator_lm_head.bias"),
        ),
        **_task_heads("classifier.dense", "classifier.out_proj"),
    },
)

# The head of BertForMaskedLM, and of DebertaV2ForMaskedLM with legacy=True (the default).
_BERT_GENERATOR = (
    ("dense", "head/dense", "cls.predictions.transform.dense"),
    ("norm", "head/LayerNorm", "cls.predictions.transform.LayerNorm"),
    ("array", "head/bias", "cls.predictions.bias"),
)

# transformers: DebertaV2Model, DebertaV2ForMaskedLM and DeBERTa's task classes. transformers has no class for
# `mask_predictions`, Microsoft's detection head. Without position_biased_input, position_embeddings is the
# table of the enhanced mask decoder.
DEBERTA_V2 = Family(
    TORCH,
    "deberta.",
    (
        *_embeddings("deberta."),
        ("array", "encoder/rel_embeddings", "deberta.encoder.rel_embeddings.weight"),
        ("norm", "encoder/LayerNorm", "deberta.encoder.LayerNorm"),
        ("convolution", "encoder/conv", "deberta.encoder.conv.conv"),
        ("norm", "encoder/conv/LayerNorm", "deberta.encoder.conv.LayerNorm"),
        *_layer("deberta.encoder.layer.", ("query_proj", "key_proj", "value_proj")),
    ),
    {
        "discriminator": (
            ("norm", "head/LayerNorm", "mask_predictions.LayerNorm"),
            ("dense", "head/dense", "mask_predictions.dense"),
            ("dense", "head/dense_prediction", "mask_predictions.classifier"),
        ),
        "generator": _BERT_GENERATOR,
        **_task_heads("pooler.dense", "classifier"),
    },
)
# Microsoft's own files and DebertaV2ForMaskedLM with legacy=False have another generator head.
MICROSOFT_DEBERTA = DEBERTA_V2._replace(
    heads=DEBERTA_V2.heads
    | {
        "generator": (
            ("dense", "head/dense", "lm_predictions.lm_head.dense"),
            ("norm", "head/LayerNorm", "lm_predictions.lm_head.LayerNorm"),
            ("array", "head/bias", "lm_predictions.lm_head.bias"),
        )
    }
)

# transformers: BertModel and BertForMaskedLM. BERT has no detection head.
BERT = Family(
    TORCH,
    "bert.",
    (*_embeddings("bert."), *_layer("bert.encoder.layer.", _BERT_LIKE)),
    {"discriminator": (), "generator": _BERT_GENERATOR},
)


def google_electra(role: str, shares_embeddings: bool) -> Family:
    """One of the two encoders in a TensorFlow checkpoint of google-research/electra.

    Scopes are those of its model/modeling.py and run_pretraining.py. With tied embeddings the generator's are
    stored as the discriminator's.
    """
    scope = {"discriminator": "electra/", "generator": "generator/"}[role]
    return Family(
        TENSORFLOW,
        scope,
        (
            *_embeddings("electra/" if shares_embeddings else scope, "/"),
            ("dense", "encoder/embeddings_project", f"{scope}embeddings_project"),
            *_layer(f"{scope}encoder/layer_", _BERT_LIKE, "/"),
        ),
        {
            "discriminator": (
                ("dense", "head/dense", "discriminator_predictions/dense"),
                ("dense", "head/dense_prediction", "discriminator_predictions/dense_1"),
            ),
            "generator": (
                ("dense", "head/dense", "generator_predictions/dense"),
                ("norm", "head/LayerNorm", "generator_predictions/LayerNorm"),
                ("array", "head/bias", "generator_predictions/output_bias"),
            ),
        },
    )


def word_table(family: Family) -> str:
    """The name of the token table in a PyTorch file, without the family's prefix and ".weight"."""
    [name] = (theirs for _, ours, theirs in family.rows if ours == "embeddings/word_embeddings")
    return name.removeprefix(family.prefix)


def has_ambiguous_detection_names(family: Family) -> bool:
    """Whether another head has arrays with the names of the detection head's."""
    detection, *others = (
        {theirs for _, _, theirs in family.heads[role]} for role in ("discriminator", "generator")
    )
    return not detection.isdisjoint(*others)


class Name(NamedTuple):
    """Where one of our arrays is in a file."""

    name: str
    layout: Layout


def names_of(family: Family, role: str, paths: list[str]) -> dict[str, Name]:
    """Our path → name in the family's files, for each of `paths`.

    Raises:
      ValueError: a path matches no row of the table, or several.
    """
    patterns = _patterns(family, role)
    names = {}
    for path in paths:
        matches = [(pattern.fullmatch(path), name) for pattern, name in patterns]
        found = [(match, name) for match, name in matches if match]
        if len(found) != 1:
            raise ValueError(
                f"parameter {path}: got {len(found)} names for it in the table of {family.prefix!r}, "
                "expected one. Add a row to the family's table."
            )
        [(match, name)] = found
        names[path] = name._replace(name=name.name.format(**match.groupdict()))
    return names


def _patterns(family: Family, role: str) -> list[tuple[re.Pattern[str], Name]]:
    """(pattern of our paths, their name with {n}) of every array in the tables."""
    patterns = []
    for layer_type, ours, theirs in (*family.rows, *family.heads[role]):
        for our_leaf, their_leaf, layout in family.leaves[layer_type]:
            pattern = re.escape(ours + our_leaf).replace(r"\{n\}", r"(?P<n>\d+)")
            patterns.append((re.compile(pattern), Name(theirs + their_leaf, layout)))
    return patterns


def to_file(family: Family, role: str, params: Params) -> dict[str, np.ndarray]:
    """Parameters of one published model under the family's names, in its layouts; contiguous."""
    leaves = flatten_dict(params, sep="/")
    arrays: dict[str, dict[str, np.ndarray]] = {}  # name → names of its parts → their arrays
    for path, (part, layout) in names_of(family, role, list(leaves)).items():
        arrays.setdefault(_PART.sub("", part), {})[part] = layout.store(np.asarray(leaves[path]))
    return {
        name: np.ascontiguousarray(np.concatenate([parts[part] for part in sorted(parts)]))
        for name, parts in arrays.items()
    }


class FromFile(NamedTuple):
    """What was found in a file."""

    leaves: dict[str, np.ndarray]  # our path → array
    missing: list[str]  # our paths that the file lacks
    unused: list[str]  # names of arrays that the model does not have


def from_file(
    family: Family, role: str, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> FromFile:
    """Find the parameters of `shapes` (our path → shape) among a file's arrays.

    Raises:
      ValueError: an array's size differs from the parameter's.
    """
    has_prefix = any(name.startswith(family.prefix) for name in arrays)
    headless = [path for path in shapes if path.startswith("head/") and not family.heads[role]]
    wanted = [path for path in shapes if path not in headless]
    leaves, missing, used = {}, list(headless), set()
    for path, (full_name, layout) in names_of(family, role, wanted).items():
        part = full_name if has_prefix else full_name.removeprefix(family.prefix)
        name = _PART.sub("", part)
        if name not in arrays:
            missing.append(path)
            continue
        used.add(name)
        leaves[path] = _restore(layout, part, arrays[name], path, shapes[path])
    return FromFile(leaves, missing, sorted(set(arrays) - used))


def _restore(layout: Layout, name: str, stored: np.ndarray, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """A stored array in our layout. Raises ValueError if its size differs from that of `shape`."""
    stored = np.asarray(stored)
    try:
        own = stored
        if part := _PART.search(name):
            own = stored.reshape(int(part[2]), -1, *stored.shape[1:])[int(part[1])]
        restored = np.ascontiguousarray(layout.restore(own, shape))
    except ValueError:
        restored = None
    if restored is None or restored.shape != shape:
        raise ValueError(
            f"{name}: got an array of {stored.shape}, expected one for {path} {shape}. The configuration "
            "beside the file belongs to another model."
        )
    return restored
