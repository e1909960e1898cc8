"""What each parameter is called in other people's checkpoints: one table a family and format, read in both
directions.

A row gives a kind, our path and theirs; `{n}` is the number of a layer. Our path is that in a published
model: "embeddings", "encoder" and "head" of one encoder (parts.py). The kind says which leaves there are and
how they are laid out: PyTorch keeps kernels as [out, in], TensorFlow as [in, out], both with the heads of
attention flattened.

Shapes: D input width, F output width, H heads, K head dim, T taps of a convolution.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Tree = dict[str, Any]


class Layout(NamedTuple):
    """Of one leaf: how it is stored, and how to get it back into `shape`."""

    store: Callable[[np.ndarray], np.ndarray]
    restore: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


_AS_IT_IS = Layout(lambda x: x, lambda x, shape: x)
_FLAT = Layout(lambda x: x.reshape(-1), lambda x, shape: x.reshape(shape))
# [D, F] or [D, H, K] ↔ [F, D], and without the transposition.
_TRANSPOSED = Layout(lambda x: x.reshape(x.shape[0], -1).T, lambda x, shape: x.T.reshape(shape))
_MATRIX = Layout(lambda x: x.reshape(x.shape[0], -1), lambda x, shape: x.reshape(shape))
_TAPS = Layout(lambda x: x.transpose(2, 1, 0), lambda x, shape: x.transpose(2, 1, 0))  # [T, D, F] ↔ [F, D, T]

# Format → kind of a row → (our leaf, their leaf, layout) of each of its arrays; a leaf "" is the row's path
# itself.
Leaves = dict[str, tuple[tuple[str, str, Layout], ...]]
TORCH: Leaves = {
    "dense": (("/kernel", ".weight", _TRANSPOSED), ("/bias", ".bias", _FLAT)),
    "convolution": (("/kernel", ".weight", _TAPS), ("/bias", ".bias", _FLAT)),
    "norm": (("/scale", ".weight", _AS_IT_IS), ("/bias", ".bias", _AS_IT_IS)),
    "table": (("/embedding", ".weight", _AS_IT_IS),),
    "array": (("", "", _AS_IT_IS),),
}
TENSORFLOW: Leaves = {
    "dense": (("/kernel", "/kernel", _MATRIX), ("/bias", "/bias", _FLAT)),
    "norm": (("/scale", "/gamma", _AS_IT_IS), ("/bias", "/beta", _AS_IT_IS)),
    "table": (("/embedding", "", _AS_IT_IS),),
    "array": (("", "", _AS_IT_IS),),
}

Rows = tuple[tuple[str, str, str], ...]


class Family(NamedTuple):
    """`rows` of the encoder with its embeddings, `heads` of what stands on it, by role or kind of task.
    `prefix` starts the names of the encoder's parameters and may be missing in a file that holds the encoder
    alone."""

    leaves: Leaves
    prefix: str
    rows: Rows
    heads: dict[str, Rows]


def _embeddings(prefix: str, separator: str = ".") -> Rows:
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    return (
        *(("table", f"embeddings/{name}", f"{prefix}embeddings{separator}{name}") for name in tables),
        ("norm", "embeddings/LayerNorm", f"{prefix}embeddings{separator}LayerNorm"),
    )


def _layer(prefix: str, attention: tuple[str, str, str], separator: str = ".") -> Rows:
    """BERT's layer, whose names all families kept; `attention` names the projections of queries, keys and
    values."""
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
    """Of the task classes of transformers, which differ in the head of sequence classification alone."""
    sequence = (("dense", "head/pooler", pooler), ("dense", "head/classifier", classifier))
    return {
        "classification": sequence,
        "regression": sequence,
        "tagging": (("dense", "head/classifier", "classifier"),),
        "question_answering": (("dense", "head/classifier", "qa_outputs"),),
    }


_BERT_LIKE = ("query", "key", "value")

# transformers: ElectraForPreTraining, ElectraForMaskedLM, and its task classes. relative_bias is
# custom_code/'s.
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

# BERT's head, and DebertaV2ForMaskedLM's unless its configuration says legacy=False.
_BERT_GENERATOR = (
    ("dense", "head/dense", "cls.predictions.transform.dense"),
    ("norm", "head/LayerNorm", "cls.predictions.transform.LayerNorm"),
    ("array", "head/bias", "cls.predictions.bias"),
)

# transformers: DebertaV2Model, DebertaV2ForMaskedLM, and its task classes. `mask_predictions` is Microsoft's
# detection head, which transformers does not have, and position_embeddings, without position_biased_input,
# the enhanced mask decoder's table.
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
# Microsoft's own files, and DebertaV2ForMaskedLM with legacy=False, differ in the generator's head.
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
    """google-research/electra's TensorFlow checkpoint, which holds both encoders: `role` chooses one. Scopes
    as in its model/modeling.py and run_pretraining.py; with tied embeddings the generator's are the
    discriminator's."""
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


