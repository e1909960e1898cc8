"""One device in place of the eight of all tests."""

import contextlib

import jax
import pytest


@contextlib.contextmanager
def one_device():
    """Context in which `jax.devices()` is one, as on a laptop: programs for it compile in half the time of
    those for eight, which wait for each other on two cores."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        yield
