"""Who may import whom: the packages' own imports, read with `ast` and never run, against one table."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("electra_jax", "data_pipelines", "configs")
OUTSIDE = ("tensorflow", "torch", "transformers", "configs", "launch", "tests")

# Package or module → what it must not import, wherever in the file the import stands. All rules that fit a
# module hold.
FORBIDDEN = (
    ("electra_jax", ("orbax", *OUTSIDE)),
    (
        "electra_jax.models",
        (
            "electra_jax.objectives",
            "electra_jax.training",
            "electra_jax.distributed",
            "data_pipelines",
            "ml_collections",
        ),
    ),
    (
        "electra_jax.objectives",
        ("electra_jax.training", "electra_jax.distributed", "data_pipelines", "ml_collections"),
    ),
    ("electra_jax.training", ("data_pipelines", "ml_collections", "electra_jax.pretrain")),
    (
        "electra_jax.distributed",
        (
            "electra_jax.models",
            "electra_jax.objectives",
            "electra_jax.training",
            "data_pipelines",
            "ml_collections",
        ),
    ),
    (
        "electra_jax.planning",
        ("data_pipelines", "ml_collections", "electra_jax.benchmarks", "electra_jax.pretrain"),
    ),
    ("electra_jax.huggingface", ("electra_jax.training", "electra_jax.distributed", "ml_collections")),
    ("data_pipelines", ("electra_jax", "jax", "flax", "optax", "orbax", "ml_collections", *OUTSIDE)),
    (
        "configs",
        (
            "electra_jax.objectives",
            "electra_jax.training",
            "electra_jax.distributed",
            "data_pipelines",
            "jax",
            "flax",
            "launch",
            "tests",
            "tensorflow",
            "torch",
            "transformers",
        ),
    ),
)
# Module or package → what it may import although a rule above forbids it.
ALLOWED = {
    "data_pipelines.loader": ("jax",),
    "electra_jax.training.checkpointing": ("orbax",),
    "electra_jax.benchmark": ("torch", "transformers"),  # the oracle and rival of the measurements
    "electra_jax.benchmarks": ("torch", "transformers"),
    "electra_jax.huggingface.verify": ("torch", "transformers"),  # what it compares with
    "electra_jax.huggingface.readers": (
        "torch",
        "tensorflow",
    ),  # other people's formats, where those are asked for
    "electra_jax.huggingface.custom_code": (
        "torch",
        "transformers",
    ),  # not imported: it travels with an export
}


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies in it."""
    return (name + ".").startswith(package + ".")


def imports_of(source: str, package: str) -> list[str]:
    """Dotted names that a module imports anywhere in it, `from a import b` as a.b; `package` resolves
    relative ones."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
        ):
            names += [
                argument.value
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            ]
    return names


def violations(module: str, imported: list[str]) -> list[str]:
    """Imports of `module` that the table forbids."""
    forbidden = [name for package, names in FORBIDDEN if is_within(module, package) for name in names]
    allowed = [name for package, names in ALLOWED.items() if is_within(module, package) for name in names]
    return [
        name
        for name in imported
        if any(is_within(name, package) for package in forbidden)
        and not any(is_within(name, package) for package in allowed)
    ]


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


@pytest.mark.parametrize("module", modules())
def test_imports_follow_the_map(module):
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert violations(module, imports_of(path.read_text(encoding="utf-8"), package)) == []


def test_every_rule_speaks_of_something_that_exists():
    names = modules()
    for package in (*dict(FORBIDDEN), *ALLOWED):
        assert any(is_within(module, package) for module in names), package


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("electra_jax.models.x", "from electra_jax import training"),
        ("electra_jax.models.x", "from ..distributed import mesh"),
        ("electra_jax.objectives.x", "import ml_collections.config_dict as c"),
        ("electra_jax.training.x", "def f():\n    from data_pipelines.loader import Loader"),
        ("electra_jax.training.x", "import orbax.checkpoint as ocp"),
        ("electra_jax.pretrain", "import orbax.checkpoint"),
        ("electra_jax.pretrain", "from configs import debug"),
        ("data_pipelines.mixture", "import jax.numpy as jnp"),
        ("data_pipelines.sample.x", "__import__('tensorflow')"),
        ("data_pipelines.loader", "import torch"),
        ("electra_jax.huggingface.x", "import transformers"),
    ],
)
def test_the_check_sees_a_forbidden_import(module, line):
    assert violations(module, imports_of(line, module.rpartition(".")[0]))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("electra_jax.training.checkpointing", "import orbax.checkpoint as ocp"),
        ("data_pipelines.loader", "from jax.sharding import NamedSharding"),
        ("data_pipelines.corpus", "import tensorflow_datasets as tfds"),  # not TensorFlow
        ("electra_jax.training.x", "from electra_jax.distributed.mesh import make_mesh"),
    ],
)
def test_the_check_lets_allowed_imports_pass(module, line):
    assert not violations(module, imports_of(line, module.rpartition(".")[0]))
