"""Texts with characters of every category, and checks of the offsets that any tokenizer gives for them."""

import unicodedata

import numpy as np
from hypothesis import strategies as st

# Characters that a normalisation may split, merge, or turn into white space.
ODD = (
    "Σσİß "
    "¨\u00a0\u3000\u1680\u2003\u0085\ufdfa\u0e33\u0344é\u0315\u0300\u0327\u0301ﬁ½ｶﾞ각\u1100\u1161\u11a8\u09c7\u09be"
    "▁Ġ☃😀\u200b\0\t\n"
)
CHANGING = [
    chr(code)
    for code in range(0x110000)
    if not 0xD800 <= code < 0xE000
    and (unicodedata.normalize("NFKC", chr(code)) != chr(code) or unicodedata.combining(chr(code)))
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(
        st.one_of(st.sampled_from("abcA "), st.sampled_from(ODD), st.sampled_from(CHANGING)), max_size=15
    ).map("".join),
)


def checked_offsets(tokenizer, text):
    """The spans of one text as lists, after checking what must hold for any tokenizer."""
    [(ids, spans)] = tokenizer.encode_with_offsets([text])
    assert [ids] == tokenizer.encode_batch([text])
    assert spans.dtype == np.int32 and spans.shape == (len(ids), 2)
    assert (spans >= 0).all() and (spans <= len(text)).all() and (spans[:, 0] <= spans[:, 1]).all()
    assert (np.diff(spans, axis=0) >= 0).all()
    assert not any(text[start:end][:1].isspace() for start, end in spans)
    return spans.tolist()


def slices(tokenizer, text):
    """(piece, the text that it covers) for each piece of `text`."""
    spans = checked_offsets(tokenizer, text)
    return [
        (piece, text[start:end]) for piece, (start, end) in zip(tokenizer.pieces(text), spans, strict=True)
    ]
