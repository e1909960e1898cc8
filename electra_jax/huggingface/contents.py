"""What an export contains: each file, its size, and what it is for."""

from pathlib import Path

from data_pipelines.tokenizers.directory import META_FILE, MODEL_FILES, TRAINED_FILE
from electra_jax.huggingface.embedding_files import (
    LENGTH_FILE,
    MODULES_FILE,
    POOLING_FILE,
    SIMILARITY_FILE,
)
from electra_jax.huggingface.export import (
    CARD_FILE,
    CONFIG_FILE,
    DECODER_FILE,
    DETECTOR_FILE,
    FINETUNING_FILE,
    HEAD_FILE,
    REFERENCE_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
)
from electra_jax.huggingface.tokenizer import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from electra_jax.huggingface.tokenizer import SPECIAL_FILE, TOKENIZER_FILE, VOCAB_FILE

# File → what it is for.
FILES = {
    CONFIG_FILE: "the model's class and shape",
    WEIGHTS_FILE: "the weights",
    HEAD_FILE: "the detection head",
    DETECTOR_FILE: "an index of the encoder's and the detection head's arrays, for "
    '`from_pretrained(…, variant="detector")`',
    DECODER_FILE: "the enhanced mask decoder's positions, which transformers has no class for",
    TOKENIZER_FILE: "the tokenizer",
    TOKENIZER_CONFIG_FILE: "its class and special tokens",
    SPECIAL_FILE: "its special tokens, for transformers 4",
    VOCAB_FILE: "its pieces, for older readers",
    MODEL_FILES["sentencepiece"]: "its SentencePiece model, for older readers",
    TRAINED_FILE: "the tokenizer as it was in training",
    META_FILE: "what restores the tokenizer here",
    CARD_FILE: "the model card",
    TRAINING_FILE: "all settings of the run, with names for paths",
    FINETUNING_FILE: "all settings of the fine-tuning, with names for paths",
    MODULES_FILE: "for sentence-transformers: encoder, pooling, vectors of length 1",
    LENGTH_FILE: "the same: tokens in the longest text",
    POOLING_FILE: "the same: which states become the vector",
    SIMILARITY_FILE: "the same: the similarity of two vectors",
    REFERENCE_FILE: "recorded outputs, for `convert verify`",
}
CODE = "classes that transformers lacks"


def describe_contents(directory: Path) -> list[str]:
    """A line for people about each file of an exported model."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    files = {path.relative_to(directory).as_posix(): path.stat().st_size for path in paths}
    known = [name for name in FILES if name in files]
    width = max(map(len, files))
    return [
        f"  {name:{width}s} {_size(files[name])}  {FILES.get(name, CODE)}"
        for name in [*known, *sorted(files.keys() - FILES.keys())]
    ]


def _size(number: int) -> str:
    """For example "  1.2 MB"."""
    for unit in ("B ", "kB", "MB"):
        if number < 1000:
            return f"{number:6.1f} {unit}" if unit != "B " else f"{number:6d} {unit}"
        number /= 1000
    return f"{number:6.1f} GB"
