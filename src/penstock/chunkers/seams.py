"""Seams of a text: the positions at which it can be cut, and how well it reads when it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from zlib import crc32

MARGIN = 64
"""Characters before and after a position that may bear on whether, and how well, it can be cut there."""

NOWHERE, WORD, CLAUSE, SENTENCE, LINE, BLANK, PARAGRAPH, SECTION = range(8)
"""How well a text is cut at a position. A paragraph follows a blank line and is not indented."""
FENCED = BLANK
"""How much worse it is inside a code fence: the best position there is less than a sentence's end."""
LEVELS = (NOWHERE, BLANK, PARAGRAPH, LINE, SENTENCE)
"""Levels of the groups in SEAM, which are counted from 1."""
# Possessive quantifiers and bounded repeats: time is linear in the text, whatever the text. The one class that all
# alternatives begin with lets the engine skip to it.
SEAM = re.compile(
    r"""[\n.!?…。！？](?:
        (?<=\n)(?:
            (?:[ \t\r]{0,32}+\n){1,16}+(?:(?=[ \t])(?P<blank>)|(?P<paragraph>))
            |(?:(?<=[.!?:;{}|)\]>"'`]\n)|(?=[ \t\-*+|>#@<{}/\d]))(?P<line>))
        |(?:(?<=[.!?…])["'”’)\]]{0,4}+[ \t]{1,16}+(?![ \t\r\na-z])|(?<=[。！？])[”’」』）]{0,4}+)(?P<sentence>))""",
    re.VERBOSE,
)
SOFT = (
    (CLAUSE, 2, re.compile(r"[,;:)–—][ \t]{1,16}+|[、，；：]|\n")),
    (WORD, 3, re.compile(r"[ \t\r\n]{1,16}+")),
    (NOWHERE, 3, re.compile(r"[^\w\s]")),
)
"""Patterns that divide a text without a seam, and in which last part of it to look."""
_BLANK = re.compile(r"\n[ \t\r]{0,32}+\n")
FENCE = re.compile(r"```(?:(?<=\A```)|(?<=\n```)|(?<=\n ```)|(?<=\n  ```)|(?<=\n   ```))")


def divide(text: str, at: int, marks: Iterable[int], known: int, longest: int) -> tuple[list[int], list[int]]:
    """The ends of the units from `at` on, and the level of each, as far as the text up to `known` decides.

    Sections begin at the marks. Seams that would make small units are passed over: many take longer to measure.
    """
    ends, levels, short = [at], [NOWHERE], longest // 2
    near = short + min(short, MARGIN)
    for stop in (*marks, len(text)):
        edge = min(stop, known)
        while True:
            blank = _BLANK.search(text, at, min(at + near, stop))
            match = SEAM.match(text, blank.start(), stop) if blank else SEAM.search(text, at + short, stop)
            if match is None:
                break
            cut, level = match.end(), LEVELS[match.lastindex or 0]
            if cut >= edge:
                if stop > known:
                    edge = min(edge, match.start())
                break
            if match.start() - at > longest:
                soften(text, at, match.start(), longest, ends, levels)
                at = ends[-1]
            else:
                at = cut
                ends.append(cut)
                levels.append(level)
        soften(text, at, edge, longest, ends, levels)
        if stop > known:
            break
        if stop > at:
            at = stop
            ends.append(stop)
            levels.append(SECTION)
    return ends, levels


def soften(text: str, at: int, end: int, longest: int, ends: list[int], levels: list[int]) -> None:
    """Divide what has no seam, until no more than `longest` is left. Each end follows from the one before."""
    while end - at > longest:
        high = at + longest
        for level, share, pattern in SOFT:  # noqa: B007
            if candidates := [match.end() for match in pattern.finditer(text, high - longest // share, high)]:
                break
        at = pick(text, candidates or [high])
        ends.append(at)
        levels.append(level)


def pick(text: str, ends: Sequence[int]) -> int:
    """One of equally good ends, by the text after it and not by its offset; the last of those that are alike."""
    if len(ends) == 1:
        return ends[0]
    return min(ends, key=lambda at: (crc32(text[at : at + 32].encode("utf-8", "replace")), -at))
