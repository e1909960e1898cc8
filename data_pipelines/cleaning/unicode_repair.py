"""Text that was decoded wrongly on its way here, repaired by the library ftfy; normal forms of Unicode."""

import functools
import unicodedata
from typing import Any

FORMS = ("NFC", "NFKC")


def repair(text: str) -> str:
    """The text without wrong decoding ("schÃ¶n" → "schön"), control characters and HTML's entities.

    Quotation marks, full-width forms and ligatures keep their form. Raises ImportError without ftfy.
    """
    import ftfy

    return ftfy.fix_text(text, _config())


@functools.cache
def _config() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        uncurl_quotes=False,
        fix_character_width=False,
        fix_latin_ligatures=False,
        normalization=None,
        explain=False,
    )


def normalize(text: str, form: str) -> str:
    """The text in a normal form of Unicode, one of FORMS; unchanged for "none"."""
    return text if form == "none" else unicodedata.normalize(form, text)
