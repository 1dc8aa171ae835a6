"""Points as documents, and back.

`id`, `uri`, `ordinal`, `page` and `type` are searched by, metadata by their terms in `fields`, the text by its words,
and `digest` stands for it as a whole. Indices of earlier versions have no `type` and no `fields`, or no words.
Each vector is in two fields: one that the store compares and may give back normalized (of sparse weights it compares
nine bits), and its very float32 values in `bits`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import SinkError
from penstock.core.precision import BITS, INT8
from penstock.core.records import VECTOR, Chunk, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema, Manifest, VectorSpec
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.elastic import terms, wire
from penstock.sinks.elastic.dialects import ANALYZER
from penstock.sinks.elastic.terms import digest
from penstock.sinks.facets import type_of
from penstock.sinks.lengths import units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FETCH = 200
QUANTIZED = {INT8: "int8_hnsw", BITS: "bbq_hnsw"}
"""The types of graphs, by the precision of the copies of vectors in them."""
LONGEST_ID = 512
SMALLEST = 2.0**-126
"""The smallest weight that the store takes."""

_KEPT: dict[str, Any] = {"type": "text", "index": False}
_NUMBER = {"type": "long", "index": False, "doc_values": False}
_FIELDS: dict[str, Any] = {
    "id": {"type": "keyword"},
    "uri": {"type": "keyword"},
    "ordinal": {"type": "long"},
    "text": {"type": "text", "analyzer": ANALYZER},
    "digest": {"type": "keyword"},
    "start": _NUMBER,
    "end": _NUMBER,
    "page": {"type": "long"},
    "headings": _KEPT,
    "metadata": _KEPT,
    "image": {"type": "binary"},
}
_FILTERABLE: dict[str, Any] = {"type": {"type": "keyword"}, terms.FIELD: {"type": "keyword"}}


def bits_field(name: str) -> str:
    """The field that holds the float32 values of the vectors of that name."""
    return "bits" if name == VECTOR else f"bits_{name}"


class VectorFields(NamedTuple):
    """The fields that hold the vectors of one name, and their space."""

    compared: str
    bits: str
    space: VectorSpec


def vector_fields(schema: IndexSchema) -> list[VectorFields]:
    return [VectorFields(rows.vector_column(name), bits_field(name), space) for name, space in schema.vectors.items()]


class Documents(wire.Server):
    """An index of chunks. The manifest is in the mapping's `_meta`."""

    def manifest(self) -> Manifest | None:
        if (mapping := self.mapping()) is None:
            return None
        if (kept := mapping.get("_meta", {}).get("penstock")) is None:
            raise SinkError(f"{self.url} is an index that is not Penstock's; name another one")
        return manifests.from_json(kept, self.url)

    def keep(self, manifest: Manifest) -> None:
        self.ask("PUT", "/_mapping", {"_meta": {"penstock": manifests.to_json(manifest)}})

    @cached_property
    def has_words(self) -> bool:
        """Whether the text is analyzed, as in indices of earlier versions it is not."""
        return bool((self.mapping() or {}).get("properties", {}).get("text", {}).get("index", True))

    def quantize(self, schema: IndexSchema, precision: str) -> None:
        """Have the graphs of dense vectors be of copies in that precision. Nothing changes where they are."""
        graph = {"index_options": {"type": QUANTIZED[precision]}}
        fields = {
            rows.vector_column(name): self.dialect.mapping(schema.vectors[name]) | graph
            for name in manifests.dense_names(schema, self.url)
        }
        self.ask("PUT", "/_mapping", {"properties": fields})

    @cached_property
    def quantized(self) -> bool:
        """Whether its graphs are of such copies."""
        fields = (self.mapping() or {}).get("properties", {}).values()
        return any(field.get("index_options", {}).get("type") in QUANTIZED.values() for field in fields)

    def create(self, manifest: Manifest) -> Manifest:
        """Create the index and return its manifest: another run's, where that one was faster."""
        for space in manifest.schema.vectors.values():
            self.check_version(space)
        fields = _FIELDS | (_FILTERABLE if manifest.schema.filterable else {})
        for field, bits, space in vector_fields(manifest.schema):
            fields |= {field: self.dialect.mapping(space), bits: {"type": "binary"}}
        meta = {"penstock": manifests.to_json(manifest)}
        mappings = {"dynamic": "strict", "_meta": meta, "properties": fields}
        try:
            self.ask("PUT", body={"settings": self.dialect.settings, "mappings": mappings})
        except SinkError as error:
            if "resource_already_exists_exception" not in str(error) or (kept := self.manifest()) is None:
                raise
            return kept
        return manifest

    def document(self, row: rows.Row, vectors: Iterable[tuple[VectorFields, Any]], *, filterable: bool) -> bytes:
        """The lines of a bulk request that write it. Raises ValueError or TypeError for what no document can hold."""
        fields = dict(zip(rows.COLUMNS, row, strict=True))
        if filterable:
            fields |= {"type": type_of(fields["image"] is None), terms.FIELD: terms.terms_of(fields["metadata"])}
        fields["image"] = None if fields["image"] is None else _base64(fields["image"])
        fields["digest"] = digest(fields["text"])
        for (field, bits, space), vector in vectors:
            if isinstance(vector, Sparse):
                fields[field], fields[bits] = weights(vector), _base64(sparse.packed(vector))
                continue
            if space.kind == "MultiVector" and not len(vector):
                raise ValueError("its vector has no rows")
            fields[field], fields[bits] = compared(vector, space), _base64(vector)
        return self.dumps({"index": {"_id": key(fields["id"])}}) + b"\n" + self.dumps(fields)

    def removal(self, id: str) -> bytes:
        return self.dumps({"delete": {"_id": key(id)}})

    def fetch(self, ids: Sequence[str], schema: IndexSchema) -> list[Point]:
        wanted = list(dict.fromkeys(ids))
        excluded = ",".join([terms.FIELD, *map(rows.vector_column, schema.vectors)])
        points: list[Point] = []
        for start in range(0, len(wanted), FETCH):
            keys = [key(id) for id in wanted[start : start + FETCH]]
            for document in self.ask("POST", f"/_mget?_source_excludes={excluded}", {"ids": keys})["docs"]:
                if "error" in document:
                    raise SinkError(f"{self.url}: {wire.reason(document)}")
                if document["found"]:
                    source = document["_source"]
                    vectors = {name: vector_of(source, name, space) for name, space in schema.vectors.items()}
                    points.append(Point(chunk_of(source), vectors))
        return points


