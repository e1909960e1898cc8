"""A byte-level BPE vocabulary as RoBERTa's, in which a word after a blank has pieces of its own ("Ġtea")."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from support.adopted import BRACKETS, adopt

TEXTS = ["every word of a sentence stays a word", "a tea, a boat and a word of tea", "the boat of every word"]


def make_byte_level(root, *, add_prefix_space=False, texts=TEXTS):
    """The tokenizer, in a directory under `root`."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=BRACKETS, initial_alphabet=alphabet
    )
    made.train_from_iterator(10 * texts, trainer)
    (root / "hf").mkdir(parents=True)
    made.save(str(root / "hf" / "tokenizer.json"))
    return adopt(root / "hf", root / "tokenizer")
