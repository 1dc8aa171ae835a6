"""Filters as Milvus's expressions, which are texts."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.core.errors import UsageError
from penstock.core.filters import Absent, Among, Compare, Every, Filter, Not, Some, Value

LONGEST_TEXT = 65_530
"""In bytes. A longer text is kept in pieces, with which nothing is compared."""
NEVER = "(has_page == true and has_page == false)"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def translate(wanted: Filter) -> str:
    """Translate the tree, without the nulls and constants that the language has."""
    match wanted:
        case Compare(field, sign, value):
            return _present(field, f"{field} {'==' if sign == '=' else sign} {_checked(field, value)}")
        case Among(field, values):
            inside = ", ".join(_checked(field, value) for value in values)
            return _present(field, f"{field} in [{inside}]") if values else NEVER
        case Absent(field):
            return "(has_page == false)" if field == "page" else NEVER
        case Every(terms):
            return f"({' and '.join(map(translate, terms))})"
        case Some(terms):
            return f"({' or '.join(map(translate, terms))})"
        case Not(term):
            return f"(not {translate(term)})"


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
