"""The parameter tables of the published recipes on eight devices, compared letter by letter with
tests/golden.

After a deliberate change, rewrite the files and read the difference:

    PYTHONPATH=. python tests/test_parameter_tables.py && git diff tests/golden
"""

import pytest

from configs import deberta_v3, electra, mcl
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import param_shardings
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.mcl import make_mcl_objective
from electra_jax.objectives.deberta_v3 import make_deberta_v3_objective
from electra_jax.objectives.electra import make_electra_objective
from electra_jax.training.checkpointing import with_shardings
from electra_jax.training.parameter_table import parameter_table
from electra_jax.training.state import abstract_params
from support.paths import ROOT
from support.tiny import SPECIAL

GOLDEN = ROOT / "tests" / "golden"
METHODS = {
    "electra": (electra.get_config, make_electra_objective),
    "deberta_v3": (deberta_v3.get_config, make_deberta_v3_objective),
    "mcl": (mcl.get_config, make_mcl_objective),
}
CUBE = {"data": 2, "fsdp": 2, "tensor": 2}
# The generator of ELECTRA's "small" has one head, which no tensor axis can cut.
MESHES = {
    "electra_small": {"data": 4, "fsdp": 2, "tensor": 1},
    "electra_base": CUBE,
    "electra_large": CUBE,
    "deberta_v3_xsmall": CUBE,
    "deberta_v3_base": CUBE,
    "mcl_base": CUBE,
}


def table(name: str) -> str:
    """The table of one published model; shapes only, nothing is computed."""
    method, _, size = name.rpartition("_")
    get_config, make_objective = METHODS[method]
    config = get_config(f"size={size}").to_dict()
    objective = make_objective(make_pretraining_config(config["model"]), config["objective"], SPECIAL)
    params, logical_axes = abstract_params(objective, config["data"]["sequence_length"])
    shardings = param_shardings(params, logical_axes, make_mesh(MESHES[name]))
    return (
        "\n".join(parameter_table(with_shardings(params, shardings), logical_axes, config["optimizer"]))
        + "\n"
    )


@pytest.mark.parametrize("name", MESHES)
def test_table_is_the_recorded_one(name):
    assert table(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in MESHES:
        (GOLDEN / f"{name}.txt").write_text(table(name), encoding="utf-8")
