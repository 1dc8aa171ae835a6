"""Filters of texts as they are kept."""

from __future__ import annotations

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.sinks.pgvector.values import encoded, storable


def as_stored(wanted: filters.Filter) -> filters.Filter:
    """The same filter of texts as they are kept; beside a term about a uri, one for the index on uris' starts."""
    match wanted:
        case filters.Compare(field, sign, str(value)):
            term = filters.Compare(field, sign, _encoded(value))
            start = filters.Compare("left(uri, 500)", sign, _encoded(value)[:500])
            return filters.Every((start, term)) if (field, sign) == ("uri", "=") else term
        case filters.Among(field, values) if filters.FIELDS[field] is str:
            texts = tuple(_encoded(str(value)) for value in values)
            among = filters.Among(field, texts)
            starts = filters.Among("left(uri, 500)", tuple(text[:500] for text in texts))
            return filters.Every((starts, among)) if field == "uri" else among
        case filters.Every(terms):
            return filters.Every(tuple(map(as_stored, terms)))
        case filters.Some(terms):
            return filters.Some(tuple(map(as_stored, terms)))
        case filters.Not(term):
            return filters.Not(as_stored(term))
        case _:
            return wanted


def _encoded(text: str) -> str:
    if next(storable([text]), None) is None:
        raise UsageError(f"invalid value in a filter: {text!r} has a lone surrogate, which no text can hold")
    return encoded(text)
