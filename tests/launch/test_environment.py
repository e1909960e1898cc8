"""launch/constraints.txt names every package of setup.py for both Pythons; make_environment checks Python."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from support.paths import ROOT
from support.stand_in_gcloud import write_program

NOT_LISTED = {"apache-beam"}  # installed in a directory with older libraries; see environment.sh


def requirements_of_setup():
    """Every requirement of setup.py, except those whose versions JAX's own extras name."""
    found = []
    program = (
        "import setuptools; setuptools.setup = lambda **k: print(k['install_requires'], k['extras_require'])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", f"{program}; import runpy; runpy.run_path('setup.py')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for text in re.findall(r"'([^']*[<>=][^']*)'", outcome.stdout):
        requirement = Requirement(text)
        if requirement.name not in NOT_LISTED and "<" not in text:
            found.append(requirement)
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_requirement_has_one_version_within_its_bounds(python):
    pins = {}
    for line in (ROOT / "launch" / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                assert pin.name not in pins, f"{pin.name} has two versions for Python {python}"
                pins[pin.name.lower().replace("_", "-")] = pin
    requirements = requirements_of_setup()
    assert len(requirements) > 20
    for requirement in requirements:
        pin = pins[requirement.name.lower().replace("_", "-")]
        [exact] = pin.specifier
        assert exact.operator == "==" and requirement.specifier.contains(Version(exact.version)), requirement


def make_environment(directory, **variables):
    """`make_environment formats` in a directory whose .venv has a Python 3.12.0 that pretends to install."""
    (directory / "launch").mkdir()
    for name in ("environment.sh", "constraints.txt"):
        shutil.copy(ROOT / "launch" / name, directory / "launch")
    shutil.copy(ROOT / "setup.py", directory)
    binaries = directory / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'VIRTUAL_ENV="{binaries.parent}"\nPATH="{binaries}:$PATH"\n')
    python = binaries / "python"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.12.0 || echo "$@" >> installed\n')
    python.chmod(0o755)
    return make_again(directory, **variables)


def make_again(directory, **variables):
    """`make_environment formats` in a directory that has all that it needs."""
    binaries = directory / ".venv" / "bin"
    return subprocess.run(
        ["bash", "-c", "set -euo pipefail; source launch/environment.sh; make_environment formats"],
        cwd=directory,
        env={"PATH": f"{binaries}:/usr/bin:/bin", "PYTHON": sys.executable} | variables,
        capture_output=True,
        text=True,
    )


def write_python(path, version, usable):
    """A program that prints a version of Python and, if it is not usable, fails at anything else."""
    write_program(path, f'[ "$1" = --version ] && echo Python {version} && exit\nexit {int(not usable)}')
    return path


def test_an_environment_needs_no_other_python(tmp_path):
    """Where python3 is too old, PYTHON is given once, for a new .venv."""
    write_python(tmp_path / "old" / "python3", "3.10.12", usable=False)
    outcome = make_environment(tmp_path, PYTHON="", PATH=f"{tmp_path}/old:/usr/bin:/bin")
    assert outcome.returncode == 0 and not outcome.stderr
    assert "-e .[formats]" in (tmp_path / "installed").read_text()


def test_a_python_that_is_too_old_is_refused(tmp_path):
    outcome = make_environment(tmp_path, PYTHON=str(write_python(tmp_path / "old", "3.10.12", usable=False)))
    assert outcome.returncode == 1
    assert outcome.stderr.startswith(f"{tmp_path}/old: got Python 3.10.12, expected 3.11 or newer")


def cards(driver, *capabilities):
    """An nvidia-smi that prints a line for each card."""
    printed = [shlex.join(words) for words in (capabilities, [driver] * len(capabilities))]
    return "[ $1 = --query-gpu=compute_cap ] && printf '%s\n' {} || printf '%s\n' {}".format(*printed)


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        (cards("580.65.06", "8.9", "12.0"), 0, ""),
        (cards("580.65.06", "7.5"), 0, ""),
        (cards("580.65.06", "[N/A]"), 0, ""),
        (
            cards("550.54.14", "8.9"),
            1,
            "NVIDIA driver: got 550.54.14, expected 580 or newer for CUDA 13. JAX's build for CUDA is not",
        ),
        # The driver serves these, but CUDA 13 cannot compile for them.
        (
            cards("580.65.06", "10.0", "6.1", "7.5"),
            1,
            "NVIDIA GPU: got compute capability 6.1, expected 7.5 or higher for CUDA 13. JAX's build for",
        ),
        ("echo no driver >&2; exit 9", 1, ""),
    ],
    ids=["Ada", "Turing", "unknown", "old driver", "a Pascal", "no driver"],
)
def test_driver_and_gpu_decide_whether_cuda_is_installed(program, code, message, tmp_path):
    write_program(tmp_path / "nvidia-smi", program)
    outcome = subprocess.run(
        ["bash", "-c", "source launch/environment.sh; has_cuda_driver"],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == code and not outcome.stdout
    assert outcome.stderr.startswith(message) and bool(outcome.stderr) == bool(message)


def test_a_hidden_card_does_not_take_cuda_away(tmp_path):
    write_program(tmp_path / "nvidia-smi", cards("580.65.06", "6.1", "8.9"))
    outcomes = [
        subprocess.run(
            ["bash", "-c", "source launch/environment.sh; has_cuda_driver"],
            cwd=ROOT,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": visible},
            capture_output=True,
            check=False,
        )
        for visible in ("", "0")
    ]
    assert [outcome.returncode for outcome in outcomes] == [1, 0]


def test_another_python_than_that_of_the_environment_is_refused(tmp_path):
    outcome = make_environment(tmp_path)
    assert outcome.returncode == 1
    assert re.search(r"\.venv: got Python 3\.12\.0, expected Python .* Delete \.venv", outcome.stderr)
    assert not (tmp_path / "installed").exists()


@pytest.mark.parametrize("is_moved", [True, False], ids=["moved", "copied"])
def test_an_environment_of_another_place_is_refused(is_moved, tmp_path):
    python = str(write_python(tmp_path / "python", "3.12.0", usable=True))
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    assert make_environment(old, PYTHON=python).returncode == 0
    shutil.copytree(old, new)
    if is_moved:
        shutil.rmtree(old)
    # Another activated one changes nothing.
    outcome = make_again(new, PYTHON=python, VIRTUAL_ENV=str(new / ".venv"))
    message = (
        f".venv: got an environment of {old}/.venv, expected one of {new}/.venv: it was moved or copied."
    )
    assert outcome.returncode == 1 and outcome.stderr == f"{message} Delete .venv to create it here.\n"


def test_an_environment_behind_links_is_used(tmp_path):
    python = str(write_python(tmp_path / "python", "3.12.0", usable=True))
    main, worktree, link = (tmp_path / name for name in ("main", "worktree", "link"))
    main.mkdir()
    assert make_environment(main, PYTHON=python).returncode == 0
    shutil.copytree(main, worktree, ignore=shutil.ignore_patterns(".venv"))
    (worktree / ".venv").symlink_to(main / ".venv")
    link.symlink_to(main)
    for place in (worktree, link, main):
        outcome = make_again(place, PYTHON=python)
        assert outcome.returncode == 0 and not outcome.stderr, outcome.stderr


@pytest.mark.parametrize(
    "variables, words",
    [
        ({}, ["--constraint launch/constraints.txt", "-e .[formats]"]),
        ({"NEWEST": "1"}, ["--upgrade --upgrade-strategy=eager", "-e .[formats]"]),
        ({"EXTRAS": "finetune"}, ["--constraint launch/constraints.txt", "-e .[formats,finetune]"]),
    ],
)
def test_what_is_installed(variables, words, tmp_path):
    python = write_python(tmp_path / "python", "3.12.0", usable=True)
    outcome = make_environment(tmp_path, PYTHON=str(python), **variables)
    assert outcome.returncode == 0, outcome.stderr
    installed = (tmp_path / "installed").read_text()
    assert all(word in installed for word in words)
    assert ("--constraint" in installed) == ("NEWEST" not in variables)
