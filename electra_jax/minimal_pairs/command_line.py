"""The flags of `python -m electra_jax.evaluate` for minimal pairs."""

from pathlib import Path

from absl import flags

from data_pipelines.problems import Problems
from electra_jax.minimal_pairs.evaluation import Options

flags.disclaim_key_flags()  # they are the command's own, so that its --help shows them
OF_TASKS = ("config", "sweep", "seeds", "pretrainings")  # flags of fine-tuning


def define_pairs() -> None:
    """Define --minimal_pairs and --max_pairs."""
    text = "Files of minimal pairs (.jsonl, .json, .csv, .tsv), or directories of them, separated by commas."
    flags.DEFINE_list("minimal_pairs", None, text)
    text = "Pairs of each phenomenon that are scored, the first ones; 0: all."
    flags.DEFINE_integer("max_pairs", 0, text, lower_bound=0)


def define_flags() -> None:
    """Define --minimal_pairs and what belongs to it, and --json."""
    define_pairs()
    flags.DEFINE_string("json", "", "File that gets the results as JSON, too.")


def check_flags(values: flags.FlagValues) -> None:
    """Raises ValueError unless the flags are those of fine-tuning, or those of minimal pairs."""
    problems = Problems()
    given = lambda name: values[name].present > 0
    if values.minimal_pairs:
        for name in filter(given, OF_TASKS):
            problems.add_text(
                f"--{name}: got it beside --minimal_pairs, which fine-tunes nothing. Leave one of them out."
            )
        if not values.init_from:
            problems.add_text(
                "--init_from is missing: the models to score, for example --init_from=runs/small."
            )
    else:
        if given("max_pairs"):
            problems.add_text("--max_pairs: got it without --minimal_pairs, expected both. Leave it out.")
        if values.config is None:
            problems.add_text(
                "--config is missing: a configuration file, for example "
                "--config=configs/evaluate.py:data=DIR. --minimal_pairs=DIR does without."
            )
    problems.report()


def options_of(values: flags.FlagValues) -> Options:
    """The options of scoring, from its flags."""
    return Options(
        values.minimal_pairs, values.init_from, Path(values.workdir), values.max_pairs, values.json
    )
