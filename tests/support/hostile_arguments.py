"""Arguments that a shell, a template or a scheduler would change if they were not quoted."""

import random

LETTERS = " '\"\\$`;&|*?~!#(){}[]<>\n\t=ab日"
NUM_RANDOM = 40
COMMON = (
    *("", " ", "  two  spaces ", "it's", '"', "\\", "\\\\'", "a\nb", "*", "~", "!!", "#", "&", "|", "<>"),
    *("$(touch pwned)", "`touch pwned`", "; touch pwned", "'$(touch pwned)'", "$HOME", "${PATH}"),
    *("--", "-n", "größe → 日本語 🙂"),
)


def hostile_arguments(*more: str, seed: int, more_letters: str = "") -> list[str]:
    """Those that are hostile everywhere, `more`, and random ones of LETTERS and `more_letters`."""
    generator = random.Random(seed)
    letters = LETTERS + more_letters
    drawn = ["".join(generator.choices(letters, k=generator.randrange(1, 12))) for _ in range(NUM_RANDOM)]
    return [*COMMON, *more, *drawn]
