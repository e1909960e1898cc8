"""Export of a run to Hugging Face repositories: gather, write, verify, and only then let the directory
appear."""

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines.mixture import DatasetSource, make_sequential
from electra_jax.configuration.stages import stage_at
from electra_jax.huggingface.card import Publication, make_card, read_record
from electra_jax.huggingface.comparison_texts import comparison_lines
from electra_jax.huggingface.export import (
    CARD_FILE,
    VerificationInputs,
    cast_weights,
    has_exact_logits,
    write_model,
)
from electra_jax.huggingface.published_models import ModelWeights, to_published
from electra_jax.huggingface.reference import corrupt, single_documents
from electra_jax.huggingface.tokenizer import write_tokenizer
from electra_jax.huggingface.verify import find_models, report, verify
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import find_row
from electra_jax.runs.trained import TrainedRun, dataset_paths, load_run

NUM_ROWS = 16  # held-out rows that documents are taken from


class ExportOptions(NamedTuple):
    """dtype: of the stored weights. inexact_generator: export one that `transformers` cannot compute.
    custom_code: ship a class for DeBERTa's detection head."""

    dtype: str
    inexact_generator: bool
    custom_code: bool
    publication: Publication


def export_run(workdir: Path, step: int | None, out: Path, choices: ExportOptions) -> list[Path]:
    """Write the models of a run's checkpoint; returns their directories.

    Raises:
      ValueError: nothing can be exported, or the export failed its verification.
      OSError: `out` exists, or the run cannot be read.
    """
    check_new(out)
    run = load_run(workdir, step)
    models = to_published(jax.device_get(run.params), run.model)
    if note := find_row(run.config["objective"]["name"]).not_published_note:
        print(f"Not exported: {note}.")
    for role in [role for role, model in models.items() if not has_exact_logits(model.config, role)]:
        print(
            f"{role}: trained with an enhanced mask decoder, which the classes of transformers do not have: "
            "its predictions there are others. "
            + (
                "Exported all the same, as asked."
                if choices.inexact_generator
                else "Not exported; --inexact_generator does it all the same."
            )
        )
        if not choices.inexact_generator:
            del models[role]
    if not models:
        raise ValueError(f"{workdir}: nothing is left to export.")
    published = {role: cast_weights(model, choices.dtype) for role, model in models.items()}
    evidence = gather_evidence(run)
    with verified(out) as unfinished:
        for role, model in published.items():
            _write_repository(unfinished / role, role, model, run, evidence, choices)
    return [out / role for role in published]


def check_new(out: Path) -> None:
    """Raises FileExistsError where an export would take the place of something."""
    if out.exists():
        raise FileExistsError(f"{out} exists. Choose another --out, or remove it.")


@contextlib.contextmanager
def verified(out: Path) -> Iterator[Path]:
    """A directory to write an export into; it becomes `out` when it is written and has passed its
    verification.

    Raises:
      ValueError: it has not.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        unfinished = Path(temporary, out.name)
        unfinished.mkdir()
        yield unfinished
        verify_if_possible(unfinished)
        os.replace(unfinished, out)


def _write_repository(
    directory: Path,
    role: str,
    model: ModelWeights,
    run: TrainedRun,
    evidence: VerificationInputs,
    choices: ExportOptions,
) -> None:
    directory.mkdir()
    write_model(
        directory,
        role,
        model,
        evidence,
        run.description,
        dtype=choices.dtype,
        custom_code=choices.custom_code,
    )
    write_tokenizer(
        run.workdir / "tokenizer", directory, model_max_length=model.config.max_position_embeddings
    )
    card = make_card(
        role,
        model.config,
        read_record(run.workdir, run.step),
        choices.publication,
        is_exact=has_exact_logits(model.config, role),
        with_code=choices.custom_code,
    )
    (directory / CARD_FILE).write_text(card, encoding="utf-8")


def gather_evidence(run: TrainedRun) -> VerificationInputs:
    """What to compare on: held-out documents of the run where its datasets are at hand, and lines that are
    always there."""
    special = SpecialTokens.from_ids(run.tokenizer.special)
    models = to_published(run.params, run.model)
    encoder = next(iter(models.values())).config
    length = min(
        stage_at(run.config, run.step).config["data"]["sequence_length"], encoder.max_position_embeddings
    )
    rows_BL = held_out_rows(dataset_paths(run.workdir, run.config, run.step))
    documents = (
        []
        if rows_BL is None
        else [row[~np.isin(row, special)] for row in single_documents(rows_BL, special, 0)]
    )
    lines = comparison_lines(run.tokenizer, documents)
    if rows_BL is None:
        rows_BL = rows_of([ids for _, ids in lines], special, length)
    documents_BL = single_documents(rows_BL, special, encoder.type_vocab_size)
    return VerificationInputs(
        corrupt(models.get("generator"), documents_BL, special, encoder.type_vocab_size), lines, special.pad
    )


def held_out_rows(datasets: Sequence[str]) -> np.ndarray | None:
    """The first rows [n, L] of the validation splits that are on this machine, None where there are none."""
    here = [DatasetSource(path, split="validation") for path in datasets if Path(path).is_dir()]
    if not here:
        return None
    rows = make_sequential(here)
    return rows.read(*rows.rows_at(0, min(NUM_ROWS, rows.num_examples))).astype(np.int32)


def rows_of(documents: list[list[int]], special: SpecialTokens, length: int) -> np.ndarray:
    """The longest documents, one a row [n, L], cut or filled up."""
    chosen = sorted(documents, key=len)[-NUM_ROWS:]
    rows = np.full((len(chosen), length), special.pad, np.int32)
    for row, ids in zip(rows, chosen, strict=True):
        row[: min(length, len(ids))] = ids[:length]
    return rows


def verify_if_possible(directory: Path) -> None:
    """Verify what was written, or say why not.

    Raises:
      ValueError: a check failed.
    """
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        print(
            f"Not verified: {' and '.join(absent)} not installed. `pip install torch transformers`, then "
            "`python -m electra_jax.convert verify DIR`, makes up for it."
        )
    elif not verify_all(directory):
        raise ValueError("the export failed its verification, and was not kept. Please report this.")


def verify_all(directory: Path) -> bool:
    """Verify every model in a directory and print the reports; whether all passed.

    Raises:
      FileNotFoundError: there are none. ImportError: no PyTorch or transformers.
    """
    return all(
        [report(model.name, verify(model)) for model in find_models(directory)]
    )  # all reports, also after a failure
