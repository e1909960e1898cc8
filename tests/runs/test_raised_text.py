"""The documented recipe that raises the best text at the end of a run: what its stages read."""

import shutil

import numpy as np
import pytest

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from electra_jax.runs.data_sizes import resolve_run
from electra_jax.runs.inputs import open_stages
from support.command_lines import read_command_line
from support.documented_commands import commands_of_markdown
from support.paths import ROOT
from support.tiny_run import LENGTH


def documented_command():
    """The words of the command in data_pipelines/README.md."""
    text = (ROOT / "data_pipelines" / "README.md").read_text(encoding="utf-8")
    commands = commands_of_markdown("README.md", text)
    [words] = [command.words for command in commands if "--workdir=runs/raised" in command.words]
    return list(words[2:])  # without python -m


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_the_last_stage_raises_the_best_text_and_resumes_all_of_it(data, tmp_path, monkeypatch):
    shutil.copytree(data / "corpus", tmp_path / "web")
    settings = CorpusSettings(
        train=[str(data / "validation.txt")],
        validation=[str(data / "validation.txt")],
        tokenizer=str(data / "tokenizer_corpus"),
        sequence_length=LENGTH,
        packing="documents",
    )
    build_corpus(str(tmp_path / "best"), settings)
    argv = [word.replace("data/", f"{tmp_path}/") for word in documented_command()]
    config, _ = read_command_line(argv, monkeypatch)
    resolved = resolve_run(config, tmp_path / "run")
    first, last = open_stages(resolved.stages, resolved.model, tmp_path / "run")
    steps, batch_size = config["train"]["num_steps"], config["train"]["batch_size"]
    assert (first.end, last.end) == (steps * 8 // 10, steps)
    before = first.mixture.rows_at(0, first.end * batch_size)
    after = last.mixture.rows_at(0, (last.end - last.first_step) * batch_size)
    assert not before[0].any()
    assert after[0].mean() == 0.75  # three rows of four, of the second dataset
    # The first one continues: no row of it is read a second time before all of them were read once.
    rows = np.concatenate([before[1], after[1][after[0] == 0]])
    assert len(rows) == first.end * batch_size + len(after[0]) // 4
    size = first.mixture.num_rows
    for start in range(0, len(rows), size):
        epoch = rows[start : start + size]
        assert len(set(epoch.tolist())) == len(epoch)
