"""The last step of a build: packed files become a TFDS dataset directory that describes itself.

The directory holds the ArrayRecord files, dataset_info.json and features.json for TFDS, corpus.json,
token_counts.npy, and a copy of the tokenizer. It appears complete or not at all.
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipelines.array_files import save_array
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.dataset_info import INFO_FILE, DatasetInfo, fingerprint_of
from data_pipelines.document_decoding import ReadReport
from data_pipelines.shards import TOKENS_SUFFIX, row_dtype, row_features
from data_pipelines.tokenizers.load import Tokenizer
from data_pipelines.tokenizers.unknown_characters import CharacterCounts
from data_pipelines.whole_files import TEMPORARY_SUFFIX, named_errors, write_text

DATASET = "electra_corpus"  # name of the dataset in TFDS
TFDS_FILES = ("dataset_info.json", "features.json")
TOKENIZER_DIRECTORY = "tokenizer"
TOKEN_COUNTS_FILE = "token_counts.npy"  # how often each id is in the training rows, int64 [vocab_size]
DESCRIPTIONS = (INFO_FILE, TOKEN_COUNTS_FILE, *TFDS_FILES)  # the files beside rows and tokenizer
SETTINGS_FILE = "settings.json"  # of the unfinished build; the last file of it to go
BEAM_FILES = ("chunks.json", "reports.json")  # results of a runner's workers
OWN_FILES = (SETTINGS_FILE, *DESCRIPTIONS, *BEAM_FILES)
# Packed files and what is beside each, under their first and their last names, and unfinished files.
OWN_NAMES = re.compile(rf"(train|validation)-\d{{8}}-\d{{8}}|{DATASET}-|.*{re.escape(TEMPORARY_SUFFIX)}$")


def is_made_by_build(path: Path) -> bool:
    """Whether something in the directory of an unfinished build is its own, by its name. Anything else there
    is kept."""
    if path.is_dir():
        return path.name == TOKENIZER_DIRECTORY
    return path.name in OWN_FILES or OWN_NAMES.match(path.name) is not None


def finish_dataset(
    partial: Path,
    directory: str,
    settings: CorpusSettings,
    tokenizer: Tokenizer,
    chunks: dict[str, list[dict]],
    check: Callable[[], None],
    report: ReadReport,
) -> DatasetInfo:
    """Describe the packed files in `partial`, give them their final names, and rename it to `directory`.

    Args:
      chunks: split → the counts of its files in order, as by `write_shard`.
      check: of the lock of `directory`; called before anything is written, and before files are renamed.
      report: of what was read.

    Raises:
      LostError: another process builds it now.
    """
    check()
    shards = {split: _shard_names(split, counts) for split, counts in chunks.items()}
    names = {os.path.abspath(source): source for source in settings.all_sources}
    splits = {split: _describe_split(chunks[split], named, names) for split, named in shards.items()}
    if settings.score_field:
        splits["train"]["low_scores"] = {
            "documents": report.low_scores,
            "characters": report.low_score_characters,
            "without_score": report.without_score,
        }
    if settings.copies:
        splits["train"]["copies"] = {"documents": report.copies, "characters": report.copied_characters}
    with named_errors(partial):
        write_tfds_metadata(partial, splits, settings.sequence_length, row_dtype(tokenizer.vocab_size))
    _copy_files(Path(settings.tokenizer), partial / TOKENIZER_DIRECTORY)
    info = DatasetInfo(
        fingerprint=_fingerprint(settings, tokenizer, chunks),
        special_ids=tokenizer.special._asdict(),
        vocab_size=tokenizer.vocab_size,
        splits=splits,
        **settings.recorded(tokenizer.fingerprint),
    )
    save_array(partial / TOKEN_COUNTS_FILE, _token_counts(partial, chunks["train"], tokenizer.vocab_size))
    write_text(partial / INFO_FILE, json.dumps(dataclasses.asdict(info), indent=2))
    check()
    # Last, since a build that resumes looks for the files under their first names.
    _name_shards(partial, {name: counts for named in shards.values() for name, counts in named.items()})
    os.replace(partial, directory)
    Path(directory, SETTINGS_FILE).unlink(missing_ok=True)
    return info


def _copy_files(source: Path, target: Path) -> None:
    """Copy a directory without its permissions: with those of a private tokenizer, others could not read the
    dataset."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copied = target / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)


