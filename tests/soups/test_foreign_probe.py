"""The recipe that a run's config.json names for its probe is code: a soup runs it only if the user asks."""

from pathlib import Path
from types import SimpleNamespace

import pytest

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
