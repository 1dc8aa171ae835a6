"""Text, cut where it reads best and where an edit elsewhere would cut it too.

A chunk ends at the strongest seam in the second half of what it may hold: a new section or page, a heading,
a blank line, a line's end (in lists, tables and code), a sentence, a clause, a word. Among equals the text after the
seam decides, by its checksum, and not how far along it is: so the cuts fall back in step soon after an edit, and
an edit re-embeds the chunks near it, no others.

Every decision looks at a bounded stretch of text and never at how it was handed over: the same document, cut into
other blocks by its parser, gives the same pieces.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Literal, NamedTuple, Protocol
from zlib import crc32

from penstock.contracts import Tokenizer
from penstock.errors import UsageError
from penstock.records import Block, Piece

Unit = Literal["tokens", "characters"]

WINDOW = 1 << 16
"""Characters that are collected before they are measured and cut: large enough to keep a tokenizer busy."""
MARGIN = 64
"""Characters beyond a place that may bear on whether, and how well, it can be cut there."""
SMALLEST = 8
ROOMY = 16
"""A token stands for at most so many characters of a piece: a megabyte of blanks has no tokens at all."""

WHITE = " \t\r\n"
"""Cutting anywhere else changes tokens: BERT drops \\x0b, \\x0c and their like, which joins the words around them."""

# Possessive quantifiers and bounded repeats: time is linear in the text, whatever the text.
BLANK = re.compile(r"\n[ \t\r]*+\n(?:[ \t\r]*+\n)*+")
LINE = re.compile(r"""\n(?:(?<=[.!?:;{}|)\]>"'`]\n)|(?=[ \t\-*+|>#@<{}/\d]))""")
SENTENCE = re.compile(r"""[.!?…]["'”’)\]]{0,4}+[ \t]{1,16}+(?![ \t\r\na-z])|[。！？][”’」』）]{0,4}+""")
CLAUSE = re.compile(r"[,;:)–—][ \t]{1,16}+|[、，；：]|\n")
WORD = re.compile(r"[ \t\r\n]{1,16}+")
SYMBOL = re.compile(r"[^\w\s]")
FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
SEAM = re.compile(f"\\n|{SENTENCE.pattern}")
DENSE = "\u2e80"
"""From here on are the scripts that have about a token a character."""


class Chunking(NamedTuple):
    """How to cut: the first arguments of a TextChunker."""

    size: int = 256
    unit: Unit = "tokens"
    overlap: int = 0

    def __str__(self) -> str:
        return f"{self.size} {self.unit}" + (f", overlap {self.overlap}" if self.overlap else "")


def parse_chunking(text: str) -> Chunking:
    """`256`, `256 tokens`, `1000 chars`, `256/32`, `1000/100 chars`, or what `TextChunker.spec` says."""
    match = re.fullmatch(
        r"(\d{1,9}+)(?:/(\d{1,9}+))?\s*(tokens|chars|characters)?(?:, overlap (\d{1,9}+))?", text.strip(), re.ASCII
    )
    if match is None or (match[2] and match[4]):
        raise UsageError(f"cannot read the chunking {text!r}; write e.g. 256, 256/32 (overlap) or '1000 chars'")
    unit: Unit = "characters" if (match[3] or "").startswith("char") else "tokens"
    return _checked(Chunking(int(match[1]), unit, int(match[2] or match[4] or 0)))


def _checked(how: Chunking) -> Chunking:
    if how.unit not in ("tokens", "characters"):
        raise UsageError(f"chunks are sized in tokens or characters, not in {how.unit!r}")
    if how.size < SMALLEST:
        raise UsageError(f"a chunk size of {how.size} is too small: {SMALLEST} {how.unit} at least")
    if not 0 <= how.overlap < how.size:
        raise UsageError(f"an overlap of {how.overlap} does not go with a chunk size of {how.size}: it must be smaller")
    return how


