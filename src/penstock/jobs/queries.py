"""Search queries of Python and of the server, checked; and the cursors that lead from page to page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.filter_parser import parse_filter
from penstock.jobs.own_vectors import Own
from penstock.jobs.since import since_text, within

MAX_DEPTH = 10_000
"""Hits that pages lead to in all: as deep as every store can go."""
MAX_DISTINCT_DEPTH = 1000
"""The same where near-duplicates are collapsed, as the vectors of all hits before are compared."""
TYPES = ("text", "image")
MAX_WEIGHT = 100
"""Of a leg of a hybrid search."""


@dataclass(frozen=True, slots=True)
class Query:
    text: str | None = None
    text_weight: float = 1.0
    image: bytes | None = None
    image_url: str | None = None
    image_weight: float = 1.0
    vector: Own | None = None
    using: str | None = None
    hybrid: bool | Mapping[str, float] = False
    """Search by several legs, and fuse their ranks: True for all that the index has, or the weights of some."""
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    where: Mapping[str, Any] | None = None
    since: str | None = None
    """A moment, or how long before now it was: see jobs.since."""
    k: int = 20
    offset: int = 0
    threshold: float | None = None
    distinct: bool = False
    rerank: bool = False
    """Have a reranker order the best hits, and score them."""
    types: tuple[str, ...] = ()
    """Those of the chunks to find, of TYPES; all where it is empty."""
    facets: tuple[str, ...] = ()
    """Fields whose values are counted as well, of all chunks that pass the filter."""
    digest: str = ""
    """The same for every page of one query."""

    @property
    def narrowed(self) -> Mapping[str, Any] | None:
        """The filter that the chunks of these types and since then pass, of those that pass `where`."""
        where = within(self.where, self.since)
        if not self.types or set(self.types) == set(TYPES):
            return where
        wanted = {"type": list(self.types)}
        return {"$and": [where, wanted]} if where else wanted

    @property
    def max_depth(self) -> int:
        return MAX_DISTINCT_DEPTH if self.distinct else MAX_DEPTH

    def cursor(self, offset: int) -> str:
        fields = json.dumps({"at": offset, "of": self.digest})
        return base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")


def checked(query: Query, cursor: str | None = None) -> Query:
    """The query, at the page that the cursor leads to. Raises UsageError where it cannot be answered."""
    searchable = (
        (query.text is not None and query.text_weight > 0)
        or ((query.image is not None or query.image_url is not None) and query.image_weight > 0)
        or query.vector is not None
        or query.like
    )
    if query.text is not None and not query.text.strip():
        raise UsageError("the text is empty")
    if query.image == b"":
        raise UsageError("the image is empty: zero bytes")
    if not searchable:
        raise UsageError("empty query: expected text, image, image_url, vector or like, with a weight above 0")
    if query.hybrid is not False:
        _check_hybrid(query)
    if query.rerank:
        _check_rerank(query, cursor)
    if unknown := [one for one in query.types if one not in TYPES]:
        raise UsageError(f"types: unknown type {unknown[0]!r}: expected one of {', '.join(TYPES)}")
    check_filter(query.where)
    if query.since is not None:
        since_text(query.since)
    query = replace(query, digest=_digest(query))
    return query if cursor is None else replace(query, offset=_offset(cursor, query))


def _check_hybrid(query: Query) -> None:
    if query.hybrid is not True:
        expected = "expected true, or the weights of some legs such as {'vector': 1, 'words': 0.5}"
        if not isinstance(query.hybrid, Mapping) or not query.hybrid:
            raise UsageError(f"hybrid: invalid value {str(query.hybrid)[:100]!r}: {expected}")
        for name, weight in query.hybrid.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
                expected = f"expected a number above 0, at most {MAX_WEIGHT}"
                raise UsageError(f"hybrid: invalid weight {str(weight)[:100]} of {str(name)[:100]!r}: {expected}")
    if query.using is not None:
        raise UsageError("hybrid: it searches by several legs, using by one vector: expected one of these two")
    if query.threshold is not None and not query.rerank:
        raise UsageError(
            "threshold: a hybrid search ranks hits by their ranks in several legs, whose scores cannot be compared;"
            " search without hybrid"
        )
    if query.vector is not None:
        raise UsageError("vector: it fits one leg of a hybrid search only; expected a text, or a search without hybrid")
    if query.text is None or query.text_weight <= 0:
        raise UsageError("hybrid: it needs a text, with a weight above 0; search without hybrid")


def _check_rerank(query: Query, cursor: str | None) -> None:
    if query.text is None or query.text_weight <= 0:
        raise UsageError("rerank: it needs a text, with a weight above 0; search without rerank")
    if cursor is not None:
        raise UsageError("cursor: a reranked search has no further pages; ask for a larger k")


def check_filter(where: Mapping[str, Any] | None) -> None:
    """Raise UsageError for an invalid filter."""
    try:
        parse_filter(where)
    except UsageError as error:
        raise UsageError(f"where: {error}") from None
    try:
        json.dumps(where, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError:
        raise UsageError("where: a lone surrogate is not a character") from None


def _digest(query: Query) -> str:
    image = hashlib.blake2b(query.image or b"", digest_size=16).hexdigest()
    fields = [
        *(query.text, query.text_weight, image, query.image_url, query.image_weight, query.vector, query.using),
        query.hybrid if isinstance(query.hybrid, bool) else dict(query.hybrid),
        *(
            query.like,
            query.unlike,
            query.minus,
            query.where,
            query.threshold,
            query.distinct,
            query.types,
            query.since,
        ),
    ]
    return hashlib.blake2b(json.dumps(fields, sort_keys=True, default=repr).encode(), digest_size=12).hexdigest()


def _offset(cursor: str, query: Query) -> int:
    invalid = UsageError("cursor: invalid; expected one that an earlier page gave")
    try:
        fields = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        offset, digest = fields["at"], fields["of"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid from None
    if type(offset) is not int or offset < 0:
        raise invalid
    if digest != query.digest:
        raise UsageError("cursor: it belongs to another query; send the same query, or no cursor")
    if offset >= query.max_depth:
        raise UsageError(f"cursor: only the first {query.max_depth:,} hits can be fetched; narrow the query")
    return offset
