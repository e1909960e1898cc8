"""The host stays at most two steps ahead of the devices, and so does a run."""

import collections
import concurrent.futures
import os
import socket

import jax
import jax.numpy as jnp
import pytest

from electra_jax.training.loop import Intervals
from electra_jax.training.run_ahead import RunAhead
from support.commands import run_python
from support.fake_run import FakeRun

NUM_STEPS = 8


@pytest.fixture
def slow_step():
    """A step of a tenth of a second or more."""

    @jax.jit
    def step(x):
        return jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ x), x)

    x = jnp.full((400, 400), 1e-3)
    step(x).block_until_ready()
    return step, x


def most_unfinished(step, x, ahead):
    """The most steps that were not done on the device when the host was free to dispatch another."""
    results, most = [], 0
    for _ in range(NUM_STEPS):
        x = step(x)
        results.append(x)
        if ahead is not None:
            ahead.dispatched(x)
        most = max(most, sum(not result.is_ready() for result in results))
    jax.block_until_ready(results)
    return most


def test_the_device_has_two_steps_to_do_and_never_more(slow_step):
    assert most_unfinished(*slow_step, None) > 3  # JAX itself accepts many
    assert most_unfinished(*slow_step, RunAhead()) == 2
    assert most_unfinished(*slow_step, RunAhead(1)) == 1


class Run(FakeRun):
    """Counts how far its steps are dispatched before they are waited for."""

    def __init__(self, workdir):
        super().__init__(workdir)
        self.unfinished, self.most = collections.deque(), 0

    def train_step(self, state, ids):
        run, step = self, state.step + 1

        class Steps(int):
            def block_until_ready(self):
                while run.unfinished and run.unfinished[0] <= step:
                    run.unfinished.popleft()

        self.unfinished.append(step)
        self.most = max(self.most, len(self.unfinished))
        state, window = super().train_step(state, ids)
        return state, window | {"steps": Steps(window["steps"])}


def test_a_run_dispatches_a_step_while_two_are_unfinished(tmp_path):
    run = Run(tmp_path)
    run.go(0, Intervals(40, log=100, evaluate=100, checkpoint=100))
    assert run.most == 3  # the new one, and two before it


PROCESS = """
import sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from electra_jax.distributed.processes import join_processes
from electra_jax.training.run_ahead import RunAhead

port, number = sys.argv[1:]
join_processes(f"localhost:{port}", 2, int(number))
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))

@jax.jit
def step(x):  # the sum crosses the processes
    return jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x * x.sum() / x.size), x)

x = jax.jit(lambda: jnp.full((2, 200_000), 1e-3), out_shardings=rows)()
results, ahead, most = [], RunAhead(), 0
for _ in range(12):
    x = step(x)
    results.append(x)
    ahead.dispatched(x)
    most = max(most, sum(not result.is_ready() for result in results))
jax.block_until_ready(x)
print("most", most)
"""


@pytest.mark.slow
def test_two_processes_stay_two_steps_ahead():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    words = ("-c", PROCESS, port)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda index: run_python(*words, index, environment=environment), "01"))
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes
    assert {outcome.stdout.splitlines()[-1] for outcome in outcomes} <= {"most 1", "most 2"}, outcomes
