"""Each part of the check of an accelerator, on simulated CPU devices and tiny shapes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.mixture import DatasetSource, make_mixture
from electra_jax.benchmarks.accelerator import (
    device,
    kernels,
    learning,
    parity,
    planned,
    report,
    speed,
    torch_speed,
)
from electra_jax.benchmarks.accelerator.corpus import build_rows, make_documents, make_words
from electra_jax.benchmarks.accelerator.parts import Job, find_parts, result_path
from electra_jax.benchmarks.accelerator.results import PASSED, CannotRunError, Recorder, Result, write_result
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.models import layers
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import make_objective
from electra_jax.training.metrics import summarize
from electra_jax.training.program import make_program
from support import accelerator_results

CPU = accelerator_results.DEVICE | {
    "platform": "cpu",
    "device_kind": "cpu",
    "num_devices": 8,
    "memory_limit": None,
    "chip": None,
    "peak_flops": None,
    "product_flops": 1e11,
}
RECORDED = json.loads(learning.RECORDED.read_text())
TINY = {
    "electra": speed.Case("configs/debug.py:model=electra", 32, 8, 1),
    "deberta": speed.Case("configs/debug.py:model=deberta_v3", 32, 8, 1),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A directory with the rows of 64 ids."""
    directory = tmp_path_factory.mktemp("text")
    build_rows(directory, learning.LENGTH)
    return directory


