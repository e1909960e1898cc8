"""Tokenizers adopted from the files of Hugging Face: ELECTRA's vocabulary, and one like DeBERTaV3's."""

import shutil

import tokenizers

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer

BRACKETS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def adopt(source, directory, lowercase=None):
    adopt_tokenizer(source, directory, lowercase=lowercase)
    return load_tokenizer(str(directory))


def write_unigram(path, names=tuple(BRACKETS), extra=()):
    """A tokenizer.json like DeBERTaV3's: control tokens are the model's first pieces, the mask its last."""
    pieces = (
        [(name, 0.0) for name in names[:4]]
        + [("▁", -3.0)]
        + [(letter, -5.0) for letter in "abcxymskACEKLMNPSTUD[]<>/"]
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.add_special_tokens([*names, *extra])
    tokenizer.save(str(path))
    return tokenizer


def adopt_electra(hugging_face, root):
    """The real vocabulary, of the directory `hugging_face`, from the vocab.txt alone."""
    shutil.copy(hugging_face / "vocab.txt", root)
    return adopt(root / "vocab.txt", root / "t", lowercase=True)
