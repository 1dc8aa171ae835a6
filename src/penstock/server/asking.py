"""What is asked, once it has been checked; and the cursors that lead from page to page."""

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
from penstock.server.problems import bad
from penstock.server.shapes import SEARCH, check

DEPTH = 10_000
"""Hits that pages lead to, all in all: as deep as the stores with the shortest breath go."""
DISTINCT_DEPTH = 1000
"""The same where near-duplicates are collapsed, as the vectors of all hits before are compared."""
COMPARISONS = 500


@dataclass(frozen=True, slots=True)
class Ask:
    text: str | None = None
    text_weight: float = 1.0
    image: bytes | None = None
    image_url: str | None = None
    image_weight: float = 1.0
    vector: tuple[float, ...] | None = None
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    where: Mapping[str, Any] | None = None
    k: int = 20
    offset: int = 0
    threshold: float | None = None
    distinct: bool = False
    digest: str = ""
    """The same for the same question, whatever the page."""

    @property
    def depth(self) -> int:
        return DISTINCT_DEPTH if self.distinct else DEPTH

    def cursor(self, offset: int) -> str:
        return _packed({"at": offset, "of": self.digest})


def asked(body: Any, image: bytes | None = None, name: str = "the body") -> Ask:
    """The question of a request's body; `image` is one that came beside it. Raises Problem."""
    given = check(body, SEARCH, name)
    if image is not None and (given.get("image") or given.get("image_url")):
        raise bad("there are two images; one is searched by")
    if (told := given.pop("image", None)) is not None:
        image = unpacked_image(told)
    if image is not None and given.get("image_url"):
        raise bad("image and image_url: one is searched by")
    if image == b"":
        raise bad("the image is empty: zero bytes")
    cursor = given.pop("cursor", None)
    for key in ("like", "unlike", "minus", "vector"):
        if key in given:
            given[key] = tuple(given[key])
    text = given.get("text")
    if text is not None and not text.strip():
        raise bad("the text is empty")
    ask = Ask(**{**given, "image": image})
    _meant(ask)
    ask = replace(ask, digest=_digest(ask))
    return ask if cursor is None else replace(ask, offset=_offset(cursor, ask))


def _meant(ask: Ask) -> None:
    meant = (
        (ask.text is not None and ask.text_weight > 0)
        or ((ask.image is not None or ask.image_url is not None) and ask.image_weight > 0)
        or ask.vector is not None
        or ask.like
    )
    if not meant:
        raise bad("nothing is asked: give text, image, image_url, vector or like, with a weight above 0")
    try:
        wanted = filters.parse(ask.where)
    except UsageError as error:
        raise bad(f"where: {error}") from None
    if (wide := _width(wanted)) > COMPARISONS:
        raise bad(f"where: {wide:,} comparisons; {COMPARISONS} at most")
    try:
        json.dumps(ask.where, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad("where: half a surrogate pair is no character") from None


def _width(wanted: filters.Filter | None) -> int:
    match wanted:
        case filters.Every(terms) | filters.Some(terms):
            return sum(map(_width, terms))
        case filters.Not(term):
            return _width(term)
        case filters.Among(_, values):
            return len(values)
        case _:
            return 1


def unpacked_image(text: str) -> bytes:
    """From base64, as it is or as a data: url."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(f"image is no base64: {error}") from None


def _digest(ask: Ask) -> str:
    image = hashlib.blake2b(ask.image or b"", digest_size=16).hexdigest()
    told = [
        *(ask.text, ask.text_weight, image, ask.image_url, ask.image_weight, ask.vector),
        *(ask.like, ask.unlike, ask.minus, ask.where, ask.threshold, ask.distinct),
    ]
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=12).hexdigest()


def _packed(told: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")


def _offset(cursor: str, ask: Ask) -> int:
    try:
        told = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        offset, digest = told["at"], told["of"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise bad("cursor: this is none of ours") from None
    if type(offset) is not int or offset < 0:
        raise bad("cursor: this is none of ours")
    if digest != ask.digest:
        raise bad("cursor: it belongs to another query; begin without one")
    if offset >= ask.depth:
        raise bad(f"cursor: hits beyond the first {ask.depth:,} are not to be had; ask more narrowly")
    return offset
