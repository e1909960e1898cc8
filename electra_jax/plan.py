"""See what a run would need on devices that you do not have yet: memory, FLOPs, communication, time, price.

    bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=v5e:4x4 --search
    bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=h100:8 \\
        --config.train.num_microbatches=8

compile the real training step of `pretrain` for these devices. Devices: TPUs by topology (v5e:4x4, v5p:2x2x2,
tpu7x:2x2x1), GPUs by number (h100:8, l4:1; h100:16 on two hosts, h100:4x4 on four), simulated devices of this
machine (cpu:8). launch/compile_only.sh installs the TPU and GPU compilers into .venv/compilers; cpu:8 needs
none: `python -m electra_jax.plan` plans for it. For another card, give the most similar one and its own
figures: --device=a10:8 --compile_as=l4 --peak_flops=125e12 --memory_gib=22 --dollars_per_hour=1.2.
Memory figures are the installed compilers'. A step that does not fit is refused here as on the device.
Time is an estimate, and a range: planning/README.md says what it rests on.

--search looks for the settings with which the configured batch fits at least cost: the fewest microbatches
with scanned layers; else with unrolled layers, recomputation (train.remat), parameters sharded over more
devices (mesh.fsdp). Once something fits, it halves the number of microbatches, then doubles the batch, until
a step no longer fits. Plans assume scanned layers and bfloat16, which these devices should use, unless
--as_configured is given. A step takes minutes to compile, a search compiles three to twelve.
"""

from pathlib import Path

from absl import flags

from data_pipelines.json_files import write_json
from data_pipelines.path_flags import FILE, NEW_FILE
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.number_flags import define_number
from electra_jax.configuration.recipes import find_recipe, own_recipe
from electra_jax.distributed.chips import CHIPS
from electra_jax.planning.chips import ByHand, define_card_flags, plan_devices
from electra_jax.planning.compiler_log import compiler_messages_in_a_file
from electra_jax.planning.estimate import Assumptions
from electra_jax.planning.report import report_lines, report_values
from electra_jax.planning.stages import plan_stages
from electra_jax.planning.utilization import read_utilization
from electra_jax.runs.teachers import with_teacher_models

PATHS = {"json": NEW_FILE, "prices": FILE}


def main() -> None:
    """Print the plan of every stage, and write the figures to --json."""
    options = flags.FLAGS
    if options.device is None:
        raise ValueError("--device is missing: for example --device=v5e:4x4. --help has more.")
    prices = find_recipe(options.prices) if options["prices"].present else own_recipe(options.prices)
    by_hand = ByHand(*(getattr(options, name) for name in ByHand._fields))
    device = plan_devices(options.device, prices, by_hand)
    used = None if options.utilization is None else read_utilization(options.utilization)
    assumptions = Assumptions(used, options.hours_between_stops, options.save_rate)
    ways = {"is_searching": options.search, "is_as_configured": options.as_configured}
    config, values = with_teacher_models(options.config.to_dict()), []
    with compiler_messages_in_a_file():
        for plan in plan_stages(config, device, assumptions, **ways):
            print("\n".join(report_lines(plan)))
            values.append(report_values(plan))
    if options.json:
        write_json(Path(options.json), {"stages": values}, makes_directories=True)


def define_more_flags() -> None:
    """Define the flags besides --config."""
    flags.DEFINE_string("device", None, f"Any of {', '.join(CHIPS)} with a topology or a number.")
    define_card_flags()
    flags.DEFINE_boolean("search", False, "Look for the settings with which the batch fits at least cost.")
    flags.DEFINE_boolean("as_configured", False, "Keep config.model.dtype and config.train.layers.")
    text = "Share of the peak that becomes model FLOPs, or lowest and highest: 0.1,0.3. Default: published."
    flags.DEFINE_list("utilization", None, text)
    flags.DEFINE_string("prices", "configs/prices.json", "JSON file of US dollars an hour and chip.")
    text = "Hours until a device is lost, for the checkpoint interval: an assumption."
    define_number("hours_between_stops", 6.0, text, lowest=0.01, highest=1e6)
    text = "GiB of state written a second, by all devices together: an assumption."
    define_number("save_rate", 0.5, text, lowest=0.001, highest=1e6)
    flags.DEFINE_string("json", None, "File to write the figures to, as JSON.")


if __name__ == "__main__":
    run_command(main, define_more_flags, has_workdir=False, paths=PATHS)
