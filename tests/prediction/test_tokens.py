"""Fillings and judgements of pre-trained models: against `transformers`, and for each objective."""

import functools
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.unlabelled import Unlabelled
from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import OBJECTIVES
from electra_jax.prediction.demonstration import Demonstrator, shown
from electra_jax.prediction.models import load
from electra_jax.prediction.records import table_lines
from electra_jax.prediction.spelling import Spelled, Speller
from electra_jax.prediction.tokens import TokenPredictor
from support import tiny_export
from support.byte_level import make_byte_level
from support.tiny_export import LENGTH
from support.tiny_task import ONE

TOP, BATCH = 4, 8
MASKED = ["abc [MASK] hgf", "[MASK] to [MASK]", "s t u kl mno pr to be or not [MASK]", "to be[MASK]"]
WHOLE = ["abc dei hgf", "", "to be or not  to be", "s"]


# Programs for one compile in half the time of those for eight.
NUM_DEVICES = {"electra_tied": 8, "electra_mlm": 1, "deberta_gdes": 1, "deberta_code": 1}


def texts(lines):
    return [Unlabelled(f"here:{number}", line) for number, line in enumerate(lines, 1)]


def predictor(path, num_devices=1):
    mesh = make_mesh(ONE | {"data": -1}, jax.devices()[:num_devices])
    return TokenPredictor(load(str(path), None), BATCH, TOP, mesh)


