"""Measure speed, memory and FLOPs: `python -m electra_jax.benchmark --suite=NAME [--json=FILE]`.

  cpu        ELECTRA-small's training step, 32 rows of 128, beside the same step in PyTorch `transformers`,
             each computing in float32 and in bfloat16 (PyTorch: autocast). `electra_small_tokens_per_second`
             is the better of our two.
  deberta    The same for DeBERTaV3-xsmall, 32 rows of 128 and 8 of 512, without the enhanced mask decoder,
             which `transformers` does not have.
  attention  One layer of disentangled attention, forward and backward: time and memory of its two
             implementations, gather and skew.
  compiled   Temporary memory on a TPU v5e and an NVIDIA H100, which may be absent: of DeBERTaV3-xsmall's
             attention with gather and skew, and of its step with the vocabulary whole and in chunks. Run it
             by `bash launch/compile_only.sh benchmark --suite=compiled`, which installs the compilers.
  courses    FLOPs of MCL's step, 8 rows, with each of its courses, beside ELECTRA's. Compiled, but not run.

--config measures another recipe than the suite's own. The programs of a suite take turns in one process and
medians are reported, so that a busy machine slows down all of them. It needs the packages of
`pip install -e '.[test]'`.
"""

from pathlib import Path

from absl import flags

from data_pipelines.json_files import write_json
from electra_jax.benchmarks.suites import SUITES, run_suite
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.runs.summary import print_values


def main() -> None:
    """Run --suite, print its figures, and write them to --json."""
    options = flags.FLAGS
    if options.suite is None:
        raise ValueError(f"--suite is missing: one of {', '.join(SUITES)}. --help describes them.")
    config = options.config or load_config(own_recipe(SUITES[options.suite].default_config))
    figures = run_suite(options.suite, config.to_dict(), rounds=options.rounds, steps=options.steps)
    print_values(figures, width=48, decimals=3)
    if options.json:
        write_json(Path(options.json), figures)


def define_more_flags() -> None:
    """Define the flags besides --config."""
    flags.DEFINE_enum("suite", None, sorted(SUITES), "What to measure.")
    flags.DEFINE_integer("rounds", 5, "Turns of each program.", lower_bound=1)
    text = "Timed steps in a turn, after one that is not timed."
    flags.DEFINE_integer("steps", 4, text, lower_bound=1)
    flags.DEFINE_string("json", None, "File to write the figures to, as JSON.")


if __name__ == "__main__":
    run_command(main, define_more_flags, has_workdir=False, requires_config=False)
