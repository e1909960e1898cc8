"""Scores of sentences: against PyTorch and `transformers`, by hand, and the same in any batch and mesh."""

import jax
import numpy as np
import pytest
import torch
import transformers

from electra_jax.conversion import export_run
from electra_jax.distributed.mesh import make_mesh
from electra_jax.minimal_pairs import scoring
from electra_jax.minimal_pairs.models import identify, load_model
from electra_jax.minimal_pairs.scoring import DISCRIMINATOR, GENERATOR, WITHIN_WORD, SentenceScorer
from electra_jax.prediction import pretrained as networks
from electra_jax.prediction.tokens import TokenPredictor
from support import tiny_export
from support.tiny_task import ONE

SENTENCES = [
    "abc dei hgf",
    "hgf dei abc",
    "s to be",
    "s to bee",
    "kl mno pr to be",
    "or not",
    "to",
    "ab to ab",
]
EIGHT = {"data": -1, "fsdp": 1, "tensor": 1}
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A tiny ELECTRA with random parameters."""
    root = tmp_path_factory.mktemp("run")
    return tiny_export.make_run(root / "run", data, tiny_export.electra_model())[0]


def scorer(place, mesh=ONE):
    devices = jax.devices()[:1] if mesh is ONE else None
    return SentenceScorer(load_model(str(place)), make_mesh(mesh, devices))


def by_transformers(export, sentence, is_deberta):
    """The scores of a sentence, with one forward pass for each token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(export / "generator")
    generator = transformers.AutoModelForMaskedLM.from_pretrained(export / "generator").eval()
    [ids] = tokenizer(sentence, return_tensors="pt")["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    places = range(1, len(ids) - 1)
    ends = [next(q for q in range(p + 1, len(ids)) if pieces[q][0] in "▁[") for p in places]
    totals = []
    for is_within in (False, True):
        total = 0.0
        for place, end in zip(places, ends, strict=True):
            masked = ids.clone()
            masked[place : end if is_within else place + 1] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = generator(input_ids=masked[None]).logits[0, place]
            total += float(logits.double().log_softmax(-1)[ids[place]])
        totals.append(total)
    if (export / "discriminator").is_dir():
        make = transformers.AutoModelForPreTraining.from_pretrained
        discriminator = make(export / "discriminator", trust_remote_code=is_deberta).eval()
        with torch.no_grad():
            logits = discriminator(input_ids=ids[None]).logits.reshape(-1)[1:-1]
        totals.append(float(torch.log(1 - logits.double().sigmoid()).sum()))
    return totals


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra_tied", "electra_mlm", "deberta_code"])
def test_scores_and_choices_are_those_of_transformers(name, data, tmp_path, monkeypatch):
    is_deberta = name.startswith("deberta")
    if is_deberta:  # the vocabulary of a large one is taken in parts
        monkeypatch.setattr(networks, "VOCABULARY_CHUNK", 50)
    model, objective, options, _ = tiny_export.VARIANTS[name]
    place, _ = tiny_export.make_run(tmp_path / "run", data, model, objective)
    monkeypatch.setattr(export_run, "verify_if_possible", lambda directory, lines: None)  # other tests do
    export_run.export_run(place, None, tmp_path / "export", options)
    wanted = np.transpose(
        [by_transformers(tmp_path / "export", sentence, is_deberta) for sentence in SENTENCES]
    )
    for directory in (place, tmp_path / "export")[0 if name == "electra_tied" else 1 :]:
        by_rule = scorer(directory).score(SENTENCES).by_rule
        assert list(by_rule) == [GENERATOR, WITHIN_WORD, DISCRIMINATOR][: len(wanted)]
        assert not np.allclose(by_rule[GENERATOR], by_rule[WITHIN_WORD], atol=1e-2)
        for got, expected in zip(by_rule.values(), wanted, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
            differences = np.subtract(expected[0::2], expected[1::2])
            clear = np.abs(differences) > 1e-4
            choices = got[0::2] > got[1::2]
            assert clear.any() and (choices[clear] == (differences[clear] > 0)).all()


class Formula:
    """In place of the networks: numbers that can be computed by hand. Every row is kept."""

    def __init__(self, pretrained, mesh):
        self.mask = pretrained.tokenizer.special.mask
        self.sums = {}

    def log_probs(self, ids_BL, positions_B, tokens_B):
        """−(1 for each [MASK]) − token / 1024."""
        return -(ids_BL == self.mask).sum(axis=1) - tokens_B / 1024

    def logits(self, ids_BL):
        """The id / 16."""
        return ids_BL / 16


def test_three_sentences_by_hand(run, monkeypatch):
    monkeypatch.setattr(scoring, "Networks", Formula)
    model = load_model(str(run))
    sentences = ["abc", "s to be", "abc abc"]
    all_ids = model.tokenizer.encode_batch(sentences)
    got = SentenceScorer(model, make_mesh(ONE, jax.devices()[:1])).score(sentences).by_rule
    for number, (sentence, ids) in enumerate(zip(sentences, all_ids, strict=True)):
        lengths = [len(model.tokenizer.encode_batch([word])[0]) for word in sentence.split()]
        assert sum(lengths) == len(ids)
        tokens = sum(ids) / 1024
        assert got[GENERATOR][number] == pytest.approx(-len(ids) - tokens)
        # A word of n tokens: n masks for the first one, … one for the last.
        masks = sum(length * (length + 1) // 2 for length in lengths)
        assert got[WITHIN_WORD][number] == pytest.approx(-masks - tokens)
        share = 1 / (1 + np.exp(-np.array(ids) / 16))
        assert got[DISCRIMINATOR][number] == pytest.approx(np.log(1 - share).sum())
    assert any(length > 1 for length in lengths)


def test_rows_are_not_padded_beyond_the_positions_of_the_model(run, monkeypatch):
    lengths = set()

    class Noting(Formula):
        def logits(self, ids_BL):
            lengths.add(ids_BL.shape[1])
            return super().logits(ids_BL)

    monkeypatch.setattr(scoring, "Networks", Noting)
    model = load_model(str(run))._replace(max_length=21)
    SentenceScorer(model, make_mesh(ONE, jax.devices()[:1])).score(["abc", " ".join(SENTENCES)])
    assert max(lengths) == 21 and len(lengths) > 1


def test_the_words_of_a_text():
    text = "He didn't8z (so)."
    spans = np.array([[0, 2], [3, 6], [6, 11], [12, 13], [13, 14], [14, 15], [15, 16], [16, 17]])
    assert scoring.word_ends(text, spans).tolist() == [1, 3, 3, 4, 6, 6, 7, 8]


@pytest.mark.slow
def test_a_score_does_not_depend_on_the_batch_the_mesh_or_the_other_sentences(run, monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS", {"cpu": 128})
    long = "abc dei hgf s to"
    sentences = [long, "to", *SENTENCES, "to", "s  to be"]
    one = scorer(run)
    everything = one.score(sentences)
    compiled = []
    count = lambda name, seconds, **_: compiled.append(name) if name == COMPILED else None
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        alone = [one.score([sentence]) for sentence in (long, "to")]
        parts = one.score([*reversed(SENTENCES)])
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled  # the buckets were compiled before
    eight = scorer(run, EIGHT).score(sentences)
    for rule, scores in everything.by_rule.items():
        np.testing.assert_allclose([single.by_rule[rule][0] for single in alone], scores[:2], rtol=1e-5)
        np.testing.assert_allclose(parts.by_rule[rule][::-1], scores[2:-2], rtol=1e-5)
        np.testing.assert_allclose(eight.by_rule[rule], scores, rtol=1e-5)
        assert scores[1] == scores[-2] and scores[-1] == scores[4]  # equal to the last bit: a tie
    monkeypatch.setattr(scoring, "GROUP", 4)
    shares = []
    grouped = one.score(sentences, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0
    for rule, scores in grouped.by_rule.items():
        np.testing.assert_allclose(scores, everything.by_rule[rule], rtol=1e-5)


@pytest.mark.slow
def test_energies_and_long_sentences(data, tmp_path):
    place, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model(), "electric")
    long = " ".join(["abc dei hgf s to be or not"] * 8)
    scores = scorer(place).score(["abc dei", long])
    assert list(scores.by_rule) == [DISCRIMINATOR] and scores.num_divided == 1
    predictor = TokenPredictor(load_model(str(place)), 8, 1, make_mesh(ONE | {"data": -1}))
    spelled = predictor.pretrained.speller.spell(["abc dei", long], with_masks=False)
    energies = [energies_n.sum() for energies_n in predictor.scores(spelled)]
    np.testing.assert_allclose(scores.by_rule[DISCRIMINATOR], np.negative(energies), rtol=1e-5)


@pytest.mark.slow
def test_new_weights_are_others_with_the_same_shapes(run):
    trained, fresh = load_model(str(run)), load_model(f"random:{run}")
    assert identify("a", trained) == identify("a", load_model(f"{run}:0"))
    assert identify("a", fresh) == identify("a", load_model(f"random:{run}"))
    assert identify("a", fresh).step is None and identify("a", trained).digest != identify("a", fresh).digest
    shapes = lambda model: jax.tree.map(np.shape, model.params)
    assert shapes(trained.generator) == shapes(fresh.generator)
    assert shapes(trained.discriminator) == shapes(fresh.discriminator)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random:", r"--init_from: got 'random:', expected a directory"),
        ("{tmp}/no", r"--init_from: .*/no is not a directory, expected the directory of a pre-training run"),
        (
            "{tmp}",
            r"--init_from: .* holds no model, expected the directory of a pre-training run \(or DIR:STEP\)",
        ),
        ("{run}:7", r"expected a checkpoint of step 7, found those of \[0\]"),
    ],
)
def test_what_holds_no_model_is_named(name, message, run, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(name.format(tmp=tmp_path, run=run))
