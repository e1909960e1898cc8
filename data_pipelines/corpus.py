"""Text → tokens → packed rows → a TFDS dataset in ArrayRecord files, split by document.

    python -m data_pipelines.corpus --train train.jsonl --validation valid.jsonl --tokenizer DIR \\
        --sequence_length 128 --packing documents --out DIR
    python -m data_pipelines.corpus --train 'dump.jsonl.zst' --validation_fraction 0.01 --tokenizer DIR \\
        --sequence_length 512 --packing contiguous --out DIR

The unit of work is a chunk of whole documents of a fixed amount of text, packed by itself into one file, so
the rows do not depend on the number of processes. The directory appears whole or not at all, and holds a copy
of its tokenizer. A build that was interrupted goes on where it stopped when it is started again: finished
files wait in DIR.partial. Documents of more than a million characters are cut at whitespace first, and the
pieces counted and split as documents.

A corpus beyond one machine is built by the workers of an Apache Beam runner, with the same rows
(data_pipelines.beam_runner):

    python -m data_pipelines.corpus … --runner FlinkRunner -- --flink_master=HOST:8081 --parallelism=64
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipelines.documents import ON_INVALID_UTF8, SOURCES_HELP, ReadReport, read_documents
from data_pipelines.packing import PACKERS
from data_pipelines.shards import (
    SPLITS,
    Group,
    Recipe,
    make_groups,
    read_jobs,
    row_dtype,
    row_features,
    run_jobs,
    write_json,
)
from data_pipelines.tokenizer import load_tokenizer

INFO_FILE, SETTINGS_FILE, DATASET = "corpus.json", "settings.json", "electra_corpus"
TFDS_FILES = ("dataset_info.json", "features.json")


@dataclasses.dataclass(frozen=True)
class CorpusInfo:
    """What corpus.json says. `splits`: name → rows, documents, tokens (padding not counted), text_tokens
    (before packing), dropped_text_tokens, shards (file → bytes). `special_ids`: role → id, as in
    SpecialIds."""

    fingerprint: str
    tokenizer_fingerprint: str
    special_ids: dict
    vocab_size: int
    sequence_length: int
    packing: str
    sources: dict
    splits: dict


def load_corpus_info(directory: str) -> CorpusInfo:
    """Read corpus.json and compare the size of every file with what was written.

    Raises:
      FileNotFoundError: not a dataset of this project. OSError: a file is missing or truncated; names it.
      ValueError: it was built by a version that did not write down the special ids.
    """
    path = Path(directory) / INFO_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{directory}: no {INFO_FILE}; expected a directory made by `python -m data_pipelines.corpus`. "
            "Set config.data.datasets to one."
        )
    entries = json.loads(path.read_text())
    if "special_ids" not in entries:
        raise ValueError(
            f"{path}: no special_ids, expected the tokenizer's [PAD], [CLS], [SEP], [UNK] and [MASK]; an "
            "earlier version built it. Remove the directory and build the dataset again."
        )
    info = CorpusInfo(**entries)
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


def build_corpus(
    directory: str,
    *,
    train: Sequence[str],
    tokenizer: str,
    sequence_length: int,
    packing: str,
    num_processes: int,
    validation: Sequence[str] = (),
    validation_fraction: float = 0.0,
    seed: int = 0,
    text_field: str = "text",
    on_invalid_utf8: str = "error",
    chunk_chars: int = 8_000_000,
    report: ReadReport | None = None,
    runner: str = "",
    beam_options: Sequence[str] = (),
) -> CorpusInfo:
    """Build the dataset `directory` from documents (see data_pipelines.documents for the sources).

    Held-out documents come from `validation`, or are the share `validation_fraction` of `train`, chosen by a
    hash of their
    text: equal documents fall on the same side. A directory already built with the same arguments is returned
    as it is. With `runner`, the name of an Apache Beam runner, its workers do the work instead of
    `num_processes` of this machine; `beam_options` are Beam's own flags.

    Raises: FileExistsError: `directory` holds a dataset built otherwise. ValueError: bad arguments, or a
      split without text. OSError: the disk is full, or the runner failed; what is finished stays in
      DIR.partial. ImportError: no Apache Beam.
    """
    if bool(validation) == bool(validation_fraction) or not 0.0 <= validation_fraction < 1.0:
        raise ValueError(
            f"held-out text: got --validation {list(validation)} and --validation_fraction "
            f"{validation_fraction}, expected either sources or a fraction between 0 and 1; give one of the "
            "two."
        )
    if num_processes < 1 or chunk_chars < 1:
        raise ValueError(
            f"--num_processes: got {num_processes}, chunk_chars: got {chunk_chars}, expected at least 1 each."
        )
    if seed < 0:
        raise ValueError(f"--seed: got {seed}, expected 0 or more.")
    if beam_options and not runner:
        raise ValueError(
            f"got Beam's options {' '.join(beam_options)} without --runner; name the runner they are for."
        )
    directory = os.path.abspath(directory)  # without the slash at its end
    loaded = load_tokenizer(tokenizer)
    settings = {
        "train": list(train),
        "validation": list(validation),
        "validation_fraction": validation_fraction,
        "seed": seed,
        "text_field": text_field,
        "on_invalid_utf8": on_invalid_utf8,
        "chunk_chars": chunk_chars,
    }
    wanted = {
        "tokenizer_fingerprint": loaded.fingerprint,
        "sequence_length": sequence_length,
        "packing": packing,
        "sources": settings,
    }
    if (Path(directory) / INFO_FILE).exists():
        return _existing(directory, wanted)
    if Path(directory).exists():
        raise FileExistsError(
            f"{directory} exists and is no dataset (no {INFO_FILE}). Choose another --out, or remove it."
        )
    for sources in (train, validation):  # looked for before the first is read
        read_documents(sources, text_field=text_field, on_invalid_utf8=on_invalid_utf8)
    run = (
        _beam_run(runner, beam_options)
        if runner
        else functools.partial(
            _run_here, num_processes=num_processes, num_bytes=_size_of([*train, *validation])
        )
    )
    partial = _partial_directory(directory, wanted | {"files": _files_of([*train, *validation])})
    recipe = Recipe(
        str(partial),
        os.path.abspath(tokenizer),
        sequence_length,
        packing,
        seed,
        validation_fraction,
        chunk_chars,
        text_field,
        on_invalid_utf8,
    )
    groups = [*make_groups("train", train, chunk_chars), *make_groups("validation", validation, chunk_chars)]
    report = ReadReport() if report is None else report
    done: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for path, counts in run(groups, recipe, report):
        done[Path(path).name.partition("-")[0]].append(counts)
    for split, chunks in done.items():
        if not any(counts["rows"] for counts in chunks):
            looked_at = list(validation if split == "validation" and validation else train)
            raise ValueError(
                f"split {split!r}: got no text from {looked_at}, expected at least one document. Check the "
                "files and --text_field, or raise --validation_fraction."
            )
    shards = {
        split: _shard_names(split, [counts for counts in chunks if counts["rows"]])
        for split, chunks in done.items()
    }
    splits = {split: _describe_split(named) for split, named in shards.items()}
    _write_tfds_metadata(partial, splits, sequence_length, row_dtype(loaded.vocab_size))
    shutil.copytree(tokenizer, partial / "tokenizer", dirs_exist_ok=True)
    # Of the text and what was made of it, not of where it lay: a copied dataset, or one built again
    # elsewhere, is the same.
    digests = {split: [counts["sha256"] for counts in chunks] for split, chunks in done.items()}
    content = [loaded.fingerprint, sequence_length, packing, digests]
    info = CorpusInfo(
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        special_ids=loaded.special._asdict(),
        vocab_size=loaded.vocab_size,
        splits=splits,
        **wanted,
    )
    (partial / INFO_FILE).write_text(json.dumps(dataclasses.asdict(info), indent=2))
    # Last, since a build that goes on looks for the files under their first names.
    _name_shards(partial, {name: counts for named in shards.values() for name, counts in named.items()})
    os.replace(partial, directory)
    return info


def _run_here(
    groups: Sequence[Group], recipe: Recipe, report: ReadReport, num_processes: int, num_bytes: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, counts) of every chunk in order, made by processes of this machine under a progress bar."""
    jobs = itertools.chain.from_iterable(read_jobs(group, recipe, report) for group in groups)
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc="packing", leave=False) as bar:
        for path, counts in run_jobs(jobs, num_processes):
            yield path, counts
            bar.update(counts["text_bytes"])


