"""Planning for absent devices: reading compiled programs, prices, a step on the CPU, the command."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from electra_jax.distributed.chips import CHIPS, GIB
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import batch_sharding
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops
from electra_jax.planning import stages
from electra_jax.planning.chips import ByHand, plan_devices, price_of
from electra_jax.planning.collectives import Collective, read_collectives, read_group
from electra_jax.planning.compiled import (
    CompiledStep,
    DoesNotFitError,
    matmul_flops,
    measure_step,
    read_refusal,
    trace_step,
)
from electra_jax.planning.estimate import Assumptions
from electra_jax.planning.network import Range
from electra_jax.planning.report import report_lines, report_values
from electra_jax.planning.stages import plan_stages
from electra_jax.training.step_memory import Memory
from support import aside
from support.commands import run_module
from support.paths import ROOT
from support.tiny import LENGTH, rows
from support.training_steps import config, run_steps

HLO = ROOT / "tests" / "golden" / "hlo"


def test_collectives_are_counted_once_per_iteration_and_once_per_channel():
    assert read_collectives((HLO / "excerpts.txt").read_text()) == [
        Collective("all-gather", "bf16", 12, 12 * 64 * 32 * 2, (0, 1)),
        Collective("all-reduce", "f32", 12 + 1, 12 * 16 * 4 * 4 + 101 * 4),
        Collective("all-gather", "f32", 3, 3 * 16 * 4 * 4),
        Collective("reduce-scatter", "f32", 3, 3 * 8 * 4 * 4),
    ]
    assert (
        read_collectives("ENTRY %main (p: f32[2]) -> f32[2] {\n  ROOT %p = f32[2]{0} parameter(0)\n}") == []
    )


@pytest.mark.parametrize(
    ("device", "gathered", "reduced"),
    [
        # Five layers of 256 × 256: gathered forward and backward, gradients reduced, and one loss. The CPU
        # computes in float32; the TPU reduces whole gradients and slices them; the GPU scatters them.
        (
            "cpu",
            ("all-gather", "f32", 10, 10 * 256 * 256 * 4),
            ("all-reduce", "f32", 6, 5 * 256 * 256 * 4 + 4),
        ),
        ("v5e", ("all-gather", "bf16", 10, 10 * 256 * 256 * 2), ("all-reduce", "bf16", 5, 5 * 256 * 256 * 2)),
        (
            "h100",
            ("all-gather", "bf16", 10, 10 * 256 * 256 * 2),
            ("reduce-scatter", "bf16", 5, 5 * 64 * 256 * 2),
        ),
    ],
)
def test_collectives_of_programs_recorded_from_each_compiler(device, gathered, reduced):
    found = read_collectives((HLO / f"{device}.txt").read_text())
    everyone = (0, 1, 2, 3)
    loss = [] if device == "cpu" else [Collective("all-reduce", "f32", 1, 4, everyone)]
    assert found == [Collective(*gathered, everyone), Collective(*reduced, everyone), *loss]


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{0,1},{2,3}}", (0, 1)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
        # All devices, or a form that is taken for all, since more of them take longer.
        ("{}", None),
        ("mesh['a'=8] {'a':(1)2}", None),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", None),
    ],
)
def test_the_devices_of_a_collective_are_read_in_every_form(groups, first):
    assert read_group(f"channel_id=1, replica_groups={groups}, dimensions={{0}}") == first


def test_matrix_products_are_counted_in_loops_and_in_recomputation():
    w, x = jnp.ones((5, 8, 8)), jnp.ones((4, 8))

    def loss(w, x, is_remat):
        layer = lambda x, w: (jnp.tanh(x @ w), None)
        return jax.lax.scan(jax.checkpoint(layer) if is_remat else layer, x, w)[0].sum()

    for is_remat, times in ((False, 3), (True, 4)):
        jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(w, x, is_remat).jaxpr
        assert matmul_flops(jaxpr) == times * 5 * 2 * 4 * 8 * 8


def test_matrix_products_are_counted_in_every_shard_and_every_grid_step_of_a_kernel():
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    block = pl.BlockSpec((8, 8), lambda i, j: (i, j))
    mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 1}, jax.devices()[:2])
    shape = jax.ShapeDtypeStruct((24, 16), jnp.float32)
    call = pl.pallas_call(kernel, grid=(3, 2), in_specs=[block], out_specs=block, out_shape=shape)
    spec = jax.sharding.PartitionSpec("data")
    shards = jax.shard_map(call, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    jaxpr = jax.make_jaxpr(shards)(jnp.ones((48, 16))).jaxpr
    assert matmul_flops(jaxpr) == 2 * 3 * 2 * 2 * 8 * 8 * 8


@pytest.mark.parametrize(("fsdp", "remat", "ema_decay"), [(1, "none", 0.0), (8, "dense", 0.99)])
def test_a_measured_step_matches_the_step_that_runs(fsdp, remat, ema_decay):
    full = config(
        train={"batch_size": 16, "remat": remat, "layers": "scanned", "ema_decay": ema_decay},
        mesh={"data": -1, "fsdp": fsdp},
    )
    step = measure_step(full, jax.devices(), None)
    mesh = make_mesh(full["mesh"])
    _, state, _ = run_steps(full | {"train": full["train"] | {"batch_size": 8}}, mesh, 0)
    on_one = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
    optimizer = on_one((state.opt_state, state.ema) if ema_decay else state.opt_state)
    assert (step.memory.parameters, step.memory.optimizer) == (on_one(state.params), optimizer)
    batch = jax.device_put(rows(16), batch_sharding(mesh))
    assert step.memory.batch_and_metrics == on_one(batch) + on_one((state.step, state.window))
    assert step.memory.temporary > on_one(state.params)  # the gradients alone
    model = make_pretraining_config(full["model"])
    forward = forward_flops(full, model) * 16 * LENGTH
    # Positions are a whole number a row, and the first layer's input has no gradient.
    assert step.flops == pytest.approx(3 * forward * (1.0 if remat == "none" else 1.03), rel=0.06)
    kinds = {each.kind for each in step.collectives}
    assert "all-reduce" in kinds and (("all-gather" in kinds) or fsdp == 1)
    with pytest.raises(DoesNotFitError, match="more memory than the device has") as refused:
        measure_step(full, jax.devices(), 1000)
    assert refused.value.needed == step.memory.total > refused.value.available == 1000


@pytest.mark.parametrize(
    "text",
    [
        # libtpu 0.0.42.1; 0.0.50.1 and 0.0.52; older ones
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(480.00G) exceeds available HBM (30.75G).",
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required "
        "for HLO temporaries (480.00G) exceeds available HBM (30.75G). HLO module: jit__lambda.",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used "
        "480.00G of 30.75G hbm. Exceeded hbm capacity by 449.25G.",
    ],
)
def test_the_refusal_of_a_tpu_compiler_is_read(text):
    assert read_refusal(text) == (480 * GIB, int(30.75 * GIB))
    assert read_refusal(text.replace("RESOURCE_EXHAUSTED", "INTERNAL")) is None
    assert read_refusal("RESOURCE_EXHAUSTED: out of vector memory") is None


MESH = {"data": 1, "fsdp": 4, "tensor": 2}
PRICES = str(ROOT / "configs" / "prices.json")


def test_every_chip_has_a_price_and_a_tpu7x_chip_is_two_devices():
    for name in CHIPS:
        assert plan_devices(f"{name}:1", PRICES).chip is CHIPS[name]
        assert name == "cpu" or 0 < price_of(PRICES, name)[0].low <= price_of(PRICES, name)[0].high
    chip = price_of(PRICES, "tpu7x")[0].low
    assert plan_devices("tpu7x:2x2x1", PRICES).dollars_per_hour == (chip / 2, chip / 2)
    assert plan_devices("tpu7x:2x2x1", PRICES, ByHand(dollars_per_hour=10.0)).dollars_per_hour == (5, 5)
    assert plan_devices("h100:8", PRICES).dollars_per_hour == price_of(PRICES, "h100")[0] == (2.69, 12.29)
    assert "not checked" in plan_devices("h100:8", PRICES).price_source
    assert plan_devices("H100:8", PRICES).compiled_as == "h100:8"


@pytest.mark.parametrize("device", ["v9:2x2", "a100:8", "a10:8", "", "ironwood:2x2x1"])
@pytest.mark.parametrize("by_hand", [ByHand(), ByHand(compile_as="l4", peak_flops=1e14)])
def test_an_unknown_card_is_refused_with_all_names_and_the_way_to_describe_it(device, by_hand):
    with pytest.raises(ValueError) as refused:
        plan_devices(device, PRICES, by_hand)
    text = str(refused.value)
    assert text.startswith(f"--device: got {device!r}, expected one of v4, v5e, ")
    assert all(f"{name}, " in text or f"{name} with" in text for name in CHIPS)
    assert all(f"--{name}=" in text for name in ByHand._fields)
    assert text.endswith(" Did you mean a100-40 or a100-80?") == (device == "a100:8")


def test_a_card_is_described_by_hand_or_a_known_one_corrected():
    devices = plan_devices("a10:8", PRICES, ByHand("L4", 125e12, 22.0, 12.5, 1.25))
    assert (devices.text, devices.compiled_as, devices.dollars_per_hour) == ("a10:8", "l4:8", (1.25, 1.25))
    assert (devices.chip.peak_flops, devices.chip.memory) == (125e12, 22 * GIB)
    assert devices.chip.between_hosts == 12.5e9 / 8 and devices.price_source == "--dollars_per_hour"
    lower = plan_devices("h100:8", PRICES, ByHand(peak_flops=756e12))
    assert lower.chip == CHIPS["h100"]._replace(peak_flops=756e12, peak_flops_float32=756e12)
    assert lower.dollars_per_hour == price_of(PRICES, "h100")[0]
    a100 = plan_devices("h100:8", PRICES, ByHand(compile_as="a100-80"))
    assert (a100.compiled_as, a100.chip) == ("a100-80:8", CHIPS["h100"])
    with pytest.raises(ValueError, match="--compile_as: got 'l5', expected one of v4, v5e"):
        plan_devices("a10:8", PRICES, ByHand("l5", 125e12, 22.0, dollars_per_hour=1.25))
    with pytest.raises(ValueError, match=r"no number for 'a10', .* or give --dollars_per_hour"):
        plan_devices("a10:8", PRICES, ByHand("l4", 125e12, 22.0))


def test_a_search_needs_the_memory_of_a_device():
    plans = plan_stages({}, plan_devices("cpu:8", PRICES), None, is_searching=True, is_as_configured=False)
    with pytest.raises(ValueError, match=r"--search: the memory of cpu:8 is not known.* --memory_gib=16"):
        next(plans)


@pytest.mark.parametrize("open_axis", ["data", "fsdp", "tensor"])
def test_a_plan_and_its_flags_have_the_actual_sizes_of_the_mesh(open_axis, monkeypatch):
    memory = Memory(10**6, 2 * 10**6, 1, 1, 1)
    step = CompiledStep(memory, 1e15, None, [], (0,) * 8)
    monkeypatch.setattr(stages, "measure_step", lambda config, devices, available: step)
    assumptions, ways = Assumptions(Range(0.1, 0.2), 6.0, 0.5), {"is_searching": False}

    def plan_of(**sizes):
        full = config(train={"batch_size": 16}, mesh=sizes)
        (plan,) = plan_stages(full, plan_devices("cpu:8", PRICES), assumptions, is_as_configured=True, **ways)
        return plan

    plan, known = plan_of(**MESH | {open_axis: -1}), plan_of(**MESH)
    assert plan.config["mesh"] == MESH and plan.figures == known.figures
    (flags,) = (line for line in report_lines(plan) if "--config.mesh." in line)
    assert flags.endswith(" --config.mesh.data=1 --config.mesh.fsdp=4 --config.mesh.tensor=2")
    assert report_values(plan)["settings"]["mesh.tensor"] == 2


def test_a_plan_takes_longer_with_recomputation_unless_the_share_of_the_peak_was_measured(monkeypatch):
    def measure(config, devices, available):
        """`measure_step` without the compiler."""
        traced, _, _ = trace_step(config, devices)
        return CompiledStep(Memory(1, 1, 0, 1, 0), matmul_flops(traced.jaxpr.jaxpr), None, [], (0,))

    def figures(remat, used):
        full = config(train={"batch_size": 16, "remat": remat})
        assumptions = Assumptions(used, 6.0, 0.5)
        ways = {"is_searching": False, "is_as_configured": True}
        (plan,) = plan_stages(full, plan_devices("cpu:1", PRICES), assumptions, **ways)
        return plan.figures

    monkeypatch.setattr(stages, "measure_step", measure)
    none, full = (figures(remat, None) for remat in ("none", "full"))
    # The layers' products, most of the tiny model's, run four times instead of three.
    assert 1.2 < full.recomputation < 4 / 3 and none.recomputation == 1
    assert full.compute_seconds.low / none.compute_seconds.low == pytest.approx(full.recomputation)
    measured = Range(0.1, 0.2)
    assert figures("full", measured) == figures("none", measured)


def test_a_tpu_slice_has_no_network_between_hosts():
    with pytest.raises(ValueError, match=r"--network_gbps: got 100 for v5e:4x4, whose own links"):
        plan_devices("v5e:4x4", PRICES, ByHand(network_gbps=100.0))


@pytest.mark.parametrize("name", ["peak_flops", "memory_gib", "network_gbps", "dollars_per_hour"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_figure_that_is_no_positive_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name}: got {value}, expected a positive number"):
        plan_devices("h100:8", PRICES, ByHand(**{name: value}))


@pytest.mark.parametrize(
    "text",
    [
        '{"v5e": "cheap"}',
        '{"v5e": true}',
        '{"v5e": NaN}',
        '{"v5e": -1}',
        '{"v5e": [2, 1]}',
        '{"v5e": [1]}',
        pytest.param(f'{{"v5e": {10**400}}}', id="401 digits"),
        "{}",
    ],
)
def test_a_price_that_is_none_is_refused(text, tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text(text)
    with pytest.raises(ValueError, match="no number for 'v5e', expected US dollars an hour and chip"):
        price_of(str(prices), "v5e")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"v5e": 1,}', r"prices\.json: not valid JSON \(.*line 1"),
        ("[1]", r"prices\.json: got a list, expected an object"),
        (None, r"prices\.json: No such file or directory"),
    ],
)
def test_a_file_that_holds_no_prices_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ValueError, match=rf"^--prices: {tmp_path}/{message}.*\. Give another file\.$"):
        price_of(str(tmp_path / "prices.json"), "v5e")


def plan(*arguments):
    words = "electra_jax.plan", "--config=configs/debug.py", *arguments
    return run_module(*words, environment=aside.environment("compilers"), timeout=1200)


@pytest.mark.slow
def test_the_command_plans_for_a_tpu_whose_compiler_refuses_a_large_vocabulary(tmp_path):
    fits = plan("--device=v5e:2x2", f"--json={tmp_path / 'plan.json'}")
    assert fits.returncode == 0, fits.stderr
    [figures] = json.loads((tmp_path / "plan.json").read_text())["stages"]
    parts = [size for part, size in figures["bytes"].items() if part not in ("total", "available")]
    assert figures["bytes"]["total"] == sum(parts)
    assert (
        "all-reduce" in {each["kind"] for each in figures["collectives"]}
        and figures["compiler_flops_of_one_device"] > 0
    )
    assert "memory of each device" in fits.stdout and "--config.train.layers=scanned" in fits.stdout
    # A toy computes for microseconds, from which no time or price follows.
    assert "not meaningful: too small to estimate" in fits.stdout and "0.0 days" not in fits.stdout
    assert figures["step_seconds"] is figures["dollars"] is None
    # The command's own lines only, none of the compiler's.
    assert {line.split(" ")[0] for line in fits.stderr.splitlines()} == {"compiling"}, fits.stderr
    # Not a large batch: the compiler looks for minutes for what could be computed twice.
    too_large = plan("--device=v5e:2x2", f"--config.model.vocab_size={2**24}")
    assert too_large.returncode == 1 and "Traceback" not in too_large.stderr
    assert (
        "does not fit v5e:2x2" in too_large.stderr
        and "of 15.75" in too_large.stderr
        and "--search" in too_large.stderr
    )


@pytest.mark.slow
def test_the_command_plans_for_gpus_and_names_missing_or_wrong_flags():
    fits = plan("--device=h100:8")
    assert fits.returncode == 0, fits.stderr
    assert "of 71.23 GiB" in fits.stdout and "all-reduce" in fits.stdout
    assert {line.split(" ")[0] for line in fits.stderr.splitlines()} == {"compiling"}, fits.stderr
    words = "electra_jax.plan", "--config=configs/debug.py"  # for which no compiler is asked
    assert "--device is missing" in run_module(*words).stderr
    wrong = run_module(*words, "--device=cpu:2", "--config.train.remat=most").stderr
    assert "config.train.remat: got 'most'" in wrong
