"""Points as Chroma keeps them: its id, its document (the text) and five metadata.

These are `uri`, `ordinal`, `page`, the terms that metadata are filtered by, and `chunk`, which is JSON of the rest. An
upsert merges metadata, so that all keys are written each time. Chroma normalizes the vectors of cosine
collections, so `chunk` has their very bits, which are given back and hits are scored by.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from penstock.core.records import NOTHING, VECTOR, Chunk, Dense, Point
from penstock.sinks import rows, terms

ABSENT = -(1 << 63)
"""The page of a chunk without one. No filter names it."""


def key(id: str) -> str:
    """Chroma's id, which has one character at least."""
    return "\0" + id if not id or id[0] == "\0" else id


def id_of(key: str) -> str:
    return key[1:] if key[0] == "\0" else key


def metadatas(found: Sequence[tuple[rows.Row, Any]], *, filterable: bool) -> list[dict[str, Any]]:
    """The metadata of points that are given as their cells and vectors; with terms where they are to be filterable."""
    written: dict[str, list[str]] = {}
    kept = []
    for cells, vector in found:
        metadata = _metadata(cells, vector)
        if filterable:
            fields, image = cells[8:10]
            if fields not in written:
                written[fields] = terms.listed(json.loads(fields))
            several = written[fields] if image is None else [*written[fields], terms.IMAGE]
            metadata[terms.TERMS] = several or None  # which removes those of an earlier version of the point
        kept.append(metadata)
    return kept


def _metadata(cells: rows.Row, vector: Any) -> dict[str, Any]:
    _, uri, ordinal, _, start, end, page, headings, fields, image = cells
    encoded = "null" if image is None else f'"{b64encode(image).decode()}"'
    bits = b64encode(vector.astype("<f4", copy=False)).decode()
    rest = f'"span": [{start}, {end}], "headings": {headings}, "metadata": {fields}, "image": {encoded}'
    page = ABSENT if page is None else page
    return {"uri": uri, "ordinal": ordinal, "page": page, "chunk": f'{{{rest}, "vector": "{bits}"}}'}


def mean_size(answer: Any) -> int:
    """The characters of a point of an answer, on the average."""
    size = sum(map(len, answer["documents"])) + sum(len(kept["chunk"]) for kept in answer["metadatas"])
    return size // max(len(answer["ids"]), 1) + 1


def points(answer: Any) -> list[Point]:
    import numpy as np

    found = []
    for chroma_id, text, kept in zip(answer["ids"], answer["documents"], answer["metadatas"], strict=True):
        rest = json.loads(kept["chunk"])
        chunk = Chunk(
            id=id_of(chroma_id),
            uri=kept["uri"],
            ordinal=kept["ordinal"],
            text=text,
            span=tuple(rest["span"]),
            page=None if kept["page"] == ABSENT else kept["page"],
            headings=tuple(rest["headings"]),
            metadata=rest["metadata"] or NOTHING,
            image=None if rest["image"] is None else b64decode(rest["image"]),
        )
        values = np.frombuffer(b64decode(rest["vector"]), dtype="<f4").astype(np.float32, copy=False)
        found.append(Point(chunk, {VECTOR: Dense(values)}))
    return found
