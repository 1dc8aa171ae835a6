"""What a request may say, as JSON Schema: the OpenAPI document shows it, and `check` holds requests to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from penstock.server.problems import bad

Shape = dict[str, Any]

MOST = 200
"""Hits a page."""
TOGETHER = 32
"""Searches a batch."""
TEXTS = 256
"""Texts to embed in one request."""
LONGEST = 20_000
"""Characters of a text; what a model takes is far less."""


def _said(about: str, **more: Any) -> Shape:
    return {**more, "description": about}


def _text(about: str) -> Shape:
    return _said(about, type="string", minLength=1, maxLength=LONGEST)


def _weight(of: str) -> Shape:
    return _said(f"How much the {of} counts.", type="number", minimum=0, maximum=100, default=1)


def _list(items: Shape, most: int, about: str) -> Shape:
    return _said(about, type="array", items=items, maxItems=most)


_ID: Shape = {"type": "string", "minLength": 1, "maxLength": 200}

SEARCH: Shape = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "text": _text("Search by words."),
        "text_weight": _weight("text"),
        "image": _said("Search by an image: its bytes in base64.", type="string", contentEncoding="base64"),
        "image_url": _said("Search by an image that the server fetches, where it may.", type="string", maxLength=4096),
        "image_weight": _weight("image"),
        "vector": _said(
            "Search by a vector of the index's own space.",
            type="array",
            items={"type": "number"},
            minItems=1,
            maxItems=1 << 16,
        ),
        "like": _list(_ID, 100, "Ids of points to search near."),
        "unlike": _list(_ID, 100, "Ids of points to search away from; they are left out of the hits."),
        "minus": _list(_text("Words."), 8, "What the hits should have little of."),
        "where": _said("A filter, such as {'page': {'$gte': 2}}.", type="object"),
        "k": _said("Hits a page.", type="integer", minimum=1, maximum=MOST, default=20),
        "cursor": _said("Where the page before said to go on.", type="string", maxLength=200),
        "threshold": _said("No hits of a lower score.", type="number"),
        "distinct": _said("Near-duplicates as one hit.", type="boolean", default=False),
    },
}
BATCH: Shape = {
    "type": "object",
    "additionalProperties": False,
    "required": ["queries"],
    "properties": {"queries": {"type": "array", "minItems": 1, "maxItems": TOGETHER, "items": SEARCH}},
}
EMBEDDINGS: Shape = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "description": "A text, or a list of texts.",
            "oneOf": [_text("A text."), {"type": "array", "items": _text("A text."), "minItems": 1, "maxItems": TEXTS}],
        },
        "model": _said("Told back; the index's model is what embeds.", type="string", maxLength=1000),
        "encoding_format": {"type": "string", "enum": ["float", "base64"], "default": "float"},
        "dimensions": _said("The index's, and no other.", type="integer", minimum=1),
    },
}
KNN: Shape = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": LONGEST},
        "image": {"type": "string", "contentEncoding": "base64"},
        "image_url": {"type": "string", "maxLength": 4096},
        "embedding_input": SEARCH["properties"]["vector"],
        "num_images": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        "num_result_ids": {"type": "integer", "minimum": 1, "maximum": 100_000},
        "deduplicate": {"type": "boolean", "default": False},
    },
}
EXAMPLE: Shape = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": _text("Words."), "n_results": SEARCH["properties"]["k"] | {"default": 5}},
}

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def parsed(text: bytes | str, what: str = "the body") -> Any:
    """JSON, without what JSON does not have."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad(f"{what} is no JSON: {str(error)[:200]}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def check(value: Any, shape: Shape, name: str = "the body") -> Any:
    """The value with its defaults; null is as good as nothing. Raises Problem where it is of another shape."""
    if "oneOf" in shape:
        return check(value, shape["oneOf"][isinstance(value, list)], name)
    wanted = shape["type"]
    if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        raise bad(f"{name}: {_kind(value)}, where {wanted} is wanted")
    if isinstance(value, dict):
        return _object(value, shape, name) if "properties" in shape else value
    if isinstance(value, list):
        _length(value, shape, "minItems", "maxItems", name)
        return [check(one, shape["items"], f"{name}[{n}]") for n, one in enumerate(value)]
    if isinstance(value, str):
        _length(value, shape, "minLength", "maxLength", name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise bad(f"{name}: half a surrogate pair is no character") from None
        if value not in shape.get("enum", (value,)):
            raise bad(f"{name}: there are {', '.join(shape['enum'])}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _range(value, shape, name)
    return value


def _object(value: Mapping[str, Any], shape: Shape, name: str) -> dict[str, Any]:
    known: dict[str, Shape] = shape["properties"]
    inside = "" if name == "the body" else f"{name}."
    given = {key: one for key, one in value.items() if one is not None}
    if not shape.get("additionalProperties", True) and (unknown := sorted(given.keys() - known.keys())):
        raise bad(f"{inside}{unknown[0][:100]}: there is no such field; there are: {', '.join(known)}")
    if missing := [key for key in shape.get("required", ()) if key not in given]:
        raise bad(f"{inside}{missing[0]} is missing")
    found = {key: one["default"] for key, one in known.items() if "default" in one}
    return found | {key: check(given[key], known[key], inside + key) for key in given if key in known}


def _length(value: str | list[Any], shape: Shape, least: str, most: str, name: str) -> None:
    if len(value) < shape.get(least, 0):
        raise bad(f"{name} is empty")
    if len(value) > shape.get(most, len(value)):
        what = "characters" if isinstance(value, str) else "entries"
        raise bad(f"{name} has {len(value):,} {what}; {shape[most]:,} at most")


def _range(value: float, shape: Shape, name: str) -> None:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        finite = False
    if not finite or abs(value) > 1e30:
        raise bad(f"{name} is out of range")
    if value < shape.get("minimum", value) or value > shape.get("maximum", value):
        raise bad(f"{name}: {value} is not between {shape['minimum']} and {shape['maximum']}")


def _kind(value: Any) -> str:
    return next((name for name, kinds in _TYPES.items() if type(value) in kinds), "null")


def coerced(fields: Mapping[str, str], shape: Shape) -> dict[str, Any]:
    """What came as text, in a url or a form, as the shape would have it."""
    found: dict[str, Any] = {}
    for key, text in fields.items():
        kind = shape["properties"].get(key, {}).get("type", "string")
        found[key] = text if kind == "string" else parsed(text.lower() if kind == "boolean" else text, key)
    return found
