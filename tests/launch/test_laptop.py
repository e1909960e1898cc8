"""launch/laptop.sh: the commands that it runs, which a program in Python's place records."""

import json
import shutil
import subprocess

import pytest

from data_pipelines.json_files import write_json
from electra_jax.distributed import processor
from electra_jax.models.config import DTYPES
from support.paths import ROOT
from support.stand_in_gcloud import THIS_PYTHON, write_program

# Records its arguments, and makes what --out names; but code it runs.
PYTHON = """import json, pathlib, sys
arguments = sys.argv[1:]
if arguments[0] == "-c":
    sys.path.insert(0, {root!r})
    exec(arguments[1])
    sys.exit()
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
words = [word for argument in arguments for word in argument.split("=", 1)]
if "--out" in words:
    pathlib.Path(words[words.index("--out") + 1]).mkdir(parents=True)
"""


@pytest.fixture()
def laptop(tmp_path):
    """Runs the script of a checkout whose environment is a stand-in: (outcome, commands)."""
    checkout = tmp_path / "a [b] c"
    shutil.copytree(ROOT / "launch", checkout / "launch")
    log, programs = tmp_path / "log", tmp_path / "bin"
    write_program(programs / "python", PYTHON.format(log=str(log), root=str(ROOT)), THIS_PYTHON)
    (checkout / "launch" / "environment.sh").write_text(
        f'make_environment() {{ PATH="{programs}:$PATH"; }}\n'
    )

    def run(*arguments):
        log.write_text("")
        script = str(checkout / "launch" / "laptop.sh")
        outcome = subprocess.run(
            ["bash", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return outcome, [json.loads(line)[1:] for line in log.read_text().splitlines()]

    return run


def test_own_text_becomes_a_tokenizer_a_dataset_a_run_and_an_export(laptop, tmp_path):
    train, held_out = tmp_path / "my text.txt", tmp_path / "held $out.txt"
    for path in (train, held_out):
        path.write_text("A text.")
    arguments = ("my runs/one", "my text.txt", "--validation", "held $out.txt")
    outcome, commands = laptop(*arguments)
    assert outcome.returncode == 0, outcome.stderr
    run, data = str(tmp_path / "my runs" / "one"), str(tmp_path / "my runs" / "one-data")
    tokenizer, corpus, pretrain, export = commands
    assert tokenizer[:3] == ["data_pipelines.tokenizer", "--input", str(train)]
    assert corpus[:5] == ["data_pipelines.corpus", "--train", str(train), "--validation", str(held_out)]
    assert pretrain[0] == "electra_jax.pretrain" and f"--workdir={run}" in pretrain
    assert f"--config.data.datasets={data}/corpus" in pretrain
    assert export[:2] == ["electra_jax.convert", "export"]
    _, again = laptop(*arguments)
    assert again == [pretrain], "what exists is not rebuilt, except for the run, which resumes"


def test_without_text_it_takes_wikitext2_and_one_text_is_divided(laptop, tmp_path):
    outcome, commands = laptop()
    assert outcome.returncode == 0, outcome.stderr
    assert [command[0] for command in commands[:3]] == [
        "data_pipelines.sample.wikitext2",
        "data_pipelines.tokenizer",
        "data_pipelines.corpus",
    ]
    (tmp_path / "mine.txt").write_text("A text.")
    _, commands = laptop("other", "mine.txt")
    assert commands[1][3:5] == ["--validation_fraction", "0.02"]


def test_other_texts_are_an_error_and_none_means_the_earlier_ones(laptop, tmp_path):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("A text.")
    earlier = ("one.txt", "--validation", "two.txt")
    _, [tokenizer, corpus, pretrain, _] = laptop("run", *earlier)
    for others in (("two.txt", "--validation", "two.txt"), ("one.txt",), ("one.txt", "two.txt")):
        outcome, commands = laptop("run", *others)
        assert outcome.returncode == 1 and not commands
        assert (
            f"expected those of {tmp_path}/run-data, or none:\ntrain {tmp_path}/one.txt\n" in outcome.stderr
        )
    for again in (earlier, ()):
        outcome, commands = laptop("run", *again)
        assert outcome.returncode == 0 and commands == [pretrain], outcome.stderr
    for name in ("tokenizer", "corpus"):
        (tmp_path / "run-data" / name).rmdir()
    assert laptop("run")[1] == [tokenizer, corpus, pretrain]
    laptop("sample")
    outcome, commands = laptop("sample", "one.txt")
    assert outcome.returncode == 1 and "wikitext2/train.jsonl" in outcome.stderr and not commands
    assert [command[0] for command in laptop("sample")[1]] == ["electra_jax.pretrain"]


def test_a_dataset_of_an_earlier_version_may_be_of_any_text(laptop, tmp_path):
    (tmp_path / "one.txt").write_text("A text.")
    laptop("run", "one.txt")
    (tmp_path / "run-data" / "texts").unlink()
    outcome, commands = laptop("run", "one.txt")
    assert outcome.returncode == 0 and len(commands) == 1 and not (tmp_path / "run-data" / "texts").exists()


def test_a_processor_without_bfloat16_takes_float32_and_a_run_keeps_its_own(laptop, tmp_path):
    settings = tmp_path / "run" / "config.json"
    (tmp_path / "mine.txt").write_text("A text.")
    for written, expected in ((None, processor.faster_dtype()), *((dtype, dtype) for dtype in DTYPES)):
        if written:
            settings.parent.mkdir(exist_ok=True)
            write_json(settings, {"model": {"dtype": written}})
        outcome, commands = laptop("run", "mine.txt")
        assert outcome.returncode == 0, outcome.stderr
        (pretrain,) = [command for command in commands if command[0] == "electra_jax.pretrain"]
        assert f"--config.model.dtype={expected}" in pretrain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.txt"], "got missing.txt, expected a file"),
        (["gs://bucket/run"], "got gs://bucket/run, expected a local directory"),
        (["run", "--validation", __file__], "got --validation alone, expected texts to train on"),
        (["--help"], "bash launch/laptop.sh runs/laptop mine.jsonl"),
    ],
)
def test_a_wrong_argument_is_an_error_before_anything_is_done(laptop, arguments, message):
    outcome, commands = laptop(*arguments)
    assert outcome.returncode == 1 and message in outcome.stderr and not commands
