"""A page as the standard library's parser reads it: what it loads, and the text that a reader sees."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr", "line"}
LOADS = {"src", "srcset", "href", "data", "poster", "action", "formaction", "xlink:href", "background"}


class ReadPage(HTMLParser):
    """Attributes: tags, (tag, attributes) of every element; loads, what elements refer to; text, outside of
    scripts and styles; scripts, their contents; mistakes, ends of elements that were not open."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.loads, self.texts, self.scripts, self.mistakes = [], [], [], [], []
        self._open = []
        self.feed(html)
        self.close()
        self.mistakes += self._open

    @property
    def text(self):
        return "".join(self.texts)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.loads += [value for name, value in attributes.items() if name in LOADS]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.mistakes.append(tag)

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1] != "style":
            self.texts.append(data)
