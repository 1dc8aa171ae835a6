"""JSON Schemas of the requests: the OpenAPI document shows them, and `validate` holds requests to them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from penstock.jobs.queries import MAX_WEIGHT, TYPES
from penstock.server.problems import Problem, bad_request

Schema = dict[str, Any]

MAX_HITS = 200
"""Hits a page."""
MAX_BATCH = 32
"""Searches a batch."""
MAX_TEXTS = 256
"""Texts to embed in one request."""
MAX_TEXT = 20_000
"""Characters of a text; what a model takes is far less."""
MAX_DIMENSIONS = 1 << 16
"""Numbers of a vector, or of one of its rows."""
MAX_ROWS = 4096
MAX_FACETS = 10
"""Fields whose values are counted in one request."""
WINDOW = 1 << 16
"""Bytes of a body that are looked at without other threads having Python's lock."""
MAX_SPACE = 4 << 20
"""Bytes of a body that are white space: more than indents as many values as there may be."""
MAX_COMMAS = 100_000
"""Commas in a body, and so values: parsing them holds Python's lock. A batch of vectors has as many numbers."""
FACET_VALUES = 20
"""Values of a field, unless a request says how many."""


def _described(description: str, **schema: Any) -> Schema:
    return {**schema, "description": description}


def _text(description: str) -> Schema:
    return _described(description, type="string", minLength=1, maxLength=MAX_TEXT)


def _weight(of: str) -> Schema:
    return _described(f"How much the {of} counts.", type="number", minimum=0, maximum=100, default=1)


def _list(items: Schema, most: int, description: str) -> Schema:
    return _described(description, type="array", items=items, maxItems=most)


_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 200}
USING = _described(
    "The name of the vector to search by. Optional where the index has one vector a chunk.",
    type="string",
    minLength=1,
    maxLength=32,
)
HYBRID: Schema = {
    "description": "Search the text by several legs and fuse their ranks: true for all vectors and the full text that"
    " the index has, or the weights of some, such as {'vector': 1, 'words': 0.5}.",
    "oneOf": [
        {"type": "boolean"},
        {
            "type": "object",
            "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_WEIGHT},
        },
    ],
    "default": False,
}
WHERE = _described(
    "A filter, such as {'page': {'$gte': 2}, 'department': 'hr', 'author.name': {'$prefix': 'A'}}.", type="object"
)
_FACETS = _list(
    {"type": "string", "minLength": 1, "maxLength": 200},
    MAX_FACETS,
    "Fields of metadata, or type: count their values, over all chunks that pass the filter.",
)

SEARCH: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "text": _text("Search by text."),
        "text_weight": _weight("text"),
        "image": _described("Search by an image: its bytes in base64.", type="string", contentEncoding="base64"),
        "image_url": _described(
            "Search by the image at a url, where the server may fetch urls.", type="string", maxLength=4096
        ),
        "image_weight": _weight("image"),
        "vector": _described(
            "Search by a vector of the index's own space.",
            type="array",
            items={"type": "number"},
            minItems=1,
            maxItems=MAX_DIMENSIONS,
        ),
        "vectors": _list(
            {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": MAX_DIMENSIONS},
            MAX_ROWS,
            "Search by a vector of late interaction: its rows.",
        ),
        "sparse": _described(
            "Search by a sparse vector.",
            type="object",
            additionalProperties=False,
            required=["indices", "values"],
            properties={
                "indices": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                    "maxItems": MAX_DIMENSIONS,
                },
                "values": {"type": "array", "items": {"type": "number"}, "maxItems": MAX_DIMENSIONS},
            },
        ),
        "using": USING,
        "hybrid": HYBRID,
        "like": _list(_ID, 100, "Ids of points to search near."),
        "unlike": _list(_ID, 100, "Ids of points to search away from; they are left out of the hits."),
        "minus": _list(_text("A term."), 8, "Terms to search away from."),
        "where": WHERE,
        "since": _described(
            "What is of that time or later, by its field time or else modified: 2h ago, or in ISO 8601.",
            type="string",
            maxLength=40,
        ),
        "facets": _FACETS,
        "k": _described("Hits a page.", type="integer", minimum=1, maximum=MAX_HITS, default=20),
        "cursor": _described("The cursor that the page before gave.", type="string", maxLength=200),
        "threshold": _described("The lowest score of a hit.", type="number"),
        "types": _list({"type": "string", "enum": list(TYPES)}, len(TYPES), "What to find: texts, images; or both."),
        "rerank": _described(
            "Have the server's reranker, if it has one, order the best hits (k, but at least 50) by the text, and score"
            " them: threshold is one of its scores then.",
            type="boolean",
            default=False,
        ),
        "distinct": _described("Collapse near-duplicates into one hit.", type="boolean", default=False),
    },
}
FACETS: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["names"],
    "properties": {
        "names": _FACETS | {"minItems": 1},
        "where": WHERE,
        "limit": _described(
            "Values of a field, the most frequent first.",
            type="integer",
            minimum=1,
            maximum=100,
            default=FACET_VALUES,
        ),
    },
}
BATCH: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["queries"],
    "properties": {"queries": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": SEARCH}},
}
EMBEDDINGS: Schema = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "description": "A text, or a list of texts.",
            "oneOf": [
                _text("A text."),
                {"type": "array", "items": _text("A text."), "minItems": 1, "maxItems": MAX_TEXTS},
            ],
        },
        "model": _described("Repeated in the response; the index's model embeds.", type="string", maxLength=1000),
        "using": USING,
        "encoding_format": {"type": "string", "enum": ["float", "base64"], "default": "float"},
        "dimensions": _described("The model's dimensions; no others are available.", type="integer", minimum=1),
    },
}
KNN: Schema = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": MAX_TEXT},
        "image": {"type": "string", "contentEncoding": "base64"},
        "image_url": {"type": "string", "maxLength": 4096},
        "embedding_input": SEARCH["properties"]["vector"],
        "using": USING,
        "num_images": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        "num_result_ids": {"type": "integer", "minimum": 1, "maximum": 100_000},
        "deduplicate": {"type": "boolean", "default": False},
    },
}
IMAGE_SEARCH: Schema = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": _text("Search by text."),
        "n_results": SEARCH["properties"]["k"] | {"default": 5},
        "using": USING,
    },
}

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def parse_json(text: bytes | bytearray | str, name: str = "the body") -> Any:
    """Parse strict JSON: no NaN, no infinity, no more than MAX_COMMAS and MAX_SPACE. Raises Problem."""
    commas, space = _commas_and_space(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    if commas > MAX_COMMAS:
        message = f"{name}: {commas:,} commas; at most {MAX_COMMAS:,} are allowed: send it in parts"
        raise Problem(413, "too_large", message)
    if space > MAX_SPACE:
        message = f"{name}: {space:,} bytes of white space; at most {MAX_SPACE:,} are allowed: send it unindented"
        raise Problem(413, "too_large", message)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"{name}: invalid JSON: {str(error)[:200]}") from None


