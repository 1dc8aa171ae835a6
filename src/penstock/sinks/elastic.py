"""`elastic://host:9200/notes?tls=1` (Elasticsearch from 8.12 on), `opensearch://host:9200/notes?tls=1` (from 2.13 on).

Keys and passwords: ELASTIC_API_KEY, or a user in the url with ELASTIC_PASSWORD; a user with OPENSEARCH_PASSWORD.
Driver 9 speaks to servers from 9 on, driver 8 to both.

One index, one document a chunk. `id`, `uri`, `ordinal` and `page` are mapped to be searched by, `digest` stands for the
text, which may be longer than a keyword; all else is only kept. The manifest is in the mapping's `_meta`. `vector` is
what the store compares; it may give it back normalized and multiplied again, so `bits` has the very float32 values.
Scores are computed from them: what `_score` means differs by version, engine and metric.

Elasticsearch has two kinds more. Many vectors a point are `rank_vectors`, from 8.18 on and with a licence for them, and
every point is compared with. Sparse ones are `sparse_vector`, searched from 8.15 on, with no negative values. Of those
it weighs nine bits, so more are asked for than are wanted, until no other can be among the nearest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import Rejected, SinkError, UsageError
from penstock.core.records import VECTOR, Dense, Hit, MultiVector, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import elastic_wire as wire
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.lengths import units
from penstock.sinks.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE = 1000
FETCH = 200
LARGEST_K = 10_000
"""What both find at most."""
EXACT = 100_000
"""Up to so many candidates, every vector is compared with; beyond, the graph is asked."""
CANDIDATES = 500
MORE = 50
"""Sparse ones that are asked for beyond those that are wanted."""
SLACK = 1 + 2**-7
"""By how much a product may be larger than the store's, which cuts off what is beyond nine bits of a weight."""
SMALLEST = 2.0**-126
"""The smallest weight there is."""
LONGEST_ID = 512
TERMS = 10_000

_KEPT: dict[str, Any] = {"type": "text", "index": False}
_NUMBER = {"type": "long", "index": False, "doc_values": False}
_FIELDS: dict[str, Any] = {
    "id": {"type": "keyword"},
    "uri": {"type": "keyword"},
    "ordinal": {"type": "long"},
    "text": _KEPT,
    "digest": {"type": "keyword"},
    "start": _NUMBER,
    "end": _NUMBER,
    "page": {"type": "long"},
    "headings": _KEPT,
    "metadata": _KEPT,
    "image": {"type": "binary"},
    "bits": {"type": "binary"},
}
_SOURCE = {"excludes": [VECTOR]}


class _Server(wire.Server):
    """The index as one of chunks."""

    def manifest(self) -> Manifest | None:
        if (mapping := self.mapping()) is None:
            return None
        if (kept := mapping.get("_meta", {}).get("penstock")) is None:
            raise SinkError(f"{self.url} is an index that is not Penstock's; name another one")
        return manifests.from_json(kept, self.url)

    def create(self, manifest: Manifest) -> Manifest:
        """Make the index, and tell which manifest it has: another run's, where that one was faster."""
        mappings = {
            "dynamic": "strict",
            "_meta": {"penstock": manifests.to_json(manifest)},
            "properties": {**_FIELDS, VECTOR: self.dialect.field(manifest.schema.only)},
        }
        try:
            self.ask("PUT", body={"settings": self.dialect.settings, "mappings": mappings})
        except SinkError as error:
            if "resource_already_exists_exception" not in str(error) or (kept := self.manifest()) is None:
                raise
            manifests.agree(kept, manifest, self.url)
            return kept
        return manifest

    def document(self, row: rows.Row, vector: Any, space: VectorSpec) -> bytes:
        fields = dict(zip(rows.COLUMNS, row, strict=True))
        fields["image"] = None if fields["image"] is None else _base64(fields["image"])
        fields["digest"], fields[VECTOR] = _digest(fields["text"]), vector
        fields["bits"] = _base64(sparse.packed(vector) if isinstance(vector, Sparse) else vector)
        if isinstance(vector, Sparse):
            fields[VECTOR] = _tokens(vector)
        elif space.kind == "MultiVector" and space.metric == "cosine":
            fields[VECTOR] = units(vector)[0]
        return self.dumps({"index": {"_id": _key(fields["id"])}}) + b"\n" + self.dumps(fields)

    def removal(self, id: str) -> bytes:
        return self.dumps({"delete": {"_id": _key(id)}})

    def fetch(self, ids: Sequence[str], space: VectorSpec) -> list[Point]:
        wanted = list(dict.fromkeys(ids))
        found: list[Point] = []
        for start in range(0, len(wanted), FETCH):
            keys = [_key(id) for id in wanted[start : start + FETCH]]
            documents = self.ask("POST", f"/_mget?_source_excludes={VECTOR}", {"ids": keys})["docs"]
            for document in documents:
                if "error" in document:
                    raise SinkError(f"{self.url}: {wire.reason(document)}")
                if document["found"]:
                    source = document["_source"]
                    found.append(Point(rows.chunk(_row(source)), {VECTOR: _vector(source, space)}))
        return found


