"""A command says in one line that Ctrl-C ended it, and whether the same command resumes."""

import sys

import pytest

from data_pipelines import clean, corpus, score, tokenizer
from data_pipelines.sample import trec, trec_questions, wikitext2, wikitext2_articles
from electra_jax import convert, report, soup
from electra_jax.benchmarks.accelerator import check
from electra_jax.benchmarks.accelerator.runner import Settings
from support.commands import run_python

RESUMES, KEEPS_NOTHING = "Interrupted. Run the same command again to resume.", "Interrupted."
ROWS = "--sequence_length 8 --packing documents"
# Command: where its work is, what that is called, its arguments, what is said.
CASES = {
    clean.main: (clean, "clean", "--input a.jsonl --out new", RESUMES),
    corpus.main: (
        corpus,
        "build_corpus",
        f"--train a.jsonl --validation b.jsonl --tokenizer . {ROWS} --out new",
        RESUMES,
    ),
    tokenizer.main: (tokenizer, "train_tokenizer", "--input a.txt --out new --vocab_size 90", KEEPS_NOTHING),
    score.main: (
        score,
        "score_files",
        "--input a.jsonl --positive b.jsonl --negative c.jsonl --out new.jsonl",
        KEEPS_NOTHING,
    ),
    wikitext2.main: (wikitext2_articles, "fetch", "--out new", KEEPS_NOTHING),
    trec.main: (trec_questions, "fetch", "--out new", KEEPS_NOTHING),
    convert.main: (convert, "verify_all", "verify .", KEEPS_NOTHING),
    report.main: (report, "make_report", ". --out=new", KEEPS_NOTHING),
    soup.main: (soup, "make_soup", "--runs=a,b --workdir=new", KEEPS_NOTHING),
}


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture
def ending(monkeypatch):
    """Commands that would end without clean-up end as others do."""
    monkeypatch.setattr("os._exit", sys.exit)


@pytest.mark.parametrize("main", CASES, ids=lambda main: main.__module__)
def test_ctrl_c_in_a_command(main, ending, tmp_path, monkeypatch, capsys):
    module, work, words, line = CASES[main]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A text.")
    monkeypatch.setattr(module, work, interrupt)
    monkeypatch.setattr(sys, "argv", [main.__module__, *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err.splitlines()[-2:]) == (130, ["", line])


def test_ctrl_c_in_the_check_of_an_accelerator(ending, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "run_parts", interrupt)
    with pytest.raises(SystemExit) as ended:
        check.check_accelerator([], Settings(tmp_path))
    assert (ended.value.code, capsys.readouterr().err) == (130, f"\n{RESUMES}\n")


def test_ctrl_c_in_a_command_with_a_configuration():
    """It ends without clean-up, which would crash while XLA still compiles."""
    program = (
        "import atexit\nfrom electra_jax.configuration.flags import run_command\n"
        "def main():\n    atexit.register(print, 'clean-up')\n    raise KeyboardInterrupt\n"
        "run_command(main, has_workdir=False, requires_config=False)\n"
    )
    outcome = run_python("-c", program)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", f"\n{KEEPS_NOTHING}\n")
