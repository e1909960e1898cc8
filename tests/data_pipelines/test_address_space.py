"""A limit of memory that is too low is an error; without one, reading would hang."""

import resource

import pytest

from data_pipelines import address_space
from data_pipelines.address_space import NEEDED, check_address_space
from data_pipelines.mixture import DatasetSource, make_sequential


@pytest.fixture
def limited(monkeypatch):
    """Sets a limit in bytes, for the check alone."""
    return lambda limit: monkeypatch.setattr(address_space.resource, "getrlimit", lambda kind: (limit, limit))


def test_a_limit_too_low_is_an_error_before_a_dataset_is_opened(limited):
    limited(3 * 2**29)
    with pytest.raises(OSError, match=r"memory is 1\.5 GiB .* reading rows needs 1\.25 GiB more\. Raise it"):
        make_sequential([DatasetSource("missing")])


def test_enough_memory_and_no_limit_pass(limited):
    check_address_space()
    limited(resource.RLIM_INFINITY)
    check_address_space()
    limited(2**46 + NEEDED)
    check_address_space()
