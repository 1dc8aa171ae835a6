"""Short extracts of a text that show the words of a query. Used by the command line and the server."""

from __future__ import annotations

import re
from bisect import bisect_left

MAX_QUERY = 300
"""Characters of a query whose words are looked for."""


def one_line(text: str) -> str:
    """Put on one line, without control characters, and encodable: safe to show whatever a document holds."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else "\ufffd" for c in line).encode("utf-8", "replace").decode()


def words_of(query: str) -> re.Pattern[str] | None:
    """Compile a pattern that finds a query's words, endings aside; short ones only where it has no others."""
    words = set(re.findall(r"\w+", query[:MAX_QUERY].lower()))
    words = {word for word in words if len(word) > 3} or words
    if not words:
        return None
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})\w*", re.IGNORECASE)


def highlights(text: str, words: re.Pattern[str] | None) -> list[tuple[int, int]]:
    """Where the words stand in the text: (start, end), in characters."""
    return [match.span() for match in words.finditer(text)] if words else []


def snippet(text: str, words: re.Pattern[str] | None, width: int = 280) -> str:
    """Cut out the stretch of the text that has the most of the words."""
    text = one_line(text)
    if len(text) <= width:
        return text
    starts_of_words = [match.start() for match in words.finditer(text)] if words else []
    starts = [max(0, at - width // 5) for at in starts_of_words] or [0]

    def matches(start: int) -> int:
        return bisect_left(starts_of_words, start + width) - bisect_left(starts_of_words, start)

    start = max(starts, key=lambda start: (matches(start), -start))
    start = min(start, len(text) - width)
    if start:
        start = (text.find(" ", start, start + width // 5) + 1) or start
    end = start + width
    if end < len(text):
        cut = text.rfind(" ", end - width // 5, end)
        end = cut if cut > 0 else end
    return ("… " if start else "") + text[start:end].strip() + (" …" if end < len(text) else "")
