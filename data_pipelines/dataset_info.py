"""corpus.json: what a dataset directory records about its rows."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import Maybe, check_form, parse_json, read_bytes, read_json
from data_pipelines.plain_names import check_plain_name
from data_pipelines.tokenizers.directory import SpecialIds, read_meta
from data_pipelines.tokenizers.unknown_characters import (
    HIGH_UNKNOWN_SHARE,
    CharacterCounts,
    advice_lines,
    unknown_share,
)

INFO_FILE = "corpus.json"
MAX_WARNINGS = 8
MAX_INFO_BYTES = 1 << 28  # of corpus.json, which names every file of a large dataset
MEND = "The file is damaged: copy or build the dataset again."
_COUNTS = {"documents": int, "text_tokens": int} | dict.fromkeys(CharacterCounts._fields, Maybe(int))
# Of corpus.json, for `read_json`.
INFO_FORM = {
    "fingerprint": str,
    "tokenizer_fingerprint": str,
    "special_ids": dict.fromkeys(SpecialIds._fields, int),
    "vocab_size": int,
    "sequence_length": int,
    "packing": str,
    "sources": dict,
    "splits": {
        str: {
            "rows": int,
            "rows_by_shard": [int],
            "tokens": int,
            "shards": {str: int},
            "unknown_tokens": Maybe(int),
            "dropped_text_tokens": int,
            "long_word": Maybe(str),
            "by_source": Maybe({str: _COUNTS}),
            "digests": Maybe({str: str}),
            "without_rows": Maybe([int]),
            "low_scores": Maybe({"documents": int, "characters": int, "without_score": int}),
            "copies": Maybe({"documents": int, "characters": int}),
            **_COUNTS,
        }
    },
}


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The contents of corpus.json, in the order of its keys."""

    fingerprint: str  # of the tokenizer, the row length, the packing and every row; not of any path
    tokenizer_fingerprint: str
    special_ids: dict  # role → id, as in SpecialIds
    vocab_size: int  # embedding rows that a model needs
    sequence_length: int
    packing: str
    sources: dict  # see CorpusSettings.sources
    # Split → rows, rows_by_shard, documents, tokens (padding not counted), text_tokens (before packing),
    # unknown_tokens ([UNK] among them), dropped_text_tokens, by_source (source → documents, text_tokens,
    # unknown_tokens), shards (file → bytes), digests (file → SHA-256 of its rows), without_rows (numbers of
    # the chunks of text between those of the files that gave no row). With a WordPiece tokenizer also the
    # fields of CharacterCounts, in by_source, too, and long_word, the beginning of a word that is too long to
    # be cut. Earlier versions recorded neither unknown_tokens nor by_source, nor digests, nor without_rows,
    # nor characters. If training documents were chosen by their scores, low_scores has what was left out:
    # documents, characters, and documents without_score; copies has what --copies added: documents and
    # characters.
    splits: dict

    def split_lines(self) -> list[str]:
        """A line for people about each split."""
        lines = []
        for name, split in self.splits.items():
            padding = 1 - split["tokens"] / (split["rows"] * self.sequence_length)
            dropped = split["dropped_text_tokens"] / max(1, split["text_tokens"])
            unknown = f", {_unknown_tokens(split):.2%} [UNK]" if "unknown_tokens" in split else ""
            if _has_characters(split):
                unknown += f" ({unknown_share(split):.2%} of the characters)"
            lines.append(
                f"{name:12s} {split['documents']:>10,} documents {split['tokens']:>14,} tokens "
                f"{split['rows']:>10,} rows {padding:6.2%} padding {dropped:6.2%} of the text dropped"
                f"{unknown}"
            )
        return lines

    def unknown_lines(self) -> list[str]:
        """Warnings for people about splits and sources with much [UNK]; [] if there are none."""
        shares = []
        for name, split in self.splits.items():
            if "by_source" in split:
                parts = {f"split {name!r}": split, **split["by_source"]}
                for part, counts in parts.items():
                    shares.append((_unknown_tokens(counts), f"{counts['text_tokens']:,} tokens of {part}"))
                    if _has_characters(counts):
                        shares.append(
                            (unknown_share(counts), f"{counts['characters']:,} characters of {part}")
                        )
        high = sorted((share for share in shares if share[0] > HIGH_UNKNOWN_SHARE), reverse=True)
        if not high:
            return []
        parts = [f"  {share:.1%} of the {part}" for share, part in high]
        return [
            "WARNING: the tokenizer does not know much of this text, which becomes [UNK]:",
            shorten(parts, MAX_WARNINGS, "\n"),
            *self._advice(),
        ]

    def _advice(self) -> list[str]:
        """Why so much becomes [UNK], and what helps."""
        splits = [split for split in self.splits.values() if _has_characters(split)]
        if splits:
            totals = {key: sum(split[key] for split in splits) for key in CharacterCounts._fields}
            return advice_lines(
                totals, next((split["long_word"] for split in splits if "long_word" in split), "")
            )
        return [
            "  Is the tokenizer for this language, letter case and script? Otherwise train one on this text, "
            "with --kind sentencepiece --byte_fallback if nothing may become [UNK]."
        ]


