"""The data of every stage are checked before the first step."""

import pytest

from electra_jax.configuration.resolve import resolve
from electra_jax.runs.inputs import open_inputs
from electra_jax.runs.pretraining import pretrain
from support.staged_run import SHORT, configuration, make_corpora, three_stages


@pytest.fixture(scope="module")
def corpora(data, tmp_path_factory):
    """The directory with the datasets of `make_corpora`."""
    root = tmp_path_factory.mktemp("corpora")
    make_corpora(root, data)
    return root


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"train.batch_size": 12},
            ValueError,
            r"^config\.stages, in the stage from step 5 on: config\.train\.batch_size: got 12",
        ),
        (
            {"train.num_microbatches": 2},
            ValueError,
            r"step 5 on: config\.train\.batch_size: got 8, expected a multiple .* 8·1·2",
        ),
        ({"data.datasets": "{corpora}/nothing"}, FileNotFoundError, r"no such dataset directory: .*nothing"),
        (
            {"data.datasets": "{corpora}/long"},
            ValueError,
            r"step 5 on: config\.data\.sequence_length: got 16, but .* rows of 32",
        ),
        (
            {"data.datasets": "{corpora}/short,{corpora}/short"},
            ValueError,
            r"step 5 on: config\.data\.weights: got .* for 2 data",
        ),
        ({"data.weights": 0.0}, ValueError, r"step 5 on: config\.data\.weights: got \(0\.0,\) for 1"),
        (
            {"data.datasets": "{corpora}/other", "data.sequence_length": 32},
            ValueError,
            r"step 5 on: config\.data\.datasets: got .*other with the tokenizer .*expected that of .*short",
        ),
    ],
)
def test_the_data_of_every_stage_are_checked_before_the_first_step(change, error, message, corpora, tmp_path):
    change = {
        key: value.format(corpora=corpora) if isinstance(value, str) else value
        for key, value in change.items()
    }
    with pytest.raises(error, match=message):
        pretrain(configuration(corpora, ((5, change),)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_longer_than_the_model_are_refused(corpora, tmp_path):
    config = configuration(corpora, three_stages(corpora), model__max_position_embeddings=SHORT)
    with pytest.raises(
        ValueError, match=r"step 9 on: config\.model\.max_position_embeddings: got 16, expected at least"
    ):
        open_inputs(resolve(config), tmp_path / "run")
