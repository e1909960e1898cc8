"""Texts on which an export is compared with our own model and tokenizer: sentences and edge cases, or the
publisher's choice."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.tokenizers.load import Tokenizer

PLAIN_LINES = (
    "The generator proposes a token for every masked position, and the discriminator says which tokens "
    "were replaced.",
    "In 1872 the committee met eleven times; its report, 340 pages long, was never printed.",
    "She asked whether the bridge over the river had been repaired, but nobody in the village could tell "
    "her.",
    "Prices rose by 4.5 % in March, after a rise of 3.9 % in February and 2.1 % a year before.",
    "Most of the birds leave the islands in August; a few stay until the first snow falls on the southern "
    "hills.",
    '"You can\'t do that," he said, "not without the owner\'s permission – and she isn\'t here."',
    "The function returns a list of pairs (name, value), sorted by name, or None if the file can't be read.",
    "After the war the theatre was rebuilt on the same ground, to the plans of an architect from Prague.",
    "Add the flour slowly, stir until the dough is smooth, and let it rest for an hour in a warm place.",
    "Light travels about 299,792 kilometres in a second, so it needs eight minutes from the Sun to the "
    "Earth.",
    "His second novel, which appeared under another name, sold better than all the others together.",
    "Nothing in the letter suggests that the author had ever visited the country that he described.",
)
EDGE_CASES = (
    "",
    " ",
    "\t\n",
    "  two  spaces\tand\ttabs \n",
    "no\u00a0break\u202fspaces\u3000wide",
    "zero\u200bwidth\u200djoiner\ufeff",
    "Ｆｕｌｌ－ｗｉｄｔｈ １２３",
    "ﬁne ligatures: ﬀ ﬃ ﬄ",
    "e\u0301 combining, é composed, ñ, Å, \u1e9b\u0323",
    "ΟΔΥΣΣΕΥΣ και ο Σίσυφος",
    "İstanbul'da ışık, STRASSE straße ẞ",
    "Привет, мир! Ёлка и ёлка",
    "今天天气很好，我们去公园吧。",
    "日本語のテキスト ｶﾀｶﾅ",
    "한국어 문장입니다",
    "مرحبا بالعالم",
    "שלום עולם",
    "हिन्दी में लिखा",
    "ไม่มีช่องว่างระหว่างคำ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ☃️",
    "½ ² ㎏ № ™ …",
    "a literal ▁ here, and ▁there",
    "control \x07 and \x1f and \x85 characters",
    "[NOT A TOKEN] <tag> & {braces}",
    "x" * 600,
    "word " * 600,
    "under_score, hy-phen, e-mail@example.com, https://example.com/a?b=c&d=%20",
)


SAMPLE, NONE = "sample", "none"  # choices of --verification_text beside a file
MAX_LINES = 500  # of a file, the first with text
MAX_SINGLES = 12  # lines that are compared one by one


class VerificationText(NamedTuple):
    """The text on which an export is compared with our own model, and which it then contains."""

    source: str  # what it is, for people
    plain: Sequence[str]  # running text
    edge_cases: Sequence[str]  # for the tokenizer alone

    @property
    def lines(self) -> list[str]:
        """All of it."""
        return [*self.plain, *self.edge_cases]


SAMPLE_TEXT = VerificationText("built-in sentences", PLAIN_LINES, EDGE_CASES)


def verification_text(choice: str) -> VerificationText:
    """Built-in sentences for SAMPLE, no text for NONE, otherwise the lines of the file of that name.

    Raises:
      ValueError: the file is not UTF-8, or has no text. OSError: it cannot be read.
    """
    if choice == SAMPLE:
        return SAMPLE_TEXT
    if choice == NONE:
        return VerificationText("random token ids", (), ())
    try:
        with open(choice, encoding="utf-8") as file:
            with_text = (line.rstrip("\n") for line in file if line.strip())
            lines = list(itertools.islice(with_text, MAX_LINES))
    except UnicodeDecodeError as error:
        raise ValueError(f"--verification_text: {choice} is not UTF-8 ({error}).") from error
    except OSError as error:
        raise type(error)(
            f"--verification_text: got {choice}, expected a text file, {SAMPLE} or {NONE}: {error.strerror}."
        ) from error
    if not lines:
        raise ValueError(f"--verification_text: {choice} holds no text, expected some lines.")
    return VerificationText(
        f"{len(lines)} lines of {Path(choice).name}, which whoever gets it can read", lines, EDGE_CASES
    )


def comparison_examples(lines: Sequence[str]) -> list[tuple[str, str | None]]:
    """Texts and pairs of texts of several lengths, for models fine-tuned on texts or pairs; [] without
    lines."""
    if not lines:
        return []
    line = lambda number: lines[number % len(lines)]
    short, long = " ".join(lines[0].split()[:4]), " ".join(lines[3:] or lines)
    return [
        (short, None),
        (line(1), None),
        (long, None),
        (short, line(2)),
        (line(5), line(6)),
        (line(2), long),
    ]


def comparison_singles(lines: Sequence[str], num_words: int) -> list[str]:
    """Texts of several lengths, the last one of `num_words` words, for models of single texts; [] without
    lines."""
    words = " ".join(lines).split()
    if not words:
        return []
    long = " ".join(itertools.islice(itertools.cycle(words), num_words))
    # Some versions of sentence-transformers remove blanks at both ends.
    short = [" ".join(words[:count]) for count in (1, 2, 4)]
    return [*short, *(line.strip() for line in lines[:MAX_SINGLES]), long]


def comparison_lines(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(text, ids with [CLS] and [SEP]) of every text.

    A text that spells a special token is left out: `transformers` reads it as the token, our pipeline as
    ordinary text.
    """
    special = tokenizer.special
    spellings = [tokenizer.vocabulary()[i] for i in special]
    texts = [text for text in texts if not any(spelling in text for spelling in spellings)]
    return [
        (text, [special.cls, *ids, special.sep])
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)
    ]