def _beam_run(runner: str, options: Sequence[str]) -> Callable[..., list[tuple[str, dict[str, Any]]]]:
    """As `_run_here`, by a Beam runner. Imported here, since nothing else needs Apache Beam."""
    try:
        from data_pipelines.beam_runner import make_pipeline, run_pipeline
    except ImportError as error:
        raise ImportError(
            f"--runner {runner}: needs Apache Beam, which is not installed ({error}); run "
            "`pip install 'electra_jax[beam]'` in an environment of its own"
        ) from error
    return functools.partial(run_pipeline, make_pipeline(runner, options))


def _existing(directory: str, wanted: dict) -> CorpusInfo:
    info = load_corpus_info(directory)
    differing = [key for key, value in wanted.items() if getattr(info, key) != value]
    if differing:
        raise FileExistsError(
            f"{directory} holds a dataset with other {', '.join(differing)}. Choose another --out, or "
            "remove it."
        )
    return info


def _partial_directory(directory: str, wanted: dict) -> Path:
    """Where the build works; what another build, or other files, left there is removed, what this one
    finished is kept."""
    partial = Path(f"{directory}.partial")
    settings = partial / SETTINGS_FILE
    if partial.exists() and not (settings.exists() and json.loads(settings.read_text()) == wanted):
        print(
            f"{partial}: left by a build with other settings or other files; starting anew.", file=sys.stderr
        )
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    for unfinished in partial.glob("*.tmp"):
        unfinished.unlink()
    write_json(settings, wanted)
    return partial


