"""Who may import whom: the imports of every module, read with `ast` and never run, against tables."""

import ast
import graphlib
from pathlib import Path

import pytest

from support.import_table import DATA, EVERYWHERE, MAY_IMPORT, MAY_USE_JAX, OWN, WITHOUT_JAX
from support.paths import ROOT


def find_modules() -> dict[str, Path]:
    """Dotted name → file of every module."""
    folders = ("electra_jax", "data_pipelines", "configs", "launch")
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = find_modules()


COMMANDS = (
    *(
        module
        for module, path in MODULES.items()
        if module.startswith("electra_jax.") and module.count(".") == 1 and path.name != "__init__.py"
    ),
    "data_pipelines.clean",
    "data_pipelines.corpus",
    "data_pipelines.score",
    "data_pipelines.tokenizer",
    "data_pipelines.sample.trec",
    "data_pipelines.sample.wikitext2",
)

# Other package → the only modules and folders that may import it.
ONLY_IN = {
    "orbax": (
        "electra_jax.training.checkpointing",
        "electra_jax.training.checksum_item",
        "electra_jax.training.kept_checkpoints",
    ),
    "ml_collections": ("configs", "electra_jax.configuration", "electra_jax.comparison", *COMMANDS),
    "torch": (
        "electra_jax.benchmarks",  # what it measures beside
        "electra_jax.huggingface.verify",  # what it compares with
        "electra_jax.huggingface.readers",  # reads files of other projects, imported only for these
        "electra_jax.huggingface.custom_code",  # copied into an export, never imported here
    ),
    "transformers": (
        "electra_jax.benchmarks",
        "electra_jax.huggingface.verify",
        "electra_jax.huggingface.custom_code",
    ),
    "sentence_transformers": ("electra_jax.huggingface.embedding_checks",),
    "tensorflow": ("electra_jax.huggingface.readers",),
    "tests": (),
    "support": (),
    "launch": (),
}


