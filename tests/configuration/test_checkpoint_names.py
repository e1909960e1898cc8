"""Names of checkpoints: DIR, DIR:STEP, and paths that only look like the second."""

import pytest

from electra_jax.configuration import checkpoint_names
from electra_jax.configuration.checkpoint_names import is_same_checkpoint, parse_checkpoint, with_step_flag


@pytest.mark.parametrize(
    ("text", "directory", "step"),
    [
        ("runs/a", "runs/a", None),
        ("runs/a:900", "runs/a", 900),
        ("/x/a b:0", "/x/a b", 0),
        ("runs/a:", "runs/a:", None),
        ("runs/a:b", "runs/a:b", None),
        ("runs/a:-1", "runs/a:-1", None),
        ("runs/a:٣", "runs/a:٣", None),
        (":900", ":900", None),
        ("there:5", "there:5", None),  # which exists
        ("there:5:7", "there:5", 7),
        ("gs://bucket/a", "gs://bucket/a", None),
        ("gs://bucket/a:900", "gs://bucket/a", 900),
        ("s3://bucket/there:5", "s3://bucket/there:5", None),
        ("", "", None),
    ],
)
def test_a_name_is_a_directory_and_perhaps_a_step(text, directory, step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there:5").mkdir()
    objects = {"s3://bucket/there:5": {"config.json": 2}}
    monkeypatch.setattr(checkpoint_names, "sizes_under", lambda url: objects.get(url, {}))
    name = parse_checkpoint(text)
    assert name == (directory, step) and str(name) == text


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("a", "./a/", True),
        ("a:5", "a", True),
        ("a:5", "b/../a:5", True),
        ("a:5", "a:6", False),
        ("a", "b", False),
        ("gs://x/a:5", "gs:/x/a/", True),
        ("gs://x/a", "gs://x/b", False),
    ],
)
def test_same_checkpoints(one, other, is_same, monkeypatch):
    monkeypatch.setattr(checkpoint_names, "sizes_under", lambda url: {})
    assert is_same_checkpoint(one, other) == is_same == is_same_checkpoint(other, one)


def test_the_flag_step_and_the_name_must_agree():
    assert with_step_flag("a", None) == ("a", None)
    assert with_step_flag("a", 5) == with_step_flag("a:5", None) == with_step_flag("a:5", 5) == ("a", 5)
    with pytest.raises(ValueError, match=r"--step: got 6 for a:5, expected one step"):
        with_step_flag("a:5", 6)
