"""launch/laptop.sh, evening_gpu.sh and local_debug.sh: the commands that they run, which a program in
Python's place records; and the arguments that they and smoke_test.sh refuse."""

import functools
import json
import os
import shutil
import subprocess

import pytest

from data_pipelines.json_files import write_json
from electra_jax.configuration.recipes import load_config
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
# What JAX says of its back end.
WITH_BACKEND = """
python() {{ if [ "$1" = -c ]; then echo {backend}; else command python "$@"; fi; }}
"""
# Of a Mac.
REALPATH = """if [ "$1" = -m ]; then echo "realpath: illegal option -- m" >&2; exit 1; fi
PATH="${PATH#*:}" exec realpath "$@"
"""


@pytest.fixture()
def launch(tmp_path):
    """Runs a script of a checkout whose environment is a stand-in, with arguments: (outcome, commands)."""
    checkout = tmp_path / "a [b] c"
    shutil.copytree(ROOT / "launch", checkout / "launch")
    log, programs = tmp_path / "log", tmp_path / "bin"
    write_program(programs / "python", PYTHON.format(log=str(log), root=str(ROOT)), THIS_PYTHON)
    (checkout / "launch" / "environment.sh").write_text(
        f'make_environment() {{ PATH="{programs}:$PATH"; }}\nhas_cuda_driver() {{ false; }}\n'
    )
    write_program(tmp_path / "mac" / "realpath", REALPATH)

    def run(script, *arguments):
        log.write_text("")
        outcome = subprocess.run(
            ["bash", checkout / "launch" / script, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{tmp_path / 'mac'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return outcome, [json.loads(line)[1:] for line in log.read_text().splitlines()]

    return run


@pytest.fixture()
def laptop(launch):
    return functools.partial(launch, "laptop.sh")


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


def test_flags_after_a_double_dash_are_those_of_the_run(laptop, tmp_path):
    (tmp_path / "mine.txt").write_text("A text.")
    flags = ["--config.train.num_steps=30", "--config.log.trackers=a b,$c"]
    for texts in (["mine.txt"], []):
        outcome, commands = laptop("run", *texts, "--", *flags)
        assert outcome.returncode == 0, outcome.stderr
        (pretrain,) = [command for command in commands if command[0] == "electra_jax.pretrain"]
        assert pretrain[-2:] == flags


def test_an_export_of_a_shorter_run_is_kept_and_named(laptop, tmp_path):
    (tmp_path / "mine.txt").write_text("A text.")
    laptop("run", "mine.txt")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "20").mkdir(parents=True)
    for seconds, is_named in ((-60, False), (60, True)):
        now = (tmp_path / "run" / "export").stat().st_mtime
        os.utime(checkpoints / "20", (now + seconds, now + seconds))
        outcome, commands = laptop("run")
        assert outcome.returncode == 0 and [command[0] for command in commands] == ["electra_jax.pretrain"]
        assert ("run/export is of an earlier checkpoint and is kept" in outcome.stderr) == is_named


def with_backend(tmp_path, backend):
    """Give the stand-in environment of `launch` a JAX with this back end."""
    environment = tmp_path / "a [b] c" / "launch" / "environment.sh"
    environment.write_text(environment.read_text() + WITH_BACKEND.format(backend=backend))


def test_an_evening_takes_the_same_steps_with_its_recipe_and_sizes(launch, tmp_path):
    with_backend(tmp_path, "gpu")
    (tmp_path / "mine.txt").write_text("A text.")
    outcome, [tokenizer, corpus, pretrain, export] = launch("evening_gpu.sh", "run", "mine.txt")
    assert outcome.returncode == 0, outcome.stderr
    assumed = load_config("configs/evening_gpu.py").assumed
    assert tokenizer[tokenizer.index("--vocab_size") + 1] == str(assumed.vocab_size)
    assert corpus[corpus.index("--sequence_length") + 1] == str(assumed.sequence_length)
    assert "--config=configs/evening_gpu.py" in pretrain and f"--workdir={tmp_path}/run" in pretrain
    assert export[:2] == ["electra_jax.convert", "export"]
    assert launch("evening_gpu.sh", "run")[1] == [pretrain], "what exists is not rebuilt"


def test_an_evening_needs_a_gpu_that_jax_can_use(launch, tmp_path):
    with_backend(tmp_path, "cpu")
    outcome, commands = launch("evening_gpu.sh", "run")
    assert outcome.returncode == 1 and "got JAX's back end cpu, expected gpu" in outcome.stderr
    assert not commands and not (tmp_path / "run-data").exists()


@pytest.mark.parametrize("given", ["../my runs/./one/", "link/one", "{tmp_path}/my runs/one"])
@pytest.mark.parametrize("script", ["laptop.sh", "local_debug.sh"])
def test_a_run_directory_is_relative_to_the_folder_of_the_call(launch, script, given, tmp_path):
    (tmp_path / "my runs").mkdir()
    (tmp_path / "link").symlink_to("my runs")
    given = given.format(tmp_path=tmp_path).replace("..", f"../{tmp_path.name}")
    outcome, commands = launch(script, given)
    assert outcome.returncode == 0, outcome.stderr
    [pretrain] = [command for command in commands if command[0] == "electra_jax.pretrain"]
    run = tmp_path / "my runs" / "one"
    assert f"--workdir={run}" in pretrain and f"--out={run}/export" in commands[-1]


def test_the_quick_start_has_its_run_in_the_checkout(launch, tmp_path):
    outcome, commands = launch("local_debug.sh")
    assert outcome.returncode == 0, outcome.stderr
    assert commands[3][-1] == f"--workdir={tmp_path}/a [b] c/runs/debug"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("laptop.sh", ["run", "missing.txt"], "got missing.txt, expected a file"),
        ("laptop.sh", ["gs://bucket/run"], "got gs://bucket/run, expected a local directory"),
        ("laptop.sh", ["run", "--validation", __file__], "got --validation alone, expected texts to train"),
        ("laptop.sh", ["--help"], "bash launch/laptop.sh runs/laptop mine.jsonl"),
        ("evening_gpu.sh", ["--help"], "bash launch/evening_gpu.sh runs/evening mine.jsonl"),
        ("evening_gpu.sh", ["run", "missing.txt"], "evening_gpu.sh: got missing.txt, expected a file"),
        ("local_debug.sh", ["--help"], "got --help, expected a local directory for the run. Example:\n"),
        ("local_debug.sh", ["-h"], "Example:\n  bash launch/local_debug.sh runs/debug\n"),
        ("local_debug.sh", ["s3://bucket/run"], "electra_jax/runs/README.md explains runs in buckets"),
        ("local_debug.sh", ["run", "--seed=1"], "got --seed=1 after run, expected the run directory alone"),
        ("smoke_test.sh", ["--help"], "got --help, expected no arguments"),
    ],
)
def test_a_wrong_argument_is_an_error_before_anything_is_done(launch, script, arguments, message):
    outcome, commands = launch(script, *arguments)
    assert outcome.returncode == 1 and message in outcome.stderr and not commands
