"""The probe of a run that scores a soup: a recipe that its config.json names is code, which runs only if the
user asks; settings that the user gives are checked."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from configs import debug
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.soups import scores


def test_the_probe_of_a_run_is_not_run(tmp_path):
    code, canary = tmp_path / "evil.py", tmp_path / "opened"
    code.write_text(f"open({str(canary)!r}, 'w')\n")
    run = SimpleNamespace(config={"probe": {"config": str(code)}}, workdir=Path("runs/a"), model=None)
    with (
        pytest.raises(ValueError, match=r"is code .* Pass --probe=config=.*evil\.py if you trust it"),
        scores.open_score("probe_frozen_accuracy", run, None, datasets=[], probe={}, directory=tmp_path),
    ):
        pass
    assert not canary.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "pairs"}, r"config\.probe\.kind: got 'pairs', expected one of minimal_pairs, task"),
        ({"max_pairs": "-1"}, r"config\.probe\.max_pairs: got -1, expected"),
        ({"max_pairs": "few"}, r"^--probe: invalid literal for int.*'few'"),
        ({"every_": "1"}, r"^--probe: got every_, expected keys of"),
    ],
)
def test_wrong_settings_are_named(given, message, tmp_path):
    config = with_assumed_sizes(debug.get_config().to_dict())
    run = SimpleNamespace(config=config, workdir=Path("runs/a"), model=None, tokenizer=None)
    with (
        pytest.raises(ValueError, match=message),
        scores.open_score("probe_x", run, None, datasets=[], probe=given, directory=tmp_path),
    ):
        pass
