"""corpus.json: what a dataset directory records about its rows."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.command_errors import shorten
from data_pipelines.tokenizers.directory import SpecialIds, read_meta
from data_pipelines.tokenizers.report import HIGH_UNKNOWN_SHARE

INFO_FILE = "corpus.json"
MAX_WARNINGS = 8


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
    # unknown_tokens), shards (file → bytes), digests (file → SHA-256 of its rows). Earlier versions recorded
    # neither unknown_tokens nor by_source, nor digests.
    splits: dict

    def split_lines(self) -> list[str]:
        """A line for people about each split."""
        lines = []
        for name, split in self.splits.items():
            padding = 1 - split["tokens"] / (split["rows"] * self.sequence_length)
            dropped = split["dropped_text_tokens"] / max(1, split["text_tokens"])
            unknown = f", {_unknown_share(split):.2%} [UNK]" if "unknown_tokens" in split else ""
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
                shares += [
                    (_unknown_share(counts), part, counts["text_tokens"]) for part, counts in parts.items()
                ]
        high = sorted((share for share in shares if share[0] > HIGH_UNKNOWN_SHARE), reverse=True)
        if not high:
            return []
        parts = [f"  {share:.1%} of the {count:,} tokens of {part}" for share, part, count in high]
        return [
            "WARNING: the tokenizer does not know much of this text, which becomes [UNK]:",
            shorten(parts, MAX_WARNINGS, "\n"),
            "  Is the tokenizer for this language, letter case and script? Otherwise train one on this text, "
            "with --byte_fallback if nothing may become [UNK].",
        ]


def _unknown_share(counts: Mapping[str, int]) -> float:
    return counts["unknown_tokens"] / max(1, counts["text_tokens"])


def load_dataset_info(directory: str) -> DatasetInfo:
    """Read corpus.json and compare the size of every file with the recorded one.

    Raises:
      FileNotFoundError: not a dataset of this project. OSError: a file is missing or truncated; names it.
      ValueError: corpus.json is damaged, or of a version that did not record the special ids.
    """
    path = Path(directory) / INFO_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{directory}: no {INFO_FILE}; expected a directory made by `python -m data_pipelines.corpus`. "
            "Set config.data.datasets to one."
        )
    info = parse_dataset_info(path.read_text(encoding="utf-8"), str(path))
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


def parse_dataset_info(text: str, path: str) -> DatasetInfo:
    """The text of a corpus.json. Raises ValueError, with `path` for the message, as `load_dataset_info`."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}). Copy or build the dataset again.") from error
    if "special_ids" not in entries:
        raise ValueError(
            f"{path}: no special_ids, expected the tokenizer's [PAD], [CLS], [SEP], [UNK] and [MASK]; an "
            "earlier version built it. Remove the directory and build the dataset again."
        )
    _check_ids(entries, path)
    return DatasetInfo(**entries)


def _check_ids(entries: Mapping[str, Any], path: str) -> None:
    """Raises ValueError unless the vocabulary has entries and the special ids are different ones of them."""
    vocab_size, special = entries.get("vocab_size"), entries["special_ids"]
    sizes = (vocab_size, entries.get("sequence_length"))
    if not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError(
            f"{path}: got vocab_size={sizes[0]!r} and sequence_length={sizes[1]!r}, expected numbers of 1 or "
            "more. Copy or build the dataset again."
        )
    ids = list(special.values()) if isinstance(special, dict) else []
    if (
        not isinstance(special, dict)
        or sorted(special) != sorted(SpecialIds._fields)
        or not all(type(one) is int and 0 <= one < vocab_size for one in ids)
        or len(set(ids)) < len(ids)
    ):
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
        return json.loads((Path(directory) / INFO_FILE).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
