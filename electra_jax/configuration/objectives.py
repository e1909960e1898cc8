"""What another objective than ELECTRA's changes in a recipe of ELECTRA."""

from ml_collections import config_dict

CHUNK_SIZE = 2048


def apply_objective(config: config_dict.ConfigDict, name: str) -> None:
    """Set config.objective.name, and what that objective cannot do without (configs/electra.py says why)."""
    config.objective.name = name
    if name in ("all_tokens_mlm", "electric"):
        config.objective.vocab_chunk_size = min(CHUNK_SIZE, config.model.vocab_size // 4)
    if name == "two_stage":
        config.model.update(embedding_sharing="none", generator=config.model.discriminator)