class TextChunker:
    """Cuts blocks into pieces of at most `size` tokens or characters. Holds no state: one serves many threads.

    With an overlap a piece begins up to that much before the end of the one before it, but never reaches back into
    another section. A block that is a unit, or has an image, is cut alone. The one thing that can exceed `size` is
    a single character that does so by itself.
    """

    def __init__(
        self, size: int = 256, unit: Unit = "tokens", overlap: int = 0, tokenizer: Tokenizer | None = None
    ) -> None:
        self.chunking = _checked(Chunking(size, unit, overlap))
        self.tokenizer = tokenizer
        if unit == "tokens" and tokenizer is not None and size > tokenizer.max_tokens:
            raise UsageError(f"chunks of {size} tokens would be truncated: the model takes {tokenizer.max_tokens}")

    @property
    def spec(self) -> str:
        """What cut the chunks, e.g. `256 tokens, overlap 32`: part of what a vector space is."""
        return str(self.chunking)

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        cutter = _Cutter(self.chunking, self._scale())
        for block in blocks:
            alone = block.unit or block.image is not None
            if alone:
                yield from cutter.cut(final=True)
            if block.image is not None and not block.text.strip():
                where = cutter.length
                yield Piece("", (where, where), block.page, block.headings, block.metadata, image=block.image)
            for at in range(0, len(block.text), WINDOW):
                cutter.add(block, block.text[at : at + WINDOW])
                if cutter.pending >= WINDOW:
                    yield from cutter.cut(final=False)
            if alone:
                yield from cutter.cut(final=True)
        yield from cutter.cut(final=True)

    def _scale(self) -> _Scale:
        size, unit, overlap = self.chunking
        if unit == "characters":
            return _Characters()
        if self.tokenizer is None:
            raise UsageError("chunks sized in tokens need the model's tokenizer; size them in characters, or give it")
        return _Tokens(self.tokenizer, size, overlap)


# ---------------------------------------------------------------- where to cut


def choose(text: str, low: int, high: int, fences: Sequence[int] = (), fenced: bool = False) -> int:
    """The best place to cut in [low, high], 0 < low <= high: a place outside code fences if there is one.

    `fences` are where lines of ``` begin; `fenced` says whether the text before the first is inside one.
    """
    begin, end = max(low - 32, 0), high + MARGIN
    inside: list[list[int]] = []
    for pattern in (BLANK, LINE, SENTENCE, CLAUSE):
        places = [at for match in pattern.finditer(text, begin, end) if low <= (at := match.end()) <= high]
        if places and (fences or fenced):
            inner = [at for at in places if (bisect_left(fences, at) & 1) ^ fenced]
            if inner:
                inside.append(inner)
                places = [at for at in places if at not in inner]
        if places:
            return _pick(text, _strongest(text, places) if pattern is BLANK else places)
    if inside:
        return _pick(text, inside[0])
    for pattern in (WORD, SYMBOL):
        places = [at for match in pattern.finditer(text, begin, end) if low <= (at := match.end()) <= high]
        if places:
            return _pick(text, places)
    return high


def _strongest(text: str, places: list[int]) -> list[int]:
    """Of the blank lines, those before a heading; else before what is not indented."""
    for weaker in ("#", " \t"):
        if weaker == "#":
            strong = [at for at in places if text.startswith("#", at)]
        else:
            strong = [at for at in places if text[at : at + 1] not in weaker]
        if strong:
            return strong
    return places


def _pick(text: str, places: Sequence[int]) -> int:
    """One of equal places, by what follows it and not by where it is. The last of those that are alike."""
    if len(places) == 1:
        return places[0]
    return min(places, key=lambda at: (crc32(text[at : at + 32].encode("utf-8", "replace")), -at))


# ---------------------------------------------------------------- how far it is


class _Scale(Protocol):
    """Measures a window of text. All places are offsets in the text last given to `extend`."""

    known: int
    """How far the text is measured."""

    def extend(self, text: str, visible: int, marks: Sequence[int]) -> None:
        """Measure on, up to about `visible`, cutting at the marks."""

    def forget(self, length: int) -> None:
        """The text's first characters are gone."""

    def reach(self, start: int, amount: int) -> int:
        """The farthest place with no more than `amount` between."""

    def back(self, cut: int, amount: int, floor: int) -> int:
        """The earliest good place to start, no more than `amount` before the cut and not before the floor."""

    def settle(self, place: int, low: int, high: int) -> int:
        """The place if it can be cut there, else one near by."""

    def after(self, place: int) -> int:
        """The next place that can be cut at."""

    def ids(self, start: int, end: int) -> array[int] | None:
        """The tokens between, if they are what the text there would give by itself."""

    def finish(self, cuts: list[_Cut]) -> list[_Cut]:
        """Fill in missing tokens; divide what turns out too long."""


