"""Pages as a browser takes them apart."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

# What carries text away from how it reads: none of it may reach a page.
FORBIDDEN = [*map(chr, range(9)), "\x1b", "\x7f", "\u200b", "\u202e", "\u2066", "\ufeff"]


@dataclass
class Page:
    """What is in a page."""

    scripts: list[str] = field(default_factory=list)
    """Where its scripts come from; empty for one that stands in the page."""
    links: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    """Attributes that a browser would run, or apply as style."""
    tags: set[str] = field(default_factory=set)
    text: str = ""


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.page.tags.add(tag)
        self.page.handlers += [n for n in values if n.startswith("on") or n == "style"]
        if tag == "script":
            self.page.scripts.append(values.get("src", ""))
        self.page.links += [values[n] for n in ("href", "src", "action") if n in values]

    def handle_data(self, data: str) -> None:
        self.page.text += data


def read_page(text: str) -> Page:
    """Take a page apart."""
    page = Page()
    reader = _Reader(page)
    reader.feed(text)
    reader.close()
    return page


def check_harmless(text: str) -> Page:
    """Make sure that nothing in a page is anybody's but ours, and return it."""
    page = read_page(text)
    assert page.handlers == []
    assert all(source.startswith("/ui/static/") for source in page.scripts), page.scripts
    assert all(link.startswith(("/", "#")) for link in page.links), page.links
    assert page.tags.isdisjoint({"b-evil", "iframe", "object", "embed", "base", "style"})
    found = [hex(ord(char)) for char in FORBIDDEN if char in text]
    assert not found, found
    assert "\u0301" * 4 not in text
    return page
