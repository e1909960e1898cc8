"""Exports a directory to Hugging Face: a pre-training run or a fine-tuned model, whichever it is."""

from pathlib import Path

from electra_jax.conversion.export_run import ExportOptions, export_run
from electra_jax.conversion.export_task import export_task
from electra_jax.finetuning.model_files import MODEL_FILE, is_saved_model


def export(workdir: Path, step: int | None, out: Path, options: ExportOptions) -> list[Path]:
    """Export a run's checkpoint (of `step`, or its newest) or a fine-tuned model; returns the directories.

    Raises:
      ValueError: `workdir` holds several fine-tuned models, an option does not apply to a fine-tuned model,
        there is nothing to export, or the export failed its verification.
      OSError: `out` exists, or `workdir` cannot be read.
    """
    models = [path.parent for path in sorted(workdir.glob(f"models/*/{MODEL_FILE}"))]
    if models:
        raise ValueError(
            f"--workdir: got {workdir}, a run of electra_jax.finetune, expected one of its models: "
            f"{', '.join(map(str, models))}."
        )
    if not is_saved_model(workdir):
        return export_run(workdir, step, out, options)
    only_for_runs = {
        "--step": step is not None,
        "--inexact_generator": options.inexact_generator,
        "--custom_code": options.custom_code,
    }
    given = [flag for flag, is_given in only_for_runs.items() if is_given]
    if given:
        raise ValueError(
            f"{', '.join(given)}: given for {workdir}, a fine-tuned model, expected only for a pre-training "
            "run. Leave it out."
        )
    return [export_task(workdir, out, options.dtype, options.publication, options.verification_text)]
