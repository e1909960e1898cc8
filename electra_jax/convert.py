"""Between runs and Hugging Face: `python -m electra_jax.convert export | verify | import`; each explains
itself with --help.

    python -m electra_jax.convert export --workdir=runs/small --out=exports/small
    python -m electra_jax.convert export --workdir=runs/trec6/models/NAME --out=exports/trec6
    python -m electra_jax.convert verify exports/small
    python -m electra_jax.convert import --from=DIRECTORY --kind=huggingface --out=runs/imported

Neither PyTorch nor transformers is needed, except to verify.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from electra_jax.configuration.flags import silence_libraries
from electra_jax.conversion import export_run, export_task, import_checkpoint
from electra_jax.finetuning.model_files import MODEL_FILE, is_saved_model
from electra_jax.huggingface.card import Publication
from electra_jax.huggingface.export import DTYPES
from electra_jax.huggingface.restore import KINDS, MISSING_GENERATOR
from electra_jax.models.config import EMBEDDING_SHARING

EXPORT = """Write a run's newest checkpoint as Hugging Face repositories: OUT/discriminator, the model to fine-tune, and
OUT/generator, the one that fills in masks. Where PyTorch and transformers are installed both are loaded with them and compared
with our model; an export that fails does not appear. A DeBERTaV3 generator with an enhanced mask decoder is left out, since
transformers cannot compute it.

Or a fine-tuned model, RUN/models/NAME of electra_jax.finetune, as one repository, OUT itself, for the class of its task:
…ForSequenceClassification, …ForTokenClassification or …ForQuestionAnswering."""
VERIFY = """Load an export with PyTorch and transformers and compare it with what our model computed when it was exported:
configuration, arrays, hidden states, logits, the detection AUC or the predicted labels, and the tokenizer's ids. The run is not
needed."""
IMPORT = """Make a run directory, at step 0, of a checkpoint: Hugging Face ELECTRA, BERT or DeBERTa-v2/v3, Microsoft's own
DeBERTa files, or google-research/electra's TensorFlow checkpoints. Missing heads, or a missing generator, are made anew, and
the command says so. Go on from it with `python -m electra_jax.pretrain --config=configs/continued.py:run=OUT`."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m electra_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="export|verify|import")

    export = commands.add_parser(
        "export",
        description=EXPORT,
        help="a run, or a fine-tuned model → Hugging Face",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument(
        "--workdir",
        required=True,
        type=Path,
        metavar="RUN",
        help="directory of a pre-training run or of a fine-tuned model; the latter takes none of --step, "
        "--inexact_generator and --custom_code",
    )
    export.add_argument("--step", type=int, help="checkpoint to export (default: the newest)")
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory to create")
    export.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float32", help="of the stored weights (default float32)"
    )
    export.add_argument(
        "--inexact_generator",
        action="store_true",
        help="also export a generator with an enhanced mask decoder",
    )
    export.add_argument(
        "--custom_code",
        action="store_true",
        help="DeBERTa: put the detection head into the model, with a class for it that users load with "
        "trust_remote_code (default: the head in a file beside the model)",
    )
    export.add_argument("--license", help="of the model, for its card: apache-2.0, …")
    export.add_argument(
        "--data_license", metavar="TEXT", help="of the training text, or of a task's data, for the card"
    )
    export.add_argument("--language", help="of the text, for the card: en, de, …")

    verify = commands.add_parser("verify", description=VERIFY, help="check an export")
    verify.add_argument("directory", type=Path, metavar="DIR", help="of an export, or of one of its models")

    load = commands.add_parser("import", description=IMPORT, help="a checkpoint → a run directory")
    load.add_argument(
        "--from",
        dest="source",
        required=True,
        type=Path,
        metavar="DIR_OR_FILE",
        help=(
            "directory of a model or of an export, a weights' file, or the prefix of a TensorFlow checkpoint"
        ),
    )
    load.add_argument("--kind", choices=KINDS, required=True, help="whose files they are")
    load.add_argument("--out", required=True, type=Path, metavar="RUN", help="run directory to create")
    load.add_argument(
        "--generator", type=Path, metavar="DIR_OR_FILE", help="its generator, where that lies elsewhere"
    )
    load.add_argument(
        "--missing_generator",
        choices=MISSING_GENERATOR,
        default="first_layers",
        help="without a generator: the first half of the discriminator's layers, or a fresh one of the "
        "recipe's shape; its embeddings are the discriminator's (default first_layers)",
    )
    load.add_argument(
        "--embedding_sharing",
        choices=EMBEDDING_SHARING,
        help="default: tied where both models have the same embeddings, else gdes (DeBERTa) or none",
    )
    load.add_argument(
        "--config",
        dest="recipe",
        metavar="FILE.py:ARG",
        help="recipe for all that the files do not say (default: size=base of the family)",
    )
    load.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="the checkpoint's tokenizer, where it does not lie beside it",
    )
    load.add_argument(
        "--new_tokenizer",
        type=Path,
        metavar="DIR",
        help="change over to this tokenizer: pieces spelled as before keep their embeddings, the others "
        "start near the mean",
    )
    load.add_argument("--seed", type=int, default=0, help="of whatever is made anew (default 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    arguments = vars(make_parser().parse_args(argv))
    silence_libraries()
    command = arguments.pop("command")
    try:
        {"export": _export, "verify": _verify, "import": _import}[command](**arguments)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _export(
    workdir: Path,
    step: int | None,
    out: Path,
    dtype: str,
    inexact_generator: bool,
    custom_code: bool,
    license: str | None,
    data_license: str | None,
    language: str | None,
) -> None:
    publication = Publication(license, data_license, language)
    models = [path.parent for path in sorted(workdir.glob(f"models/*/{MODEL_FILE}"))]
    if models:
        raise ValueError(
            f"--workdir: got {workdir}, a run of electra_jax.finetune, expected one of its models: "
            f"{', '.join(map(str, models))}."
        )
    if is_saved_model(workdir):
        flags = {
            "--step": step is not None,
            "--inexact_generator": inexact_generator,
            "--custom_code": custom_code,
        }
        given = [flag for flag, is_given in flags.items() if is_given]
        if given:
            raise ValueError(
                f"{', '.join(given)}: given for {workdir}, a fine-tuned model, expected only for a "
                "pre-training run. Leave it out."
            )
        print(export_task.export_task(workdir, out, dtype, publication))
        return
    choices = export_run.Choices(dtype, inexact_generator, custom_code, publication)
    for directory in export_run.export_run(workdir, step, out, choices):
        print(directory)


def _verify(directory: Path) -> None:
    if not export_run.verify_all(directory):
        raise ValueError(f"{directory} failed its verification.")


def _import(source: Path, out: Path, **choices) -> None:
    for note in import_checkpoint.import_checkpoint(source, out, import_checkpoint.Choices(**choices)):
        print(note)
    print(
        f"Go on from it with `python -m electra_jax.pretrain --config=configs/continued.py:run={out} "
        f"--workdir=…`; build datasets with `--tokenizer {out / 'tokenizer'}`."
    )
    print(out)


if __name__ == "__main__":
    main()
