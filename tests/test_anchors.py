"""Places in READMEs that other files name: a heading or <a id="…">, behind "README.md#"."""

import re
from pathlib import Path

from support.paths import ROOT

FOLDERS = ("electra_jax", "data_pipelines", "configs", "launch", "tests")
FILES = [ROOT / "README.md", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.*")))]
TEXTS = [path for path in FILES if path.suffix in (".md", ".py", ".sh") and path != Path(__file__)]


def anchors(text):
    """The names of places in a Markdown text, as GitHub makes them from headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def dead_anchors(path, text):
    """The places named in the text of the file `path` that do not exist."""
    named = re.findall(r"([\w./-]+\.md)#([\w-]+)", text)
    if path.suffix == ".md":
        named += [(path.name, anchor) for anchor in re.findall(r"\]\(#([\w-]+)\)", text)]
    dead = []
    for file, anchor in named:
        files = [base / file for base in (path.parent, ROOT) if (base / file).is_file()]
        if not files or anchor not in anchors(files[0].read_text(encoding="utf-8")):
            dead.append(f"{path.relative_to(ROOT)}: {file}#{anchor}")
    return dead


def test_places_that_are_named_exist():
    dead = [place for path in TEXTS for place in dead_anchors(path, path.read_text(encoding="utf-8"))]
    assert not dead, "\n".join(dead)


def test_a_dead_anchor_is_found():
    text = '# A title\n\n```\n# no heading\n```\n## Two: words, `code`\n<a id="own"></a>\n'
    assert anchors(text) == {"a-title", "two-words-code", "own"}
    text = "[a](#none) [b](electra_jax/runs/README.md#buckets) electra_jax/runs/README.md#none"
    assert dead_anchors(ROOT / "README.md", text) == [
        "README.md: electra_jax/runs/README.md#none",
        "README.md: README.md#none",
    ]
