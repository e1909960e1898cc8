"""~ in flags: the home directory, or an error; never a folder of that name."""

import argparse

import pytest

from data_pipelines.home_directory import expand_home, expand_home_in, parse_arguments


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("--out=~/x", "--out=/home/me/x"),
        ("--out=~", "--out=/home/me"),
        ("random:~/x", "random:/home/me/x"),
        ("--init_from=~/a,random:~/b", "--init_from=/home/me/a,random:/home/me/b"),
        ("--config=~/r.py:run=~/runs/a", "--config=/home/me/r.py:run=/home/me/runs/a"),
        ("--config.data.datasets=('~/a', '~/b')", "--config.data.datasets=('/home/me/a', '/home/me/b')"),
        ('["~/a"]', '["/home/me/a"]'),
        ("train=~/x.tsv", "train=/home/me/x.tsv"),
        ("~root/x", "/root/x"),
        # Not the home directory:
        ("./~/x", "./~/x"),
        ("a~/x", "a~/x"),
        ("https://host/~me/x", "https://host/~me/x"),
        ("gs://b/~x", "gs://b/~x"),
        ("--workdir=s3://b/~/x", "--workdir=s3://b/~/x"),
        ("x.txt~", "x.txt~"),
        ("~backup.txt", "~backup.txt"),
        ("about ~5 GB, CC BY", "about ~5 GB, CC BY"),
    ],
)
def test_where_a_tilde_stands_for_the_home_directory(given, expected):
    assert expand_home(given) == expected


def test_values_of_a_configuration():
    value = {"a": ("~/x", 1, None), "b": [{"c": "~/y"}], "d": 0.5}
    assert expand_home_in(value) == {"a": ("/home/me/x", 1, None), "b": [{"c": "/home/me/y"}], "d": 0.5}


def test_an_unknown_home_directory_is_an_error(monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"--out=~nobody-here/x: got ~nobody-here .* no user 'nobody-here'"):
        expand_home("--out=~nobody-here/x")
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    assert parse_arguments(parser, ["--out=~/x"]).out == "/home/me/x"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME, for a user without a name
    with pytest.raises(SystemExit):
        parse_arguments(parser, ["--out=~/x"])
    assert "error: --out=~/x: got ~ for a home directory, but HOME is not set" in capsys.readouterr().err
