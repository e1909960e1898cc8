"""A tokenizer for two letters, so that ids are easy to read: a word of n letters has n pieces."""

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b"]
PAD, UNK, CLS, SEP, MASK, A, B, A_, B_ = range(len(PIECES))


def make_tokenizer(root):
    """The tokenizer, in a directory under `root`."""
    (root / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    adopt_tokenizer(str(root / "vocab.txt"), str(root / "t"), lowercase=True)
    return load_tokenizer(str(root / "t"))
