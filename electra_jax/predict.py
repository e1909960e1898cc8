"""Predict labels, tags, answers or vectors, fill in [MASK], or judge tokens with a model.

    python -m electra_jax.predict --model=runs/trec6 --input=questions.txt --out=labels.jsonl
    python -m electra_jax.predict --model=runs/ner --input=test.conll --out=tagged.conll
    echo "The capital of France is [MASK] ." | python -m electra_jax.predict --model=runs/small
    echo "The old man sat by the sea ." | python -m electra_jax.predict --model=runs/small --demo
    python -m electra_jax.predict --model=runs/small --input=web.jsonl --loss_field=loss --out=losses.jsonl

--model is a fine-tuning, a pre-training run, or an export of either. A fine-tuned model predicts what it was
trained for. A pre-training run fills in [MASK]; of a text without it, it gives for each token the probability
that it was replaced. --demo shows both at once: it masks 15 % of the tokens, and shows what the generator
draws for them and what the discriminator thinks of each token. --loss_field gives each text the mean loss of
masked tokens, by which data_pipelines.corpus can choose documents.

There is one record for each input, in their order, as JSON lines or as a table between tabs. Standard output
holds nothing else. electra_jax/prediction/README.md describes inputs and records.
"""

import argparse
from collections.abc import Sequence

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import command_parser
from data_pipelines.path_flags import DIRECTORY, FILE, NEW_FILE, read_arguments
from electra_jax.configuration.process_setup import prepare_devices
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.prediction.command_line import add_flags, predict_options
from electra_jax.prediction.stream import predict

PATHS = {"model": DIRECTORY, "input": FILE, "out": NEW_FILE}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("electra_jax.predict", __doc__)
    add_flags(parser)
    return parser


@errors_on_the_terminal()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    flags = read_arguments(make_parser(), argv, PATHS, ("model",))
    prepare_devices()
    with leaving_at_once(
        "Standard output has the records of the inputs so far; a file of --out is not kept."
    ):
        predict(predict_options(flags))


if __name__ == "__main__":
    main()