@pytest.fixture
def make_job(tmp_path, text):
    """Name of a part, case → its job, on CPU devices that the part "device" has recorded."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "work").mkdir()
    shutil.copytree(text, tmp_path / "work" / "text")
    write_result(result_path(tmp_path, "device"), Result("device", PASSED, figures=CPU))

    def make(name, case="", of=None):
        part = find_parts([name])[-1]._replace(case=case)
        recorder = Recorder(result_path(tmp_path, f"{of or name}"), name)
        return Job(part, tmp_path, "", recorder)

    return make


def failed(job):
    return [check["name"] for check in job.recorder.result.failed_checks]


def test_the_device_is_described(make_job, monkeypatch):
    monkeypatch.setattr(device, "MATMUL_SIZES", {"cpu": 64})
    job = make_job("device")
    device.run_part(job)
    figures = job.recorder.result.figures
    assert not failed(job) and figures["platform"] == "cpu" and figures["num_devices"] == 8
    assert figures["product_flops"] > 0 and figures["conditions"]["versions"]["jax"] == jax.__version__
    assert figures.keys() == accelerator_results.DEVICE.keys()


def test_a_line_for_each_gpu_and_none_without_nvidia_smi():
    class Outcome:
        stdout = "NVIDIA L4, 550.1, 23034 MiB, 72.00 W\n\n"

    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    assert device.gpus(lambda *_, **__: Outcome) == ["NVIDIA L4, 550.1, 23034 MiB, 72.00 W"]
    assert device.gpus(missing) == []


def test_the_text_is_the_same_everywhere():
    words, document = make_words(), make_documents(1, 0)[0]
    assert len(set(words)) == 500 and words[:3] == ["tuso", "lugona", "losu"]
    assert document.split()[:4] == ["meliso", "fazu", "zotevo", "sedu"]


def test_first_steps_of_the_debug_recipe_have_the_recorded_losses(text):
    """Eight steps, on other devices and with other compiler options than those that were recorded."""
    config = learning.debug_config(str(text / f"rows_of_{learning.LENGTH}"))
    assert learning.rows_digest(config, text / "run") == RECORDED["rows"]
    rows = make_mixture([DatasetSource(config["data"]["datasets"][0])], seed=config["data"]["seed"])
    mesh, losses = make_mesh(config["mesh"]), []
    model = make_pretraining_config(config["model"])
    with axis_context(mesh), speed.make_loader(config, rows, mesh) as loader:
        objective = make_objective(config, model, SpecialTokens.from_ids(rows.special))
        program = make_program(config, objective, mesh)
        state = program.init()
        for step in range(8):
            state, window = program.train_step(state, loader.batch_at(step)["input_ids"])
            losses.append(summarize(jax.device_get(window)))
    for name, rows_of_tolerances in learning.TOLERANCES.items():
        for step, got in enumerate(losses, start=1):
            tolerance = next(allowed for end, allowed in rows_of_tolerances if step <= end)
            assert got[name] == pytest.approx(RECORDED["losses"][name][str(step)], rel=tolerance), (
                name,
                step,
            )


def test_a_loss_beyond_its_tolerance_is_named(make_job):
    job = make_job("learning")
    learning.check_losses(job, RECORDED["losses"], RECORDED["losses"])
    assert not failed(job) and len(job.recorder.result.checks) == 12
    wrong = {name: dict(by_step) for name, by_step in RECORDED["losses"].items()}
    wrong["mlm_loss"]["17"] *= 1 + 2e-5  # what products in bfloat16 do
    wrong["rtd_loss"]["281-300"] *= 1.1
    learning.check_losses(job, wrong, RECORDED["losses"])
    assert failed(job) == [
        "mlm_loss up to step 20 (largest difference: step 17)",
        "rtd_loss up to step 300 (largest difference: step 281-300)",
    ]


def test_the_learning_part_trains_and_compares(one_device, make_job, monkeypatch):
    recipe = learning.debug_config

    def two_steps(rows):
        config = recipe(rows)
        config["train"]["num_steps"], config["optimizer"]["warmup_steps"] = 2, 1
        return config

    monkeypatch.setattr(learning, "debug_config", two_steps)
    monkeypatch.setattr(learning, "HASHED_STEPS", (0,))
    monkeypatch.setattr(
        learning, "check_losses", lambda *_: pytest.fail("the rows are not the recorded ones")
    )
    job = make_job("learning")
    learning.run_part(job)
    # Two steps learn nothing, and one hashed step is not the hash of three.
    assert [name.partition(" ")[0] for name in failed(job)] == ["held-out", "the"]
    assert job.recorder.result.figures["losses"]["mlm_loss"].keys() == {"1", "2"}


def test_exports_are_verified(make_job, monkeypatch):
    monkeypatch.setattr(parity, "NUM_LAYERS", {"generator": 1, "discriminator": 1})
    monkeypatch.setattr(parity, "LENGTH", learning.LENGTH)
    monkeypatch.setattr(parity, "RECIPES", {"electra": "configs/debug.py"})
    job = make_job("parity")
    parity.run_part(job)
    names = [check["name"] for check in job.recorder.result.checks]
    assert not failed(job) and "electra discriminator: detection logits" in names
    assert "electra generator: masked language model logits" in names
    assert "There is no run of the part learning" in job.recorder.result.note


def test_without_torch_exports_are_written_and_the_part_says_so(make_job, monkeypatch):
    monkeypatch.setattr(parity, "PEERS", ("no_such_package",))
    monkeypatch.setattr(parity, "RECIPES", {})
    with pytest.raises(CannotRunError, match="no_such_package not installed: 0 exports"):
        parity.run_part(make_job("parity"))


@pytest.mark.slow
@pytest.mark.parametrize("case", TINY)
def test_a_step_is_timed_and_planned_and_has_a_peer(make_job, monkeypatch, case):
    monkeypatch.setattr(speed, "SECONDS_OF_WINDOW", 0.001)
    monkeypatch.setattr(torch_speed, "SECONDS_OF_WINDOW", 0.001)
    monkeypatch.setattr(speed, "CASES", TINY)
    monkeypatch.setattr(speed, "CPU_VOCABULARY", 512)
    monkeypatch.setattr(speed, "CPU_LAYERS", 1)
    for module in (planned, torch_speed):
        monkeypatch.setattr(module, "CASES", {case: TINY[case]})
    monkeypatch.setattr(torch_speed, "VARIANTS", ("eager", "sdpa"))
    job = make_job("step_electra_small_128", case, of=f"step_{case}")
    speed.run_part(job)
    figures = job.recorder.result.figures
    assert not failed(job) and figures["batch_size"] == 8 and figures["utilization_of"] == "product"
    per_device = 8 * 32 / figures["step_seconds"] / 8
    assert figures["tokens_per_second"] == pytest.approx(per_device)
    assert figures["utilization"] == pytest.approx(per_device * figures["model_flops_per_token"] / 1e11)
    plan = make_job("plan")
    planned.run_part(plan)
    # The batch of eight devices has eight rows, that of the planned one has one; the parameters are the same.
    assert plan.recorder.result.figures[case] == pytest.approx(figures["compiled_bytes"], rel=0.25)
    peers = make_job("torch")
    torch_speed.run_part(peers)
    found = peers.recorder.result.figures
    assert found[f"{case} eager"]["tokens_per_second"] > 0 and found[f"{case} eager"]["batch_size"] == 1
    if case == "deberta":
        assert found[f"{case} sdpa"] == {"missing": "DebertaV2 of transformers has no sdpa"}
    else:
        assert found[f"{case} sdpa"]["tokens_per_second"] > 0


def test_rows_follow_the_memory():
    case = speed.CASES["electra_base_512"]
    rows = {
        gib: speed.choose_rows(case, CPU | {"platform": "gpu", "num_devices": 2, "memory_limit": gib * 2**30})
        for gib in (15.75, 36, 71.2, 130)
    }
    assert rows == {15.75: 16, 36: 64, 71.2: 128, 130: 128}


def test_half_as_many_rows_are_tried_where_they_do_not_fit(make_job, monkeypatch):
    tried = []

    def measure(job, config, device):
        tried.append(config["train"]["batch_size"])
        if len(tried) < 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(speed, "measure", measure)
    gpu = CPU | {"platform": "gpu", "num_devices": 2, "memory_limit": 72 * 2**30}
    job = make_job("step_electra_small_128", "electra_base_512")
    write_result(result_path(job.directory, "device"), Result("device", PASSED, figures=gpu))
    speed.run_part(job)
    assert tried == [128, 64, 32] and "128 rows do not fit. 64 rows do not fit." in job.recorder.result.note


def test_spread_ids_stay_different_and_keep_the_special_ones(text):
    rows = make_mixture([DatasetSource(str(text / f"rows_of_{learning.LENGTH}"))], seed=0)
    spread = speed.SpreadIds(rows, 30_522)
    places = rows.rows_at(0, 64)
    before, after = rows.read(*places), spread.read(*places)
    is_special = np.isin(before, rows.special)
    assert (before[is_special] == after[is_special]).all()
    pairs = set(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
    assert len(pairs) == len(set(before.ravel().tolist())) == len(set(after.ravel().tolist()))
    assert after.max() < 30_522 and not np.isin(after[~is_special], rows.special).any()


def test_torch_that_does_not_see_the_device_cannot_run():
    with pytest.raises(CannotRunError, match="does not see the device of JAX, a tpu"):
        torch_speed.torch_device("tpu")


def test_a_device_that_plan_does_not_know_is_left_out(make_job):
    job = make_job("plan")
    other = CPU | {"platform": "gpu", "device_kind": "NVIDIA T4"}
    write_result(result_path(job.directory, "device"), Result("device", PASSED, figures=other))
    with pytest.raises(CannotRunError, match="plan does not know the device 'NVIDIA T4'"):
        planned.run_part(job)


def test_kernels_agree_with_their_references(make_job, monkeypatch):
    monkeypatch.setattr(kernels, "ATTENTION_SHAPES", ((2, 16),))
    monkeypatch.setattr(kernels, "VOCAB_SIZE", 301)
    monkeypatch.setattr(kernels, "CHUNK_SIZE", 64)
    job = make_job("kernels")
    kernels.run_part(job)
    assert not failed(job) and len(job.recorder.result.checks) == 10


@pytest.mark.parametrize(
    ("length", "reach"), [(1152, None), (256, None), (256, 64)], ids=["global", "whole rows", "local"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_attention_in_kernels_agrees_with_its_reference(dtype, length, reach, monkeypatch):
    """Interpreted. The part itself compares them on TPUs alone."""
    monkeypatch.setattr(kernels, "LONG_SHAPE", (1, 1, 64))
    gaps = kernels.compare_long_rows(dtype, length, reach)
    assert 0.0 < max(gaps.values()) <= kernels.ALLOWED[dtype]


def test_forms_of_attention_are_timed_where_there_are_kernels(make_job, monkeypatch):
    """Those that this device computes, without kernels."""
    job = make_job("kernels")
    monkeypatch.setattr(kernels, "TIMED_SHAPE", (1, 16))
    kernels.time_attention(job)
    figures = job.recorder.result.figures["attention"]
    assert (figures["batch_size"], figures["length"]) == (1, 16)
    assert min(figures[f"{form}_milliseconds"] for form in ("plain", "skew", "gather")) > 0.0
    assert set(report.FORMS) == set(kernels.relative_attention.LAYERS)


def test_products_at_lower_precision_are_found(monkeypatch):
    """As TF32 would: operands keep 10 of their 23 bits."""

    def rounded(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        return jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFE000), jnp.float32)

    exact = layers.einsum_f32
    monkeypatch.setattr(
        kernels, "einsum_f32", lambda spec, dtype, x, y: exact(spec, dtype, rounded(x), rounded(y))
    )
    assert kernels.compare_product("float32")["product"] > 10 * kernels.ALLOWED["float32"]


def test_a_number_that_is_not_finite_is_a_difference():
    one, nan = jnp.ones(2), jnp.array([1.0, jnp.nan])
    for got in ((nan, one), (one, nan)):  # parameters of which one gradient is not finite
        assert kernels.compare_trees(["x"], (got,), ((one, one),)) == {"x": float("inf")}


def test_recipes_and_cases_exist():
    for case in speed.CASES.values():
        config = load_config(case.recipe).to_dict()
        assert config["model"]["max_position_embeddings"] >= case.length
