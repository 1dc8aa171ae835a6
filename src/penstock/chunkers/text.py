"""Text, cut where it reads best and where an edit elsewhere would cut it too.

A window of text is divided into units, sentences mostly, which end at seams: a new section or page, a blank line, a
line's end (in lists, tables and code), a sentence; what is long without a seam is divided at a word. The units are
measured, all with one call of the tokenizer, and packed into pieces one after the other: a piece ends at the strongest
seam in the last part of what it may hold, the half of it for a section. Among equals the text after the seam decides,
by its checksum, and not how far along it is: so the cuts fall back in step soon after an edit, which re-embeds the
chunks near it, no others.

Where units end follows from the text around and the end of the unit before, nothing else, and a piece that text not
yet seen may bear on waits for the next window, which measures the text carried into it again. So the same document,
cut into other blocks by its parser, gives the same pieces.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, pairwise
from threading import Lock

from penstock.chunkers.seams import FENCE, FENCED, MARGIN, NOWHERE, PARAGRAPH, SECTION, SENTENCE, divide, pick, soften
from penstock.chunkers.sizes import Chunking, Unit, checked
from penstock.core.contracts import Tokenizer
from penstock.core.errors import UsageError
from penstock.core.records import Block, Piece

WINDOW = 1 << 16
"""Characters that are collected before they are measured and cut: large enough to keep a tokenizer busy."""
ROOMY = 16
"""A token stands for at most so many characters of a piece: a megabyte of blanks has no tokens at all."""

WHITE = " \t\r\n"
"""Cutting anywhere else changes tokens: BERT drops \\x0b, \\x0c and their like, which joins the words around them."""
_COUNTING = Lock()


class TextChunker:
    """Cuts blocks into pieces of at most `size` tokens or characters, and of no more tokens than the tokenizer takes.
    One serves many threads.

    With an overlap a piece begins up to that much before the end of the one before it, but never reaches back into
    another section. A block that is a unit, or has an image, is cut alone. The one thing that can exceed `size` is
    a single character that does so by itself.
    """

    def __init__(
        self, size: int = 256, unit: Unit = "tokens", overlap: int = 0, tokenizer: Tokenizer | None = None
    ) -> None:
        self.chunking = checked(Chunking(size, unit, overlap))
        self.tokenizer = tokenizer
        self.pieces = self.shortened = 0
        """Pieces so far, in all threads, and how many of them ended because the model takes no more tokens."""
        if unit == "tokens" and tokenizer is not None and size > tokenizer.max_tokens:
            raise UsageError(f"chunks of {size} tokens would be truncated: the model takes {tokenizer.max_tokens}")

    @property
    def spec(self) -> str:
        """The chunking in words, e.g. `256 tokens, overlap 32`: part of an index's schema."""
        return str(self.chunking)

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        if self.chunking.unit == "tokens" and self.tokenizer is None:
            raise UsageError(
                "chunks sized in tokens need the model's tokenizer: size them in characters, or pass tokenizer="
            )
        begin = partial(_Run, self.chunking, self.tokenizer, self._count)
        run = begin(0)
        for block in blocks:
            alone = block.unit or block.image is not None
            if alone:
                yield from run.cut(final=True)
                run = begin(run.length)
            if block.image is not None and not block.text.strip():
                where = (run.length, run.length)
                yield Piece("", where, block.page, block.headings, block.metadata, image=block.image)
            for at in range(0, len(block.text), WINDOW):
                run.add(block, block.text[at : at + WINDOW])
                if run.pending >= run.window:
                    yield from run.cut(final=False)
            if alone:
                yield from run.cut(final=True)
                run = begin(run.length)
        yield from run.cut(final=True)

    def _count(self, pieces: int, shortened: int) -> None:
        with _COUNTING:
            self.pieces += pieces
            self.shortened += shortened


# ---------------------------------------------------------------- a window of text


