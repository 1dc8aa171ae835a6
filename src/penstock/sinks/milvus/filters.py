"""Filters as Milvus's expressions, which are texts.

What is asked of metadata is looked up in two fields: `terms`, see penstock.sinks.terms, and `bounds`, a mapping of
names to the least and the greatest value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.core.errors import UsageError
from penstock.core.fields import Scalar, kind
from penstock.core.filters import Absent, Among, Compare, Every, Filter, HasValue, Not, Some, Value
from penstock.sinks import hashed_terms as terms

LONGEST_TEXT = 65_530
"""In bytes. A longer text is kept in pieces, with which nothing is compared."""
LONGEST_ORDERED = 256
"""In characters, of a text of metadata: the order of longer ones is known with regard to texts up to this length."""
NEVER = "(has_page == true and has_page == false)"
Contains = Callable[[Sequence[str]], str]
"""Writes the condition that a chunk has one of these terms."""

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def translate(wanted: Filter, contains: Contains) -> str:
    """Translate the tree, without the nulls and constants that the language has."""
    match wanted:
        case Compare(field, sign, value):
            return _present(field, f"{field} {'==' if sign == '=' else sign} {_checked(field, value)}")
        case Among(field, values):
            inside = ", ".join(_checked(field, value) for value in values)
            return _present(field, f"{field} in [{inside}]") if values else NEVER
        case Absent("image"):
            return contains([terms.of_type(image=False)])
        case Absent(field):
            return "(has_page == false)" if field == "page" else NEVER
        case HasValue():
            return _has_value(wanted, contains)
        case Every(parts):
            return f"({' and '.join(translate(part, contains) for part in parts)})"
        case Some(parts):
            return f"({' or '.join(translate(part, contains) for part in parts)})"
        case Not(term):
            return f"(not {translate(term, contains)})"


def contains_text(wanted: Sequence[str]) -> str:
    """For terms that are one text: Milvus Lite looks at each row of an array in Python, and not at those of a text."""
    likes = [f'terms like "% {term} %"' for term in wanted]
    return f"({' or '.join(likes)})"


def contains_item(wanted: Sequence[str]) -> str:
    """For terms that are an array, which has an index."""
    return f"array_contains_any(terms, [{', '.join(map(literal, wanted))}])"


def _has_value(wanted: HasValue, contains: Contains) -> str:
    path, asked = wanted.path, wanted.value
    if isinstance(asked, tuple):
        return contains([terms.equal(path, value) for value in asked]) if asked else NEVER
    if asked is None:
        return contains([terms.present(path)])
    if wanted.operator == "=":
        return contains([terms.equal(path, asked)])
    if wanted.operator == "prefix":
        raise UsageError(f"{wanted.name}: Milvus does not find what a text of metadata begins with; by =, in and order")
    held = f'bounds["{terms.bound(path, kind(asked))}"]'
    end = 1 if wanted.operator in (">", ">=") else 0
    return f"(exists {held} and {held}[{end}] {wanted.operator} {_ordered_literal(wanted.name, asked)})"


def ordered(value: Scalar) -> float | str | None:
    """A value of metadata as its bounds have it. A clipped text is greater than the texts that it begins with."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_ORDERED else value[:LONGEST_ORDERED] + "+"
    return terms.double(value)


def _ordered_literal(name: str, value: Scalar) -> str:
    if not isinstance(value, str):
        return repr(float(value))
    if len(value) > LONGEST_ORDERED:
        raise UsageError(f"{name}: Milvus orders by texts of {LONGEST_ORDERED} characters at most, not {len(value):,}")
    return _checked(name, value)


def _present(field: str, condition: str) -> str:
    return f"(has_page == true and {condition})" if field == "page" else f"({condition})"


def _checked(field: str, value: Value) -> str:
    if isinstance(value, int):
        return str(value)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{field}: Milvus cannot compare with {value!r}, which has no UTF-8") from None
    if size > LONGEST_TEXT:
        raise UsageError(f"{field}: Milvus compares with {LONGEST_TEXT:,} bytes at most, not {size:,}")
    return literal(value)


def literal(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'


def among(ids: Sequence[str]) -> str:
    return f"id in [{', '.join(map(literal, ids))}]"


def encodable(ids: Sequence[str]) -> list[str]:
    """One each, without those that have no UTF-8 and so cannot be in the collection."""
    return [id for id in dict.fromkeys(ids) if id.isascii() or id.encode(errors="ignore").decode() == id]
