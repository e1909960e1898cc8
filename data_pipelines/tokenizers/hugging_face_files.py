"""What the files beside a Hugging Face vocabulary add to it: names, letter case, tokens."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, check_form, parse_json, read_json
from data_pipelines.tokenizers.directory import SpecialIds
from data_pipelines.tokenizers.wordpiece import BertText

# Where Hugging Face names the special tokens; the first file takes precedence.
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
MODEL_CONFIG_FILE, ADDED_TOKENS_FILE = "config.json", "added_tokens.json"
_SPELLING = Maybe((str, dict, type(None)))
CONFIG_FORM = {
    "do_lower_case": Maybe(object),
    "strip_accents": Maybe((bool, type(None))),
    "tokenize_chinese_chars": Maybe(bool),
    "tokenizer_class": Maybe((str, type(None))),
    "word_tokenizer_type": Maybe(object),
    "subword_tokenizer_type": Maybe(object),
    "auto_map": Maybe(object),
    **{f"{role}_token": _SPELLING for role in SpecialIds._fields},
}
MODEL_CONFIG_FORM = {
    "model_type": Maybe(object),
    "tokenizer_class": Maybe(object),
    "auto_map": Maybe(object),
}
# Model type → the class of transformers, in its versions 4 and 5, that replaces the settings of a
# tokenizer.json's BertNormalizer by its own arguments. Other classes take the file as it is.
BERT_CLASSES = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "mpnet": "MPNetTokenizer",
}
# Classes of transformers, without "Fast", that cut text as BERT's WordPiece with their vocab.txt, or that do
# not name a way to cut it.
WORDPIECE_CLASSES = {
    *BERT_CLASSES.values(),
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "FunnelTokenizer",
    "LayoutLMTokenizer",
    "LayoutLMv2Tokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "PreTrainedTokenizer",
    "RealmTokenizer",
    "RetriBertTokenizer",
    "SplinterTokenizer",
    "SqueezeBertTokenizer",
    "TokenizersBackend",
}


def read_configs(directory: Path) -> dict[str, Any]:
    """The CONFIG_FILES of a directory in one, {} if it has none. Raises ValueError for another form."""
    config: dict[str, Any] = {}
    for name in reversed(CONFIG_FILES):
        path = directory / name
        if path.is_file():
            config |= read_json(path, CONFIG_FORM)
    return config


def configured_lowercase(directory: Path, config: Mapping[str, Any]) -> bool | None:
    """do_lower_case of the configuration of a directory. Raises ValueError unless true, false or missing."""
    configured = config.get("do_lower_case")
    if configured not in (None, True, False):
        raise ValueError(
            f"{directory / CONFIG_FILES[0]}: do_lower_case is {configured!r}, expected true or false"
        )
    return configured


def with_class_settings(model_bytes: bytes, directory: Path, config: Mapping[str, Any]) -> bytes:
    """A tokenizer.json as AutoTokenizer of transformers understands it.

    The tokenizers of BERT and its like lower-case, strip accents and cut Chinese text as
    tokenizer_config.json or else their own defaults say, whatever the tokenizer.json itself says.

    Args:
      config: as of `read_configs`, for the directory of the file.

    Raises:
      ValueError: do_lower_case is neither true nor false.
    """
    if _tokenizer_class(directory, config) not in BERT_CLASSES.values():
        return model_bytes
    described = parse_json(model_bytes, dict, str(directory))
    normalizer = described.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return model_bytes
    configured = configured_lowercase(directory, config)
    lowercase = True if configured is None else bool(configured)
    text = BertText(lowercase, config.get("strip_accents"), config.get("tokenize_chinese_chars", True))
    wanted = {
        "lowercase": text.lowercase,
        "strip_accents": text.strip_accents,
        "handle_chinese_chars": text.tokenize_chinese_chars,
    }
    if all(normalizer.get(key) == value for key, value in wanted.items()):
        return model_bytes
    described["normalizer"] = normalizer | wanted
    return json.dumps(described).encode()


def _tokenizer_class(directory: Path, config: Mapping[str, Any]) -> str:
    """Name of the class that AutoTokenizer takes, "" if the files do not tell."""
    model = _model_config(directory)
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    return str(name or BERT_CLASSES.get(str(model.get("model_type")), "")).removesuffix("Fast")


def _model_config(directory: Path) -> dict[str, Any]:
    path = directory / MODEL_CONFIG_FILE
    return read_json(path, MODEL_CONFIG_FORM) if path.is_file() else {}


def check_is_wordpiece(vocabulary: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError if the files beside a vocab.txt name a tokenizer that cuts text in another way than
    BERT's: one for Japanese, for example, finds words with a dictionary first."""
    name = _tokenizer_class(vocabulary.parent, config)
    found = [name] if name and name not in WORDPIECE_CLASSES else []
    for key, ours in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        if config.get(key) not in (None, ours):
            found.append(f"{key}={config[key]!r}")
    for auto_map in (config.get("auto_map"), _model_config(vocabulary.parent).get("auto_map")):
        if isinstance(auto_map, dict) and "AutoTokenizer" in auto_map:
            found.append(f"code of the model's own, {auto_map['AutoTokenizer']}")
    if found:
        raise ValueError(
            f"{vocabulary.parent}: got the tokenizer {', '.join(found)}, expected BertTokenizer or another "
            f"class that is BERT's WordPiece: {vocabulary.name} read as WordPiece would give other ids than "
            "the model was trained on. If the class can save a tokenizer.json, adopt that. Otherwise "
            "train another tokenizer. `convert import` replaces the model's with it: copy "
            f"{vocabulary.name} alone into a directory for --tokenizer, and give the other with "
            "--new_tokenizer."
        )


def check_added_tokens(vocabulary: Path, config: Mapping[str, Any], pieces: Collection[str]) -> None:
    """Raises ValueError for tokens that transformers adds to a vocab.txt from the files beside it."""
    directory = vocabulary.parent
    added = config.get("added_tokens_decoder", {})
    check_form(added, {str: {"content": str}}, f"{directory / CONFIG_FILES[0]}, added_tokens_decoder")
    names = {token["content"] for token in added.values()}
    if (directory / ADDED_TOKENS_FILE).is_file():
        names |= read_json(directory / ADDED_TOKENS_FILE, {str: int}).keys()
    missing = sorted(names.difference(pieces))
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"{directory}: has {len(missing)} added tokens that {vocabulary.name} lacks ({shown}). Save a "
            "tokenizer.json with "
            f"AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r}) of the "
            "package transformers, and adopt that"
        )
