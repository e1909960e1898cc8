"""What verification.safetensors contains: built-in sentences, the lines of a file, or no text at all."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from electra_jax import convert
from electra_jax.conversion.export import export
from electra_jax.huggingface.comparison_rows import comparison_rows
from electra_jax.huggingface.comparison_texts import EDGE_CASES, PLAIN_LINES, verification_text
from electra_jax.huggingface.export import REFERENCE_FILE
from electra_jax.huggingface.verify import verify
from support.tiny import SPECIAL
from support.tiny_export import LENGTH, PLAIN, VOCAB, electra_model, make_run
from support.tiny_task_exports import ELECTRA, make_model


def recorded(directory):
    """(texts, rows of ids) that an export contains."""
    with safe_open(directory / REFERENCE_FILE, framework="np") as file:
        return [text for text, _ in json.loads(file.metadata()["notes"])["lines"]], file.get_tensor(
            "input_ids"
        )


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["sample", "none", "file"])
def test_of_a_run(data, tmp_path, choice, capsys):
    """An export never contains held-out text, though its tokenizer was verified on it."""
    workdir, _ = make_run(tmp_path / "run", data, electra_model())
    own = tmp_path / "own.txt"
    own.write_text("Zwölf Boxkämpfer jagen Viktor\n\nquer über den Sylter Deich\n", encoding="utf-8")
    flag = [] if choice == "sample" else [f"--verification_text={own if choice == 'file' else choice}"]
    convert.main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *flag])
    said = capsys.readouterr().out
    assert said.count("tokenizer on held-out text") == 2 and "FAILED" not in said
    held_out = (data / "validation.txt").read_text().split("\n\n")
    words = {word for document in held_out for word in document.split() if len(word) > 5}
    expected = {
        "sample": [*PLAIN_LINES, *EDGE_CASES],
        "none": [],
        "file": ["Zwölf Boxkämpfer jagen Viktor", "quer über den Sylter Deich", *EDGE_CASES],
    }[choice]
    for role in ("discriminator", "generator"):
        texts, _ = recorded(tmp_path / "out" / role)
        assert texts == expected
        content = (tmp_path / "out" / role / REFERENCE_FILE).read_bytes()
        assert not [word for word in words if word.encode() in content]
        assert all(check.is_passed for check in verify(tmp_path / "out" / role))
    contains = {
        "sample": "contains built-in sentences.",
        "none": "contains random token ids.",
        "file": "contains 2 lines of own.txt, which whoever gets it can read.",
    }
    assert f"{REFERENCE_FILE} {contains[choice]}" in said
    assert "model.safetensors" in said and "kB  the weights" in said
    lines = said.splitlines()
    assert lines[-2:] == [str(tmp_path / "out" / role) for role in ("discriminator", "generator")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "regression", "tagging", "question_answering"])
@pytest.mark.parametrize("choice", ["none", "file"])
def test_of_a_fine_tuned_model(data, tmp_path, kind, choice):
    source = make_model(tmp_path / "model", data, ELECTRA(), kind, "transformers")
    own = tmp_path / "own.txt"
    own.write_text("the only line of a file\n", encoding="utf-8")
    options = PLAIN._replace(verification_text=verification_text(str(own) if choice == "file" else choice))
    (out,) = export(source, None, tmp_path / "out", options)
    texts, rows = recorded(out)
    assert texts == ([] if choice == "none" else ["the only line of a file", *EDGE_CASES])
    assert all(check.is_passed for check in verify(out))
    pairs = (rows == SPECIAL.sep).sum(axis=1) == 2
    assert pairs.any() == (kind != "tagging") and pairs.all() == (
        kind == "question_answering" and choice == "file"
    )


def test_rows_have_text_and_random_ids_and_several_lengths():
    rows = comparison_rows([[7, 8, 9], [10] * 50], SPECIAL, VOCAB, LENGTH)
    used = (rows != SPECIAL.pad).sum(axis=1)
    assert rows.shape == (8, LENGTH) and used.tolist() == [LENGTH, LENGTH, LENGTH // 2, LENGTH // 2] * 2
    assert (rows[:, 0] == SPECIAL.cls).all() and (rows[range(8), used - 1] == SPECIAL.sep).all()
    assert rows[0, 1:6].tolist() == [7, 8, 9, 10, 10] and (rows[2, 1 : LENGTH // 2 - 1] == 10).all()
    random = comparison_rows([], SPECIAL, VOCAB, LENGTH)
    np.testing.assert_array_equal(np.isin(random, SPECIAL).sum(axis=1), [2, 2, *[LENGTH // 2 + 2] * 2] * 2)
    assert len(np.unique(random)) > VOCAB / 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--verification_text: got .*own\.txt, expected a text file, sample or none: No such file"),
        (b"\n \n", r"--verification_text: .*own\.txt holds no text, expected some lines"),
        (b"\xff\xfe", r"--verification_text: .*own\.txt is not UTF-8"),
    ],
)
def test_a_wrong_file_is_found_before_anything_is_written(tmp_path, content, message):
    own = tmp_path / "own.txt"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        convert.main(
            ["export", "--workdir=absent", f"--out={tmp_path / 'out'}", f"--verification_text={own}"]
        )
    assert not (tmp_path / "out").exists()
