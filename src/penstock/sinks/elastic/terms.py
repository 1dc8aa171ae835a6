r"""Fields of metadata as terms of one keyword field: fields of any name, number and type add none to the mapping.

A field that is there has the term of its path, `author.name`, a mapping too. Each of its values has another one:
`author.name=sAnn`, `draft=b1`, `year=nc09f9c0000000000`. The values of a field that are of one type are in their order.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from penstock.core.fields import Path, Scalar

FIELD = "fields"
LONGEST_TEXT = 1000
"""Characters of a value in its term, which may have 32,766 bytes; a digest stands for the rest of a longer one."""
LONGEST_NAME = 256
"""Characters of a path in a term: a facet is counted by a regular expression, which may have 1,000."""

_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\.="})
_SIGN, _BITS = 1 << 63, (1 << 64) - 1
_EXACT = 1 << 63


@lru_cache(1024)
def name_of(path: Path) -> str:
    """The path as it is in terms. Cached, since documents have the same fields."""
    name = ".".join(part.translate(_ESCAPES) for part in path)
    return f"#{digest(name)}" if len(name) > LONGEST_NAME or name.startswith("#") else name


def term_of(name: str, value: Scalar) -> str:
    """The term of a value of the field of that name."""
    if isinstance(value, str):
        return f"{name}=s{value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + digest(value)}"
    return f"{name}=b{value:d}" if isinstance(value, bool) else f"{name}=n{_written(value)}"


def span(name: str, value: Scalar) -> tuple[str, str]:
    """Where the terms of the values begin that are of the type of this one, and where those of the next type do."""
    first = term_of(name, value)[: len(name) + 2]
    return first, f"{first[:-1]}{chr(ord(first[-1]) + 1)}"


@lru_cache(64)
def terms_of(metadata: str) -> Sequence[str]:
    """The terms of metadata that are kept as this JSON. Cached, since the chunks of a document have the same."""
    return tuple(dict.fromkeys(_terms(json.loads(metadata), ())))


def _terms(metadata: dict[str, Any], above: Path) -> Iterator[str]:
    # What has a value, and scalars, as in core.fields, but of the types that JSON has: half the time of a batch of
    # documents that each have other metadata.
    for part, value in metadata.items():
        if value is None or value in ([], {}):
            continue
        path = (*above, part)
        yield (name := name_of(path))
        if isinstance(value, dict):
            yield from _terms(value, path)
            continue
        for scalar in value if isinstance(value, list) else [value]:
            if isinstance(scalar, str | int) or (isinstance(scalar, float) and not math.isnan(scalar)):
                yield term_of(name, scalar)


def value_of(term: str, name: str) -> Scalar | None:
    """The value that has this term; None for a text of which it has only the beginning."""
    letter, written = term[len(name) + 1], term[len(name) + 2 :]
    if letter == "b":
        return written == "1"
    if letter == "n":
        return _number(written)
    return written if len(written) <= LONGEST_TEXT else None


def pattern(name: str) -> str:
    """The regular expression, in Lucene's syntax, of the terms of a field's values."""
    return "".join(c if c.isalnum() or not c.isascii() else f"\\{c}" for c in f"{name}=") + ".*"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _written(value: float) -> str:
    """A number so that the order of the texts is that of the numbers."""
    double = float(value) + 0.0  # there is one zero
    rest = ""
    if double != value:  # an integer between two doubles: after the lower one
        rest = str(value)
        if double > value:
            double = math.nextafter(double, -math.inf)
    (bits,) = struct.unpack(">Q", struct.pack(">d", double))
    return f"{bits ^ (_BITS if bits & _SIGN else _SIGN):016x}{rest}"


def _number(written: str) -> int | float:
    if rest := written[16:]:
        return int(rest)
    bits = int(written, 16)
    (double,) = struct.unpack(">d", struct.pack(">Q", bits ^ (_SIGN if bits & _SIGN else _BITS)))
    return int(double) if abs(double) < _EXACT and double.is_integer() else float(double)
