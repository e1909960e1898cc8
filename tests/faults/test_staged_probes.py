"""Probes of a run with stages change it by no bit, wherever they fall."""

import json

import jax
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.runs import inputs as run_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import load_run
from support.run_records import comparable
from support.staged_run import LENGTHENED, configuration, make_corpora, three_stages

WORDS = ("ab", "cd", "ef", "gh", "ij", "kl")
EVERY = 3  # of 12 steps; the third one falls on the first step of a stage


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """(name, keys of config.probe) → directory of a finished run with three stages, on one device."""
    root = tmp_path_factory.mktemp("staged")
    make_corpora(root, data)
    one = jax.devices()[:1]

    def train(name, **probe):
        changes = {f"probe__{key}": value for key, value in probe.items()}
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(run_inputs, "make_mesh", lambda sizes: make_mesh(sizes, one))
            pretrain(configuration(root, three_stages(root), **changes), root / name)
        return root / name

    return train


@pytest.fixture(scope="module")
def without(run):
    """The run without a probe."""
    return run("without")


@pytest.mark.all_faults
@pytest.mark.parametrize("kind", ["task", "minimal_pairs"])
def test_a_probe_changes_nothing_in_any_stage(kind, run, without, tmp_path):
    path = tmp_path / "probe.jsonl"
    pairs = [(f"{one} {other}", f"{other} {one}") for one in WORDS for other in WORDS]
    rows = [
        {"sentence_good": good, "sentence_bad": bad, "label": ("no", "yes")[good < bad]}
        for good, bad in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = dict.fromkeys(("train", "validation") if kind == "task" else ("minimal_pairs",), str(path))
    probed = run(kind, kind=kind, every=EVERY, num_epochs=1, text="sentence_good", label="label", **keys)

    found = comparable(probed)
    measured = [row for row in found if any(name.startswith("probe/") for name in row)]
    assert [row["step"] for row in measured] == [3, 6, LENGTHENED, 12]
    assert all(len(row) > 1 and np.isfinite(list(row.values())).all() for row in measured)
    assert [row for row in found if row not in measured] == comparable(without)
    trained, expected = (load_run(path).params for path in (probed, without))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(trained), jax.device_get(expected))
