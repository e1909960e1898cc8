"""Command lines: what is read, and what a mistake is answered with."""

import contextlib
import re

import pytest

from electra_jax.configuration.flags import RUN_URLS
from electra_jax.configuration.resolve import dataset_values
from support.command_lines import read_command_line
from support.commands import run_module

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # how ml_collections loads a file


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.train.num_step=5"],
            r"--config\.train\.num_step: .*no such key\. Did you mean --config\.train\.num_steps\?",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.log.tensorboard=True"],
            r"no such key\. Did you mean --config\.log\.trackers=tensorboard\?",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.optimizer.num_steps=5"],
            r"mean --config\.train\.num_steps\?",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.model.hidden_size=5"],
            r"discriminator\.hidden_size or --",
        ),
        (
            ["--config", "configs/debug.py", "--workdir=w", "--config.zzz", "5"],
            r"no such key\. Use a key of its sections assumed, checkpoint, ",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.train.num_steps=abc"],
            r"got 'abc', expected int as in the def",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.train.num_steps=1.5"],
            r"got '1\.5', expected int",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.model.hidden_dropout=x"],
            r"got 'x', expected float",
        ),
        (
            ["--config=configs/debug.py", "--workdir=w", "--config.log.progress=maybe"],
            r"got 'maybe', expected bool",
        ),
        (["--config=configs/debug.py", "--workdir=w", "--config.train=5"], r"--config\.train=5"),
        (
            ["--config=configs/mcl.py", "--workdir=w", "--config.model.relative_bias=None"],
            r"relative_bias: got 'None', which no flag can set: .* recipe of another family, or change",
        ),
        (
            ["--config=configs/electra.py", "--workdir=w", "--config.model.rotary.window=64"],
            r"rotary\.window: got '64', which no flag can set: a recipe sets config\.model\.rotary together",
        ),
        (["--config=configs/debug.py"], r"^error: --workdir is missing"),
        (["--workdir=w"], r"^error: --config is missing"),
        (["--workdir=w", "--config.train.num_steps=5"], r"^error: --config\.train\.num_steps: got no conf"),
        (["--config=configs/nothing.py", "--workdir=w"], r"there is no file configs/nothing\.py"),
        (["--config=README.md", "--workdir=w"], r"expected a Python file"),
        (
            ["--config=configs/electra.py", "--config", "configs/debug.py", "--workdir=w"],
            r"^error: --config: got configs/electra\.py and configs/debug\.py, expected one",
        ),
        (
            ["--config=configs/electra.py:siz=small", "--workdir=w"],
            r"config argument: got 'siz=small', expected size=…",
        ),
        (
            ["--config=configs/electra.py:size=huge", "--workdir=w"],
            r"config argument size: got 'huge', expected one of",
        ),
        (
            ["--config=configs/debug.py:model=bert", "--workdir=w"],
            r"config argument model: got 'bert', expected one of",
        ),
        (
            ["--config=configs/debug.py", "--workdirs=w"],
            r"Unknown command line flag 'workdirs'\. Did you mean: workdir",
        ),
        (["--config=configs/debug.py", "--workdir=w", "stray"], r"got \['stray'\], expected only flags"),
    ],
)
def test_a_wrong_command_line_says_what_to_change(argv, message, monkeypatch):
    with pytest.raises(SystemExit, match=message) as error:
        read_command_line(["pretrain", *argv], monkeypatch)
    assert "Traceback" not in error.value.code  # a text: exit code 1


UNREAD = [
    ("objective=mlm", ["disc_weight=3"], r"got 3\.0, but objective 'mlm' does not read it\. Leave it out"),
    ("objective=prop", ["temperature=0.5"], r"got 0\.5, but objective 'prop' does not read it"),
    (
        "objective=electra",
        ["generator=unigram", "gen_weight=2"],
        r"got 2\.0, but objective 'electra' with generator 'unigram' does not read it",
    ),
]


@pytest.mark.parametrize(("argument", "settings", "message"), UNREAD, ids=("mlm", "prop", "unigram"))
def test_a_flag_for_what_the_objective_does_not_read(argument, settings, message, tmp_path, monkeypatch):
    """It is an error in a new run. One that has begun keeps it, and a recipe may have any value."""
    given = [f"--config.objective.{setting}" for setting in settings]
    argv = ["pretrain", f"--config=configs/debug.py:{argument}", f"--workdir={tmp_path}", *given]
    key = re.escape(given[-1].partition("=")[0])
    with pytest.raises(SystemExit, match=f"error: {key}: {message}"):
        read_command_line(argv, monkeypatch)
    read_command_line([*argv[:3], "--config.objective.disc_weight=5"], monkeypatch)  # as in the recipe
    (tmp_path / "config.json").write_text("{}")
    read_command_line(argv, monkeypatch)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"{}", None),
        (FileNotFoundError("no object"), r"disc_weight: got 3\.0, but objective 'mlm' does not read it"),
        (PermissionError("gs://b/runs/a/config.json cannot be read"), "error: gs://b/runs/a/config"),
        (ImportError("no fsspec"), None),  # which the command tells when it opens the run
    ],
    ids=["begun", "new", "no_permission", "no_packages"],
)
def test_a_run_in_a_bucket_keeps_what_it_began_with(answer, message, monkeypatch):
    asked = []

    def read(url):
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("electra_jax.configuration.objectives.read_object", read)
    argv = ["pretrain", "--config=configs/debug.py:objective=mlm", "--workdir=gs://b/runs/a/"]
    read_command_line(argv, monkeypatch, takes_urls=RUN_URLS)
    assert not asked  # only where a setting is not read
    given = [*argv, "--config.objective.disc_weight=3"]
    with contextlib.nullcontext() if message is None else pytest.raises(SystemExit, match=message):
        read_command_line(given, monkeypatch, takes_urls=RUN_URLS)
    assert asked == ["gs://b/runs/a/config.json"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["some/dir"], ("some/dir",)),
        (["/a/b-c,d_e"], ("/a/b-c", "d_e")),
        (["('a,b', 'c')"], ("a,b", "c")),
        (["/a/b-c", "2024"], ("2024",)),  # the last one counts, as of all other flags
        (["a,b", "c", "('d,e','f')"], ("d,e", "f")),
        (["2023_11,1e5,1.0"], ("2023_11", "1e5", "1.0")),
        (["None,True,0x10"], ("None", "True", "0x10")),
    ],
)
def test_datasets_can_be_given_as_words(words, expected, monkeypatch):
    argv = [
        "pretrain",
        "--config=configs/debug.py",
        "--workdir=w",
        *(f"--config.data.datasets={word}" for word in words),
        f"--config.data.weights={','.join('2' for _ in expected)}",
    ]
    config, _ = read_command_line(argv, monkeypatch)
    assert dataset_values(config["data"]) == {"datasets": expected, "weights": (2.0,) * len(expected)}