def is_within(name: str, folders: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of `folders` or lies in one."""
    return any((name + ".").startswith(folder + ".") for folder in folders)


def folder_of(module: str) -> str:
    """The innermost folder of MAY_IMPORT that a module lies in; "" for one in none."""
    folders = [folder for folder in MAY_IMPORT if is_within(module, (folder,))]
    return max(folders, key=len, default="")


def imports_of(source: str, package: str) -> list[str]:
    """Dotted names that a module imports, `from a import b` as a.b; `package` resolves relative ones."""
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
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.append(first.value)
    return names


def violations(module: str, imported: list[str]) -> list[str]:
    """The imports of `module` that the tables forbid, each with a reason."""
    found = []
    for name in imported:
        may = next((folders for package, folders in ONLY_IN.items() if is_within(name, (package,))), None)
        if may is not None and not is_within(module, may):
            found.append(f"{name}: only {', '.join(may) or 'nothing'} may import it")
        is_jax = is_within(name, ("jax", "flax", "optax"))
        if is_jax and is_within(module, WITHOUT_JAX) and not is_within(module, MAY_USE_JAX):
            found.append(f"{name}: {', '.join(WITHOUT_JAX)} do without it")
        if is_within(name, COMMANDS):
            found.append(f"{name}: it is a command")
        elif is_within(name, EVERYWHERE):
            continue
        elif is_within(name, OWN) and not may_import(module, folder_of(name)):
            found.append(f"{name}: {folder_of(module) or module} may not import that folder")
    return found


def may_import(module: str, folder: str) -> bool:
    """Whether a module may import modules of `folder`."""
    if module in COMMANDS:
        return folder != "configs" and (module.startswith("electra_jax.") or is_within(folder, DATA))
    return folder in (folder_of(module), *MAY_IMPORT.get(folder_of(module), ()))


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → the modules among `sources` that it imports, also inside functions."""
    edges = {}
    for module, source in sources.items():
        names = imports_of(source, module.rpartition(".")[0])
        edges[module] = {
            found for name in names for found in (name, name.rpartition(".")[0]) if found in sources
        } - {module}
    return edges


def find_circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, [] if none do."""
    try:
        graphlib.TopologicalSorter(graph(sources)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_map(module):
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = violations(module, imports_of(path.read_text(encoding="utf-8"), package))
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle():
    sources = {
        module: path.read_text(encoding="utf-8")
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    assert find_circle(sources) == []


def test_every_folder_has_a_row_and_every_row_a_folder():
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    packages |= {"configs"}
    carried = ("electra_jax.huggingface.custom_code",)  # within huggingface
    assert packages - set(MAY_IMPORT) - {"electra_jax", *carried} == set()
    assert set(MAY_IMPORT) - packages == set()
    for name in (
        *COMMANDS,
        *MAY_USE_JAX,
        *EVERYWHERE,
        *(name for names in ONLY_IN.values() for name in names),
    ):
        assert name in MODULES or name == "configs", name


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("electra_jax.models.x", "from electra_jax.training import loop"),
        ("electra_jax.models.x", "from ..distributed import mesh"),
        ("electra_jax.objectives.x", "import ml_collections.config_dict as c"),
        ("electra_jax.training.x", "def f():\n    from data_pipelines.loader import Loader"),
        ("electra_jax.training.x", "import orbax.checkpoint as ocp"),
        ("electra_jax.training.x", "from electra_jax.runs.directory import shorten"),
        ("electra_jax.huggingface.x", "from electra_jax.runs.trained import load_run"),
        ("electra_jax.huggingface.x", "import transformers"),
        ("electra_jax.finetuning.x", "from electra_jax.conversion.export_run import export_run"),
        ("electra_jax.runs.x", "from electra_jax import pretrain"),
        ("electra_jax.runs.x", "from electra_jax.pretrain import main"),
        ("electra_jax.evaluate", "from electra_jax.finetune import main"),
        ("electra_jax.pretrain", "import orbax.checkpoint"),
        ("electra_jax.pretrain", "from configs import debug"),
        ("electra_jax.planning.x", "from configs import debug"),
        ("data_pipelines.mixture", "import jax.numpy as jnp"),
        ("data_pipelines.mixture", "from electra_jax.models import config"),
        ("data_pipelines.mixture", "from data_pipelines.tasks.load import load_task"),
        ("data_pipelines.tasks.x", "from data_pipelines.corpus import main"),
        ("data_pipelines.tokenizers.x", "from data_pipelines import tokenizer"),
        ("data_pipelines.corpus", "from electra_jax.configuration import flags"),
        ("data_pipelines.sample.x", "__import__('tensorflow')"),
        ("data_pipelines.loader", "import torch"),
        ("configs.x", "from electra_jax.objectives.registry import OBJECTIVES"),
        ("launch.x", "import jax"),
    ],
)
def test_a_forbidden_import_is_found(module, line):
    assert violations(module, imports_of(line, module.rpartition(".")[0]))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("electra_jax.training.checkpointing", "import orbax.checkpoint as ocp"),
        ("electra_jax.training.x", "from electra_jax.distributed.mesh import make_mesh"),
        ("electra_jax.training.x", "from data_pipelines.progress import waiting"),
        ("electra_jax.planning.x", "from data_pipelines import progress"),
        ("electra_jax.pretrain", "from electra_jax.runs.directory import is_measured"),
        ("electra_jax.pretrain", "from ml_collections import config_dict"),
        ("data_pipelines.loader", "from jax.sharding import NamedSharding"),
        ("data_pipelines.corpus", "import tensorflow_datasets as tfds"),  # not TensorFlow
        ("data_pipelines.corpus", "from data_pipelines.tokenizers.directory import SpecialIds"),
        ("configs.x", "from ml_collections import config_dict"),
    ],
)
def test_an_allowed_import_passes(module, line):
    assert not violations(module, imports_of(line, module.rpartition(".")[0]))


def test_a_circle_is_found_although_a_function_hides_it():
    sources = {"p.a": "from p import b", "p.b": "from p.c import f", "p.c": "def f():\n    import p.a"}
    assert set(find_circle(sources)) == {"p.a", "p.b", "p.c"}
    assert find_circle(sources | {"p.c": "f = 1"}) == []