class _Cut(NamedTuple):
    start: int
    text: str
    tokens: array[int] | None


class _Characters:
    def __init__(self) -> None:
        self.text, self.known = "", 0

    def extend(self, text: str, visible: int, marks: Sequence[int]) -> None:
        self.text, self.known = text, visible

    def forget(self, length: int) -> None:
        self.known -= length

    def reach(self, start: int, amount: int) -> int:
        place = start + amount
        return place if place < self.known else self.known

    def back(self, cut: int, amount: int, floor: int) -> int:
        match = WORD.search(self.text, max(floor, cut - amount), cut)
        return match.end() if match else cut

    def settle(self, place: int, low: int, high: int) -> int:
        return place

    def after(self, place: int) -> int:
        return place + 1

    def ids(self, start: int, end: int) -> array[int] | None:
        return None

    def finish(self, cuts: list[_Cut]) -> list[_Cut]:
        return cuts


class _Tokens:
    """Divides text into units, paragraphs or some sentences of one, and counts the tokens of many with one call.

    Counting units and not asking for offsets is what makes it nearly as fast as tokenizing alone; a unit of 90
    characters costs a quarter more than one of 300. Between units that end in white space an additive tokenizer's
    ids can be joined; other pieces are tokenized again.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, overlap: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self.heaviest = max(1, min(size // 2, size - overlap))
        self.longest = max(32, min(size, 2 * overlap or size))
        self.farthest = ROOMY * size
        self.text, self.known = "", 0
        self.ends = [0]
        self.totals = [0]
        self.rows: list[list[int]] = []

    def extend(self, text: str, visible: int, marks: Sequence[int]) -> None:
        self.text = text
        places = list(self._units(text, visible, marks))
        units = [text[a:b] for a, b in zip([self.known, *places], places, strict=False)]
        rows = self.tokenizer.encode(units) if units else []
        if any(len(row) > self.heaviest for row in rows):
            places, rows = self._lighten(places, rows)
        self.ends += places
        self.rows += rows
        self.totals += accumulate(map(len, rows), initial=self.totals.pop())
        self.known = self.ends[-1]

    def _units(self, text: str, visible: int, marks: Sequence[int]) -> Iterator[int]:
        """Where units end: after blank lines, at marks, and inside what is longer than a unit may be."""
        at, longest = self.known, self.longest
        seams = [m.end() for m in BLANK.finditer(text, max(at - MARGIN, 0), visible + MARGIN)]
        if marks:
            seams = sorted({*seams, *marks})
        for seam in chain(seams, (visible,)):
            if seam >= visible:
                seam = visible
            if seam - at > longest:
                soft = [m.end() for m in SEAM.finditer(text, max(at - MARGIN, 0), seam + MARGIN)]
                while seam - at > longest:
                    reach = longest if _sparse(text[at : at + longest]) else longest // 3
                    low, high = at + reach // 2, at + reach
                    near = soft[bisect_left(soft, low) : bisect_right(soft, high)]
                    at = _pick(text, near) if near else choose(text, low, high)
                    yield at
            if at < seam and (seam < visible or visible == len(text)):
                at = seam
                yield at

    def _lighten(self, places: list[int], rows: list[list[int]]) -> tuple[list[int], list[list[int]]]:
        """Divide units until none has more tokens than a unit may have."""
        starts = [self.known, *places]
        units = list(zip(starts, places, rows, strict=False))
        while heavy := [(a, b) for a, b, row in units if len(row) > self.heaviest and b - a > 1]:
            halves: list[tuple[int, int]] = []
            for a, b in heavy:
                middle = choose(self.text, a + max(1, (b - a) // 4), b - max(1, (b - a) // 4))
                halves += [(a, middle), (middle, b)]
            parts = iter(zip(halves, self.tokenizer.encode([self.text[a:b] for a, b in halves]), strict=True))
            divided: list[tuple[int, int, list[int]]] = []
            for a, b, row in units:
                if len(row) > self.heaviest and b - a > 1:
                    for _ in range(2):
                        (start, end), ids = next(parts)
                        divided.append((start, end, ids))
                else:
                    divided.append((a, b, row))
            units = divided
        return [b for _, b, _ in units], [row for _, _, row in units]

    def forget(self, length: int) -> None:
        gone = bisect_right(self.ends, length) - 1
        base = self.totals[gone]
        self.ends = [end - length for end in self.ends[gone:]]
        self.totals = [total - base for total in self.totals[gone:]]
        del self.rows[:gone]
        self.known -= length

    def reach(self, start: int, amount: int) -> int:
        here = bisect_right(self.ends, start) - 1
        there = bisect_right(self.totals, self.totals[here] + amount) - 1
        if self.ends[there] - start > self.farthest:
            there = bisect_right(self.ends, start + self.farthest) - 1
        return self.ends[there]

    def back(self, cut: int, amount: int, floor: int) -> int:
        here = bisect_right(self.ends, cut) - 1
        light = bisect_left(self.totals, self.totals[here] - amount)
        short = bisect_left(self.ends, max(floor, cut - amount * ROOMY))
        return self.ends[min(max(light, short), here)]

    def settle(self, place: int, low: int, high: int) -> int:
        near = self.ends[bisect_left(self.ends, low) : bisect_right(self.ends, high)]
        if place in near or not near:
            return place if near else high
        whole = [end for end in near if SEAM.search(self.text, max(end - 4, 0), end)]
        return _pick(self.text, whole or near)

    def after(self, place: int) -> int:
        return self.ends[bisect_right(self.ends, place)]

    def ids(self, start: int, end: int) -> array[int] | None:
        if not self.tokenizer.additive:
            return None
        first, last = bisect_left(self.ends, start), bisect_left(self.ends, end)
        text = self.text
        if any(text[at - 1] not in WHITE for at in self.ends[first + 1 : last]):
            return None
        return array("i", list(chain.from_iterable(self.rows[first:last])))

    def finish(self, cuts: list[_Cut]) -> list[_Cut]:
        while missing := [cut.text for cut in cuts if cut.tokens is None]:
            rows = iter(self.tokenizer.encode(missing))
            done: list[_Cut] = []
            for cut in cuts:
                if cut.tokens is not None:
                    done.append(cut)
                elif len(row := next(rows)) <= self.size or len(cut.text) == 1:
                    done.append(cut._replace(tokens=array("i", row)))
                else:
                    quarter = max(1, len(cut.text) // 4)
                    middle = choose(cut.text, quarter, len(cut.text) - quarter)
                    for start, text in ((0, cut.text[:middle]), (middle, cut.text[middle:])):
                        done += _trimmed(cut.start + start, text, None)
            cuts = done
        return cuts


# ---------------------------------------------------------------- one document


class _Cutter:
    """One document on its way through. Places are offsets in `text`, the part of it that is held."""

    def __init__(self, chunking: Chunking, scale: _Scale) -> None:
        self.size, _, self.overlap = chunking
        self.scale = scale
        self.text = ""
        self.parts: list[str] = []
        self.pending = 0
        """Characters added and not yet looked at."""
        self.base = 0
        """Where in the document the text held begins."""
        self.start = self.done = 0
        """Where the next piece begins; where the last one ended."""
        self.fenced = False
        self.fence = -1
        """Where the next line that may be a fence is; before that there is none."""
        self.marks: list[int] = []
        """Where in the document a new section or page begins, and the block that begins it."""
        self.origins: list[Block] = []
        self.image: bytes | None = None
        """Goes with the first piece of its block."""

    @property
    def length(self) -> int:
        """Of the document, so far."""
        return self.base + len(self.text) + self.pending

    def add(self, block: Block, text: str) -> None:
        if not self.origins or not _alike(block, self.origins[-1]):
            self.marks.append(self.length)
            self.origins.append(block)
            self.image = block.image
        self.parts.append(text)
        self.pending += len(text)

    def cut(self, final: bool) -> Iterator[Piece]:
        """The pieces that can be told from the text so far; all of them if it is final."""
        if self.start > MARGIN:  # what is just before a place bears on it too
            self._forget(self.start - MARGIN)
        self.text = "".join([self.text, *self.parts])
        self.parts, self.pending, self.fence = [], 0, -1
        if not self.text:
            return
        visible = len(self.text) if final else max(len(self.text) - MARGIN, self.scale.known)
        self.scale.extend(self.text, visible, [mark - self.base for mark in self.marks if mark > self.base])
        for start, text, tokens in self.scale.finish(list(self._cuts(final))):
            where = self.base + start
            block = self.origins[bisect_right(self.marks, where) - 1]
            span = (where, where + len(text))
            image, self.image = self.image, None
            yield Piece(text, span, block.page, block.headings, block.metadata, tokens, image)
        if final:
            self.scale.forget(len(self.text))
            self.base += len(self.text)
            self.text, self.start, self.done, self.fenced = "", 0, 0, False
            self.marks.clear()
            self.origins.clear()

    def _forget(self, length: int) -> None:
        self.scale.forget(length)
        self.text = self.text[length:]
        self.base += length
        self.done -= length
        self.start -= length
        old = bisect_right(self.marks, self.base) - 1
        del self.marks[:old], self.origins[:old]

    def _cuts(self, final: bool) -> Iterator[_Cut]:
        scale, size, text = self.scale, self.size, self.text
        while self.done < scale.known:
            start, done = self.start, self.done
            high = scale.reach(start, size)
            if high <= done:  # the overlap leaves no room for what follows
                start = done
                high = max(scale.reach(start, size), scale.after(done))
            if final and high == len(text):
                place = high
            elif not final and scale.reach(high, size) == scale.known:
                return  # what comes next may bear on the choice
            else:
                place = self._place(start, done, high, final)
            if start == done or not text[done:place].isspace():
                yield from _trimmed(start, text[start:place], scale.ids(start, place))
            self.fenced ^= bool(len(self._fences(done, place)) & 1)
            self.done = self.start = place
            if self.overlap:
                first = place - len(text[start:place].lstrip())
                section = self.marks[bisect_right(self.marks, self.base + place) - 1] - self.base
                if section < place:
                    self.start = scale.back(place, self.overlap, max(section, first + 1))

    def _fences(self, start: int, end: int) -> list[int]:
        if self.fence < start:
            self.fence = self.text.find("```", start)
            if self.fence < 0:
                self.fence = len(self.text)
        if self.fence >= end:
            return []
        return [match.start() for match in FENCE.finditer(self.text, start, end)]

    def _place(self, start: int, done: int, high: int, final: bool) -> int:
        """Where to end the piece that begins at `start` and may end at `high`, after `done`."""
        scale, text = self.scale, self.text
        quarter = max(scale.reach(start, self.size // 4), done + 1)
        if len(self.marks) > 1 and (section := self._section(done, quarter, high, final)):
            return section
        low = max(scale.reach(start, self.size // 2), done + 1)
        if low >= high:
            return high
        fences = self._fences(done, high)
        if fences or self.fenced:
            low = min(quarter, high)
        return scale.settle(choose(text, low, high, fences, self.fenced), low, high)

    def _section(self, done: int, quarter: int, high: int, final: bool) -> int:
        """The section's beginning to cut at, if there is one near enough. A section that fits stays whole."""
        base, marks, text = self.base, self.marks, self.text
        first, last = bisect_right(marks, base + done), bisect_right(marks, base + high)
        near = [mark - base for mark in marks[first:last]]
        if full := [mark for mark in near if mark >= quarter]:
            return _pick(text, full)
        if not near:
            return 0
        limit = self.scale.reach(near[-1], self.size)
        fits = base + limit >= marks[last] if last < len(marks) else final and limit == len(text)
        return near[-1] if fits else 0


def _alike(one: Block, other: Block) -> bool:
    return one.page == other.page and one.headings == other.headings and one.metadata == other.metadata


def _sparse(text: str) -> bool:
    return text.isascii() or max(text) < DENSE


def _trimmed(start: int, text: str, tokens: array[int] | None) -> Iterator[_Cut]:
    """The text without the white space around it, if anything is left."""
    text = text.rstrip()
    if text:
        if text[0].isspace():
            bare = text.lstrip()
            start += len(text) - len(bare)
            text = bare
        yield _Cut(start, text, tokens)