def _has_characters(counts: Mapping[str, Any]) -> bool:
    return set(CharacterCounts._fields) <= set(counts)


def _unknown_tokens(counts: Mapping[str, int]) -> float:
    return counts["unknown_tokens"] / max(1, counts["text_tokens"])


def load_dataset_info(directory: str) -> DatasetInfo:
    """Read corpus.json and compare the size of every file with the recorded one.

    Raises:
      FileNotFoundError: not a dataset of this project. OSError: a file is missing or truncated; names it.
      ValueError: corpus.json is damaged, names files elsewhere, or is of a version that did not record the
        special ids.
    """
    path = Path(directory) / INFO_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{directory}: no {INFO_FILE}; expected a directory made by `python -m data_pipelines.corpus`. "
            "Set config.data.datasets to one."
        )
    info = parse_dataset_info(read_bytes(path, MAX_INFO_BYTES, MEND), str(path))
    _check_tokenizer(info, path)
    for split in info.splits.values():
        for name, size in split["shards"].items():
            shard = path.parent / name
            got = shard.stat().st_size if shard.exists() else None
            if got != size:
                raise OSError(
                    f"{shard}: got {got} bytes, expected {size}: missing or truncated. Build the dataset "
                    "again."
                )
    return info


def parse_dataset_info(text: str | bytes, path: str) -> DatasetInfo:
    """The text of a corpus.json. Raises ValueError, with `path` for the message, as `load_dataset_info`."""
    entries = parse_json(text, dict, path, MEND)
    if "special_ids" not in entries:
        raise ValueError(
            f"{path}: no special_ids, expected the tokenizer's [PAD], [CLS], [SEP], [UNK] and [MASK]; an "
            "earlier version built it. Remove the directory and build the dataset again."
        )
    check_form(entries, INFO_FORM, path, MEND)
    _check_ids(entries, path)
    special_ids = {role: entries["special_ids"][role] for role in SpecialIds._fields}
    for split in entries["splits"].values():
        for name in split["shards"]:
            check_plain_name(name, path)
    names = [field.name for field in dataclasses.fields(DatasetInfo)]
    return DatasetInfo(**{name: entries[name] for name in names} | {"special_ids": special_ids})


def _check_ids(entries: Mapping[str, Any], path: str) -> None:
    """Raises ValueError unless the vocabulary has entries and the special ids are different ones of them."""
    vocab_size, length, special = (entries[key] for key in ("vocab_size", "sequence_length", "special_ids"))
    if min(vocab_size, length) < 1:
        raise ValueError(
            f"{path}: got vocab_size={vocab_size} and sequence_length={length}, expected numbers of 1 or "
            "more. Copy or build the dataset again."
        )
    ids = {special[role] for role in SpecialIds._fields}
    if not all(0 <= one < vocab_size for one in ids) or len(ids) < len(SpecialIds._fields):
        raise ValueError(
            f"{path}: got special_ids={special!r}, expected different ids of "
            f"{', '.join(SpecialIds._fields)} below vocab_size={vocab_size}. Copy or build the dataset again."
        )


def _check_tokenizer(info: DatasetInfo, path: Path) -> None:
    """Raises ValueError if the tokenizer beside corpus.json is another one than it records."""
    meta = read_meta(path.parent / "tokenizer") or {}
    recorded = {"fingerprint": info.tokenizer_fingerprint, "special_ids": info.special_ids}
    for key, value in recorded.items():
        if meta.get(key, value) != value:  # older tokenizers lack some
            raise ValueError(
                f"{path}: the dataset was made with a tokenizer of {key} {value}, the one beside it has "
                f"{meta[key]}. Copy or build the dataset again."
            )


def fingerprint_of(
    tokenizer_fingerprint: str, sequence_length: int, packing: str, digests: Mapping[str, Sequence[str]]
) -> str:
    """The fingerprint of a dataset; `digests` has the SHA-256 of the rows of each of a split's files."""
    content = [tokenizer_fingerprint, sequence_length, packing, digests]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_fingerprint(directory: str) -> str | None:
    """The fingerprint alone; None if it cannot be read, for which `load_dataset_info` has the error."""
    try:
        info = read_json(Path(directory) / INFO_FILE, {"fingerprint": str}, max_bytes=MAX_INFO_BYTES)
        return info["fingerprint"]
    except (OSError, ValueError):
        return None