def key(id: str) -> str:
    """The document's `_id`: the id itself, unless it is empty, no UTF-8 or longer than the store takes."""
    data = id.encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        data = b""
    return id if 0 < len(data) <= LONGEST_ID else f"sha256-{digest(id)}"


def _base64(data: Any) -> str:
    return base64.b64encode(data).decode("ascii")


def chunk_of(source: Mapping[str, Any]) -> Chunk:
    image = source.get("image")
    cells = {**source, "image": None if image is None else base64.b64decode(image)}
    return rows.chunk(tuple(cells.get(name) for name in rows.COLUMNS))


def vector_of(source: Mapping[str, Any], name: str, space: VectorSpec) -> Vector:
    data = base64.b64decode(source[bits_field(name)])
    if space.kind == "Sparse":
        return sparse.unpacked(data)
    values = _floats(data)
    return MultiVector(values.reshape(-1, space.dim)) if space.kind == "MultiVector" else Dense(values)


def _floats(data: bytes) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def compared(values: NDArray[np.float32], space: VectorSpec) -> NDArray[np.float32]:
    """The values that the store compares: it has no cosine for many vectors, so theirs have length 1."""
    if space.kind == "MultiVector" and space.metric == "cosine":
        unit: NDArray[np.float32] = units(values)[0]
        return unit
    return values


def weights(vector: Sparse) -> dict[str, float]:
    """A sparse vector as the store takes it: features with names, and weights above zero."""
    pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
    return {str(index): value for index, value in pairs if value >= SMALLEST}