def _size_of(sources: Sequence[str]) -> int | None:
    """Bytes of all sources, None where that is not nearly the amount of text in them."""
    if all(source.lower().endswith((".txt", ".jsonl")) for source in sources):
        return sum(Path(source).stat().st_size for source in sources if Path(source).exists())
    return None


def _files_of(sources: Sequence[str]) -> list[list[int] | None]:
    """Size [bytes] and time of change [ns] of each source, None for one that is no file."""
    stats = [os.stat(source) if os.path.isfile(source) else None for source in sources]
    return [stat and [stat.st_size, stat.st_mtime_ns] for stat in stats]


def _shard_names(split: str, done: list[dict]) -> dict[str, dict]:
    """TFDS name → counts of the files of a split; the name holds their number."""
    return {
        f"{DATASET}-{split}.array_record-{number:05d}-of-{len(done):05d}": counts
        for number, counts in enumerate(done)
    }


def _describe_split(named: dict[str, dict]) -> dict:
    """The entry of corpus.json."""
    lengths = [counts["rows"] for counts in named.values()]
    totals = {
        key: sum(counts[key] for counts in named.values())
        for key in ("documents", "tokens", "text_tokens", "dropped_text_tokens")
    }
    return {
        "rows": sum(lengths),
        "rows_by_shard": lengths,
        **totals,
        "shards": {name: counts["file_bytes"] for name, counts in named.items()},
    }


def _name_shards(directory: Path, named: dict[str, dict]) -> None:
    """Give the files their names, and remove what only the build needed."""
    for name, counts in named.items():
        os.replace(directory / Path(counts["path"]).name, directory / name)
    for path in directory.iterdir():
        if path.is_file() and path.name not in {*named, INFO_FILE, *TFDS_FILES}:
            path.unlink()


def _write_tfds_metadata(directory: Path, splits: dict, sequence_length: int, dtype: type) -> None:
    """dataset_info.json and features.json, so that `tfds.builder_from_directory` reads the dataset."""
    for leftover in directory.glob(f"{DATASET}-*"):  # of a build interrupted while it gave the names
        leftover.unlink()
    for split in splits.values():
        for name in split["shards"]:
            (directory / name).touch()  # TFDS wants to see the names; the files themselves get them last
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


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--train", nargs="+", required=True, metavar="SRC", help=SOURCES_HELP)
    parser.add_argument(
        "--validation", nargs="+", default=[], metavar="SRC", help="held-out documents, as --train"
    )
    parser.add_argument(
        "--validation_fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="instead of --validation: hold out this share of the --train documents, by a hash of their text",
    )
    parser.add_argument(
        "--tokenizer", required=True, metavar="DIR", help="directory made by data_pipelines.tokenizer"
    )
    parser.add_argument(
        "--sequence_length", type=int, required=True, help="ids in a row, special ones included"
    )
    parser.add_argument(
        "--packing",
        choices=sorted(PACKERS),
        required=True,
        help="electra: the paper's two segments of one document, drops what does not fit; contiguous: the "
        "text as one stream, cut; documents: whole documents share a row, attention stays inside each",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to create")
    parser.add_argument(
        "--num_processes", type=int, default=os.cpu_count(), help="worker processes (default: all cores)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choices that packing 'electra' makes (default 0)"
    )
    parser.add_argument(
        "--text_field", default="text", help="field of JSONL, Parquet and TFDS documents (default text)"
    )
    parser.add_argument(
        "--on_invalid_utf8",
        choices=ON_INVALID_UTF8,
        default="error",
        help="stop, skip the line, or put U+FFFD in place of the bad bytes (default error)",
    )
    parser.add_argument(
        "--runner",
        default="",
        metavar="NAME",
        help="have an Apache Beam runner do it instead of --num_processes; what follows a -- goes to Beam",
    )
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = vars(parser.parse_args(argv[:cut]))
    report = ReadReport()
    try:
        info = build_corpus(arguments.pop("out"), **arguments, report=report, beam_options=argv[cut + 1 :])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    if report.invalid_utf8:
        print(
            f"{report.invalid_utf8:,} lines were not UTF-8 (--on_invalid_utf8 "
            f"{arguments['on_invalid_utf8']}); the first: {report.first_invalid}"
        )
    if report.skipped_empty or report.cut:
        print(
            f"{report.skipped_empty:,} empty documents skipped, {report.cut:,} cuts in documents too long "
            "to be read whole"
        )
    for name, split in info.splits.items():
        padding = 1 - split["tokens"] / (split["rows"] * info.sequence_length)
        dropped = split["dropped_text_tokens"] / max(1, split["text_tokens"])
        print(
            f"{name:12s} {split['documents']:>10,} documents {split['tokens']:>14,} tokens "
            f"{split['rows']:>10,} rows {padding:6.2%} padding {dropped:6.2%} of the text dropped"
        )


if __name__ == "__main__":
    main()
