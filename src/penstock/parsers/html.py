"""HTML: the main content without navigation and footers, under its headings; all of it where little seems to be main.

Runs isolated. Nesting is capped before parsing: 200,000 nested elements hang every parser there is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from penstock.core.records import NOTHING, Block, Gap, Item
from penstock.parsers.text import charset, cut, decode, fits, known_encoding

LARGEST = 32 << 20
DEEPEST = 256
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)")
_FLAT = frozenset(
    {
        "area",
        "base",
        "br",
        "col",
        "dd",
        "dt",
        "embed",
        "hr",
        "img",
        "input",
        "li",
        "link",
        "meta",
        "option",
        "p",
        "param",
    }
    | {"source", "td", "th", "tr", "track", "wbr"}
)
"""Elements that hold nothing, or are closed by the next of their kind."""
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_HEADING = re.compile(r"<h([1-6])>(.*?)</h\1>\s*", re.DOTALL)
_MARKUP = re.compile(r"</?(?:h[1-6]|p|ul|ol|li|pre|br)(?:\s[^<>]*)?/?>")
_BREAK = re.compile(r"<br\s*/?>")
_BLANK = re.compile(r"\n{3,}")
_WORTH = 200


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    data = stream.read(LARGEST + 1)
    text = decode(data[:LARGEST], charset(item) or declared(data))
    yield from blocks(text)
    if len(data) > LARGEST:
        yield Gap(f"only the first {LARGEST >> 20} MiB of the page were read")


def declared(data: bytes) -> str | None:
    """The charset a page says of itself, if it is true."""
    match = _META.search(data[:4096])
    if not match:
        return None
    name = {"iso-8859-1": "cp1252"}.get(own := match[1].decode("latin-1").lower(), own)  # what every browser does
    known = known_encoding(name)
    return known if known is not None and fits(data, known) else None


def blocks(text: str, metadata: Mapping[str, Any] = NOTHING, *, everything: bool = False) -> Iterator[Block]:
    """Text under its headings: the main content, or with `everything` all of it (a chapter, a letter)."""
    tree = HTMLTree.parse(shallow(text))
    title = " ".join((tree.title or "").split())[:500]
    if title and "title" not in metadata:
        metadata = {**metadata, "title": title}
    main = "" if everything else _extract(tree, main=True)
    if len(main) < _WORTH:
        full = _extract(tree, main=False)
        if len(main) < len(full) // 2:
            main = full
    path: list[tuple[int, str]] = []
    start = 0
    for match in _HEADING.finditer(main):
        yield from _section(main[start : match.start()], path, metadata)
        start = match.start()
        level, heading = int(match[1]), " ".join(plain(match[2]).split())[:200]
        while path and path[-1][0] >= level:
            path.pop()
        if heading:
            path.append((level, heading))
    yield from _section(main[start:], path, metadata)


def _extract(tree: HTMLTree, *, main: bool) -> str:
    return str(extract_plain_text(tree, preserve_formatting="minimal_html", main_content=main, alt_texts=False))


def _section(markup: str, path: list[tuple[int, str]], metadata: Mapping[str, Any]) -> Iterator[Block]:
    text = plain(markup).strip()
    if text:
        for part in cut(text + "\n\n"):
            yield Block(part, headings=tuple(title for _, title in path), metadata=metadata)


def plain(markup: str) -> str:
    return _BLANK.sub("\n\n", html.unescape(_MARKUP.sub("", _BREAK.sub("\n", markup))))


def shallow(text: str) -> str:
    """The page without the tags that nest deeper than DEEPEST. Their text stays."""
    if text.count("<") <= DEEPEST:
        return text
    depth = 0
    kept: list[str] = []
    start = 0
    for tag in _TAG.finditer(text):
        if tag[2].lower() in _FLAT:
            continue
        if tag[1]:
            too_deep = depth > DEEPEST
            depth = max(0, depth - 1)
        else:
            depth += 1
            too_deep = depth > DEEPEST
        if too_deep:
            kept.append(text[start : tag.start()])
            start = text.find(">", tag.start()) + 1 or len(text)
    return "".join(kept) + text[start:] if kept else text