@pytest.fixture(scope="module")
def places(data, tmp_path_factory):
    """Name of a variant in tiny_export → its run and its export, made on demand."""
    root = tmp_path_factory.mktemp("places")

    @functools.cache
    def make(name):
        model, objective, options, _ = tiny_export.VARIANTS[name]
        run, _ = tiny_export.make_run(root / "runs" / name, data, model, objective)
        tiny_export.export_unverified(run, root / name, options)
        return run, root / name

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra_tied", "electra_mlm", "deberta_gdes"])
def test_masks_are_filled_as_by_transformers(name, places):
    run, export = places(name)
    folder = export / "generator"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    for path in (run, export, folder):
        records, _ = predictor(path, NUM_DEVICES[name]).predict(texts(MASKED))
        for text, record in zip(MASKED, records, strict=True):
            encoded = tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                shares = model(**encoded).logits[0].softmax(dim=-1)
            wanted = shares[encoded["input_ids"][0] == tokenizer.mask_token_id].topk(TOP)
            assert len(record["masks"]) == text.count("[MASK]")
            got = [[(one["id"], one["probability"]) for one in choices] for choices in record["masks"]]
            assert [[piece for piece, _ in choices] for choices in got] == wanted.indices.tolist()
            np.testing.assert_allclose(
                [[share for _, share in choices] for choices in got], wanted.values, rtol=1e-4
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra_tied", "deberta_code"])
def test_tokens_are_judged_as_by_transformers(name, places):
    run, export = places(name)
    folder = export / "discriminator"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    trust = {"trust_remote_code": True} if name.endswith("code") else {}
    model = transformers.AutoModelForPreTraining.from_pretrained(folder, **trust).eval()
    for path in (run, export, folder):
        records, _ = predictor(path, NUM_DEVICES[name]).predict(texts(WHOLE))
        for text, record in zip(WHOLE, records, strict=True):
            with torch.no_grad():
                logits = model(**tokenizer(text, return_tensors="pt")).logits
            wanted = logits.reshape(-1).sigmoid()[1:-1].numpy()
            got = [token["replaced"] for token in record["tokens"]]
            np.testing.assert_allclose(got, wanted, rtol=1e-4)
            assert [token["is_suspicious"] for token in record["tokens"]] == (wanted > 0.5).tolist()
            covered = "".join(text[token["start"] : token["end"]] for token in record["tokens"])
            assert covered == "".join(text.split())


@pytest.mark.slow
def test_a_long_text_is_divided_and_no_token_left_out(places):
    run, _ = places("electra_tied")
    words = ["abc", "dei", "hgf", "s", "to", "be", "or", "not"] * 20
    whole, masked = " ".join(words), " ".join([*words, "[MASK]", *words])
    both = predictor(run)
    [judged, filled], _ = both.predict(texts([whole, masked]))
    one, other = both.pretrained.speller.spell([whole, f"{masked} [MASK]"], with_masks=True)
    assert list(both.filled([other])[0]) == np.flatnonzero(other.is_mask).tolist()
    assert len(judged["tokens"]) == len(one.ids) > 2 * LENGTH and len(filled["masks"]) == 1
    # A part of the text is judged as if it were alone.
    part = slice(LENGTH - 2, 2 * (LENGTH - 2))
    [alone] = both.scores([Spelled(*(side[part] for side in one))])
    np.testing.assert_allclose([token["replaced"] for token in judged["tokens"][part]], alone, rtol=1e-4)


ABILITIES = {
    # objective (and a fixed generator): what its runs can do, and the field of a judged token
    "electra": (True, "replaced"),
    "deberta_v3": (True, "replaced"),
    "mcl": (True, "replaced"),
    "electra_15": (True, "replaced"),
    "two_stage": (True, "replaced"),
    "adversarial": (True, "replaced"),
    "mlm": (True, None),
    "replace_mlm": (True, None),
    "all_tokens_mlm": (True, None),
    "electric": (False, "energy"),
    "distillation": (True, None),
    "rtd_distillation": (True, "replaced"),
    "electra:unigram": (False, "replaced"),
    "fast_electra": (False, "replaced"),
    "prop": (True, None),
}


def test_every_objective_is_tried():
    assert {name.partition(":")[0] for name in ABILITIES} == set(OBJECTIVES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ABILITIES)
def test_a_run_of_any_objective_does_what_it_has_encoders_for(name, data, tmp_path):
    fills, field = ABILITIES[name]
    objective, _, generator = name.partition(":")
    model = tiny_export.deberta_model() if name == "deberta_v3" else tiny_export.electra_model()
    run, _ = tiny_export.make_run(tmp_path / "run", data, model, objective, generator or "model")
    of_run = predictor(run)
    title = OBJECTIVES[objective].title
    for lines, can, lacks in ((MASKED, fills, "generator"), (WHOLE, field, "discriminator")):
        if can:
            records, _ = of_run.predict(texts(lines))
            assert [record["text"] for record in records] == lines
            json.dumps(records, allow_nan=False)
            assert all(table_lines(of_run.table, record).count("\t") == 2 for record in records)
        else:
            with pytest.raises(ValueError, match=f"here:1: got a text .* has no {lacks}") as raised:
                of_run.predict(texts(lines))
            assert title in str(raised.value)
    if field:
        [record], _ = of_run.predict(texts(["abc dei"]))
        other = {"replaced": "energy", "energy": "replaced"}[field]
        assert all(field in token and other not in token for token in record["tokens"])
    demonstrated, _ = Demonstrator(of_run, seed=0).predict(texts(["abc dei hgf", ""]))
    tokens = demonstrated[0]["tokens"]
    assert any("drawn" in token for token in tokens) == fills
    assert all((field in token) == (field is not None) for token in tokens if field)
    text = shown(demonstrated[0], "[MASK]", 100)
    assert ("generator" in text) == fills and ("replaced?" in text) == (field == "replaced")
    assert ("energy" in text) == (field == "energy")


@pytest.mark.slow
def test_the_generator_of_an_ablation_is_not_the_encoder_that_it_exports(data, tmp_path):
    """A run of Replace MLM exports the encoder that never saw [MASK]; the small one fills masks."""
    run, params = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model(), "replace_mlm")
    loaded = load(str(run), None)
    wanted = params["generator_predictions"]["bias"]
    np.testing.assert_array_equal(loaded.generator.params["head"]["bias"], wanted)
    assert loaded.generator.config == make_pretraining_config(tiny_export.electra_model()).generator