def _key(id: str) -> str:
    """The document's `_id`: the id itself, unless it is empty or longer than the store takes."""
    data = id.encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        data = b""
    return id if 0 < len(data) <= LONGEST_ID else f"sha256-{_digest(id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _base64(data: Any) -> str:
    return base64.b64encode(data).decode("ascii")


def _row(source: Mapping[str, Any]) -> rows.Row:
    image = source.get("image")
    cells = {**source, "image": None if image is None else base64.b64decode(image)}
    return tuple(cells.get(name) for name in rows.COLUMNS)


def _vector(source: Mapping[str, Any], space: VectorSpec) -> Vector:
    data = base64.b64decode(source["bits"])
    if space.kind == "Sparse":
        return sparse.unpacked(data)
    values = _floats(data)
    return MultiVector(values.reshape(-1, space.dim)) if space.kind == "MultiVector" else Dense(values)


def _floats(data: bytes) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def _tokens(vector: Sparse) -> dict[str, float]:
    """Features have names, and weights above zero."""
    pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
    return {str(index): value for index, value in pairs if value >= SMALLEST}


_SIGNS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def _within(wanted: filters.Filter, url: str) -> dict[str, Any]:
    """The tree in the stores' own language."""
    match wanted:
        case filters.Compare("text", "=", value):
            return {"term": {"digest": _digest(str(value))}}
        case filters.Compare("text", _, _):
            raise UsageError(f"{url} finds texts that equal one, not those before or after it")
        case filters.Compare(field, "=", value):
            return {"term": {field: value}}
        case filters.Compare(field, sign, value):
            return {"range": {field: {_SIGNS[sign]: value}}}
        case filters.Among(field, values):
            name, given = field, list(values)
            if field == "text":
                name, given = "digest", [_digest(str(value)) for value in values]
            parts = [{"terms": {name: given[i : i + TERMS]}} for i in range(0, len(given), TERMS)]
            return _any(parts) if parts else {"match_none": {}}
        case filters.Absent(field):
            return {"bool": {"must_not": [{"exists": {"field": "digest" if field == "text" else field}}]}}
        case filters.Every((term,)) | filters.Not(filters.Not(term)):  # both stores limit how deep it may go
            return _within(term, url)
        case filters.Every(terms):
            return {"bool": {"filter": [_within(term, url) for term in terms]}} if terms else {"match_all": {}}
        case filters.Some(terms):
            return _any([_within(term, url) for term in terms])
        case filters.Not(term):
            return {"bool": {"must_not": [_within(term, url)]}}


def _any(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}