class _Window:
    """Units, measured and packed. Unit i is what lies between ends[i] and ends[i + 1]; `start`, `done`, `end` and
    their like are such indexes. Units that have more tokens than `heaviest` are divided again."""

    def __init__(
        self,
        text: str,
        units: tuple[list[int], list[int]],
        chunking: Chunking,
        tokenizer: Tokenizer | None,
        heaviest: int,
    ) -> None:
        self.text, (self.ends, self.levels) = text, units
        self.tokenizer = tokenizer
        self.size, unit, _ = chunking
        self.most = self.size if tokenizer is None or unit == "tokens" else tokenizer.max_tokens
        """Tokens of a piece, at most."""
        self.rows: list[list[int]] = []
        """The units' tokens."""
        if tokenizer is not None:
            self._tokenize(tokenizer, heaviest)
        self.tokens = list(accumulate(map(len, self.rows), initial=0)) if tokenizer else self.ends
        self.sums = self.tokens if unit == "tokens" else self.ends
        """The number of tokens, or what else the size is in, before each end."""
        self.shortened = 0
        """Pieces of so many characters that had room for another unit, but for its tokens."""
        self.last = len(self.ends) - 1
        sums, ends = self.sums, self.ends
        self.safe = max(bisect_left(sums, sums[-1] - self.size), bisect_left(ends, ends[-1] - ROOMY * self.size))
        """After an end before this there is room for a whole piece: nothing that follows bears on it."""

    def _tokenize(self, tokenizer: Tokenizer, heaviest: int) -> None:
        def encoded(ends: list[int], levels: list[int]) -> list[tuple[int, int, int, list[int]]]:
            texts = [self.text[a:b] for a, b in pairwise(ends)]
            if not tokenizer.additive:  # white space around a unit counts: leave out what a piece of it would
                texts = [text.strip() for text in texts]
            rows = tokenizer.encode(texts) if texts else []
            return [*zip(ends, ends[1:], levels[1:], rows, strict=False)]

        waiting = encoded(self.ends, self.levels)[::-1]
        self.ends, self.levels = self.ends[:1], self.levels[:1]
        while waiting:
            start, end, level, row = waiting.pop()
            if len(row) <= heaviest or end - start == 1:
                self.ends.append(end)
                self.levels.append(level)
                self.rows.append(row)
            else:
                ends, levels = [start], [NOWHERE]
                soften(self.text, start, end, (end - start) // 2, ends, levels)
                waiting += encoded([*ends, end], [*levels, level])[::-1]

    def reach(self, start: int, amount: int) -> int:
        """The last end with no more than `amount` between, and no more characters and tokens than a piece may have."""
        far = max(start, bisect_right(self.sums, self.sums[start] + amount) - 1)
        if self.ends[far] > (room := self.ends[start] + ROOMY * self.size):
            far = bisect_right(self.ends, room) - 1
        if self.tokens[far] > (most := self.tokens[start] + self.most) and self.tokenizer is not None:
            far = max(start, bisect_right(self.tokens, most) - 1)
        return far

    def next(self, start: int, done: int, final: bool) -> tuple[int, int, Sequence[int] | None] | None:
        """Start, end and tokens of the piece that follows; None if it may depend on text not yet seen."""
        limit = self.size
        while True:
            high = self.reach(start, limit)
            if high <= done:
                if start < done:  # the overlap leaves no room for what follows
                    start, limit = done, self.size
                    continue
                high = done + 1
            if high >= self.safe and not final:
                return None
            end = high if high == self.last else self._best(start, done, high, limit)
            tokens = self._tokens(start, end)
            if tokens is None or len(tokens) <= self.most or (start, end) == (done, done + 1):
                more = self.sums[min(high + 1, self.last)] - self.sums[start]
                self.shortened += self.sums is not self.tokens and high < self.last and more <= self.size
                return start, end, tokens
            # More together than the units have apart: try with as much less.
            limit = min(limit * self.most // len(tokens), self.sums[end] - self.sums[start] - 1)

    def _best(self, start: int, done: int, high: int, limit: int) -> int:
        """The end of the piece that begins at `start` and may end after `done` and up to `high`."""
        ends, levels, sums, here = self.ends, self.levels, self.sums, self.sums[start]
        limit = min(limit, sums[high + 1] - here)  # less than the size, where it is tokens that bound it

        def best_of(part: int, of: int) -> tuple[int, int]:
            """The best level where a piece is so full or more, and the first end of that."""
            low = min(max(bisect_left(sums, here + limit * part // of), done + 1), high)
            return max(levels[low : high + 1]), low

        best, low = best_of(2, 3)
        if best < PARAGRAPH:
            best, low = best_of(3, 5)
        if best < SECTION:
            wide = best_of(1, 4 if best < SENTENCE else 2)
            if wide[0] == SECTION or best < SENTENCE <= wide[0]:
                best, low = wide
        if best < SECTION:
            section = next((i for i in range(low - 1, done, -1) if levels[i] == SECTION), 0)
            within = range(section + 1, self.reach(section, self.size) + 1) if section else ()
            whole = next((i for i in within if levels[i] == SECTION), section)
            if sums[whole] - sums[section] > self.size * 3 // 4:
                return section  # what it begins fills a piece, and stays whole
        return bisect_left(ends, pick(self.text, [ends[i] for i in range(low, high + 1) if levels[i] == best]))

    def _tokens(self, start: int, end: int) -> Sequence[int] | None:
        if self.tokenizer is None:
            return None
        text, ends = self.text, self.ends
        if self.tokenizer.additive and all(text[end - 1] in WHITE for end in ends[start + 1 : end]):
            return array("i", list(chain.from_iterable(self.rows[start:end])))
        return array("i", self.tokenizer.encode([text[ends[start] : ends[end]].strip()])[0])

    def back(self, end: int, overlap: int, after: int) -> int:
        """The start of the next piece: up to `overlap` before the end of this one, but after `after` in the text, and
        not before the section."""
        if self.levels[end] == SECTION:
            return end
        floor = bisect_right(self.ends, max(after, self.ends[end] - ROOMY * overlap - 1))
        start = min(max(bisect_left(self.sums, self.sums[end] - overlap), floor), end)
        return next((i for i in range(end - 1, start, -1) if self.levels[i] == SECTION), start)


# ---------------------------------------------------------------- a run of blocks


class _Run:
    """Blocks that are cut as one text, on its way through. Offsets are in the document."""

    def __init__(
        self, chunking: Chunking, tokenizer: Tokenizer | None, count: Callable[[int, int], None], base: int
    ) -> None:
        """`count` is called with the number of pieces, and of those that have fewer characters for their tokens."""
        self.chunking, self.tokenizer, self.count = chunking, tokenizer, count
        size, unit, self.overlap = chunking
        # Several units make a piece, and one fits into an overlap. Most tokens have more than three characters.
        most = self.overlap or size
        if unit == "characters":
            self.longest, ample = max(2, min(size // 4, max(16, most * 9 // 10))), 4 * size
            self.heaviest = max(1, tokenizer.max_tokens // 2) if tokenizer else size
        else:
            self.longest, ample = min(size, max(32, 3 * most)), 32 * size
            self.heaviest = min(size // 2, max(16, most))
        self.window = max(WINDOW, ample)
        """The characters of a window: several pieces, so that little of it is measured twice."""
        self.text, self.base = "", base
        """The text that is held, and its offset."""
        self.parts: list[str] = []
        self.pending = 0
        """Characters added and not yet looked at."""
        self.begin = self.start = self.done = base
        """Offsets: of the first unit, of the next piece, and of the end of the last one."""
        self.fenced = False
        """The units begin inside a code fence."""
        self.marks: list[int] = []
        """Offsets at which a new section or page begins, and the blocks that begin them."""
        self.origins: list[Block] = []
        self.image: bytes | None = None
        """Goes with the first piece of its block."""

    @property
    def length(self) -> int:
        """Of the document so far, in characters."""
        return self.base + len(self.text) + self.pending

    def add(self, block: Block, text: str) -> None:
        if not self.origins or not _alike(block, self.origins[-1]):
            self.marks.append(self.length)
            self.origins.append(block)
            self.image = block.image
        self.parts.append(text)
        self.pending += len(text)

    def cut(self, final: bool) -> Iterator[Piece]:
        """The pieces that the text so far decides; all of them if it is final."""
        text = self.text = "".join([self.text, *self.parts])
        self.parts, self.pending = [], 0
        begin, known = self.begin - self.base, len(text) - (0 if final else MARGIN)
        if known <= begin:
            return
        marks = [mark - self.base for mark in self.marks if mark > self.begin]
        units = divide(text, begin, marks, known, self.longest)
        window = _Window(text, units, self.chunking, self.tokenizer, self.heaviest)
        fences = [begin - 1] if self.fenced else []
        fences += [match.start() for match in FENCE.finditer(text, begin)]
        for opened, closed in zip(fences[::2], [*fences[1::2], len(text)], strict=False):
            for i in range(bisect_right(window.ends, opened), bisect_right(window.ends, closed)):
                window.levels[i] -= FENCED if window.levels[i] < SECTION else 0
        yield from self._pieces(window, final)
        # From the end of a unit that was not divided for its tokens on, the same units will be found again.
        begin = units[0][bisect_right(units[0], self.start - self.base) - 1]
        self.fenced = bool(bisect_left(fences, begin) & 1)
        kept = max(0, begin - MARGIN)
        self.begin = self.base + begin
        self.text, self.base = text[kept:], self.base + kept
        old = bisect_right(self.marks, self.begin) - 1
        del self.marks[:old], self.origins[:old]

    def _pieces(self, window: _Window, final: bool) -> Iterator[Piece]:
        text, ends = window.text, window.ends
        start, done = bisect_left(ends, self.start - self.base), bisect_left(ends, self.done - self.base)
        count = 0
        while done < window.last and (found := window.next(start, done, final)):
            start, end, tokens = found
            bare = text[ends[start] : ends[end]].rstrip()
            first = ends[start] + len(bare) - len(bare := bare.lstrip())
            if bare and (start == done or not text[ends[done] : ends[end]].isspace()):
                where = self.base + first
                block = self.origins[bisect_right(self.marks, where) - 1]
                image, self.image = self.image, None
                span = (where, where + len(bare))
                count += 1
                yield Piece(bare, span, block.page, block.headings, block.metadata, tokens, image)
            start = window.back(end, self.overlap, first) if self.overlap else end
            done = end
        self.start, self.done = self.base + ends[start], self.base + ends[done]
        self.count(count, window.shortened)


def _alike(one: Block, other: Block) -> bool:
    return one.page == other.page and one.headings == other.headings and one.metadata == other.metadata
