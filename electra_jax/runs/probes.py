"""The probe that config.probe chooses: what the parameters of a run are worth, measured while it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.models.config import PretrainingConfig
from electra_jax.training.metrics import Metrics


def probe_values(config: dict[str, Any]) -> list[Any]:
    """The values of a stage's configuration that decide what its probe measures.

    A task keeps the rows of the first stage, so that its figures can be compared. Minimal pairs are divided
    into rows of the stage, as they are when one of its checkpoints is scored.
    """
    is_of_pairs = config["probe"]["kind"] == "minimal_pairs"
    return [config["model"], config["data"]["sequence_length"] if is_of_pairs else None]


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
