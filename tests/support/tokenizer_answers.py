"""Outputs of `AutoTokenizer` for exported tokenizers, with the installed version of transformers.

As a script: the paths of a JSON file with {"directories": […], "texts": […]}, and of one to write.
"""

import json
import sys
from pathlib import Path

import transformers


def answers(directory: str, texts: list[str]) -> dict:
    """Ids and decoded texts, and everything else that users of the tokenizer in `directory` rely on."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(texts)["input_ids"]
    pair = tokenizer("one two", "three")
    cut = tokenizer(
        ["one two three four five six seven eight"] * 2, truncation=True, max_length=6, padding="max_length"
    )
    short = tokenizer(["one", "one two three"], padding=True)
    roles = ("pad", "cls", "sep", "unk", "mask")
    return {
        "ids": ids,
        "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
        "pair": {name: pair[name] for name in sorted(pair)},
        "cut": cut["input_ids"],
        "short": short["attention_mask"],
        "mask_in_text": tokenizer("one [MASK] two")["input_ids"],
        "names": list(tokenizer.model_input_names),
        "special": {role: getattr(tokenizer, f"{role}_token_id") for role in roles},
        "length": len(tokenizer),
        "model_max_length": tokenizer.model_max_length,
        "clean_up": tokenizer.clean_up_tokenization_spaces,
    }


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    asked = json.loads(source.read_text(encoding="utf-8"))
    target.write_text(
        json.dumps(
            {
                "version": transformers.__version__,
                **{path: answers(path, asked["texts"]) for path in asked["directories"]},
            }
        ),
        encoding="utf-8",
    )
