"""Convert between runs and Hugging Face checkpoints; each command explains its flags with --help.

    python -m electra_jax.convert export --workdir=runs/small --out=exports/small
    python -m electra_jax.convert export --workdir=runs/trec6/models/NAME --out=exports/trec6
    python -m electra_jax.convert verify exports/small
    python -m electra_jax.convert import --from=DIRECTORY --kind=huggingface --out=runs/imported

Only verify needs PyTorch and transformers. electra_jax/huggingface/README.md describes the formats.
"""

import argparse
from collections.abc import Sequence

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import command_parser
from data_pipelines.process_ends import signals_as_exit
from electra_jax.configuration.checkpoint_names import with_step_flag
from electra_jax.configuration.process_setup import prepare_devices
from electra_jax.conversion import command_line
from electra_jax.conversion.export import export
from electra_jax.conversion.export_run import verify_all
from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.huggingface.contents import describe_contents
from electra_jax.huggingface.export import REFERENCE_FILE
from electra_jax.runs.bucket_runs import local_directory, published


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("electra_jax.convert", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="export|verify|import")
    command_line.add_export(commands)
    command_line.add_verify(commands)
    command_line.add_import(commands)
    return parser


@errors_on_the_terminal()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    flags = command_line.read_flags(make_parser(), argv)
    prepare_devices()
    with leaving_at_once(""):
        {"export": _export, "verify": _verify, "import": _import}[flags.command](flags)


def _export(flags: argparse.Namespace) -> None:
    options = command_line.export_options(flags)
    with published(flags.out) as out:
        directory, step = with_step_flag(flags.workdir, flags.step)
        written = export(local_directory(directory), step, out, options)
        names = [str(one.relative_to(out)) for one in written]
        print(*(line for one in written for line in (f"{one.name}:", *describe_contents(one))), sep="\n")
        print(f"{REFERENCE_FILE} contains {options.verification_text.source}.")
    for name in names:
        print(flags.out if name == "." else f"{flags.out.rstrip('/')}/{name}")


def _verify(flags: argparse.Namespace) -> None:
    with signals_as_exit():  # since PyTorch saves the model again
        passed = verify_all(flags.directory)
    if not passed:
        raise ValueError(f"{flags.directory} failed its verification.")


def _import(flags: argparse.Namespace) -> None:
    print(*import_checkpoint(flags.source, flags.out, command_line.import_options(flags)), sep="\n")
    print(
        "Continue from it with `python -m electra_jax.pretrain "
        f"--config=configs/continued.py:run={flags.out} --workdir=…`; build datasets with `--tokenizer "
        f"{flags.out / 'tokenizer'}`. For less text give fewer --config.train.num_steps and warmup_steps."
    )
    print(flags.out)


if __name__ == "__main__":
    main()
