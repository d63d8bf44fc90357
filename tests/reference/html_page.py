"""A page as a browser's parser sees it: a tree of elements, and what every page must hold to."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "img", "path", "circle", "rect", "use"}
POLICY = {"default-src 'none'", "img-src data: 'self'", "style-src 'unsafe-inline'", "base-uri 'none'"}
FORBIDDEN = {"script", "link", "iframe", "object", "embed", "form", "base", "audio", "video"}
# Characters that hide or turn the text around them.
UNPRINTED = {*map(chr, range(9)), *map(chr, range(11, 32)), "\x7f", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066"}


class Element:
    """An element with its attributes, and in it other elements and texts."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Element | str] = []

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def raw(self) -> str:
        """All text, as it is."""
        return "".join(child if isinstance(child, str) else child.raw for child in self.children)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(self.raw.split())

    def all(self, tag: str | None = None, name: str | None = None) -> "list[Element]":
        """Return the elements below with a tag and a class, in the order of the page."""
        return [e for e in self._below() if tag in (None, e.tag) and (name is None or name in e.classes)]

    def one(self, tag: str | None = None, name: str | None = None) -> "Element":
        (found,) = self.all(tag, name)
        return found

    def texts(self, tag: str | None = None, name: str | None = None) -> list[str]:
        return [element.text for element in self.all(tag, name)]

    def facts(self) -> dict[str, str]:
        """Return the lists of facts below: names and texts."""
        return dict(zip(self.texts("dt"), self.texts("dd"), strict=True))

    def tables(self) -> list[list[list[str]]]:
        """Return the tables below, as rows of the cells' texts."""
        return [[[cell.text for cell in row.all() if cell.tag in ("td", "th")] for row in table.all("tr")] for table in
                self.all("table")]  # fmt: skip

    def _below(self) -> "Iterator[Element]":
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._below()


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(path: Path) -> Element:
    """Return a page as a tree, after the checks that hold for all pages."""
    builder = _Builder()
    builder.feed(path.read_text(encoding="utf-8"))
    builder.close()
    assert len(builder.open) == 1, f"{builder.open[-1].tag} is not closed"
    page = builder.open[0]
    _check(page)
    return page


def _check(page: Element) -> None:
    assert page.one("html").attributes["lang"] == "en"
    metas = {meta.attributes.get("name") or meta.attributes.get("http-equiv"): meta for meta in page.all("meta")}
    policy = {part.strip() for part in metas["Content-Security-Policy"].attributes["content"].split(";")}
    assert policy >= POLICY
    assert "width=device-width" in metas["viewport"].attributes["content"]
    assert page.one("title").text and page.one("h1").text and page.one("main")
    assert not FORBIDDEN & {element.tag for element in page.all()}
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on")], element.attributes
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            target = element.attributes.get(name, "#")
            assert target.startswith(("#", "data:image/jpeg;base64,")) or (":" not in target and target[:1] != "/")
        for value in (*element.attributes.values(), *(c for c in element.children if isinstance(c, str))):
            assert not UNPRINTED & set(value), value
        assert "//" not in element.attributes.get("style", "") and "@import" not in element.raw
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert all(svg.attributes.get("aria-label") or svg.attributes["aria-hidden"] == "true" for svg in page.all("svg"))
    named = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(named) == len(set(named)), "an id twice"
