"""What an HTML page holds, read with Python's own parser; a page that is not well formed fails."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, texts by the tag that they stand in, and rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.rows = [], [], []
        self._open = []
        self.feed(text)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), attributes
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def of(self, tag):
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def texts_in(self, tag):
        return [text for name, text in self.texts if name == tag]


def assert_self_contained(text):
    """No script, no link, and every picture within the page."""
    page = Page(text)
    assert not {"script", "link", "a", "iframe", "base", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {"href", "srcset"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            assert tag == "img"
            assert attributes["src"].startswith(
                ("data:image/png;base64,", "data:image/jpeg;base64,")
            )
            assert "alt" in attributes
    (style,) = page.texts_in("style")
    assert "url(" not in style and "@import" not in style
    policies = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    return page
