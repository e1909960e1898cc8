"""BERT's WordPiece tokenizer, which ELECTRA has too: how text is normalised, and its tokenizer.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

INSIDE = "##"  # before the pieces that continue a word
LONGEST_WORD = 100  # characters of a word that BERT's WordPiece still splits; a longer one is [UNK]


@dataclasses.dataclass(frozen=True)
class BertText:
    """How BERT normalises text before it cuts it into words, at white space and around punctuation.

    Control characters are removed in any case.
    """

    lowercase: bool
    strip_accents: bool | None = None  # "ä" becomes "a"; None: as `lowercase`
    tokenize_chinese_chars: bool = True  # every Chinese character is a word

    def normalizer(self) -> normalizers.Normalizer:
        """The normaliser of the library `tokenizers`."""
        return normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=self.tokenize_chinese_chars,
            strip_accents=self.strip_accents,
            lowercase=self.lowercase,
        )

    def config(self) -> dict[str, Any]:
        """The settings under their names in Hugging Face's tokenizer_config.json."""
        return {
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.tokenize_chinese_chars,
        }


def wordpiece_json(pieces: Mapping[str, int], names: Mapping[str, str], text: BertText) -> bytes:
    """The tokenizer.json of BERT's tokenizer.

    Args:
      pieces: piece → id.
      names: role, as in SpecialIds → spelling of the special token, one of `pieces`.
    """
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(dict(pieces), unk_token=names["unk"], max_input_chars_per_word=LONGEST_WORD)
    )
    tokenizer.normalizer = text.normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INSIDE)
    tokenizer.add_special_tokens(list(names.values()))
    # For readers of the file outside this project, which does not use it.
    sep, cls = ((names[role], pieces[names[role]]) for role in ("sep", "cls"))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer.to_str().encode()
