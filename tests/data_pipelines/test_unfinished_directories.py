"""A command that gets SIGTERM or SIGHUP leaves no hidden directory with parts of its result."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipelines.sample import trec, wikitext2
from data_pipelines.whole_files import unfinished_directory
from electra_jax import convert
from electra_jax.conversion.export_run import verified
from electra_jax.soups import averaging


@pytest.fixture
def interrupted(monkeypatch):
    """Something that gets the signal, which would end the process, once something unfinished is there."""

    def interrupt(parent, number=signal.SIGTERM):
        assert any(path.is_dir() and path.name.startswith(".") for path in parent.iterdir())
        os.kill(os.getpid(), number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: pytest.fail("not handled")) for number in numbers}
    yield interrupt
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("context", [unfinished_directory, verified], ids=["a directory", "an export"])
def test_a_signal_removes_what_is_unfinished(context, number, interrupted, tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(SystemExit) as ended, context(out) as unfinished:
        unfinished.mkdir(exist_ok=True)
        (unfinished / "weights").write_bytes(b"x")
        interrupted(out.parent, number)
    assert ended.value.code == 128 + number and not list(out.parent.iterdir())


def test_a_soup_that_gets_sigterm_leaves_nothing(interrupted, monkeypatch, tmp_path):
    first = SimpleNamespace(config={"eval": {"batch_size": 1}})
    monkeypatch.setattr(averaging, "open_ingredients", lambda *_, **__: [first])
    monkeypatch.setattr(averaging, "make_reader", lambda *_: None)
    monkeypatch.setitem(averaging.METHODS, "uniform", lambda *_: interrupted(tmp_path))
    options = averaging.SoupOptions("uniform", None, (), {}, False)
    with pytest.raises(SystemExit):
        averaging.make_soup(["run"], tmp_path / "soup", options)
    assert not list(tmp_path.iterdir())  # nor its lock


@pytest.mark.parametrize("command", [wikitext2, trec], ids=["wikitext2", "trec"])
def test_a_sample_that_gets_sigterm_leaves_no_download(command, interrupted, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ELECTRA_JAX_CACHE", str(cache))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: interrupted(cache))
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "out")])
    assert not list(cache.iterdir())


def test_a_verification_that_gets_sigterm_leaves_no_model_saved_again(interrupted, monkeypatch, tmp_path):
    def verify(_):
        with tempfile.TemporaryDirectory(prefix=".again.", dir=tmp_path):
            interrupted(tmp_path)

    monkeypatch.setattr(convert, "verify_all", verify)
    with pytest.raises(SystemExit):
        convert.main(["verify", str(Path(__file__).parent)])
    assert not list(tmp_path.iterdir())
