"""Losses of texts: against `transformers`, by hand, and the same in any batch."""

import hashlib
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.unlabelled import Unlabelled
from electra_jax.conversion import export_run
from electra_jax.distributed.mesh import make_mesh
from electra_jax.predict import main
from electra_jax.prediction import losses
from electra_jax.prediction.losses import LossPredictor
from electra_jax.prediction.models import load
from electra_jax.prediction.records import json_line, table_lines
from electra_jax.prediction.tasks import Columns
from support import tiny_export
from support.tiny_export import LENGTH
from support.tiny_task import ONE

LONG = " ".join(["abc dei hgf s to be or not", "kl mno pr s t u"] * 6)
TEXTS = ["abc dei hgf", "to", LONG, "s t u kl mno pr to be or not", ""]
SEED = 3


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A tiny ELECTRA with random parameters."""
    root = tmp_path_factory.mktemp("run")
    return tiny_export.make_run(root / "run", data, tiny_export.electra_model())[0]


def predictor(model, batch_size=8, copies=1, seed=SEED, field="loss"):
    mesh = make_mesh(ONE, jax.devices()[:1])
    return LossPredictor(model, batch_size, mesh, field, seed, copies)


def rows_by_hand(model, text, copies, seed=SEED):
    """The rows of a text: ids with [CLS] and [SEP], and the places that are masked in each copy."""
    [ids] = model.tokenizer.encode_batch([text])
    digest = hashlib.sha256(text.encode()).digest()
    rng = np.random.default_rng((seed, int.from_bytes(digest[:8], "big")))
    special = model.tokenizer.special
    for start in range(0, len(ids), LENGTH - 2):
        row = np.array([special.cls, *ids[start : start + LENGTH - 2], special.sep])
        count = max(1, round(0.15 * (len(row) - 2)))
        order = 1 + rng.permutation(len(row) - 2)
        yield row, [order[at : at + count] for at in range(0, len(order), count)][:copies]


@pytest.mark.slow
def test_losses_are_those_of_transformers(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_run, "verify_if_possible", lambda directory, lines: None)  # other tests do
    model, _, options, _ = tiny_export.VARIANTS["electra_tied"]
    export_run.export_run(run, None, tmp_path / "export", options)
    generator = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "export" / "generator").eval()
    model = load(str(run), None)
    wanted = []
    for text in TEXTS[:-1]:
        found = []
        for row, copies in rows_by_hand(model, text, 2):
            for places in copies:
                masked = torch.tensor(row)
                masked[places] = model.tokenizer.special.mask
                with torch.no_grad():
                    log_probs = generator(input_ids=masked[None]).logits[0].double().log_softmax(-1)
                found += (-log_probs[places, row[places]]).tolist()
        wanted.append(np.mean(found))
    for place in (run, tmp_path / "export"):
        got = predictor(load(str(place), None), copies=2).losses(TEXTS)
        np.testing.assert_allclose(got[:-1], wanted, rtol=1e-4)
        assert np.isnan(got[-1])


class Formula:
    """In place of the networks: numbers that can be computed by hand. Every row is kept."""

    def __init__(self, pretrained, mesh):
        self.mask = pretrained.tokenizer.special.mask
        self.rows = []

    def log_probs(self, ids_BL, positions_BP, tokens_BP):
        """−token / (1 + the number of masks in the row)."""
        self.rows.append(ids_BL)
        return -tokens_BP / (1 + (ids_BL == self.mask).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("copies", [1, 3, 7])
def test_losses_by_hand_in_any_batch_and_order(run, monkeypatch, copies):
    monkeypatch.setattr(losses, "Networks", Formula)
    model = load(str(run), None)
    wanted = []
    for text in TEXTS[:-1]:
        masked = [
            row[places] / (1 + len(places))
            for row, copies_of_row in rows_by_hand(model, text, copies)
            for places in copies_of_row
        ]
        wanted.append(np.concatenate(masked).mean())
    for batch_size in (1, 8):
        one = predictor(model, batch_size, copies)
        np.testing.assert_allclose(one.losses(TEXTS)[:-1], wanted, rtol=1e-12)
        np.testing.assert_allclose(one.losses(TEXTS[::-1])[:0:-1], wanted, rtol=1e-12)
    other = predictor(model, copies=copies, seed=SEED + 1).losses(TEXTS)
    assert abs(other[2] - wanted[2]) > 1e-3


def test_copies_mask_different_tokens_and_seven_almost_all(run, monkeypatch):
    seen = []

    class Noting(Formula):
        def log_probs(self, ids_BL, positions_BP, tokens_BP):
            seen.extend(zip(ids_BL, positions_BP, strict=True))
            return super().log_probs(ids_BL, positions_BP, tokens_BP)

    monkeypatch.setattr(losses, "Networks", Noting)
    model = load(str(run), None)
    words = LONG.split()
    texts = [" ".join(words[:count]) for count in range(1, len(words))]
    *_, text = (text for text in texts if len(list(rows_by_hand(model, text, 1))) == 1)
    num_tokens = len(model.tokenizer.encode_batch([text])[0])
    assert num_tokens > 20
    predictor(model, 7, 7).losses([text])
    masks = np.array([ids_L == model.tokenizer.special.mask for ids_L, _ in seen])
    assert masks.shape == (7, LENGTH) and masks.sum(axis=0).max() == 1
    assert not masks[:, 0].any() and not masks[:, num_tokens + 1 :].any()
    assert masks.sum() == min(num_tokens, 7 * round(0.15 * num_tokens))


@pytest.mark.slow
def test_records_keep_their_fields(run, tmp_path, capsys):
    records = [
        {"text": "abc dei", "id": 1, "score": float("nan"), "tags": ["a"]},
        {"id": 2, "text": None},
        {"text": "to be or not", "id": 3},
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = [f"--model={run}", f"--input={source}", "--loss_field=loss"]
    main([*words, f"--out={tmp_path / 'out.jsonl'}"])
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    found = list(map(json.loads, lines))
    assert [
        record | {"loss": one["loss"]} for record, one in zip(records[1:], found[1:], strict=True)
    ] == found[1:]
    assert found[0] == records[0] | {"score": None, "loss": found[0]["loss"]}
    assert [one["loss"] is None for one in found] == [False, True, False]
    main([*words, "--batch_size=1", "--format=tsv"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "text\tloss"
    assert [row.split("\t")[1] for row in rows] == [
        "" if one["loss"] is None else f"{one['loss']:.6g}" for one in found
    ]


def test_records_of_odd_json_are_written(run, monkeypatch):
    """NaN inside of lists, half of a surrogate pair, and a text under another name."""
    monkeypatch.setattr(losses, "Networks", Formula)
    predict = predictor(load(str(run), None))
    fields = {"body": "abc", "numbers": [{"a": [float("nan"), 1.5]}], "title": "\ud800", "big": 10**400}
    wanted = predict.wanted("jsonl", Columns("body", ""))
    [record], _ = predict.predict([Unlabelled("here", fields[wanted.text], fields=fields)])
    loss = record["loss"]
    assert record == fields | {"numbers": [{"a": [None, 1.5]}], "loss": loss}
    written = json.loads(json_line(record).encode())
    assert written == record | {"title": "\ufffd"}
    assert table_lines(predict.table, record) == f"abc\t{loss:.6g}\n"
    for file_format in ("text", "tsv"):
        predict.wanted(file_format, Columns("body", ""))
        [record], _ = predict.predict([Unlabelled("here", "abc")])
        assert table_lines(predict.table, record) == f"abc\t{loss:.6g}\n"


def test_what_cannot_have_a_loss_is_an_error(run):
    model = load(str(run), None)
    with pytest.raises(ValueError, match=r"--loss_field: got .*, which has no generator that fills in masks"):
        predictor(model._replace(generator=None))
    with pytest.raises(ValueError, match="here: the record has a field 'loss' already; name another"):
        predictor(model).predict([Unlabelled("here", "abc", fields={"text": "abc", "loss": 1})])
    with pytest.raises(ValueError, match="here: the record has a field 'text' already; name another"):
        predictor(model, field="text").predict([Unlabelled("here", "abc")])


def test_copies_without_a_loss_are_an_error(run, tmp_path):
    (tmp_path / "one.txt").write_text("abc\n")
    words = [f"--model={run}", f"--input={tmp_path / 'one.txt'}", "--masked_copies=3"]
    with pytest.raises(SystemExit, match="--masked_copies: got 3 without --loss_field, expected both"):
        main(words)
