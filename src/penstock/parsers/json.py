"""JSON as `key: value` lines, nested names dotted; each object of an array is a unit, as a table's row is.

Streamed: at most a value of VALUE characters is held, whatever the size of the file. A small file that is not valid
JSON (one with comments, mostly) is read as text; a larger one as far as it is valid, and its rest as text, with a Gap.
A file of JSON lines is read as such under this name, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from penstock.core.errors import LimitExceeded
from penstock.core.records import Block, Gap, Item
from penstock.parsers import tables
from penstock.parsers.tables import flat, joined
from penstock.parsers.text import charset, cut, decoded

VALUE = 4 << 20
"""The most characters of a value that is taken whole; what has more is entered, and a string left out."""
SMALL = 1 << 20
"""Characters up to which a file is looked through before any of it is given out."""
_LISTED = 1 << 14
"""Characters of an array within an object, up to which it is part of that and no table."""
_STEP = 1 << 16
_DEEPEST = 100
_NEAR = 16
"""Characters before the end of what has been read in which an error may be for want of the rest."""
_BLANK = re.compile(r"[ \t\r\n\ufeff]*")
_STRING_END = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# Numbers stay as they were written.
_DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    text = _Text(decoded(stream, charset(item)))
    small = text.fill(SMALL)
    if _by_lines(text.ahead[:SMALL]):
        stream.seek(0)
        yield from tables.lines(stream, item)
        return
    blocks = joined(_document(text))
    try:
        complete = list(blocks) if small else blocks
        for block in complete:
            yield from text.gaps()
            yield block
    except _Invalid as error:
        if not small:
            yield Gap(f"not valid JSON from about character {text.position:,} on, which is read as text: {error}")
        else:
            text.rewind()
        for rest in text.rest():
            for part in cut(rest):
                yield Block(part)
    yield from text.gaps()


class _Invalid(Exception):
    """The text is not JSON here."""


class _TooLong(Exception):
    """The value does not end soon enough."""


class _Text:
    """A text that comes in pieces, read value by value."""

    def __init__(self, texts: Iterator[str | Gap]) -> None:
        self._texts = texts
        self._gaps: list[Gap] = []
        self._held, self._at, self._before = "", 0, 0
        self._ended = False

    @property
    def position(self) -> int:
        return self._before + self._at

    @property
    def ahead(self) -> str:
        return self._held[self._at :]

    def gaps(self) -> Iterator[Gap]:
        yield from self._gaps
        self._gaps.clear()

    def fill(self, size: int) -> bool:
        """Have more than `size` characters ahead. True if the text has no more than that."""
        missing = size + 1 - (len(self._held) - self._at)
        parts: list[str] = []
        while missing > 0 and not self._ended:
            text = next(self._texts, None)
            if text is None:
                self._ended = True
            elif isinstance(text, Gap):
                self._gaps.append(text)
            else:
                parts.append(text)
                missing -= len(text)
        if parts:
            self._held = "".join([self._held[self._at :], *parts])
            self._before, self._at = self._before + self._at, 0
        return self._ended and missing > 0

    def rewind(self) -> None:
        """To the beginning of a text that is held whole."""
        self._at = 0

    def rest(self) -> Iterator[str]:
        yield self.ahead
        for text in self._texts:
            if isinstance(text, Gap):
                self._gaps.append(text)
            else:
                yield text

    def peek(self) -> str:
        """The next character that is not blank; nothing at the end."""
        while True:
            self._at = self._blank_end()
            if self._at < len(self._held):
                return self._held[self._at]
            if self.fill(_STEP) and self._at == len(self._held):
                return ""

    def _blank_end(self) -> int:
        blank = _BLANK.match(self._held, self._at)
        return blank.end() if blank else self._at

    def skip(self, expected: str) -> None:
        if (character := self.peek()) not in expected or not character:
            raise _Invalid(f"{character!r} where one of {expected} belongs" if character else "it breaks off")
        self._at += 1

    def value(self, most: int) -> Any:
        """The value that begins here. Raises _TooLong where it has more characters than `most`, and stays there."""
        self.peek()
        size = _STEP
        while True:
            ended = self.fill(size)
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                unended = error.msg.startswith("Unterminated string") or error.pos > len(self._held) - _NEAR
                if ended or not unended:
                    raise _Invalid(error.msg) from None
            except RecursionError:
                raise LimitExceeded("JSON nested too deeply") from None
            else:
                if end - self._at > most:
                    raise _TooLong
                if end < len(self._held) or ended:  # a number may go on
                    self._at = end
                    return value
            if size > most:
                raise _TooLong
            size *= 2

    def skip_string(self) -> None:
        self._at += 1
        while (end := _STRING_END.match(self._held, self._at)) is None:
            ahead = self.ahead
            # What is left of an escape that is cut in two.
            self._at = len(self._held) - (len(ahead) - len(ahead.rstrip("\\"))) % 2
            if self.fill(_STEP) and _STRING_END.match(self._held, self._at) is None:
                raise _Invalid("a string is never closed")
        self._at = end.end()

    def note(self, cause: str) -> None:
        self._gaps.append(Gap(cause))


def _by_lines(head: str) -> bool:
    """Whether there is an object a line, and more than one."""
    lines = [line for line in head.split("\n", 8)[:8] if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


# ---------------------------------------------------------------- values to blocks


def _document(text: _Text) -> Iterator[Block]:
    while text.peek():
        yield from _entered(text, "", 0)


def _value(text: _Text, path: str, depth: int, most: int) -> Iterator[Block]:
    """A value within an object: on its lines if it is small, else entered."""
    try:
        value = text.value(most if text.peek() in "[{" else VALUE)
    except _TooLong:
        yield from _entered(text, path, depth)
    else:
        yield _lines(path, value)


def _entered(text: _Text, path: str, depth: int) -> Iterator[Block]:
    if depth > _DEEPEST:
        raise LimitExceeded(f"JSON nested deeper than {_DEEPEST}")
    begins = text.peek()
    if begins == "{":
        yield from _members(text, path, depth)
    elif begins == "[":
        yield from _elements(text, path, depth)
    else:
        try:
            yield _lines(path, text.value(VALUE))
        except _TooLong:
            if begins != '"':
                raise _Invalid("a number too long") from None
            text.skip_string()
            text.note(f"{path or 'the document'}: a string of more than {VALUE >> 20} MiB was left out"[:300])


def _members(text: _Text, path: str, depth: int) -> Iterator[Block]:
    text.skip("{")
    while (begins := text.peek()) != "}":
        if begins != '"':
            raise _Invalid("a name in quotes belongs here")
        try:
            name = str(text.value(_STEP))
        except _TooLong:
            raise _Invalid(f"a name of more than {_STEP:,} characters") from None
        text.skip(":")
        yield from _value(text, f"{path}.{name}" if path else name, depth + 1, _LISTED)
        if text.peek() != "}":
            text.skip(",")
    text.skip("}")


def _elements(text: _Text, path: str, depth: int) -> Iterator[Block]:
    text.skip("[")
    number = 0
    while (begins := text.peek()) != "]":
        number += 1
        if begins == "{":
            yield from _record(text, path, number, depth)
        else:
            yield from _value(text, f"{path}.{number}" if path and begins == "[" else path, depth + 1, VALUE)
        if text.peek() != "]":
            text.skip(",")
    text.skip("]")


def _record(text: _Text, path: str, number: int, depth: int) -> Iterator[Block]:
    try:
        value = text.value(VALUE)
    except _TooLong:
        yield from _members(text, f"{path}.{number}" if path else str(number), depth + 1)
        return
    if (block := _lines("", value)).text:
        metadata: dict[str, Any] = {"row": number} | ({"path": path[:200]} if path else {})
        yield Block(block.text + "\n", unit=True, metadata=metadata)


def _lines(path: str, value: Any) -> Block:
    return Block("".join(f"{name}: {inner}\n" if name else f"{inner}\n" for name, inner in flat(path, value)))
