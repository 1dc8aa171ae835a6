"""Points as objects of Weaviate, whose properties are the columns of `rows.COLUMNS`, the id as `chunk_id`.

Weaviate may scale the vectors of cosine collections, so a cosine space is kept as one of dot products: a vector of
length 1, as models make them, is kept as it is; of any other a copy of length 1 is kept, and its own bytes in a
property. Its indexes trim texts, so equality of `uri` and `text` is asked of digests.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from penstock.core.errors import SinkError
from penstock.core.records import VECTOR, Chunk, Dense, MultiVector, Point, Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.sinks import rows
from penstock.sinks.weaviate.filters import TOKENS, digest

TEXTS = ("chunk_id", "uri", "text", "headings", "metadata")
NUMBERS = ("ordinal", "start", "end", "page")
CHUNK = [*TEXTS, *NUMBERS, "image", "no_bytes"]
"""The properties that a chunk is read from."""

COUNTED = ["chunk_id", "uri", "ordinal", "page", "metadata", "has_image"]
"""The properties that the chunks are read from whose values are counted."""


def slot(name: str) -> str:
    """The name that the collection has for a vector."""
    return "dense" if name == VECTOR else rows.vector_column(name)


def original(name: str) -> str:
    """The property for the bytes of a vector, where another one is kept in its stead."""
    return "original" if name == VECTOR else f"original_{name}"


def properties(cells: rows.Row, fields: list[str] | None) -> dict[str, Any]:
    """The object's properties: `fields` are the tokens of the metadata, which older collections have none for."""
    id, uri, ordinal, text, start, end, page, headings, metadata, image = cells
    found = {
        "chunk_id": id,
        "uri": uri,
        "uri_digest": digest(uri),
        "text": text,
        "text_digest": digest(text),
        "ordinal": ordinal,
        "start": start,
        "end": end,
        "has_page": int(page is not None),  # 1 or 0, as older clients cannot ask for booleans
        "headings": headings,
        "metadata": metadata,
    }
    if fields is not None:
        found |= {TOKENS: fields, "has_image": int(image is not None)}
    if page is not None:
        found["page"] = page
    if image:
        found["image"] = base64.b64encode(image).decode()
    elif image is not None:
        found["no_bytes"] = True  # Weaviate takes no empty blob
    return found


def schema_properties(schema: IndexSchema, c: Any) -> list[Any]:
    """The collection's properties and their indexes, by the client's classes `c`."""
    text, number, flag, blob = c.DataType.TEXT, c.DataType.INT, c.DataType.BOOL, c.DataType.BLOB
    exact, off = c.Tokenization.FIELD, {"index_filterable": False, "index_searchable": False}
    compared = {"index_filterable": True, "index_searchable": False, "tokenization": exact}
    found: dict[str, tuple[Any, dict[str, Any]]] = dict.fromkeys(TEXTS, (text, off))
    found |= dict.fromkeys(("uri", "uri_digest", "text_digest"), (text, compared))
    found |= {name: (number, {"index_filterable": False}) for name in ("start", "end")}
    ordered = {"index_filterable": True, "index_range_filters": True}
    found |= dict.fromkeys(("ordinal", "page"), (number, ordered))
    if schema.filterable:
        found |= {TOKENS: (c.DataType.TEXT_ARRAY, compared), "has_image": (number, {"index_filterable": True})}
    found |= {"has_page": (number, {"index_filterable": True}), "no_bytes": (flag, {"index_filterable": False})}
    blobs = ("image", *map(original, schema.vectors))
    found |= {name: (blob, {"index_filterable": False}) for name in blobs}
    found["chunk_id"] = (text, off | {"tokenization": exact})
    found["text"] = (text, off | {"index_searchable": True, "tokenization": c.Tokenization.WORD})
    return [c.Property(name=name, data_type=kind, **more) for name, (kind, more) in found.items()]


def id_of(properties: Mapping[str, Any], url: str) -> str:
    if not isinstance(found := properties.get("chunk_id"), str):
        raise SinkError(f"{url} holds an object that is not Penstock's")
    return found


def chunk(properties: Mapping[str, Any], url: str) -> Chunk:
    id_of(properties, url)
    image = base64.b64decode(properties["image"]) if properties.get("image") else None
    if properties.get("no_bytes"):
        image = b""
    cells = {name: properties.get("chunk_id" if name == "id" else name) for name in rows.COLUMNS}
    return rows.chunk(tuple({**cells, "image": image}.values()))


def counted(properties: Mapping[str, Any], url: str) -> Chunk:
    """The chunk of an object, as far as filters and facets look at it."""
    return Chunk(
        id=id_of(properties, url),
        uri=properties["uri"],
        ordinal=properties["ordinal"],
        text=properties.get("text", ""),
        span=(0, 0),
        page=properties["page"],
        metadata=json.loads(properties["metadata"]),
        image=b"" if properties["has_image"] else None,
    )


def point(found: Any, schema: IndexSchema, url: str) -> Point:
    """The point of an object, as the client gives it."""
    the_chunk = chunk(found.properties, url)
    vectors: dict[str, Vector] = {}
    for name, space in schema.vectors.items():
        own, kept = found.properties.get(original(name)), found.vector.get(slot(name))
        if not own and kept is None:
            raise SinkError(f"{url} holds a point without a vector {name!r}: {the_chunk.id}")
        vectors[name] = _vector(own, kept, space)
    return Point(the_chunk, vectors)


def _vector(own: str | None, kept: Any, space: VectorSpec) -> Vector:
    import numpy as np

    if own:
        values = np.frombuffer(base64.b64decode(own), np.dtype("<f4")).astype(np.float32)
    else:
        values = np.array(kept, np.float32)
    return MultiVector(values.reshape(-1, space.dim)) if space.kind == "MultiVector" else Dense(values)
