"""From inputs to records, a group at a time: memory does not grow with the number of inputs."""

import contextlib
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import jax

from data_pipelines.process_ends import signals_as_exit
from data_pipelines.progress import make_progress
from data_pipelines.standard_streams import result_stream
from data_pipelines.tasks.unlabelled import (
    STANDARD_INPUT,
    Source,
    Unlabelled,
    Wanted,
    count_inputs,
    find_format,
    read_unlabelled,
)
from data_pipelines.whole_files import written_whole
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.model_files import SavedModel
from electra_jax.prediction.demonstration import WIDTH, Demonstrator, shown
from electra_jax.prediction.losses import LossPredictor
from electra_jax.prediction.models import load
from electra_jax.prediction.pretrained import Pretrained
from electra_jax.prediction.records import Record, Table, json_line, table_lines
from electra_jax.prediction.tasks import Columns, EmbeddingPredictor, TaskPredictor
from electra_jax.prediction.tokens import TokenPredictor

FORMATS = ("jsonl", "tsv")
TABLES = (".tsv", ".conll")  # endings of --out that ask for a table
COMPRESSED = (".gz", ".zst")  # endings of --out that nothing is written with
BATCHES_AT_ONCE = 8  # read before they are predicted, so that texts of similar length share batches


class Options(NamedTuple):
    """What to predict; the fields are the command's flags."""

    model: str
    input: str
    out: str  # "": standard output
    format: str  # one of FORMATS; "": as `out` ends, or JSON
    input_format: str  # "": as `input` ends
    text_column: str
    pair_column: str
    top: int
    demo: bool
    seed: int
    step: int | None
    batch_size: int
    loss_field: str  # "": no losses
    masked_copies: int
    width: int  # dimensions of an embedding; 0: all
    normalize: bool


class Predictor(Protocol):
    """What predicts inputs."""

    kind: str
    table: Table
    title: str

    def wanted(self, file_format: str, given: Columns) -> Wanted: ...

    def predict(self, inputs: Sequence[Unlabelled]) -> tuple[list[Record], list[str]]: ...


