"""Packages that only some of the work needs: setup.py lists them as extras, so that a TPU worker that
pre-trains does not have to install them."""

from importlib.util import find_spec

from data_pipelines.installation import install_command

# Extra → the modules of its packages. Others check themselves: training/trackers/choose.py (track),
# huggingface/verify.py (hf), data_pipelines/document_formats.py (formats).
MODULES = {
    "finetune": ("sklearn", "seqeval", "threadpoolctl"),
    "plots": ("matplotlib",),
    "report": ("bokeh",),
    "search": ("bm25s",),
}


def missing_modules(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [module for module in MODULES[extra] if find_spec(module) is None]


def require_extra(extra: str, purpose: str) -> None:
    """Raise ImportError, with `purpose` as its subject, if a package of an extra is not installed."""
    missing = missing_modules(extra)
    if missing:
        names = ", ".join(missing)
        raise ImportError(f"{purpose} needs {names}, which is not installed. Run {install_command(extra)}.")


def can_draw(picture: str) -> bool:
    """Whether matplotlib is installed; if not, print that `picture` is not drawn."""
    missing = missing_modules("plots")
    if missing:
        print(f"{picture}: not drawn, since {missing[0]} is not installed. Run {install_command('plots')}.")
    return not missing
