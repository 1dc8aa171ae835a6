"""Filters in Qdrant's language."""

from __future__ import annotations

import re
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.filters import Absent, Among, Compare, Every, Filter, Not, Some
from penstock.sinks.lengths import key

LARGEST_NUMBER = 1 << 53


def translate(wanted: Filter, m: Any) -> Any:
    """Translate the tree, by the client's models `m`. Raises UsageError for the order of texts, which Qdrant lacks."""
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
            bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[sign]
            return m.FieldCondition(key=field, range=m.Range(**{bound: value}))
        case Compare(field, sign, _):
            raise UsageError(f"{field}: Qdrant does not order texts: {sign} is for numbers")
        case Among(field, values):
            known = [value for value in values if _encodable(value)]
            return m.FieldCondition(key=field, match=m.MatchAny(any=known)) if known else nothing
        case Absent(field):
            return m.IsEmptyCondition(is_empty=m.PayloadField(key=field))
        case Every(terms):
            return m.Filter(must=[translate(term, m) for term in terms])
        case Some(terms):
            return m.Filter(should=[translate(term, m) for term in terms])
        case Not(term):
            return m.Filter(must_not=[translate(term, m)])


def _encodable(value: str | int) -> bool:
    """A text with a lone surrogate has no UTF-8, and equals nothing that is stored."""
    return not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))