@pytest.mark.slow
def test_a_demonstration_masks_draws_and_judges_what_it_wrote(places):
    run, _ = places("electra_tied")
    of_run = predictor(run)
    lines = ["abc dei hgf s to be", "s t u kl mno"]
    records, _ = Demonstrator(of_run, seed=1).predict(texts(lines))
    [again, _], _ = Demonstrator(of_run, seed=1).predict(texts(lines))
    assert again == records[0]  # not by chance
    one_by_one = Demonstrator(of_run, seed=1)
    alone = [record for line in lines for record in one_by_one.predict(texts([line]))[0]]
    assert [[token.get("drawn") for token in record["tokens"]] for record in alone] == [
        [token.get("drawn") for token in record["tokens"]] for record in records
    ]
    assert Demonstrator(of_run, seed=2).predict(texts(lines))[0] != records
    speller, tokenizer = of_run.pretrained.speller, of_run.pretrained.tokenizer
    for line, record in zip(lines, records, strict=True):
        ids = tokenizer.encode_batch([line])[0]
        drawn = [token for token in record["tokens"] if "drawn" in token]
        assert len(drawn) == max(1, round(0.15 * len(ids)))
        # The scores are those of the text with the drawn tokens.
        written = [speller.pieces.index(token.get("drawn", token["token"])) for token in record["tokens"]]
        row = np.full((BATCH, LENGTH), tokenizer.special.pad, np.int32)
        row[0, : len(ids) + 2] = [tokenizer.special.cls, *written, tokenizer.special.sep]
        logits = of_run.networks.logits(row)[0, 1 : len(ids) + 1]
        got = [token["replaced"] for token in record["tokens"]]
        np.testing.assert_allclose(got, 1 / (1 + np.exp(-np.float64(logits))), rtol=1e-4)
        assert all(token["is_replaced"] == (token["drawn"] != token["token"]) for token in drawn)
    with pytest.raises(ValueError, match="chooses the masks"):
        one_by_one.predict(texts(["abc [MASK]"]))


def test_a_demonstration_is_aligned_and_counts_its_verdicts():
    token = lambda text, **more: {"token": text, "replaced": 0.2} | more
    drawn = lambda text, share, same=False: {
        "drawn": text,
        "probability": 0.25,
        "is_replaced": not same,
        "replaced": share,
    }
    tokens = [
        token("日本", **drawn("tea", 0.9)),
        token("sea", **drawn("sea", 0.7, same=True)),
        token("of", **drawn("a", 0.4)),
        token("wine", replaced=0.6),
    ]
    lines = shown({"tokens": tokens}, "[MASK]", 100).split("\n")
    assert lines == [
        "text             日本    sea     of      wine",
        "masked           [MASK]  [MASK]  [MASK]",
        "generator        tea     sea     a",
        "its probability  25%     25%     25%",
        "replaced?        90%     70%     40%     60%",
        "verdict          found   wrong   missed  wrong",
        "3 of 4 tokens masked: the generator restored 1 and replaced 2. The discriminator found 1 of 2, and "
        "suspects 2 of the other 2; 1 of its 2 most suspicious tokens are replaced.",
        "",
        "",
    ]
    narrow = shown({"tokens": tokens}, "[MASK]", 34).split("\n")
    assert [line for line in narrow if line.startswith("text")] == [
        "text             日本    sea",
        "text             of      wine",
    ]


@pytest.mark.slow
def test_a_byte_level_vocabulary_gives_the_blank_before_a_mask_to_the_mask(tmp_path):
    tokenizer = make_byte_level(tmp_path)
    speller = Speller(tokenizer)
    [spelled] = speller.spell(["a word of [MASK] and a word"], with_masks=True)
    parts = [tokenizer.encode_batch([text])[0] for text in ("a word of", " and a word")]
    assert spelled.ids.tolist() == [*parts[0], tokenizer.special.mask, *parts[1]]
    assert speller.pieces[tokenizer.encode_batch([" word"])[0][0]].removeprefix("##") in ("word", "w")
    [plain] = speller.spell(["[MASK]"], with_masks=False)
    assert tokenizer.special.mask not in plain.ids


@pytest.mark.slow
def test_an_encoder_without_a_head_is_refused(places, tmp_path):
    _, export = places("deberta_gdes")
    for file in (export / "discriminator").iterdir():
        if file.name not in ("rtd_head.safetensors", "verification.safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="an encoder without a head"):
        load(str(tmp_path), None)