def _commas_and_space(text: bytes | bytearray) -> tuple[int, int]:
    commas = space = 0
    for at in range(0, len(text), WINDOW):
        if at:
            time.sleep(0)  # lets other threads have Python's lock
        window = text[at : at + WINDOW]
        commas += window.count(b",")
        space += len(window) - len(window.translate(None, b" \t\r\n"))
    return commas, space


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def validate(value: Any, schema: Schema, name: str = "the body") -> Any:
    """Check a value and fill in defaults; null counts as absent. Raises Problem where the schema does not allow it."""
    if "oneOf" in schema:
        fits = [one for one in schema["oneOf"] if isinstance(value, _TYPES[one["type"]])]
        return validate(value, fits[0] if fits else schema["oneOf"][0], name)
    expected = schema["type"]
    if not isinstance(value, _TYPES[expected]) or (isinstance(value, bool) and expected != "boolean"):
        raise bad_request(f"{name}: expected {expected}, got {_type_of(value)}")
    if isinstance(value, dict):
        return _object(value, schema, name) if "properties" in schema else value
    if isinstance(value, list):
        _length(value, schema, "minItems", "maxItems", name)
        if schema["items"] == {"type": "number"} and {type(one) for one in value} <= {int, float}:
            if value:  # a vector: as long as the greatest and the least are in range, all are
                _range(min(value), {}, name)
                _range(max(value), {}, name)
            return value
        return [validate(one, schema["items"], f"{name}[{n}]") for n, one in enumerate(value)]
    if isinstance(value, str):
        _length(value, schema, "minLength", "maxLength", name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise bad_request(f"{name}: a lone surrogate is not a character") from None
        if value not in schema.get("enum", (value,)):
            raise bad_request(f"{name}: expected one of {', '.join(schema['enum'])}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _range(value, schema, name)
    return value


def _object(value: Mapping[str, Any], schema: Schema, name: str) -> dict[str, Any]:
    known: dict[str, Schema] = schema["properties"]
    prefix = "" if name == "the body" else f"{name}."
    present = {key: one for key, one in value.items() if one is not None}
    if not schema.get("additionalProperties", True) and (unknown := sorted(present.keys() - known.keys())):
        raise bad_request(f"{prefix}{unknown[0][:100]}: unknown field; expected one of {', '.join(known)}")
    if missing := [key for key in schema.get("required", ()) if key not in present]:
        raise bad_request(f"{prefix}{missing[0]} is missing")
    defaults = {key: one["default"] for key, one in known.items() if "default" in one}
    return defaults | {key: validate(present[key], known[key], prefix + key) for key in present if key in known}


def _length(value: str | list[Any], schema: Schema, least: str, most: str, name: str) -> None:
    if len(value) < schema.get(least, 0):
        raise bad_request(f"{name} is empty")
    if len(value) > schema.get(most, len(value)):
        unit = "characters" if isinstance(value, str) else "entries"
        raise bad_request(f"{name}: {len(value):,} {unit}; at most {schema[most]:,} are allowed")


def _range(value: float, schema: Schema, name: str) -> None:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        finite = False
    if not finite or abs(value) > 1e30:
        raise bad_request(f"{name}: out of range")
    least, most = schema.get("minimum", value), schema.get("maximum", value)
    if not least <= value <= most:
        bounds = f"at least {least}" if "maximum" not in schema else f"between {least} and {most}"
        raise bad_request(f"{name}: expected {bounds}, got {value}")


def _type_of(value: Any) -> str:
    return next((name for name, types in _TYPES.items() if type(value) in types), "null")


def from_strings(fields: Mapping[str, str], schema: Schema) -> dict[str, Any]:
    """Values of a url or a form, with the types that the schema expects."""
    values: dict[str, Any] = {}
    for key, text in fields.items():
        shape = schema["properties"].get(key, {})
        kind = shape.get("type", "boolean" if "oneOf" in shape else "string")
        values[key] = text if kind == "string" else parse_json(text.lower() if kind == "boolean" else text, key)
    return values
