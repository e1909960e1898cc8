"""The benchmark command: its flags and errors, its suites, and timing in turns."""

import json
from types import SimpleNamespace

import pytest

from electra_jax.benchmarks import courses, torch_step, training_step
from electra_jax.benchmarks.suites import SUITES, run_suite
from electra_jax.benchmarks.timing import Contestant, time_in_turns, tokens_per_second
from electra_jax.benchmarks.training_step import random_rows, torch_contestants
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.models.config import DTYPES
from electra_jax.planning.compiled import CompiledStep, matmul_flops, trace_step
from support.commands import run_module
from support.paths import ROOT

WRONG = (
    ([], f"error: --suite is missing: one of {', '.join(SUITES)}, accelerator."),
    (["--suite=gpu"], "error: flag --suite=gpu: value should be one of <accelerator|"),
    (
        ["--suite=accelerator", "--config=configs/debug.py"],
        "error: --config, --json: --suite=accelerator takes neither. It writes to --out.",
    ),
    (
        ["--suite=accelerator", "--parts=speed,kernels"],
        "error: --parts: got speed, expected some of device,",
    ),
    (["--suite=accelerator", "--data=no"], f"error: {ROOT / 'no'}: no corpus.json; expected a directory"),
    (["--suite=cpu", "--config=configs/no.py"], "error: --config=configs/no.py: there is no file"),
    (
        ["--suite=cpu", "--config.log.every=1"],
        "error: --config.log.every: got no configuration to change.",
    ),
    (
        ["--suite=cpu", "--config=configs/debug.py", "--config.log.evry=1"],
        "error: --config.log.evry: the configuration has no such key. Did you mean --config.log.every?",
    ),
)


def test_a_wrong_command_line_is_one_sentence(environment):
    for arguments, message in WRONG:
        outcome = run_module("electra_jax.benchmark", *arguments, environment=environment)
        assert outcome.returncode == 1 and outcome.stderr.startswith(message), outcome


@pytest.mark.slow
def test_a_suite_prints_the_figures_that_it_writes(environment, tmp_path):
    words = ("--suite=checkpoint", "--config=configs/debug.py", "--rounds=1", "--steps=1")
    words += (f"--json={tmp_path / 'figures.json'}",)
    outcome = run_module("electra_jax.benchmark", *words, environment=environment)
    assert outcome.returncode == 0, outcome.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures and [line.split()[0] for line in outcome.stdout.splitlines()] == [*figures]


def products_alone(config, devices, available):
    """`measure_step` without the compiler."""
    traced, _, _ = trace_step(config, devices)
    flops = matmul_flops(traced.jaxpr.jaxpr)
    return CompiledStep(None, flops, flops, None, (0,))


def test_courses_cost_what_the_readme_says(monkeypatch):
    monkeypatch.setattr(courses, "measure_step", products_alone)
    config = with_assumed_sizes(load_config("configs/debug.py:model=mcl").to_dict())
    figures = run_suite("courses", config, rounds=1, steps=1)
    assert figures["batch_size"] == 8
    times = [figures[f"{name}_products_times_electra"] for name in courses.STEPS]
    assert times == pytest.approx([1, 2, 2, 3, 2, 3, 5], abs=0.01)


def test_every_suite_has_a_recipe_and_timed_suites_get_rounds_and_steps(monkeypatch):
    for name, suite in SUITES.items():
        config = load_config(suite.default_config).to_dict()
        fake = suite._replace(run=lambda config, **timing: {"config": config, **timing})
        monkeypatch.setitem(SUITES, name, fake)
        expected = {"config": config, "rounds": 3, "steps": 2} if suite.is_timed else {"config": config}
        assert run_suite(name, config, rounds=3, steps=2) == expected


DEBUG = "configs/debug.py:model="