def _token_counts(partial: Path, chunks: list[dict], vocab_size: int) -> np.ndarray:
    """The counts of all files of a split, added up."""
    total = np.zeros(vocab_size, np.int64)
    for chunk in chunks:
        total += np.load(partial / (Path(chunk["path"]).name + TOKENS_SUFFIX))
    return total


def _fingerprint(settings: CorpusSettings, tokenizer: Tokenizer, chunks: dict[str, list[dict]]) -> str:
    """Hash of the rows and how they were made, not of any path, so a copied or rebuilt dataset keeps it."""
    digests = {split: [chunk["sha256"] for chunk in counts] for split, counts in chunks.items()}
    return fingerprint_of(tokenizer.fingerprint, settings.sequence_length, settings.packing, digests)


def _shard_names(split: str, chunks: list[dict]) -> dict[str, dict]:
    """TFDS name → counts of the files of a split that have rows; the name includes their number."""
    filled = [counts for counts in chunks if counts["rows"]]
    return {
        f"{DATASET}-{split}.array_record-{number:05d}-of-{len(filled):05d}": counts
        for number, counts in enumerate(filled)
    }


def _describe_split(chunks: list[dict], named: dict[str, dict], names: dict[str, str]) -> dict:
    """The split's entry in corpus.json; `names` gives the name of a source as in the settings."""
    lengths = [counts["rows"] for counts in named.values()]
    totals = {
        key: sum(counts[key] for counts in named.values())
        for key in ("documents", "tokens", "text_tokens", "unknown_tokens", "dropped_text_tokens")
    }
    by_source: dict[str, dict[str, int]] = {}
    for chunk in named.values():
        for source, counts in chunk["by_source"].items():
            sums = by_source.setdefault(names.get(source, source), dict.fromkeys(counts, 0))
            for key, value in counts.items():
                sums[key] += value
    for key in CharacterCounts._fields:
        if all(key in counts for counts in by_source.values()):
            totals[key] = sum(counts[key] for counts in by_source.values())
    long_words = [counts["long_word"] for counts in named.values() if counts["long_word"]]
    return {
        "rows": sum(lengths),
        "rows_by_shard": lengths,
        **totals,
        **({"long_word": long_words[0]} if long_words else {}),
        "by_source": by_source,
        "shards": {name: counts["file_bytes"] for name, counts in named.items()},
        "digests": {name: counts["sha256"] for name, counts in named.items()},
        "without_rows": [number for number, counts in enumerate(chunks) if not counts["rows"]],
    }


def write_tfds_metadata(directory: Path, splits: dict, sequence_length: int, dtype: type) -> None:
    """dataset_info.json and features.json, so that `tfds.builder_from_directory` reads the dataset.

    Args:
      splits: split → its entry in corpus.json.
      dtype: of the token ids.
    """
    import tensorflow_datasets as tfds  # slow to import, and readers of datasets import this module

    for leftover in directory.glob(f"{DATASET}-*"):  # of a build interrupted while it renamed files
        leftover.unlink()
    for split in splits.values():
        for name in split["shards"]:
            (directory / name).touch()  # TFDS checks that the names exist; `_name_shards` replaces the files
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=DATASET, filetype_suffix="array_record"
    )
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=split["rows_by_shard"],
            num_bytes=sum(split["shards"].values()),
            filename_template=template,
        )
        for name, split in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=row_features(sequence_length, dtype),
        split_infos=infos,
        filename_template=template,
        check_data=False,
    )


def _name_shards(directory: Path, named: dict[str, dict]) -> None:
    """Rename the packed files, and remove what only the build needed."""
    for name, counts in named.items():
        os.replace(directory / Path(counts["path"]).name, directory / name)
    for path in directory.iterdir():
        if (
            is_made_by_build(path)
            and path.is_file()
            and path.name not in {*named, *DESCRIPTIONS, SETTINGS_FILE}
        ):
            path.unlink()
