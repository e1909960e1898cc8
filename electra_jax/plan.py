"""See what a run would need on devices that you do not have yet: memory, FLOPs, communication, time, price.

    bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=v5e:4x4 --search
    bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=h100:8 \\
        --config.train.num_microbatches=8

compile the real training step of `pretrain` for these devices. Devices: TPUs by topology (v5e:4x4, v5p:2x2x2,
tpu7x:2x2x1), the GPUs of one host (h100:8, l4:1), simulated devices of this machine (cpu:8). The TPU and GPU
compilers are separate packages; launch/compile_only.sh installs them into .venv/compilers. cpu:8 needs none:
`python -m electra_jax.plan` plans for it. For another card, give the most similar one and its own figures:
--device=a10:8 --compile_as=l4 --peak_flops=125e12 --memory_gib=22 --dollars_per_hour=1.2.

Memory figures come from the installed compiler versions. If a step does not fit, a TPU's compiler refuses it
here as it would on the device. Time is an estimate: model FLOPs divided by the peak and by --utilization, an
assumption until your own run measures it (model_flops_utilization in its metrics.jsonl).

--search looks for the settings with which the configured batch fits at least cost: the fewest microbatches
without recomputation; if none fits, with more of it (train.remat); else with parameters sharded over more
devices (mesh.fsdp). Once something fits, it halves the number of microbatches, then doubles the batch, until
a step no longer fits. Plans assume scanned layers and bfloat16, which these devices should use, unless
--as_configured is given. A step takes minutes to compile, a search compiles three to ten.
"""

from pathlib import Path

from absl import flags

from data_pipelines.json_files import write_json
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.recipes import find_recipe, own_recipe
from electra_jax.distributed.chips import CHIPS
from electra_jax.planning.chips import ByHand, plan_devices
from electra_jax.planning.estimate import Assumptions
from electra_jax.planning.report import report_lines, report_values
from electra_jax.planning.stages import plan_stages, with_accelerator_settings


def main() -> None:
    """Print the plan of every stage, and write the figures to --json."""
    options = flags.FLAGS
    config = options.config.to_dict()
    if not options.as_configured:
        config = with_accelerator_settings(config)
    if options.device is None:
        raise ValueError("--device is missing: for example --device=v5e:4x4. --help has more.")
    prices = find_recipe(options.prices) if options["prices"].present else own_recipe(options.prices)
    by_hand = ByHand(*(getattr(options, name) for name in ByHand._fields))
    device = plan_devices(options.device, prices, by_hand)
    assumptions = Assumptions(options.utilization, options.hours_between_stops, options.save_rate)
    values = []
    for plan in plan_stages(config, device, assumptions, is_searching=options.search):
        print("\n".join(report_lines(plan)))
        values.append(report_values(plan))
    if options.json:
        write_json(Path(options.json), {"stages": values})


def define_more_flags() -> None:
    """Define the flags besides --config."""
    flags.DEFINE_string("device", None, f"Any of {', '.join(CHIPS)} with a topology or a number.")
    flags.DEFINE_string("compile_as", None, "Chip whose compiler stands for another card's.")
    flags.DEFINE_float("peak_flops", None, "FLOPs a second of one device, dense bfloat16 products.")
    flags.DEFINE_float("memory_gib", None, "Memory of one device that programs can use, in GiB.")
    flags.DEFINE_float("dollars_per_hour", None, "Price of one device. Default: that in --prices.")
    flags.DEFINE_boolean("search", False, "Look for the settings with which the batch fits at least cost.")
    flags.DEFINE_boolean("as_configured", False, "Keep config.model.dtype and config.train.layers.")
    text = "Share of the peak that becomes model FLOPs: an assumption (planning/README.md)."
    flags.DEFINE_float("utilization", 0.35, text, lower_bound=0.01, upper_bound=1.0)
    flags.DEFINE_string("prices", "configs/prices.json", "JSON file of US dollars an hour and chip.")
    text = "Hours until a device is lost, for the checkpoint interval: an assumption."
    flags.DEFINE_float("hours_between_stops", 6.0, text, lower_bound=0.01)
    text = "GiB of state written a second, by all devices together: an assumption."
    flags.DEFINE_float("save_rate", 0.5, text, lower_bound=0.001)
    flags.DEFINE_string("json", None, "File to write the figures to, as JSON.")


if __name__ == "__main__":
    run_command(main, define_more_flags, has_workdir=False)
