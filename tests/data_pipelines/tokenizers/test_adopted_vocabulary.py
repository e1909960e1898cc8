"""ELECTRA's own vocabulary from text to a trained model: its special ids reach rows, masks, runs and what
reads them."""

import functools
import pydoc_data.topics
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.mixture import DatasetSource, make_mixture
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.directory import SpecialIds
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.configuration.flags import load_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.corruption import MASKING, mask_tokens
from electra_jax.objectives.denoisers import PieceTables
from electra_jax.runs import inputs as run_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import load_run
from support import real_vocabulary
from support.tiny_run import LENGTH, start, values

ELECTRA = SpecialIds(pad=0, cls=101, sep=102, unk=100, mask=103)
ROWS = 30_522


@pytest.fixture(scope="module")
def electra_data(tmp_path_factory):
    """A directory with "corpus", rows of 32 of Python's documentation."""
    root = tmp_path_factory.mktemp("electra_data")
    adopt_tokenizer(real_vocabulary.extract(root / "hugging_face"), root / "tokenizer", lowercase=None)
    topics = sorted(pydoc_data.topics.topics.values())
    for name, texts in (("train", topics[:40]), ("validation", topics[40:50])):
        documents = [" ".join([*text.split(), "[MASK] ☃"]) for text in texts]
        (root / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    settings = CorpusSettings(
        train=[str(root / "train.txt")],
        validation=[str(root / "validation.txt")],
        tokenizer=str(root / "tokenizer"),
        sequence_length=LENGTH,
        packing="documents",
    )
    build_corpus(str(root / "corpus"), settings)
    return root


@pytest.fixture(scope="module")
def mixture(electra_data):
    return make_mixture([DatasetSource(str(electra_data / "corpus"))], seed=0)


def test_rows_hold_the_vocabularys_own_ids(electra_data, mixture):
    info = load_dataset_info(str(electra_data / "corpus"))
    assert (info.vocab_size, SpecialIds(**info.special_ids), mixture.special) == (ROWS, ELECTRA, ELECTRA)
    rows = mixture.read(*mixture.rows_at(0, mixture.num_rows))
    assert rows.dtype == np.uint16 and (rows[:, 0] == ELECTRA.cls).all()
    lengths = (rows != ELECTRA.pad).sum(1)
    assert (rows[np.arange(len(rows)), lengths - 1] == ELECTRA.sep).all()
    # "[MASK]" in the text is not a mask, and the pieces of SentencePiece's special ids are [unused…] here,
    # never in text.
    assert ELECTRA.mask not in rows and ELECTRA.unk in rows and not np.isin(rows, range(1, 100)).any()
    train = info.splits["train"]
    assert (train["documents"], train["dropped_text_tokens"]) == (40, 0)
    assert train["text_tokens"] == (~np.isin(rows, ELECTRA[:3])).sum() and train["tokens"] == lengths.sum()


@pytest.mark.parametrize("masking", MASKING)
def test_masks_are_written_with_its_mask_and_never_over_a_special_token(mixture, masking):
    rows = mixture.read(*mixture.rows_at(0, 256))
    batch = mask_tokens(
        jax.random.key(0),
        jnp.asarray(rows),
        SpecialTokens.from_ids(mixture.special),
        masking=masking,
        mask_prob=0.15,
        mask_token_prob=1.0,
        type_vocab_size=2,
    )
    targets = np.asarray(batch.targets_BP)[np.asarray(batch.weights_BP) > 0]
    assert (
        len(targets) > 256
        and not np.isin(targets, [ELECTRA.pad, ELECTRA.cls, ELECTRA.sep, ELECTRA.mask]).any()
    )
    masked = np.asarray(batch.masked_ids_BL)
    assert (masked == ELECTRA.mask).sum() == len(targets)
    np.testing.assert_array_equal(masked[masked != ELECTRA.mask], rows[masked != ELECTRA.mask])


def configuration(data, **changes):
    config = load_config("configs/debug.py").to_dict()
    for key, value in values(data, **changes).items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, config)[name] = value
    return config


def test_a_run_takes_the_special_ids_of_its_dataset(electra_data, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def make(config, model, special, pieces):
        raise Reached(special, pieces)

    monkeypatch.setattr(run_inputs, "make_objective", make)
    with pytest.raises(Reached) as reached:
        pretrain(configuration(electra_data, model__vocab_size=ROWS), tmp_path / "run")
    assert reached.value.args == (SpecialTokens(pad=0, cls=101, sep=102, mask=103, unk=100), PieceTables())
    with pytest.raises(
        ValueError, match=r"vocab_size: got 30521, but the datasets' tokenizer has 30522 entries"
    ):
        pretrain(configuration(electra_data, model__vocab_size=ROWS - 1), tmp_path / "run")


@pytest.mark.slow
def test_training_with_it_and_what_the_run_keeps(electra_data, environment, tmp_path):
    workdir = tmp_path / "run"
    choices = {
        "model__vocab_size": ROWS,
        "train__num_steps": 8,
        "optimizer__warmup_steps": 2,
        "eval__every": 8,
        "checkpoint__every": 4,
    }
    outcome = start(workdir, electra_data, environment, **choices)
    assert outcome.returncode == 0, outcome.stderr
    kept, trained = load_tokenizer(str(workdir / "tokenizer")), load_run(workdir)
    assert (kept.special, kept.fingerprint) == (
        ELECTRA,
        load_tokenizer(str(electra_data / "tokenizer")).fingerprint,
    )
    assert trained.step == 8 and trained.model.discriminator.vocab_size == ROWS

    shutil.rmtree(workdir / "tokenizer")  # as in a run of an earlier version
    with pytest.raises(FileNotFoundError, match="run/tokenizer: no tokenizer here"):
        load_run(workdir)
