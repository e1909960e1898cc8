"""`python -m data_pipelines.tokenizer`: train, adopt, and flags that do not fit together."""

import random

import pytest

from data_pipelines.tokenizer import main
from data_pipelines.tokenizers.load import load_tokenizer

_random = random.Random(0)
DOCUMENTS = [
    " ".join("".join(_random.choices("abcdefghijklmnop", k=4)) for _ in range(30)) for _ in range(200)
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "A"]


def test_training(tmp_path, capsys):
    (tmp_path / "c.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    args = ["--input", str(tmp_path / "c.txt"), "--out", str(tmp_path / "t"), "--vocab_size", "200"]
    main(args)
    out = capsys.readouterr().out
    assert "200 pieces, 256 embedding rows" in out and "pieces per word" in out and "on 200 documents" in out
    assert "pad 0, cls 1, sep 2, unk 3, mask 4" in out
    main(args)
    assert "nothing was trained" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^error: .*requested_vocab_size is 200, asked for 300"):
        main([*args[:4], "--vocab_size", "300"])


@pytest.mark.parametrize(("flag", "ids"), [("--lowercase", [5, 6]), ("--no-lowercase", [7, 1])])
def test_adopting(tmp_path, capsys, flag, ids):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    args = ["--from", str(tmp_path / "vocab.txt"), "--out", str(tmp_path / "t")]
    with pytest.raises(SystemExit, match=r"^error: .*, or pass --lowercase or --no-lowercase$"):
        main(args)
    main([*args, flag])
    out = capsys.readouterr().out
    assert "8 pieces, 8 embedding rows" in out and "pad 0, cls 2, sep 3, unk 1, mask 4" in out
    [encoded] = load_tokenizer(str(tmp_path / "t")).encode_batch(["ab" if flag == "--lowercase" else "A b"])
    assert encoded == ids


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "expected --input and --vocab_size to train a tokenizer, or --from to adopt one"),
        (["--input", "a.txt"], "expected --input and --vocab_size"),
        (
            ["--from", "v", "--input", "a.txt", "--model_type", "bpe"],
            "--input, --model_type would train one; leave out either",
        ),
        (["--input", "a.txt", "--vocab_size", "9", "--no-lowercase"], "--lowercase goes with --from"),
    ],
)
def test_flags_of_two_tasks(args, message, capsys):
    with pytest.raises(SystemExit):
        main([*args, "--out", "t"])
    assert message in capsys.readouterr().err


def test_help_shows_both_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert (
        "--from vocab.txt --lowercase --out" in out
        and "--input corpus.jsonl" in out
        and "(default: unigram)" in out
    )
