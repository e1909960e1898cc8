"""A small task of classification in files: whether the first word is one of the first half of the words."""

import numpy as np

from electra_jax.configuration.flags import load_config


def local_task(data, root, num_validation=20, lengths=(4, 5)):
    """Writes train.tsv and validation.tsv to `root`; the configuration of its fine-tuning.

    Args:
      lengths: words in a text, the last number excluded.
    """
    words = sorted(set((data / "train.txt").read_text(encoding="utf-8").split()))[:60]
    source = np.random.default_rng(0)
    for split, count in (("train", 64), ("validation", num_validation)):
        texts = [source.choice(words, size=source.integers(*lengths)) for _ in range(count)]
        rows = [f"{' '.join(text)}\t{'low' if words.index(text[0]) < 30 else 'high'}\n" for text in texts]
        (root / f"{split}.tsv").write_text("sentence\tclass\n" + "".join(rows))
    config = load_config("configs/finetune.py:task=local,model=electra,size=small").to_dict()
    files = {split: str(root / f"{split}.tsv") for split in ("train", "validation")}
    config["task"] |= files | {"text": "sentence", "label": "class"}
    config["train"] |= {"num_epochs": 1}
    config["log"] = {"progress": False}
    return config