class Name(NamedTuple):
    """Of one array in a file, and its layout there."""

    name: str
    layout: Layout


def names_of(family: Family, role: str, paths: list[str]) -> dict[str, Name]:
    """Our path → name in the family's files, for every one of `paths`.

    Raises:
      ValueError: a parameter is in no row of the table.
    """
    rows = (*family.rows, *family.heads[role])
    patterns = [
        (re.compile(re.escape(ours + our_leaf).replace(r"\{n\}", r"(?P<n>\d+)")), theirs + their_leaf, layout)
        for kind, ours, theirs in rows
        for our_leaf, their_leaf, layout in family.leaves[kind]
    ]
    names = {}
    for path in paths:
        found = [
            (match, theirs, layout)
            for pattern, theirs, layout in patterns
            if (match := pattern.fullmatch(path))
        ]
        if len(found) != 1:
            raise ValueError(
                f"parameter {path}: got {len(found)} names for it in the table of {family.prefix!r}, "
                "expected one. Add a row in huggingface/names.py."
            )
        match, theirs, layout = found[0]
        names[path] = Name(theirs.format(**match.groupdict()), layout)
    return names


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as {"a/b/c": array}."""
    leaves = {}
    for key, value in tree.items():
        leaves |= (
            flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        )
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, value in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def to_file(family: Family, role: str, tree: Tree) -> dict[str, np.ndarray]:
    """Parameters of one published model under the family's names, in its layouts; contiguous."""
    leaves = flatten(tree)
    return {
        name: np.ascontiguousarray(layout.store(np.asarray(leaves[path])))
        for path, (name, layout) in names_of(family, role, list(leaves)).items()
    }


class FromFile(NamedTuple):
    """`leaves`: our path → array, of what the file has. `missing`: our paths that it lacks. `unused`: names
    not asked for."""

    leaves: dict[str, np.ndarray]
    missing: list[str]
    unused: list[str]


def from_file(
    family: Family, role: str, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> FromFile:
    """Find the parameters of `shapes` (our path → shape) among a file's arrays.

    Raises:
      ValueError: an array has another size than the model's.
    """
    prefix = family.prefix if any(name.startswith(family.prefix) for name in arrays) else ""
    headless = [path for path in shapes if path.startswith("head/") and not family.heads[role]]
    leaves, missing, used = {}, list(headless), set()
    for path, (full_name, layout) in names_of(
        family, role, [path for path in shapes if path not in headless]
    ).items():
        name = (
            prefix + full_name.removeprefix(family.prefix)
            if full_name.startswith(family.prefix)
            else full_name
        )
        if name not in arrays:
            missing.append(path)
            continue
        used.add(name)
        try:
            leaves[path] = np.ascontiguousarray(layout.restore(np.asarray(arrays[name]), shapes[path]))
        except ValueError:
            leaves[path] = np.asarray(arrays[name])
        if leaves[path].shape != shapes[path]:
            raise ValueError(
                f"{name}: got an array of {arrays[name].shape}, expected one for {path} {shapes[path]}. The "
                "configuration beside the file is of another model."
            )
    return FromFile(leaves, missing, sorted(set(arrays) - used))
