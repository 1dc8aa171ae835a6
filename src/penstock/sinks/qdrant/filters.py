"""Filters in Qdrant's language."""

from __future__ import annotations

import re
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.fields import Path, Scalar
from penstock.core.filters import Absent, Among, Compare, Every, Filter, HasValue, Not, Some
from penstock.sinks import terms
from penstock.sinks.lengths import key
from penstock.sinks.qdrant.fields import NUMBERS, measured

LARGEST_NUMBER = 1 << 53
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def translate(wanted: Filter, m: Any, *, filterable: bool) -> Any:
    """Translate the tree, by the client's models `m`, for a collection that is kept `filterable` or as earlier.

    Raises UsageError for the order of texts, which Qdrant lacks.
    """
    nothing = m.HasIdCondition(has_id=[])
    match wanted:
        case Compare("id", "=", str(value)):
            return m.HasIdCondition(has_id=[key(value)])
        case Among("id", values):
            return m.HasIdCondition(has_id=[key(str(value)) for value in values])
        case Compare(field, "=", value):
            return m.FieldCondition(key=field, match=m.MatchValue(value=value)) if _encodable(value) else nothing
        case Compare(field, sign, int(value)):
            if abs(value) > LARGEST_NUMBER:
                raise UsageError(f"{field}: Qdrant compares numbers up to 2^53, not {value}")
            return m.FieldCondition(key=field, range=m.Range(**{_BOUNDS[sign]: value}))
        case Compare(field, sign, _):
            raise UsageError(f"{field}: Qdrant does not order texts: {sign} is for numbers")
        case Among(field, values):
            known = [value for value in values if _encodable(value)]
            return m.FieldCondition(key=field, match=m.MatchAny(any=known)) if known else nothing
        case Absent("image") if filterable:
            return m.Filter(must_not=[_term(terms.IMAGE, m)])
        case Absent(field):
            return m.IsEmptyCondition(is_empty=m.PayloadField(key=field))
        case HasValue(path, "exists"):
            return _term(terms.named(path), m)
        case HasValue(path, "=", value) if value is not None and not isinstance(value, tuple):
            return _term(terms.term(path, value), m)
        case HasValue(path, "in", tuple(several)):
            any_of = m.MatchAny(any=[terms.term(path, value) for value in several])
            return m.FieldCondition(key=terms.TERMS, match=any_of) if several else nothing
        case HasValue(path, "prefix", str(value)):
            if len(value) > terms.LONGEST:
                most = terms.LONGEST
                raise UsageError(f"{wanted.name}: Qdrant keeps the first {most} characters of a text for $prefix")
            return m.FieldCondition(key=terms.TERMS, match=m.MatchPrefix(prefix=terms.term(path, value)))
        case HasValue(path, sign, value) if not isinstance(value, tuple) and value is not None:
            return _order(path, sign, value, wanted.name, m)
        case Every(parts):
            return m.Filter(must=[translate(part, m, filterable=filterable) for part in parts])
        case Some(parts):
            return m.Filter(should=[translate(part, m, filterable=filterable) for part in parts])
        case Not(term):
            return m.Filter(must_not=[translate(term, m, filterable=filterable)])
    raise AssertionError(wanted)


def _term(text: str, m: Any) -> Any:
    return m.FieldCondition(key=terms.TERMS, match=m.MatchValue(value=text))


def _order(path: Path, sign: str, value: Scalar, name: str, m: Any) -> Any:
    if (measure := measured(value)) is None:
        raise UsageError(
            f"{name}: Qdrant does not order texts: {sign} is for numbers, and for dates and times such as 2024-01-05"
        )
    kind, number = measure
    conditions = [
        m.FieldCondition(key="field", match=m.MatchValue(value=terms.named(path))),
        m.FieldCondition(key=kind, range=m.Range(**{_BOUNDS[sign]: number})),
    ]
    return m.NestedCondition(nested=m.Nested(key=NUMBERS, filter=m.Filter(must=conditions)))


def _encodable(value: str | int) -> bool:
    """A text with a lone surrogate has no UTF-8, and equals nothing that is stored."""
    return not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))
