"""What masking has to know of the tokenizer of a run's rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.words import name_parts, word_starts
from electra_jax.objectives.denoisers import IDENTIFIERS, NO_TABLES, WORDS, PieceTables, has_units
from electra_jax.objectives.identifiers import identifier_tables


def piece_tables(objective: Mapping[str, Any], tokenizer: Path) -> PieceTables:
    """The tables that a section config.objective needs, of the tokenizer in that directory, which is read for
    them alone.

    Raises:
      ValueError, OSError: it is missing or damaged, or its pieces do not show what the tables need.
    """
    words, names = (has_units(objective, units) for units in (WORDS, IDENTIFIERS))
    if not (words or names):
        return NO_TABLES
    loaded = load_tokenizer(str(tokenizer))
    return PieceTables(
        word_starts(loaded) if words else None, identifier_tables(name_parts(loaded)) if names else None
    )
