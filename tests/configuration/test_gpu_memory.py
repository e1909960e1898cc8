"""JAX uses the part of a GPU's memory that plans count, and no other command or user is overruled."""

import os

import pytest
from jaxlib import xla_client

from electra_jax.configuration.process_setup import prepare_process
from electra_jax.distributed.chips import GPU_MEMORY_FRACTION

SETUP = "electra_jax.configuration.process_setup"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, GPU_MEMORY_FRACTION),
        ({"XLA_CLIENT_MEM_FRACTION": ""}, GPU_MEMORY_FRACTION),
        ({"XLA_CLIENT_MEM_FRACTION": "0.5"}, 0.5),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, 0.5),
    ],
    ids=["unset", "empty", "new name", "former name"],
)
def test_a_command_gives_jax_the_planned_part_unless_the_user_chose_one(variables, expected, monkeypatch):
    for function in ("silence_libraries", "limit_arenas", "keep_freed_memory", "collect_cycles_rarely"):
        monkeypatch.setattr(f"{SETUP}.{function}", lambda: None)  # they would change this process
    monkeypatch.setattr(os, "environ", {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **variables})
    prepare_process()
    options = xla_client.generate_pjrt_gpu_plugin_options()
    assert options["memory_fraction"] == expected and options["preallocate"] is False
