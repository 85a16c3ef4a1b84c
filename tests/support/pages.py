"""Pages that the workflow writes."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Every element's attributes, and the visible text, of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def fetched(self) -> list[str]:
        """What a browser would fetch for it."""
        names = ("src", "href", "xlink:href", "srcset", "data")
        targets = [a[name] for _, a in self.elements for name in names if a.get(name)]
        return [target for target in targets if not target.startswith(("data:", "#"))]
