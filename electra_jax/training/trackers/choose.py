"""From the names in config.log.trackers to trackers."""

import importlib
from collections.abc import Sequence
from importlib.util import find_spec

from data_pipelines.installation import install_command
from electra_jax.training.trackers.interface import TrackerFactory

# Name → (package that it needs, module and class).
BUILT_IN = {
    "tensorboard": ("tensorboardX", "electra_jax.training.trackers.tensorboard:TensorBoard"),
    "wandb": ("wandb", "electra_jax.training.trackers.weights_and_biases:WeightsAndBiases"),
}
KEY = "config.log.trackers"


def find_trackers(names: str | Sequence[str]) -> dict[str, TrackerFactory]:
    """Name → function that opens the tracker; nothing is opened yet. One string may list several, with
    commas.

    Raises:
      ValueError: no such tracker, a module or class that cannot be imported, or a tracker that cannot start.
      ImportError: a package is not installed; names the extra.
    """
    listed = names.split(",") if isinstance(names, str) else names
    return {name: _find(name) for name in listed if name}


def _find(name: str) -> TrackerFactory:
    package, place = BUILT_IN.get(name, ("", name))
    spec = find_spec(package) if package else None
    if package and (spec is None or spec.origin is None):  # a mere directory, as W&B makes, has no origin
        raise ImportError(
            f"{KEY}: {name} needs {package}, which is not installed. Run {install_command('track')}, or "
            "leave it out."
        )
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        raise ValueError(
            f"{KEY}: got {name!r}, expected {', '.join(BUILT_IN)} or a class of your own as MODULE:CLASS."
        )
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:  # TypeError: a path such as ./my_module.py
        raise ValueError(
            f"{KEY}: got {name!r}, which cannot be imported: {error}. Expected MODULE:CLASS of a module that "
            "Python finds: install it, or set PYTHONPATH to its directory."
        ) from error
    check = getattr(factory, "check", None)
    if check is not None:
        check()
    return factory
