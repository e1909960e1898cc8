"""Measure speed, memory and FLOPs: `python -m electra_jax.benchmark --suite=NAME [--json=FILE]`.

  cpu        ELECTRA-small's training step, 32 rows of 128, beside the same step in PyTorch `transformers`,
             in float32 and bfloat16 (PyTorch's by autocast, unless its products are ten times as slow), also
             by torch.compile if there is a C++ compiler. `ratio_to_best_peer`: our best over PyTorch's best.
  deberta    The same for DeBERTaV3-xsmall, 32 rows of 128, 8 of 512; `transformers` has no mask decoder.
  attention  One layer of disentangled attention, forward and backward, by gather, by skew (and in
             kernels, on a TPU or GPU): time and memory.
  compiled   Bytes that a layer keeps of each token for the backward pass; memory of DeBERTaV3-xsmall's
             attention and step on a TPU v5e and an NVIDIA H100, absent or not.
  long_rows  ModernBERT-base's attention, global and local, on a TPU v5e, absent or not, 512 to 8,192 tokens.
             `bash launch/compile_only.sh benchmark --suite=NAME` runs these two, and installs compilers.
  input      Text to rows by the builder, compared with `datasets` if installed; rows to batches.
  checkpoint Saves of ELECTRA-small's training state, and which share of their time its checksums take.
  accelerator  Whether this machine's GPU, TPU or CPU trains correctly, and how fast:
             `bash launch/check_accelerator.sh` (electra_jax/benchmarks/accelerator/README.md).
  courses    FLOPs of MCL's step, 8 rows, with each of its courses, beside ELECTRA's. Compiled, but not run.

--config measures another recipe than the suite's own. The programs of a suite take turns and medians are
reported. All suites but accelerator need the packages of `pip install -e '.[test]'`.
"""

from pathlib import Path

from absl import flags

from data_pipelines.json_files import write_json
from data_pipelines.path_flags import DIRECTORY, NEW_DIRECTORY, NEW_FILE
from electra_jax.benchmarks.accelerator.check import check_accelerator
from electra_jax.benchmarks.accelerator.runner import Settings
from electra_jax.benchmarks.suites import SUITES, run_suite
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.flags import run_command, split_words
from electra_jax.configuration.number_flags import define_number
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.runs.summary import print_values

ACCELERATOR = "accelerator"
NAMES = (*SUITES, ACCELERATOR)
PATHS = {"json": NEW_FILE, "out": NEW_DIRECTORY, "data": DIRECTORY}


def main() -> None:
    """Run --suite, print its figures, and write them to --json."""
    options = flags.FLAGS
    if options.suite is None:
        raise ValueError(f"--suite is missing: one of {', '.join(NAMES)}. --help describes them.")
    if options.suite == ACCELERATOR:
        if options.config or options.json:
            raise ValueError("--config, --json: --suite=accelerator takes neither. It writes to --out.")
        directory, data = Path(options.out).absolute(), options.data and str(Path(options.data).absolute())
        settings = Settings(directory, data, options.again, options.limit_factor)
        check_accelerator(split_words(options.parts), settings)
        return
    config = options.config or load_config(own_recipe(SUITES[options.suite].default_config))
    check_values(config.to_dict())
    config = with_assumed_sizes(config.to_dict())
    figures = run_suite(options.suite, config, rounds=options.rounds, steps=options.steps)
    print_values(figures, width=48, decimals=3)
    if options.json:
        write_json(Path(options.json), figures, makes_directories=True)


def define_more_flags() -> None:
    """Define the flags besides --config."""
    flags.DEFINE_enum("suite", None, sorted(NAMES), "What to measure.")
    flags.DEFINE_integer("rounds", 5, "Turns of each program.", lower_bound=1, upper_bound=10**6)
    flags.DEFINE_integer("steps", 4, "Timed steps in a turn.", lower_bound=1, upper_bound=10**6)
    flags.DEFINE_string("json", None, "File to write the figures to, as JSON.")
    flags.DEFINE_string("out", "runs/accelerator", "accelerator: directory of its reports.")
    flags.DEFINE_string("data", "", "accelerator: dataset for the debug recipe, instead of a built-in text.")
    flags.DEFINE_string("parts", "", "accelerator: only these of its parts, separated by commas.")
    flags.DEFINE_boolean("again", False, "accelerator: repeat also the parts that have passed.")
    text = "accelerator: multiplies the time limits, for a machine that is busy or slow."
    define_number("limit_factor", 1.0, text, lowest=0.01, highest=1e6)


if __name__ == "__main__":
    run_command(main, define_more_flags, has_workdir=False, requires_config=False, paths=PATHS)
