"""Search queries, checked; and the cursors that lead from page to page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.server.problems import bad_request
from penstock.server.schemas import SEARCH, validate

MAX_DEPTH = 10_000
"""Hits that pages lead to in all: as deep as every store can go."""
MAX_DISTINCT_DEPTH = 1000
"""The same where near-duplicates are collapsed, as the vectors of all hits before are compared."""
MAX_COMPARISONS = 500
"""Comparisons in a filter."""


@dataclass(frozen=True, slots=True)
class Query:
    text: str | None = None
    text_weight: float = 1.0
    image: bytes | None = None
    image_url: str | None = None
    image_weight: float = 1.0
    vector: tuple[float, ...] | None = None
    using: str | None = None
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    where: Mapping[str, Any] | None = None
    k: int = 20
    offset: int = 0
    threshold: float | None = None
    distinct: bool = False
    digest: str = ""
    """The same for every page of one query."""

    @property
    def max_depth(self) -> int:
        return MAX_DISTINCT_DEPTH if self.distinct else MAX_DEPTH

    def cursor(self, offset: int) -> str:
        fields = json.dumps({"at": offset, "of": self.digest})
        return base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")


def parse_query(body: Any, image: bytes | None = None, name: str = "the body") -> Query:
    """Check a request's body; `image` is one that was uploaded beside it. Raises Problem."""
    fields = validate(body, SEARCH, name)
    encoded, url = fields.pop("image", None), fields.get("image_url")
    if sum((image is not None, encoded is not None, bool(url))) > 1:
        raise bad_request("more than one image: expected one of image, image_url and an uploaded file")
    if encoded is not None:
        image = decode_image(encoded)
    if image == b"":
        raise bad_request("the image is empty: zero bytes")
    cursor = fields.pop("cursor", None)
    for key in ("like", "unlike", "minus", "vector"):
        if key in fields:
            fields[key] = tuple(fields[key])
    text = fields.get("text")
    if text is not None and not text.strip():
        raise bad_request("the text is empty")
    query = Query(**{**fields, "image": image})
    _check(query)
    query = replace(query, digest=_digest(query))
    return query if cursor is None else replace(query, offset=_offset(cursor, query))


def _check(query: Query) -> None:
    searchable = (
        (query.text is not None and query.text_weight > 0)
        or ((query.image is not None or query.image_url is not None) and query.image_weight > 0)
        or query.vector is not None
        or query.like
    )
    if not searchable:
        raise bad_request("empty query: expected text, image, image_url, vector or like, with a weight above 0")
    try:
        parsed = filters.parse(query.where)
    except UsageError as error:
        raise bad_request(f"where: {error}") from None
    if (count := _comparisons(parsed)) > MAX_COMPARISONS:
        raise bad_request(f"where: {count:,} comparisons; at most {MAX_COMPARISONS} are allowed")
    try:
        json.dumps(query.where, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_request("where: a lone surrogate is not a character") from None


def _comparisons(parsed: filters.Filter | None) -> int:
    match parsed:
        case filters.Every(terms) | filters.Some(terms):
            return sum(map(_comparisons, terms))
        case filters.Not(term):
            return _comparisons(term)
        case filters.Among(_, values):
            return len(values)
        case _:
            return 1


def decode_image(text: str) -> bytes:
    """Decode base64, plain or in a data: url."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"image: invalid base64: {error}") from None


def _digest(query: Query) -> str:
    image = hashlib.blake2b(query.image or b"", digest_size=16).hexdigest()
    fields = [
        *(query.text, query.text_weight, image, query.image_url, query.image_weight, query.vector, query.using),
        *(query.like, query.unlike, query.minus, query.where, query.threshold, query.distinct),
    ]
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=12).hexdigest()


def _offset(cursor: str, query: Query) -> int:
    invalid = bad_request("cursor: invalid; expected one that an earlier page gave")
    try:
        fields = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        offset, digest = fields["at"], fields["of"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid from None
    if type(offset) is not int or offset < 0:
        raise invalid
    if digest != query.digest:
        raise bad_request("cursor: it belongs to another query; send the same query, or no cursor")
    if offset >= query.max_depth:
        raise bad_request(f"cursor: only the first {query.max_depth:,} hits can be fetched; narrow the query")
    return offset
