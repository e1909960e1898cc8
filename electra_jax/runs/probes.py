"""The probe that config.probe chooses: what the parameters of a run are worth, measured while it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.models.config import PretrainingConfig
from electra_jax.training.metrics import Metrics


def probe_config(config: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a stage for its probe, in a run whose first stage has the configuration `first`.

    A task keeps the rows of the first stage, so that its figures can be compared. Minimal pairs are divided
    into rows of the stage, as they are when one of its checkpoints is scored.
    """
    if config["probe"]["kind"] == "minimal_pairs":
        return config
    length = {"sequence_length": first["data"]["sequence_length"]}
    return config | {"data": config["data"] | length}


def measures_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether one probe serves two stages with these results of `probe_config`."""
    lengths = [config["data"]["sequence_length"] for config in (one, other)]
    return one["model"] == other["model"] and lengths[0] == lengths[1]


def open_probe(
    config: dict[str, Any], model: PretrainingConfig, tokenizer: Tokenizer, mesh: Mesh, directory: Path
) -> Callable[[Any], Metrics]:
    """The function that measures parameters.

    Args:
      config: the run's.
      directory: where the files of a sample are fetched to.

    Raises:
      ValueError, OSError, ImportError: as `Probe` and `MinimalPairProbe` do.
    """
    # Imported here, since the modules that read and score tasks take seconds to import.
    if config["probe"]["kind"] == "minimal_pairs":
        from electra_jax.minimal_pairs.probe import MinimalPairProbe

        return MinimalPairProbe(config, model, tokenizer, mesh)
    if given := config["probe"]["minimal_pairs"]:
        raise ValueError(
            f"config.probe.minimal_pairs: got {given!r} with config.probe.kind='task', expected it with "
            "'minimal_pairs'. Set --config.probe.kind=minimal_pairs."
        )
    from electra_jax.finetuning.probes import Probe

    return Probe(config, model, tokenizer, mesh, directory)