def predict(options: Options) -> None:
    """Write a record for each input, in the order of the inputs.

    Raises:
      ValueError, OSError: a wrong flag, model or input; see `load` and `read_unlabelled`.
      FloatingPointError: the model's numbers are not finite.
    """
    find_format(options.input, options.input_format, tagging=False)  # errors of the path come first
    _check_out(options)
    model = load(options.model, options.step)
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    batch_size = -(-options.batch_size // mesh.size) * mesh.size
    predictor = _predictor(model, options, batch_size, mesh)
    file_format = find_format(options.input, options.input_format, tagging=predictor.kind == "tagging")
    source = Source(options.input, file_format)
    wanted = predictor.wanted(file_format, Columns(options.text_column, options.pair_column))
    print(f"{options.model}: {predictor.title}; reads {source.name} as {file_format}", file=sys.stderr)
    is_terminal = source.path == STANDARD_INPUT and sys.stdin.isatty()
    if is_terminal:
        print("Type a text on each line; Ctrl-D ends.", file=sys.stderr)
    size = 1 if is_terminal or options.batch_size == 1 else batch_size * BATCHES_AT_ONCE
    groups = _groups(read_unlabelled(source, wanted), size)
    groups = itertools.chain([next(groups)], groups)  # errors come before a file
    with _opened(options.out) as stream:
        total = count_inputs(source, wanted)
        _write_all(predictor, groups, _formatter(predictor, model, options), stream, total)


def _check_out(options: Options) -> None:
    if not options.out:
        return
    out = Path(options.out)
    if out.is_dir():
        raise ValueError(f"--out: {out} is a directory, expected a file to write.")
    if options.input != STANDARD_INPUT and out.exists() and out.samefile(options.input):
        raise ValueError(f"--out: got {out}, which is also --input, expected another file.")
    if out.name.lower().endswith(COMPRESSED):
        raise ValueError(
            f"--out: got {out}, expected a name without {out.suffix}: the file is not compressed. Leave "
            f"{out.suffix} out, and compress it afterwards."
        )


def _predictor(
    model: SavedModel | Pretrained, options: Options, batch_size: int, mesh: jax.sharding.Mesh
) -> Predictor:
    if options.demo and options.format == "tsv":
        raise ValueError("--format: got tsv with --demo, expected jsonl, or none for people to read.")
    if options.masked_copies > 1 and not options.loss_field:
        raise ValueError(
            f"--masked_copies: got {options.masked_copies} without --loss_field, expected both. Give a field."
        )
    if options.loss_field and (options.demo or not isinstance(model, Pretrained)):
        got = "--demo" if options.demo else f"{options.model}, a fine-tuned model"
        raise ValueError(
            f"--loss_field: got {got}, expected a pre-training run or its export without --demo."
        )
    is_embedding = isinstance(model, SavedModel) and model.description["task"]["kind"] == "embedding"
    if (options.width or options.normalize) and not is_embedding:
        flag = f"--width: got {options.width}" if options.width else "--normalize: got it"
        raise ValueError(f"{flag} for {options.model}, expected it for a model of embeddings. Leave it out.")
    if isinstance(model, Pretrained):
        if options.loss_field:
            seed, copies = options.seed, options.masked_copies
            return LossPredictor(model, batch_size, mesh, options.loss_field, seed, copies)
        predictor = TokenPredictor(model, batch_size, options.top, mesh)
        return Demonstrator(predictor, options.seed) if options.demo else predictor
    if options.demo:
        raise ValueError(
            f"--demo: got {options.model}, a fine-tuned model, expected a pre-training run or its export."
        )
    if is_embedding:
        return EmbeddingPredictor(model, batch_size, mesh, options.width, normalize=options.normalize)
    return TaskPredictor(model, batch_size, mesh)


def _formatter(predictor: Predictor, model: Any, options: Options) -> Callable[[Record | None], str]:
    """The text of a record; of None, what stands before the first one."""
    is_table = options.format == "tsv" or (not options.format and options.out.lower().endswith(TABLES))
    if options.demo and not options.format:
        width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
        return lambda record: "" if record is None else shown(record, model.speller.mask, width)
    if not is_table:
        return lambda record: "" if record is None else json_line(record)
    table = predictor.table
    header = "\t".join(table.header) + "\n" if table.header else ""
    return lambda record: header if record is None else table_lines(table, record)


def _groups(inputs: Iterator[Unlabelled], size: int) -> Iterator[list[Unlabelled]]:
    while group := list(itertools.islice(inputs, size)):
        yield group


@contextlib.contextmanager
def _opened(out: str) -> Iterator[BinaryIO]:
    """Where the records go: standard output, or a file that is there when all are written; directories above
    it are made."""
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with signals_as_exit(), written_whole(Path(out)) as temporary, temporary.open("wb") as file:
            yield file
    else:
        yield result_stream()


def _write_all(
    predictor: Predictor,
    groups: Iterator[list[Unlabelled]],
    text_of: Callable[[Record | None], str],
    stream: BinaryIO,
    total: int | None,
) -> None:
    """Predict and write each group; what did not fit is told once."""
    done = num_told = 0
    # Records on a terminal are progress enough.
    is_shown = not stream.isatty()
    with make_progress(total, "predicting", unit="input", is_shown=is_shown) as progress:
        for group in groups:
            records, phrases = predictor.predict(group)
            header = "" if done else text_of(None)
            stream.write((header + "".join(map(text_of, records))).encode())
            stream.flush()
            for phrase in phrases:
                if not num_told:
                    progress.note(done + len(group), phrase, {})
                num_told += 1
            done += len(group)
            progress.update(done)
    if num_told > 1:
        print(f"The same holds for {num_told - 1} later groups of inputs.", file=sys.stderr)
