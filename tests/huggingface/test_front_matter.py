"""The front matter of a card is YAML that has what the publisher stated."""

import pytest
import yaml

from electra_jax.huggingface.card_parts import Publication, front_matter


@pytest.mark.parametrize(
    ("license_name", "language", "stated"),
    [
        (None, None, {}),
        ("mit", "en", {"license": "mit", "language": "en"}),
        ("no", "no", {"license": "no", "language": "no"}),  # Norwegian; without quotation marks it is false
        ("a: b # c", "en, no,de,", {"license": "a: b # c", "language": ["en", "no", "de"]}),
        ('"x" \\ é', " , ", {"license": '"x" \\ é'}),
    ],
)
def test_values_are_read_as_they_were_given(license_name, language, stated):
    text = front_matter(Publication(license_name, None, language), "fill-mask", ("electra", "jax"))
    rest = {"library_name": "transformers", "pipeline_tag": "fill-mask", "tags": ["electra", "jax"]}
    assert text.startswith("---\n") and text.endswith("\n---")
    assert yaml.safe_load(text.strip("-")) == rest | stated
