"""The language of a text, by the model in the package py3langid (langid.py, Lui and Baldwin 2012)."""

import functools
from typing import Any

MAX_CHARS, NUM_PARTS = 4000, 4  # looked at: of a longer text, parts of this many characters together


def identify(text: str) -> tuple[str, float]:
    """The language of a text as an ISO 639 code, and its probability by the model.

    Raises:
      ImportError: py3langid is not installed.
    """
    code, probability = _identifier().classify(_sample(text))
    return code, float(probability)


def known_languages() -> list[str]:
    """The codes of the languages that the model knows."""
    return sorted(set(_identifier().nb_classes))


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _sample(text: str) -> str:
    """The text, of a long one some parts at equal distances."""
    if len(text) <= MAX_CHARS:
        return text
    size = MAX_CHARS // NUM_PARTS
    step = (len(text) - size) // (NUM_PARTS - 1)
    return "\n".join(text[start : start + size] for start in range(0, step * NUM_PARTS, step))
