"""Flags of `soup` that the chosen score does not read are refused before anything is opened."""

import pytest

from electra_jax.soups.averaging import SoupOptions, make_soup

CASES = {
    "rows without a score": (None, ["rows"], {}, "--datasets: got rows without --score", "heldout"),
    "rows for a probe": ("probe_x", ["rows"], {}, "--datasets: got rows with --score=probe_x", "heldout"),
    "a probe without a score": (None, [], {"train": "f"}, "--probe: got train without --score", "probe"),
    "a probe for held-out rows": (
        "heldout_rtd_auc",
        [],
        {"train": "f"},
        "--probe: got train with --score=heldout_rtd_auc",
        "probe",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_flag_that_no_score_reads_is_refused(case, tmp_path):
    score, datasets, probe, got, kind = CASES[case]
    options = SoupOptions("uniform", score, datasets, probe, different_starts=False)
    with pytest.raises(ValueError, match=f"^{got}, expected it with --score={kind}_METRIC: "):
        make_soup(["a", "b"], tmp_path / "soup", options)
    assert not [*tmp_path.iterdir()]
