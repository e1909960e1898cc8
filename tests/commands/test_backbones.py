"""`compare --suite=backbones`: encoders of one size, equal masks, and the minimal pairs of a suite's runs."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from electra_jax.comparison import pairs
from electra_jax.comparison.backbones import WIDTH_STEP
from electra_jax.comparison.pairs import add_pair_metrics
from electra_jax.comparison.pretraining import suite_runs
from electra_jax.comparison.suites import BACKBONES, SUITES, measure_backbone, measure_soup
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.encoder_shapes import num_encoder_parameters
from electra_jax.finetuning.results import Result
from electra_jax.minimal_pairs.evaluation import Result as Scored
from electra_jax.minimal_pairs.models import ScoredModel
from electra_jax.minimal_pairs.summary import Share, Summary
from support import tiny_export

SUITE = SUITES["backbones"]
RECIPE = "configs/debug.py:model=deberta_v3"


def run_of(name, recipe=RECIPE):
    """The configuration of a variant's run."""
    config = ConfigDict(with_assumed_sizes(load_config(recipe).to_dict()))
    (run,) = suite_runs(SUITE, config, name, 0, Path("runs")).values()
    return run


def test_encoders_have_as_many_parameters_as_widths_allow():
    runs = {name: resolve(run_of(name)) for name in BACKBONES}
    for name, encoder in itertools.product(BACKBONES, ("generator", "discriminator")):
        ours, first = (getattr(runs[one].model, encoder) for one in (name, "deberta_rtd"))
        step = WIDTH_STEP * 3 * ours.hidden_size * ours.num_layers
        assert abs(num_encoder_parameters(ours) - num_encoder_parameters(first)) <= step / 2
        assert ours.position == ("rotary" if name.startswith("modernbert") else "disentangled")
        assert (ours.hidden_size, ours.num_layers) == (first.hidden_size, first.num_layers)
    objectives = {name: run.values["objective"] for name, run in runs.items()}
    for family in ("deberta", "modernbert"):
        assert objectives[f"{family}_rtd"]["name"] == "deberta_v3"
        for percent in (15, 30):
            one = objectives[f"{family}_mlm_{percent}"]
            assert (one["name"], one["mask_prob"]) == ("mlm", percent / 100)
            assert (one["mask_token_prob"], one["random_token_prob"]) == (0.8, 0.1)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("configs/debug.py", r"config\.model\.position: got 'absolute', expected 'disentangled'"),
        ("configs/debug.py:model=deberta_v3,objective=mlm", r"config\.objective\.name: got 'mlm', expected"),
    ],
    ids=["electra", "mlm"],
)
def test_it_needs_a_recipe_of_deberta_v3_with_a_discriminator(recipe, message):
    with pytest.raises(ValueError, match=message):
        run_of("deberta_rtd", recipe)


def test_new_weights_have_the_shapes_of_each_architecture():
    names = ["modernbert_mlm_30", "deberta_mlm_15", "modernbert_rtd"]
    assert SUITE.random_starts(names) == {
        "deberta_random": "deberta_mlm_15",
        "modernbert_random": "modernbert_mlm_30",
    }
    assert SUITE.random_starts(names[:1]) == {"modernbert_random": "modernbert_mlm_30"}
    assert SUITES["courses"].random_starts(["rtd_std", "mcl"]) == {"random": "rtd_std"}


def test_held_out_losses_are_of_the_same_masks(data, tmp_path):
    tiny_export.make_run(tmp_path / "mlm_15", data, tiny_export.modern_model(), "mlm")
    shutil.copytree(tmp_path / "mlm_15", tmp_path / "mlm_30")  # the same weights
    path = tmp_path / "mlm_30" / "config.json"
    described = json.loads(path.read_text())
    described["config"]["objective"]["mask_prob"] = 0.3
    path.write_text(json.dumps(described))
    own, one, other = (
        measure_soup(tmp_path / "mlm_30"),
        *(measure_backbone(tmp_path / name, {"heldout_mlm_loss": 9.0}) for name in ("mlm_15", "mlm_30")),
    )
    assert one == other and one.keys() == {"mlm_loss"}
    assert abs(own["mlm_loss"] - one["mlm_loss"]) > 1e-4


def test_accuracies_on_pairs_are_metrics_of_the_runs(tmp_path, monkeypatch):
    def score_models(options, check):
        given.append(options)
        scored = [
            Scored(ScoredModel(name, 5, name), rule, Summary(Share(number / 10, 0.0, 4, 0), {}))
            for number, name in enumerate(options.init_from)
            for rule in ("generator", "discriminator")[: 2 - number]
        ]
        return scored, ["a note"]

    given = []
    monkeypatch.setattr(pairs, "score_models", score_models)
    results = [Result("deberta_rtd", 0, {"mlm_loss": 5.0}), Result("deberta_mlm_15", 0, {"mlm_loss": 4.0})]
    extended, notes = add_pair_metrics(results, ["blimp"], 3, tmp_path, lambda: None)
    assert [result.metrics for result in extended] == [
        {"mlm_loss": 5.0, "pairs generator": 0.0, "pairs discriminator": 0.0},
        {"mlm_loss": 4.0, "pairs generator": 0.1},
    ]
    assert notes == ["a note"] and given[0].max_pairs == 3
    assert given[0].init_from == [f"{tmp_path}/{name}/seed_0" for name in ("deberta_rtd", "deberta_mlm_15")]
    assert add_pair_metrics(results, [], 0, tmp_path, lambda: None) == (results, [])
