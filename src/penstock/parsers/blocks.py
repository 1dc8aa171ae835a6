"""A parser's blocks on their way in: checked, since parsers are anybody's, and rid of what no store takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from penstock.core.errors import ParseError
from penstock.core.records import NOTHING, Block, Gap

GAPS = 1000
"""Parts of a document that are listed one by one where they cannot be read."""
_DEEPEST = 50


def all_checked(parts: Iterable[Block | Gap | str], parser: str) -> Iterator[Block | Gap]:
    """The parts, each checked. Gaps have an end: each is a row of the ledger, and a file of a kilobyte may claim
    millions of pages."""
    gaps = 0
    for part in parts:
        block = checked(part, parser)
        if isinstance(block, Gap):
            gaps += 1
        if block is not None and not (isinstance(block, Gap) and gaps > GAPS):
            yield block
    if gaps > GAPS:
        yield Gap(f"{gaps - GAPS:,} more parts of it cannot be read")


def checked(part: Block | Gap | str, parser: str) -> Block | Gap | None:
    """A part as the engine takes it: no bare strings, empty blocks, NULs or lone surrogates. Raises ParseError, with
    the parser and the field, for what is not of the type that the contract says."""
    if isinstance(part, Gap):
        _check_gap(part, parser)
        return part
    if isinstance(part, str):
        part = Block(part)
    elif isinstance(part, Block):
        _check(part, parser)
    else:
        raise ParseError(f"the parser {parser} yielded a {type(part).__name__}: expected a Block, Gap or str")
    text = part.text
    if "\0" in text:
        part = replace(part, text=(text := text.replace("\0", "")))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            part = replace(part, text=text.encode("utf-8", "replace").decode())
    return part if part.text or part.image is not None else None


def _check(block: Block, parser: str) -> None:
    if not isinstance(block.text, str):
        raise _wrong(parser, "Block", "text", block.text, "a str")
    if block.image is not None and not isinstance(block.image, bytes):
        raise _wrong(parser, "Block", "image", block.image, "bytes or None")
    if block.page is not None and not _is_page(block.page):
        raise _wrong(parser, "Block", "page", block.page, "an int or None")
    if not isinstance(block.headings, tuple) or not all(isinstance(heading, str) for heading in block.headings):
        raise _wrong(parser, "Block", "headings", block.headings, "a tuple of str")
    if not isinstance(block.unit, bool):
        raise _wrong(parser, "Block", "unit", block.unit, "a bool")
    if block.metadata is not NOTHING and not (isinstance(block.metadata, Mapping) and _is_plain(block.metadata)):
        raise _wrong(parser, "Block", "metadata", block.metadata, "a mapping as JSON has it, with names of str")


def _check_gap(gap: Gap, parser: str) -> None:
    if not isinstance(gap.cause, str):
        raise _wrong(parser, "Gap", "cause", gap.cause, "a str")
    if gap.page is not None and not _is_page(gap.page):
        raise _wrong(parser, "Gap", "page", gap.page, "an int or None")


def _wrong(parser: str, record: str, field: str, value: object, expected: str) -> ParseError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return ParseError(f"the parser {parser} yielded a {record} with {field}={shown}: expected {expected}")


def _is_page(value: object) -> bool:
    """Whether it is a number that every store can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON has such a value."""
    if value is None or isinstance(value, str | int | float):
        return True
    if depth > _DEEPEST:
        return False
    if isinstance(value, list | tuple):
        return all(_is_plain(inner, depth + 1) for inner in value)
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and _is_plain(inner, depth + 1) for name, inner in value.items()
    )
