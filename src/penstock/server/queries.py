"""Search queries as requests have them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.core.filter_parser import facet_path, parse_filter
from penstock.jobs.queries import Query, check_filter, checked
from penstock.server.problems import bad_request
from penstock.server.schemas import FACETS, SEARCH, validate

MAX_COMPARISONS = 500
"""Comparisons in a filter."""


def parse_query(body: Any, image: bytes | None = None, name: str = "the body") -> Query:
    """Check a request's body; `image` is one that was uploaded beside it. Raises Problem or UsageError."""
    fields = validate(body, SEARCH, name)
    encoded, url = fields.pop("image", None), fields.get("image_url")
    if sum((image is not None, encoded is not None, bool(url))) > 1:
        raise bad_request("more than one image: expected one of image, image_url and an uploaded file")
    if encoded is not None:
        image = decode_image(encoded)
    cursor = fields.pop("cursor", None)
    for key in ("like", "unlike", "minus", "vector", "types", "facets"):
        if key in fields:
            fields[key] = tuple(fields[key])
    if "vectors" in fields:
        fields["vectors"] = tuple(map(tuple, fields["vectors"]))
    own = [one for key in ("vector", "vectors", "sparse") if (one := fields.pop(key, None)) is not None]
    if len(own) > 1:
        raise bad_request("more than one vector: expected one of vector, vectors and sparse")
    if own:
        fields["vector"] = own[0]
    query = checked(Query(**{**fields, "image": image}), cursor)
    _check_size(query.where)
    _check_facets(query.facets, "facets")
    return query


@dataclass(frozen=True, slots=True)
class FacetQuery:
    names: tuple[str, ...]
    where: Mapping[str, Any] | None
    limit: int


def parse_facet_query(body: Any) -> FacetQuery:
    """Check a request's body. Raises Problem or UsageError."""
    fields = validate(body, FACETS)
    query = FacetQuery(tuple(fields["names"]), fields.get("where"), fields["limit"])
    check_filter(query.where)
    _check_size(query.where)
    _check_facets(query.names, "names")
    return query


def _check_facets(names: Sequence[str], field: str) -> None:
    try:
        for name in names:
            facet_path(name)
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from None


def _check_size(where: Mapping[str, Any] | None) -> None:
    if (count := sum(map(_comparisons, filters.leaves(parse_filter(where))))) > MAX_COMPARISONS:
        raise bad_request(f"where: {count:,} comparisons; at most {MAX_COMPARISONS} are allowed")


def _comparisons(term: filters.Leaf) -> int:
    match term:
        case filters.Among(_, values) | filters.HasValue(_, "in", tuple(values)):
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
