"""Markdown, streamed, with the path of headings kept: the text itself is untouched, heading lines included.

Headings are ATX (`## Title`) and setext of one line (`Title` over `===`); what stands in a code fence is none.
YAML front matter is left out but for its title, which goes to the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, BinaryIO

from penstock.core.records import NOTHING, Block, Gap, Item
from penstock.parsers.text import BLOCK, charset, cut, decoded, whole_lines

# Every alternative begins at a line feed: the regex engine skips to it, so plain lines cost next to nothing.
_MARK = re.compile(
    r"\n {0,3}(?:(?P<level>#{1,6})(?:[ \t]+(?P<title>[^\n]*))?(?=\n)"
    r"|(?P<fence>`{3,}(?=[^`\n]*\n)|~{3,})"
    r"|(?P<under>=+|-+)[ \t]*(?=\n))"
)
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*\n")
_CLOSING_HASHES = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
_NO_TITLE = re.compile(r" {4}|\t| {0,3}(?:#{1,6}(?:\s|$)|[-*+>|](?:\s|$)|\d{1,9}[.)] |\|)")
_FRONT = re.compile(r"---[ \t]*\n((?:(?!(?:---|\.\.\.)[ \t]*\n)[^\n]*\n){1,500})(?:---|\.\.\.)[ \t]*\n")
_FRONT_LINE = re.compile(r"[\w.-]+[ \t]*:(?:\s|$)|\s|#|- |$")
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE | re.IGNORECASE)
_TITLE = 200


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    return outlined(whole_lines(decoded(stream, charset(item))))


def outlined(texts: Iterator[str | Gap]) -> Iterator[Block | Gap]:
    outline = _Outline()
    first = True
    for text in texts:
        if isinstance(text, Gap):
            yield text
            continue
        if first:
            first = False
            text = outline.front_matter(text)
        yield from outline.feed(text)
    yield from outline.finish()


@lru_cache
def _closing_fence(mark: str) -> re.Pattern[str]:
    return re.compile(rf"\n {{0,3}}{mark[0]}{{{len(mark)},}}[ \t]*(?=\n)")


class _Outline:
    """Cuts a stream of text at its headings. Holds the last line or two back: a setext title shows in its underline."""

    def __init__(self) -> None:
        self.metadata: Mapping[str, Any] = NOTHING
        self._path: list[tuple[int, str]] = []
        self._headings: tuple[str, ...] = ()
        self._fence: re.Pattern[str] | None = None
        self._before = "\n\n"
        """The last text that was yielded: two characters are enough to know a line's start, and a blank line."""
        self._held = ""

    def front_matter(self, text: str) -> str:
        found = _FRONT.match(text)
        if not found or not all(_FRONT_LINE.match(line) for line in found[1].splitlines()):
            return text
        if title := _FRONT_TITLE.search(found[1]):
            self.metadata = {"title": title[2][:_TITLE]}
        return text[found.end() :]

    def feed(self, text: str) -> Iterator[Block]:
        text = self._held + text
        newline = text.rfind("\n")
        end = text.rfind("\n", 0, newline) + 1 if newline > 0 else 0
        while end and _UNDERLINE.match(text, end):  # then what it underlines stays as well
            end = text.rfind("\n", 0, end - 1) + 1
        if len(text) - end > BLOCK:  # lines of this length are no headings
            end = len(text)
        self._held = text[end:]
        yield from self._cut(text[:end])

    def finish(self) -> Iterator[Block]:
        rest, self._held = self._held, ""
        # a heading may be the last line, without a line feed: lend it one
        yield from self._cut(rest, lent="" if rest.endswith("\n") else "\n")

    def _cut(self, text: str, lent: str = "") -> Iterator[Block]:
        if not text:
            return
        buffer = self._before + text + lent
        size = len(buffer) - len(lent)
        start = 2
        position = 1
        while True:
            if self._fence is not None:
                found = self._fence.search(buffer, position)
                if found is None:
                    break
                self._fence = None
                position = found.end()
                continue
            found = _MARK.search(buffer, position)
            if found is None:
                break
            position = found.end()
            hashes, title, mark, under = found.groups()
            if mark:
                self._fence = _closing_fence(mark)
                continue
            if hashes:
                heading = found.start() + 1
                level, title = len(hashes), title or ""
                if "#" in title:
                    title = _CLOSING_HASHES.sub("", title)
                title = title.strip()
            else:
                heading = buffer.rfind("\n", 0, found.start()) + 1
                level, title = 1 if under[0] == "=" else 2, buffer[heading : found.start()].strip()
                alone = heading >= 2 and buffer[heading - 2] == "\n"
                if heading < start or not title or not alone or _NO_TITLE.match(buffer, heading, found.start()):
                    continue
            if heading > start:
                yield from self._blocks(buffer[start:heading])
            start = heading
            self._enter(level, title[:_TITLE])
        if start < size:
            yield from self._blocks(buffer[start:size])
        self._before = buffer[size - 2 : size]

    def _enter(self, level: int, title: str) -> None:
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if title:
            self._path.append((level, title))
        self._headings = tuple([title for _, title in self._path])

    def _blocks(self, text: str) -> Iterator[Block]:
        if len(text) <= BLOCK:
            yield Block(text, headings=self._headings, metadata=self.metadata)
            return
        for part in cut(text):
            yield Block(part, headings=self._headings, metadata=self.metadata)
