"""The campaign: something is done to a run, the command is given again, and what becomes of it has a name.

CI does a sample, which the names of the faults decide; `python -m pytest tests/faults --all_faults` does all.
At the end a table is printed. Most faults cost seconds: commands are forks of one process that has imported
everything.
"""

import shutil

import pytest

from support import fault_runs
from support.faults import PROPERTY, judge, sample
from support.forks import Forks


def pytest_generate_tests(metafunc):
    """A test with a `fault` is done for its module's FAULTS, or for a sample of SAMPLE faults."""
    if "fault" in metafunc.fixturenames:
        module = metafunc.module
        is_whole = metafunc.config.getoption("--all_faults")
        faults = module.FAULTS if is_whole else sample(module.FAULTS, module.SAMPLE)
        metafunc.parametrize("fault", faults, ids=[fault.name for fault in faults])


@pytest.fixture(scope="session")
def is_whole(request):
    """Whether all faults are done."""
    return request.config.getoption("--all_faults")


@pytest.fixture(scope="session")
def forks(environment, tmp_path_factory):
    """Starts commands."""
    return Forks(tmp_path_factory.mktemp("forks"), environment)


@pytest.fixture(scope="session")
def reference(forks, data, tmp_path_factory):
    """Directory of the undisturbed run."""
    workdir = tmp_path_factory.mktemp("faults") / "reference"
    run = forks.run("electra_jax.pretrain", *fault_runs.flags(workdir, data))
    assert run.code == 0, run.text
    return workdir


@pytest.fixture(scope="session")
def template(reference, tmp_path_factory):
    """The same run, stopped early. Tests copy it."""
    directory = tmp_path_factory.mktemp("faults") / "template"
    fault_runs.stop_early(reference, directory)
    return directory


@pytest.fixture
def stopped(template, tmp_path):
    """A copy of the run that was stopped early, to be damaged."""
    directory = tmp_path / "run"
    shutil.copytree(template, directory)
    return directory


@pytest.fixture
def record(request):
    """(name, outcome) → None: a row of the table."""

    def add(name, outcome):
        kind = request.node.path.stem.removeprefix("test_").replace("_", " ")
        request.node.user_properties.append((PROPERTY, [kind, name, outcome]))

    return add


@pytest.fixture
def settle(record, reference):
    """Judge a run, record the outcome, and assert that it is allowed."""

    def check(fault, directory, started, **more):
        outcome = judge(directory, reference, started, names=fault.names, **more)
        record(fault.name, outcome)
        assert outcome in fault.allowed, f"{outcome}, exit code {started.code}: {started.text[-3000:]}"
        return outcome

    return check
