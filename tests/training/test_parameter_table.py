"""The parameter tables of the published recipes on eight devices, compared with tests/golden."""

import re

import pytest

from configs import deberta_v3, electra, mcl, modernbert
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import param_shardings
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.deberta_v3 import make_deberta_v3_objective
from electra_jax.objectives.electra import make_electra_objective
from electra_jax.objectives.mcl import make_mcl_objective
from electra_jax.training.checkpointing import with_shardings
from electra_jax.training.parameter_table import parameter_table
from electra_jax.training.state import abstract_params
from support.golden import Golden, collapse_layers
from support.tiny import SPECIAL

METHODS = {
    "electra": (electra.get_config, make_electra_objective),
    "deberta_v3": (deberta_v3.get_config, make_deberta_v3_objective),
    "mcl": (mcl.get_config, make_mcl_objective),
    "modernbert": (modernbert.get_config, make_electra_objective),
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
    "modernbert_base": CUBE,
}


def make_table(name: str) -> list[str]:
    """Lines of the table of one published model; shapes only, nothing is computed."""
    method, _, size = name.rpartition("_")
    get_config, make_objective = METHODS[method]
    config = with_assumed_sizes(get_config(f"size={size}").to_dict())
    objective = make_objective(make_pretraining_config(config["model"]), config["objective"], SPECIAL)
    params, logical_axes = abstract_params(objective, config["data"]["sequence_length"])
    shardings = param_shardings(params, logical_axes, make_mesh(MESHES[name]))
    return parameter_table(with_shardings(params, shardings), logical_axes, config["optimizer"])


def rows_of(table: list[str]) -> set[tuple[str, ...]]:
    """The cells of each parameter's row; a collapsed row as the rows that it stands for."""
    rows = set()
    for line in table[1:-1]:
        path, *cells = re.split(r"\s{2,}", line)
        before, braces, after = re.fullmatch(r"(.*?)(?:\{(.*)\}(.*))?", path).groups()
        for part in braces.split(",") if braces else [""]:
            first, _, last = part.partition("…")
            indices = map(str, range(int(first), int(last or first) + 1)) if braces else [""]
            rows |= {(before + index + (after or ""), *cells) for index in indices}
    return rows


@pytest.mark.parametrize("name", MESHES)
def test_table_is_the_recorded_one(name, golden):
    table = make_table(name)
    collapsed = collapse_layers(table)
    assert rows_of(collapsed) == rows_of(table)
    assert len(collapsed) < len(table) / 3
    golden.check_text(f"{name}.txt", "\n".join(collapsed) + "\n", what="parameters")


def test_a_layer_that_differs_is_not_collapsed():
    row = lambda layer, shape: f"encoder/layer_{layer}/bias  ({shape})  float32"
    table = ["parameter  shape  dtype", *(row(layer, 9 if layer == 2 else 8) for layer in range(6)), "totals"]
    assert collapse_layers(table) == [
        "parameter                     shape  dtype",
        "encoder/layer_{0…1,3…5}/bias  (8)    float32",
        "encoder/layer_2/bias          (9)    float32",
        "totals",
    ]


def test_a_mismatch_shows_the_difference_and_how_to_update(tmp_path):
    recorded, compared = (Golden(update, "tests/x.py", tmp_path) for update in (True, False))
    recorded.check_text("table.txt", "one\ntwo\n", what="parameters")
    compared.check_text("table.txt", "one\ntwo\n", what="parameters")
    with pytest.raises(pytest.fail.Exception) as failure:
        compared.check_text("table.txt", "one\nthree\n", what="parameters")
    assert "-two\n+three\n" in str(failure.value)
    assert str(failure.value).endswith(
        "If you did not intend to change parameters, find out why; "
        "if you did: python -m pytest --update-golden tests/x.py"
    )


def test_recorded_numbers_are_compared_with_a_tolerance(tmp_path):
    recorded, compared = (Golden(update, "tests/x.py", tmp_path) for update in (True, False))
    recorded.check_numbers("n.json", "a", {"step_1": {"loss": 2.0}}, rtol=0, what="steps")
    compared.check_numbers("n.json", "a", {"step_1": {"loss": 2.0001}}, rtol=1e-3, what="steps")
    for wrong in (
        {"step_1": {"loss": 2.01}},
        {"step_1": {}},
        {"step_1": {"loss": 2.0}, "step_3": {"loss": 1.0}},
    ):
        with pytest.raises(pytest.fail.Exception, match="recorded"):
            compared.check_numbers("n.json", "a", wrong, rtol=1e-3, what="steps")