class _Elastic(Store[_Server]):
    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        wire.place(url)

    def _connect(self) -> _Server:
        return _Server(self._url, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        server, space = self._opened()
        return server.fetch(ids, space)


class ElasticSink(_Elastic, Sink):
    """An index of Elasticsearch or OpenSearch. `client` is one of the user's, for other ways to log in."""

    accepts = frozenset({Dense, MultiVector, Sparse})
    max_rows = 1024
    max_bytes = wire.BULK
    max_text = 16 << 20
    """Of control characters six times that as JSON: the 100 MB that a server takes."""
    writers = 2

    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        if wire.place(url)[0] == "opensearch":
            self.accepts = frozenset({Dense})

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self._drop()

    def alias(self, number: int) -> str:
        name = wire.place(self._sibling("live").url)[1].names[0]
        with closing((self.generation(number) if number else self)._connect()) as server:
            server.alias(name)
        return name

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        server = self._connect()
        try:
            kept = server.manifest()
            if kept is not None:
                manifests.agree(kept, manifest, self._url)
            else:
                server.suits(manifest.schema.only)
                kept = server.create(manifest)
        except BaseException:
            server.close()
            raise
        self._hold(server, kept.schema.only)

    def replace_manifest(self, manifest: Manifest) -> None:
        server, _ = self._opened()
        server.ask("PUT", "/_mapping", {"_meta": {"penstock": manifests.to_json(manifest)}})
        self._space = manifest.schema.only

    def write(self, points: Sequence[Point]) -> None:
        server, space = self._opened()
        batch = sparse.batched(points, single(space), self._url, refused="negative")
        batch.reasons |= server.bulk(self._actions(server, batch))
        batch.finish()

    def _actions(self, server: _Server, batch: rows.Batch) -> Iterator[tuple[str, bytes]]:
        space = batch.space
        for row, vector in zip(batch.rows, batch.vectors, strict=True):
            try:
                if space.kind == "MultiVector" and not len(vector):
                    raise ValueError("its vector has no rows")
                line = server.document(row, vector, space)
            except (ValueError, TypeError) as error:  # TypeError: a number of more than 64 bits
                batch.reasons[row[0]] = str(error)
            else:
                yield row[0], line

    def delete(self, ids: Sequence[str]) -> None:
        server, _ = self._opened()
        if reasons := server.bulk((id, server.removal(id)) for id in dict.fromkeys(ids)):
            raise Rejected(reasons)

    def flush(self) -> None:
        """Each request is in the log on disk when it is answered; now it is searched as well."""
        self._opened()[0].ask("POST", "/_refresh")

    def ids(self) -> Iterator[Sequence[str]]:
        server, _ = self._opened()
        page: dict[str, Any] = {"size": PAGE, "sort": [{"id": "asc"}], "_source": False}
        while found := server.search(page):
            yield [hit["sort"][0] for hit in found]
            page["search_after"] = found[-1]["sort"]


class ElasticIndex(_Elastic, Index):
    """Compares with every vector where few come into question, else with those that the graph leads to."""

    def manifest(self) -> Manifest:
        return self._found()

    def open(self) -> None:
        kept = self._found()
        self._hold(self._connect(), kept.schema.only)

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        server, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        if k > LARGEST_K:
            raise UsageError(f"{self._url} finds {LARGEST_K:,} at most, not {k:,}")
        wanted = filters.parse(where)
        within = {"match_all": {}} if wanted is None else _within(wanted, self._url)
        if isinstance(vector, Sparse):
            given = sparse.asked(vector, self._url, negative=False)
            return self._overlapping(server, given, k, within) if len(given.values) else []
        query = _query(vector, space, self._url)
        few = server.count(within)
        found = self._walked(server, query, k, within) if few > EXACT and space.kind == "Dense" else []
        if len(found) < min(k, few):
            score = {"query": within, "script": server.dialect.exact(query, space)}
            found = server.search({"size": k, "_source": _SOURCE, "query": {"script_score": score}})
        return _hits(type(vector)(query), found, space)

    def _overlapping(self, server: _Server, query: Sparse, k: int, within: Mapping[str, Any]) -> list[Hit]:
        """Those that share an index with the query: as many more than k as it takes to know that none is left out."""
        _, space = self._opened()
        near = {"field": VECTOR, "query_vector": _tokens(query), "prune": False}
        asked = {"bool": {"must": [{"sparse_vector": near}], "filter": [within]}}
        size = min(k + MORE, LARGEST_K)
        while True:
            found = server.search({"size": size, "_source": _SOURCE, "query": asked})
            hits = _hits(query, found, space)[:k]
            if len(found) < size or size == LARGEST_K or found[-1]["_score"] * SLACK < hits[-1].score:
                return hits
            size = min(4 * size, LARGEST_K)

    def _walked(self, server: _Server, query: Any, k: int, within: Mapping[str, Any]) -> list[Any]:
        """Those that the graph leads to: nearly always the nearest, from ten times as many candidates."""
        candidates = min(max(10 * k, CANDIDATES), LARGEST_K)
        return server.search({"size": k, "_source": _SOURCE, **server.dialect.near(query, k, candidates, within)})


def _hits(query: Vector, found: Sequence[Mapping[str, Any]], space: VectorSpec) -> list[Hit]:
    vectors = [_vector(hit["_source"], space) for hit in found]
    scores = _scores(query, vectors, space.metric)
    best = sorted(range(len(found)), key=lambda i: -scores[i])
    return [Hit(scores[i], rows.chunk(_row(found[i]["_source"]))) for i in best]


def _query(vector: Dense | MultiVector, space: VectorSpec, url: str) -> NDArray[np.float32]:
    import numpy as np

    query = np.ascontiguousarray(vector.values, dtype=np.float32)
    if not np.isfinite(query).all() or not query.size or (space.metric == "cosine" and not query.any()):
        raise SinkError(f"a query of {url} is all zeros, or holds NaN or infinity: nothing is near it")
    return units(query)[0] if space.kind == "MultiVector" and space.metric == "cosine" else query


def _scores(query: Vector, vectors: Sequence[Vector], metric: str) -> list[float]:
    import numpy as np

    if not vectors:
        return []
    if not isinstance(query, Dense):
        from penstock.sinks import memory

        return [float(score) for score in memory.scores(query, vectors, metric)]
    matrix = np.stack([vector.values for vector in vectors]).astype(np.float64)
    wanted = query.values.astype(np.float64)
    if metric == "l2":
        scores = -((matrix - wanted) ** 2).sum(axis=1)
    elif metric == "dot":
        scores = matrix @ wanted
    else:
        scores = matrix @ wanted / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted))
    return [float(score) for score in scores]
