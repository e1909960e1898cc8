"""Exports a pre-training run as Hugging Face repositories. They are written to a temporary directory and only
renamed after verification, so that a failed export leaves nothing behind."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines.mixture import DatasetSource, make_sequential
from data_pipelines.whole_files import check_utf8, unfinished_directory, write_text
from electra_jax.huggingface.card import make_card, read_record
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.comparison_rows import MAX_LENGTH, comparison_rows
from electra_jax.huggingface.comparison_texts import SAMPLE_TEXT, VerificationText, comparison_lines
from electra_jax.huggingface.export import (
    CARD_FILE,
    VerificationInputs,
    cast_weights,
    has_exact_logits,
    write_model,
)
from electra_jax.huggingface.families import family_of, readable_length
from electra_jax.huggingface.published_models import ModelWeights, to_published
from electra_jax.huggingface.reference import corrupt, single_documents
from electra_jax.huggingface.tokenizer import write_tokenizer
from electra_jax.huggingface.verify import Lines, find_models, report, verify
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import find_row
from electra_jax.runs.trained import TrainedRun, dataset_paths, load_run

NUM_ROWS = 16  # held-out rows on whose documents the tokenizer is verified


class ExportOptions(NamedTuple):
    """How to export a run."""

    dtype: str  # of the stored weights
    inexact_generator: bool  # export a generator whose outputs `transformers` cannot compute
    custom_code: bool  # DeBERTa: put the detection head into the model and ship a class for it
    publication: Publication
    verification_text: VerificationText = SAMPLE_TEXT  # which the export is compared on, and then contains


def export_run(workdir: Path, step: int | None, out: Path, options: ExportOptions) -> list[Path]:
    """Export a checkpoint of a run.

    Args:
      workdir: the run.
      step: of the checkpoint; None: the newest.
      out: directory to create.
      options: see ExportOptions.
    Returns:
      The directories of the exported models.
    Raises:
      ValueError: there is nothing to export, or the export failed its verification.
      OSError: `out` exists, or the run cannot be read.
    """
    check_new(out)
    run = load_run(workdir, step)
    if note := find_row(run.config["objective"]["name"]).not_published_note:
        print(f"Not exported: {note}.")
    models = _select_models(run, options)
    if not models:
        raise ValueError(f"{workdir}: nothing is left to export.")
    weights = {role: cast_weights(model, options.dtype) for role, model in models.items()}
    inputs = make_verification_inputs(run, options.verification_text, options.dtype)
    with verified(out, held_out_lines(run)) as unfinished:
        for role, model in weights.items():
            _write_repository(unfinished / role, role, model, run, inputs, options)
    return [out / role for role in weights]


def _select_models(run: TrainedRun, options: ExportOptions) -> dict[str, ModelWeights]:
    """Role → model, of the models to export."""
    selected = {}
    for role, model in to_published(jax.device_get(run.params), run.model).items():
        is_exact = has_exact_logits(model.config, role)
        if is_exact or options.inexact_generator:
            selected[role] = model
        if not is_exact:
            decision = (
                "Exported anyway (--inexact_generator)."
                if options.inexact_generator
                else "Not exported; use --inexact_generator to export it anyway."
            )
            print(
                f"{role}: trained with an enhanced mask decoder, which the classes of transformers do not "
                f"have: its predictions there are different. {decision}"
            )
    return selected


def check_new(out: Path) -> None:
    """Raises FileExistsError if the export would replace something, ValueError if no library could read it
    there."""
    check_utf8(str(out), "--out")
    if out.exists():
        raise FileExistsError(f"{out} exists. Choose another --out, or remove it.")


@contextlib.contextmanager
def verified(out: Path, lines: Lines = ()) -> Iterator[Path]:
    """Context with a temporary directory to write an export into. On exit the export is verified, on `lines`
    too, and the directory renamed to `out`.

    Raises:
      ValueError: the verification failed.
    """
    with unfinished_directory(out) as unfinished:
        unfinished.mkdir()
        yield unfinished
        verify_if_possible(unfinished, lines)
        os.replace(unfinished, out)


def _write_repository(
    directory: Path,
    role: str,
    weights: ModelWeights,
    run: TrainedRun,
    inputs: VerificationInputs,
    options: ExportOptions,
) -> None:
    encoder = weights.config
    directory.mkdir()
    write_model(
        directory,
        role,
        weights,
        inputs,
        run.description | {"step": run.step},
        dtype=options.dtype,
        custom_code=options.custom_code,
    )
    write_tokenizer(
        run.workdir / "tokenizer",
        directory,
        model_max_length=readable_length(encoder, run.trained_length),
        input_names=family_of(encoder).input_names,
    )
    card = make_card(
        role,
        encoder,
        read_record(run.workdir, run.step),
        options.publication,
        is_exact=has_exact_logits(encoder, role),
        with_code=options.custom_code,
    )
    write_text(directory / CARD_FILE, card)


def make_verification_inputs(run: TrainedRun, text: VerificationText, dtype: str) -> VerificationInputs:
    """The inputs to compare on, which the export will contain.

    The generator that corrupts them has weights rounded to `dtype`, those of the export, so that an export
    that is imported and exported again contains the same.
    """
    special = SpecialTokens.from_ids(run.tokenizer.special)
    models = to_published(run.params, run.model)
    encoder = next(iter(models.values())).config
    rows_BL = comparison_rows(
        run.tokenizer.encode_batch(text.plain),
        special,
        run.tokenizer.vocab_size,
        min(run.row_length, encoder.max_position_embeddings, MAX_LENGTH),
    )
    documents_BL = single_documents(rows_BL, special, encoder.type_vocab_size)
    generator = models.get("generator")
    rounded = generator and cast_weights(generator, dtype)
    rows = corrupt(rounded, documents_BL, special, encoder.type_vocab_size)
    return VerificationInputs(rows, comparison_lines(run.tokenizer, text.lines), special)


def held_out_lines(run: TrainedRun) -> list[tuple[str, list[int]]]:
    """Held-out documents of the run and their ids, to verify the tokenizer now; an export does not contain
    them. [] if its datasets are not on this machine."""
    special = SpecialTokens.from_ids(run.tokenizer.special)
    datasets = dataset_paths(run.workdir, run.config, run.step)
    here = [DatasetSource(path, split="validation") for path in datasets if Path(path).is_dir()]
    if not here:
        return []
    rows = make_sequential(here)
    rows_BL = rows.read(*rows.rows_at(0, min(NUM_ROWS, rows.num_examples))).astype(np.int32)
    documents = [row[~np.isin(row, special)] for row in single_documents(rows_BL, special, 0)]
    return comparison_lines(run.tokenizer, [run.tokenizer.decode(ids.tolist()) for ids in documents])


def verify_if_possible(directory: Path, lines: Lines) -> None:
    """Verify an export, or print why that is not possible here. `lines`: see `verify`.

    Raises:
      ValueError: a check failed.
    """
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        print(
            f"Not verified: {' and '.join(absent)} not installed. To verify it later: `pip install torch "
            "transformers`, then `python -m electra_jax.convert verify DIR`."
        )
    elif not verify_all(directory, lines):
        raise ValueError("the export failed its verification and was not kept. Please report this.")


def verify_all(directory: Path, lines: Lines = ()) -> bool:
    """Verify every model in a directory and print the reports; returns whether all passed. `lines`: see
    `verify`.

    Raises:
      FileNotFoundError: no exported model there.
      ImportError: PyTorch or transformers is not installed.
    """
    passed = [report(model.name, verify(model, lines)) for model in find_models(directory)]
    return all(passed)
