"""Which flags take URLs of buckets: every command refuses all others, before it writes anything."""

import sys
from pathlib import Path

import pytest

from data_pipelines import corpus, tokenizer
from data_pipelines.bucket_flags import check_urls
from data_pipelines.buckets import bucket_url, is_bucket
from data_pipelines.sample import trec, wikitext2
from electra_jax import convert, soup
from support.command_lines import mistakes_in

DEBUG = "--config=configs/debug.py"
DATA = "--config.data.datasets=data/corpus"
TASK = "--config=configs/finetune.py:task=trec6"
# Command line → the flag that its error names.
REFUSED = {
    "pretrain --config=gs://b/recipe.py --workdir=runs/a": "--config",
    f"pretrain {DEBUG} {DATA} --workdir=az://b/runs/a": "--workdir",
    f"pretrain {DEBUG} {DATA} --workdir=gs://b": "--workdir",
    f"pretrain {DEBUG} {DATA} --workdir=gs:/runs": "--workdir",
    f"pretrain {DEBUG} --config.data.datasets=data/a,hdfs://b/c --workdir=a": "config.data.datasets",
    f"pretrain {DEBUG} {DATA} --workdir=a --config.probe.train=s3://b/train.tsv": "config.probe.train",
    f"doctor {DEBUG} {DATA} --workdir=file:///runs/a": "--workdir",
    f"finetune {TASK} --init_from=runs/a --workdir=gs://b/runs/a": "--workdir",
    f"finetune {TASK} --init_from=random:az://b/runs/a --workdir=a": "--init_from",
    f"finetune {TASK} --init_from=runs/a --workdir=a --config.task.train=gs://b/t.tsv": "config.task.train",
    "evaluate --config=configs/evaluate.py:data=data --workdir=gs://b/runs/a": "--workdir",
    "evaluate --config=configs/evaluate.py:data=gs://b/data --workdir=a --init_from=b": "config.tasks",
    f"compare {DEBUG} --suite=courses --workdir=s3://b/runs/a": "--workdir",
    f"compare {DEBUG} --suite=courses --workdir=a --tasks=s3://b/evaluate.py": "--tasks",
    f"plan {DEBUG} --device=cpu:8 --json=gs://b/plan.json": "--json",
    f"plan {DEBUG} --device=cpu:8 --prices=gs://b/prices.json": "--prices",
    "benchmark --suite=cpu --json=GS://b/figures.json": "--json",
}


def test_every_command_with_a_configuration_refuses_urls_that_it_cannot_use(tmp_path):
    lines = [["python", "-m", f"electra_jax.{line.split()[0]}", *line.split()[1:]] for line in REFUSED]
    for line, flag, answer in zip(REFUSED, REFUSED.values(), mistakes_in(lines), strict=True):
        answer = answer.splitlines()[-1]
        assert answer.startswith(f"error: {flag}"), (line, answer)
        assert "expected a path of a file system" in answer or "expected a directory in a bucket" in answer


@pytest.mark.parametrize(
    ("main", "line", "flag"),
    [
        (convert.main, "export --workdir=runs/a --out=hdfs://b/x", "--out"),
        (convert.main, "export --workdir=az://b/runs/a --out=x", "--workdir"),
        (convert.main, "verify gs://b/x", "DIR"),
        (convert.main, "import --from=gs://b/x --kind=huggingface --out=x", "--from"),
        (convert.main, "import --from=x --kind=huggingface --out=s3://b/x", "--out"),
        (
            convert.main,
            "import --from=x --kind=huggingface --out=x --new_tokenizer=gs://b/t",
            "--new_tokenizer",
        ),
        (soup.main, "--runs=gs://b/runs/a,runs/b --workdir=x", "--runs"),
        (soup.main, "--runs=runs/a,runs/b --workdir=gs://b/x", "--workdir"),
        (soup.main, "--runs=runs/a,runs/b --workdir=x --probe=train=gs://b/t.tsv", "--probe"),
        (tokenizer.main, "--input gs://b/t.txt --out x --vocab_size 100", "--input"),
        (tokenizer.main, "--from s3://b/vocab.txt --out x", "--from"),
        (tokenizer.main, "--input t.txt --out gs://b/x --vocab_size 100", "--out"),
        (trec.main, "--out gs://b/x", "--out"),
        (wikitext2.main, "--out gs://b/x", "--out"),
        (
            corpus.main,
            "--train t.txt s3://b/t.txt --tokenizer t --sequence_length 8 --packing documents --out x",
            "--train",
        ),
        (
            corpus.main,
            "--train t.txt --tokenizer t --sequence_length 8 --packing documents --out gs://b/x",
            "--out",
        ),
    ],
)
def test_every_other_command_refuses_urls_that_it_cannot_use(main, line, flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *line.split()])
    message = rf"error: {flag}: got '[a-z0-9]+://b/.*gcsfuse.*rclone mount"
    with pytest.raises(SystemExit, match=message):
        main() if main is corpus.main else main(line.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [
        {"workdir": "gs://b/runs/a", "config": {"data": {"datasets": ("s3://b/c", "data/d")}}},
        {"workdir": "/data/gs://b/x"},
        {"workdir": "./gs:/x", "init_from": ["random:S3://b/x"]},
        {"data_license": "CC BY 4.0, https://example.org/licence", "license": "https://example.org"},
        {"text": "ratio 3:/4", "path": Path("a:b/c"), "number": 3, "nothing": None},
    ],
)
def test_urls_where_they_are_taken_paths_and_free_text_pass(values):
    check_urls(values, ("workdir", "datasets", "init_from"))


def test_a_stage_and_nested_lists_are_searched():
    config = {"stages": ((10, {"data.datasets": "hdfs://b/rows"}),)}
    with pytest.raises(ValueError, match=r"^config\.stages\.data\.datasets: got 'hdfs://b/rows'"):
        check_urls({"config": config}, ("datasets",))


@pytest.mark.parametrize("url", ["gs://me:secret@b/x", "s3://AKIA:secret@b/x", "hdfs://me:secret@b/x"])
@pytest.mark.parametrize("takes", [("workdir",), ()])
def test_a_password_in_a_url_is_refused_and_not_repeated(url, takes):
    with pytest.raises(ValueError, match=r"^--workdir: got ") as raised:
        check_urls({"workdir": url}, takes)
    assert "secret" not in str(raised.value) and "AKIA" not in str(raised.value)


def test_a_path_and_a_url_are_told_apart():
    assert is_bucket("gs://b/x") and is_bucket(Path("s3://b/x")) and is_bucket("GS://b/x")
    assert (
        not is_bucket("./gs:/x")
        and not is_bucket("runs/gs://b")
        and not is_bucket("gs")
        and not is_bucket("")
    )
    assert bucket_url(Path("gs://b/x/y")) == "gs://b/x/y" == bucket_url("GS://b/x/y//")
    for wrong in ("gs://b", "gs://b/", "gs://b/../c", "s3://b/./c"):
        with pytest.raises(ValueError, match="expected"):
            bucket_url(wrong)