@pytest.mark.parametrize(
    ("suite", "recipe", "changes", "message"),
    [
        ("cpu", f"{DEBUG}mcl", {}, r"objective\.name: got 'mcl', expected one of electra, deberta_v3, which"),
        (
            "cpu",
            f"{DEBUG}mcl,objective=electra",
            {},
            r"model\.position: got 'relative_bias', expected 'absol",
        ),
        ("cpu", "configs/electra.py:size=small", {"model.embedding_sharing": "none"}, r".*got 'none', expec"),
        ("cpu", "configs/electra.py:size=small", {"optimizer.name": "lamb"}, r"optimizer\.name: got 'lamb'"),
        (
            "cpu",
            f"{DEBUG}deberta_v3",
            {},
            r"model\.disentangled\.enhanced_mask_decoder: got True, expected F",
        ),
        ("deberta", "configs/modernbert.py:size=17m", {}, r"model\.position: got 'rotary', expected 'absol"),
        ("deberta", f"{DEBUG}deberta_v3", {"model.generator.hidden_size": 64}, r".*got 64, expected 128: Py"),
        ("attention", f"{DEBUG}electra", {}, r"model\.position: got 'absolute', expected 'disentangled'"),
        ("compiled", f"{DEBUG}mcl", {}, r"model\.position: got 'relative_bias', expected 'disentangled'"),
        ("long_rows", f"{DEBUG}electra", {}, r"model\.position: got 'absolute', expected 'rotary'"),
        (
            "courses",
            f"{DEBUG}electra",
            {},
            r"objective\.name: got 'electra', expected 'mcl': --suite=courses",
        ),
        ("deberta", f"{DEBUG}deberta_v3,objective=mlm", {}, r"objective\.name: got 'mlm', expected one of"),
    ],
)
def test_a_recipe_that_a_suite_cannot_measure_is_refused(suite, recipe, changes, message, monkeypatch):
    config = load_config(recipe)
    config.update_from_flattened_dict(changes)
    monkeypatch.setattr(training_step, "jax_contestants", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(ValueError, match=rf"^config\.{message}"):
        run_suite(suite, with_assumed_sizes(config.to_dict()), rounds=1, steps=1)


@pytest.mark.parametrize("suite", ["cpu", "deberta"])
def test_the_recipes_of_the_suites_are_what_pytorch_computes(suite, monkeypatch):
    class Reached(Exception):
        pass

    def stop(*_):
        raise Reached

    monkeypatch.setattr(training_step, "jax_contestants", stop)
    config = with_assumed_sizes(load_config(SUITES[suite].default_config).to_dict())
    with pytest.raises(Reached):
        run_suite(suite, config, rounds=1, steps=1)


def test_torch_is_measured_as_written_and_compiled_where_there_is_a_compiler(monkeypatch, capsys):
    config = load_config("configs/electra.py:size=small").to_dict()
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16}
    small = {"vocab_size": 64, "embedding_size": 16, "generator": sizes, "discriminator": sizes}
    config |= {"model": config["model"] | small}
    monkeypatch.setattr(
        torch_step, "compile_models", lambda models: models
    )  # importing the compiler takes long
    both, eager = ("torch", "torch_compiled"), ("torch",)
    monkeypatch.setattr(torch_step, "bfloat16_slowdown", lambda: 0.5)
    cases = (("python3", "/a", both), ("no-such-compiler", "/a", eager), ("python3", "/a b", eager))
    for compiler, directory, modes in cases:
        monkeypatch.setenv("CXX", compiler)
        where = SimpleNamespace(submodule_search_locations=[directory])
        monkeypatch.setattr(training_step, "find_spec", lambda name, where=where: where)
        found = torch_contestants(config, random_rows(64, 2, 16))
        assert [one.name for one in found] == [f"{mode}_{dtype}" for mode in modes for dtype in DTYPES]
    messages = capsys.readouterr().err.splitlines()
    assert [line.endswith(": torch.compile is not measured.") for line in messages] == [True, True]
    assert "PyTorch is in /a b" in messages[1]
    assert float(found[0].step()) > 0
    monkeypatch.setattr(torch_step, "bfloat16_slowdown", lambda: 150.0)
    found = torch_contestants(config, random_rows(64, 2, 16))
    assert [one.name for one in found] == ["torch_float32"], "its bfloat16 steps would take minutes"
    assert "takes PyTorch 150 times as long as a float32 one" in capsys.readouterr().err


def test_the_slowdown_is_that_of_pytorchs_own_products(monkeypatch):
    seconds = iter((0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 8.0, 0.0, 4.0, 0.0, 5.0))
    monkeypatch.setattr(torch_step.time, "perf_counter", lambda: next(seconds))
    assert torch_step.bfloat16_slowdown() == 4.0  # the fastest of three each


def test_contestants_take_turns_and_the_first_step_of_a_turn_is_not_timed():
    calls = []
    contestants = [Contestant(name, lambda name=name: calls.append(name)) for name in ("a", "b")]
    seconds = time_in_turns(contestants, rounds=2, steps=3, description="test")
    assert "".join(calls) == ("a" * 4 + "b" * 4) * 2
    assert {name: len(times) for name, times in seconds.items()} == {"a": 6, "b": 6}
    assert tokens_per_second([1.0, 2.0, 4.0], 8) == {
        "median": 4.0,
        "lower_quartile": 8 / 3,
        "upper_quartile": 8 / 1.5,
    }
    assert tokens_per_second([4.0], 8) == {"median": 2.0, "lower_quartile": 2.0, "upper_quartile": 2.0}
