"""The flags of `python -m electra_jax.convert`, and the options that they set."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.home_directory import parse_arguments
from data_pipelines.number_arguments import LARGEST_SEED, whole
from data_pipelines.path_flags import DIRECTORY, NAME, NEW_DIRECTORY, check_paths
from electra_jax.conversion.export_run import ExportOptions
from electra_jax.conversion.import_checkpoint import ImportOptions
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.comparison_texts import NONE, SAMPLE, verification_text
from electra_jax.huggingface.export import DTYPES
from electra_jax.huggingface.restore import MISSING_GENERATOR, SOURCE_FORMATS
from electra_jax.models.config import EMBEDDING_SHARING

EXPORT = """Write a run's newest checkpoint as two Hugging Face repositories: OUT/discriminator, the model to
fine-tune, and OUT/generator, the model that fills in masks. If PyTorch and transformers are installed, both
are loaded with them and compared with our model; an export that fails the comparison is not kept. A DeBERTaV3
generator with an enhanced mask decoder is left out, since transformers cannot compute it.

Or write a fine-tuned model, RUN/models/NAME of electra_jax.finetune, as one repository, OUT, for the class of
its task: …ForSequenceClassification, …ForTokenClassification or …ForQuestionAnswering; an embedding model for
sentence-transformers, and for AutoModel."""
VERIFY = """Load an export with PyTorch and transformers and compare it with outputs of our model that were
recorded at the export: configuration, arrays, hidden states, logits, the detection AUC or the predicted
labels, and token ids; of an embedding model its vectors, also with sentence-transformers if that is
installed. The run is not needed."""
IMPORT = """Make a run directory at step 0 from a checkpoint: a Hugging Face ELECTRA, BERT, DeBERTa-v2/v3
or ModernBERT, Microsoft's own DeBERTa files, or a TensorFlow checkpoint of google-research/electra. Missing
heads or a missing generator are newly initialised, and the command lists them. Continue from the run with
`python -m electra_jax.pretrain --config=configs/continued.py:run=OUT`."""

PATHS = {
    "export": {"workdir": DIRECTORY, "out": NEW_DIRECTORY, "verification_text": NAME},
    "verify": {"directory": DIRECTORY},
    "import": {
        "source": NAME,
        "out": NEW_DIRECTORY,
        "generator": NAME,
        "recipe": NAME,
        "tokenizer": NAME,
        "new_tokenizer": DIRECTORY,
    },
}


def read_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a command line, `sys.argv` if it is None; raises ValueError as `check_paths` does."""
    words = sys.argv[1:] if argv is None else argv
    flags = parse_arguments(parser, words)
    takes_urls = ("workdir", "out") if flags.command == "export" else ()
    check_paths(vars(flags), PATHS[flags.command], words, takes_urls)
    return flags


def add_export(commands) -> None:
    """Add the parser of `convert export`."""
    parser = commands.add_parser(
        "export",
        description=EXPORT,
        help="a run, or a fine-tuned model → Hugging Face",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="RUN[:STEP]",
        help="directory of a pre-training run (its newest checkpoint, or that of a step) or of a fine-tuned "
        "model, or its URL in a bucket; for a fine-tuned model --step, --inexact_generator and --custom_code "
        "are not allowed",
    )
    parser.add_argument("--step", type=whole(0), help="checkpoint to export (default: the newest)")
    out_help = "directory to create, or its URL in a bucket"
    parser.add_argument("--out", required=True, metavar="DIR", help=out_help)
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float32", help="of the stored weights (default: float32)"
    )
    parser.add_argument(
        "--inexact_generator",
        action="store_true",
        help="also export a generator with an enhanced mask decoder",
    )
    parser.add_argument(
        "--custom_code",
        action="store_true",
        help="DeBERTa: make the detection head part of the model and add a class that users load with "
        "trust_remote_code (default: the head in a separate file beside the model)",
    )
    parser.add_argument(
        "--verification_text",
        default=SAMPLE,
        metavar=f"FILE|{SAMPLE}|{NONE}",
        help="text on which the export is compared with our model, and which it then contains, readable by "
        f"whoever gets it: {SAMPLE}, built-in sentences (default); the lines of a text file; {NONE}, random "
        "token ids",
    )
    parser.add_argument("--license", help="of the model, for its card: apache-2.0, …")
    parser.add_argument(
        "--data_license", metavar="TEXT", help="of the training text, or of the task's data, for the card"
    )
    parser.add_argument("--language", help="of the text, for the card: en, or several: en,de")


def export_options(flags: argparse.Namespace) -> ExportOptions:
    """The options of an export, from its flags.

    Raises:
      ValueError, OSError: see `verification_text`.
    """
    publication = Publication(flags.license, flags.data_license, flags.language)
    text = verification_text(flags.verification_text)
    return ExportOptions(flags.dtype, flags.inexact_generator, flags.custom_code, publication, text)


def add_verify(commands) -> None:
    """Add the parser of `convert verify`."""
    parser = commands.add_parser("verify", description=VERIFY, help="check an export")
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="directory of an export, or of one of its models"
    )


def add_import(commands) -> None:
    """Add the parser of `convert import`."""
    parser = commands.add_parser("import", description=IMPORT, help="a checkpoint → a run directory")
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        type=Path,
        metavar="DIR_OR_FILE",
        help="directory of a model or of an export, a weights file, or the prefix of a TensorFlow checkpoint",
    )
    parser.add_argument(
        "--kind",
        dest="source_format",
        choices=SOURCE_FORMATS,
        required=True,
        help="format of the files",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run directory to create")
    parser.add_argument(
        "--generator",
        type=Path,
        metavar="DIR_OR_FILE",
        help="its generator, if it is not in the same directory (not with google: it is in the same files)",
    )
    parser.add_argument(
        "--missing_generator",
        choices=MISSING_GENERATOR,
        default="first_layers",
        help="what to use if there is no generator: the first half of the discriminator's layers, or a newly "
        "initialised one of the recipe's shape; both take the discriminator's embeddings "
        "(default: first_layers)",
    )
    parser.add_argument(
        "--embedding_sharing",
        choices=EMBEDDING_SHARING,
        help="default: tied if both models have the same embeddings, otherwise gdes (DeBERTa) or none",
    )
    parser.add_argument(
        "--config",
        dest="recipe",
        metavar="FILE.py:ARG",
        help="recipe for all settings that the files do not contain (default: size=base of the family)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="the checkpoint's tokenizer, if it is not in the same directory",
    )
    parser.add_argument(
        "--new_tokenizer",
        type=Path,
        metavar="DIR",
        help="replace the tokenizer by this one, of the same kind or another (tea, ▁tea, Ġtea): pieces with "
        "the same letters in the same place of a word keep their embeddings, the others start at the mean "
        "of the old pieces that spell them",
    )
    seed_help = "random seed for newly initialised parameters (default: 0)"
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, help=seed_help)


def import_options(flags: argparse.Namespace) -> ImportOptions:
    """The options of an import, from its flags."""
    return ImportOptions(**{name: getattr(flags, name) for name in ImportOptions._fields})