def test_the_last_of_several_flags_counts(monkeypatch):
    words = "--config=configs/debug.py --config.data.datasets a --workdir=v"
    words += " --config.log.trackers=wandb --config.data.datasets b --config.train.num_steps=5 --workdir=w"
    words += " --config.log.trackers=tensorboard --config.train.num_steps=6 -config.data.datasets=c,d"
    config, workdir = read_command_line(["pretrain", *words.split()], monkeypatch)
    assert config["data"]["datasets"] == ("c", "d") and config["log"]["trackers"] == ("tensorboard",)
    assert config["train"]["num_steps"] == 6 and str(workdir) == "w"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0,1", ("0", "1")),
        ("-1,0,1", ("-1", "0", "1")),
        ("1.0, 2.50", ("1.0", "2.50")),
        ("True,False", ("True", "False")),
        ("None,1e5,007,1_0", ("None", "1e5", "007", "1_0")),
        ("('0','1')", ("0", "1")),
        ("", ()),
    ],
)
def test_labels_keep_their_spelling(word, expected, monkeypatch):
    argv = [
        "finetune",
        "--config=configs/finetune.py:task=local",
        "--workdir=w",
        f"--config.task.labels={word}",
    ]
    assert read_command_line(argv, monkeypatch)[0]["task"]["labels"] == expected


@pytest.mark.parametrize(("words", "weights"), [("2,0.5", (2.0, 0.5)), ("1e-3,10", (0.001, 10.0))])
def test_weights_are_numbers(words, weights, monkeypatch):
    argv = ["pretrain", "--config=configs/debug.py", "--workdir=w", "--config.data.datasets=a,b"]
    config, _ = read_command_line([*argv, f"--config.data.weights={words}"], monkeypatch)
    assert dataset_values(config["data"])["weights"] == weights
    config, _ = read_command_line([*argv, "--config.data.weights=1,many"], monkeypatch)
    with pytest.raises(ValueError, match=r"weights: got \('1', 'many'\) for 2 datasets, expected a number"):
        dataset_values(config["data"])


def test_a_mistake_on_the_command_line_ends_the_program_with_code_1():
    words = ["electra_jax.pretrain", "--config=configs/debug.py", "--workdir=w", "--config.train.num_step=5"]
    outcome = run_module(*words)
    assert outcome.returncode == 1 and outcome.stdout == ""
    assert (
        len(outcome.stderr.splitlines()) == 1 and "Did you mean --config.train.num_steps?" in outcome.stderr
    )


OF_ANOTHER_KIND = (
    ("pretrain --config=configs/finetune.py:task=local", "without objective, data, expected a conf"),
    ("plan --config configs/finetune.py:task=local", "without objective, data, expected a conf"),
    (
        "finetune --config=configs/debug.py",
        "without task, sift, expected a conf",
    ),
    (
        "evaluate --config=configs/finetune.py:task=local",
        "without tasks, expected a conf",
    ),
    (
        "compare --config=configs/debug.py --tasks=configs/finetune.py:task=local",
        "--tasks=configs/finetune.py:task=local: got a configuration without tasks, expected",
    ),
    (
        "pretrain --config=configs/continued.py:run={published}",
        "expected the directory of a run",
    ),
)


def test_a_configuration_of_another_kind_ends_the_program_with_code_1(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text('{"model_type": "electra"}')
    lines = []
    for words, _ in OF_ANOTHER_KIND:
        command, *flags = words.format(published=tmp_path / "published").split()
        workdir = [] if command == "plan" else [f"--workdir={tmp_path / 'run'}"]
        lines.append([f"electra_jax.{command}", *flags, *workdir])
    for words, (_, message) in zip(lines, OF_ANOTHER_KIND, strict=True):
        outcome = run_module(*words)
        assert outcome.returncode == 1 and outcome.stderr.startswith("error: "), outcome
        assert message in outcome.stderr and not (tmp_path / "run").exists()
