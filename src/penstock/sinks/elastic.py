"""`elastic://host:9200/notes?tls=1` (Elasticsearch 8.12 and later) and `opensearch://host:9200/notes?tls=1` (2.13 and later).

Keys and passwords: ELASTIC_API_KEY, or a user in the url with ELASTIC_PASSWORD; a user with OPENSEARCH_PASSWORD.
Driver 9 speaks to servers from 9 on, driver 8 to both.

One index, one document a chunk. `id`, `uri`, `ordinal` and `page` are mapped to be searched by, `digest` stands for the text,
which may be longer than a keyword; all else is only kept. The manifest is in the mapping's `_meta`. `vector` is what the store
compares; it may give it back normalized and multiplied again, so `bits` has the very float32 values, and scores are computed
from them: what `_score` means differs by version, engine and metric.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from penstock import filters
from penstock.contracts import Index, Sink
from penstock.errors import MissingExtra, Rejected, SinkError, TooLarge, Transient, UsageError
from penstock.records import VECTOR, Dense, Hit, Manifest, Point, Space, Vector
from penstock.sinks import address, manifests, rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES = {"elastic": "elastic://localhost:9200/notes", "opensearch": "opensearch://localhost:9200/notes"}
TIMEOUT = 60
BULK = 8 << 20
"""Bytes of a request: servers do best with some megabytes, and small ones of AWS refuse more than ten."""
PAGE = 1000
FETCH = 200
LARGEST_K = 10_000
"""What both find at most."""
EXACT = 20_000
"""Up to so many candidates, every vector is compared with; beyond, the graph is asked."""
CANDIDATES = 500
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


class _Elastic:
    """How Elasticsearch is spoken to, and what it calls things."""

    bulk = "PUT"
    settings: Mapping[str, Any] = {}
    _similarity: Mapping[str, str] = {"cosine": "cosine", "dot": "max_inner_product", "l2": "l2_norm"}
    _scripts: Mapping[str, str] = {
        "cosine": "cosineSimilarity(params.q, 'vector') + 1.0",
        "dot": "double d = dotProduct(params.q, 'vector'); return d < 0 ? 1 / (1 - d) : d + 1;",
        "l2": "1 / (1 + l2norm(params.q, 'vector'))",
    }

    def __init__(self) -> None:
        import elastic_transport
        import elasticsearch

        self._client = elasticsearch.Elasticsearch
        self.errors: tuple[type[Exception], ...] = (elastic_transport.TransportError, elastic_transport.ApiError)

    def connect(self, at: address.Address) -> Any:
        key, password = os.environ.get("ELASTIC_API_KEY"), os.environ.get("ELASTIC_PASSWORD", "")
        given: dict[str, Any] = {}
        if at.user:
            given["basic_auth"] = (at.user, password)
        elif key:
            given["api_key"] = key
        return self._client(_base(at), request_timeout=TIMEOUT, max_retries=0, retry_on_timeout=False, **given)

    def send(
        self, client: Any, method: str, path: str, params: Mapping[str, str], kind: str, body: bytes | None
    ) -> Any:
        headers = {"accept": "application/json"} | ({"content-type": f"application/{kind}"} if body else {})
        return client.perform_request(method, path, params=params, headers=headers, body=body).body

    def field(self, space: Space) -> dict[str, Any]:
        # said, since the default quantizes
        graph = {"type": "hnsw"}
        similarity = self._similarity[space.metric]
        return {
            "type": "dense_vector",
            "dims": space.dim,
            "index": True,
            "similarity": similarity,
            "index_options": graph,
        }

    def exact(self, query: Any, metric: str) -> dict[str, Any]:
        return {"source": self._scripts[metric], "params": {"q": query}}

    def near(self, query: Any, k: int, candidates: int, within: Mapping[str, Any]) -> dict[str, Any]:
        near = {"field": VECTOR, "query_vector": query, "k": k, "num_candidates": candidates, "filter": within}
        return {"knn": near}


class _OpenSearch:
    """The same of OpenSearch. Its Lucene engine filters while it walks the graph, and has all three metrics."""

    bulk = "POST"
    settings: Mapping[str, Any] = {"index": {"knn": True}}
    _spaces: Mapping[str, str] = {"cosine": "cosinesimil", "dot": "innerproduct", "l2": "l2"}

    def __init__(self) -> None:
        import opensearchpy

        self._client = opensearchpy.OpenSearch
        self.errors: tuple[type[Exception], ...] = (opensearchpy.exceptions.OpenSearchException,)

    def connect(self, at: address.Address) -> Any:
        auth = (at.user, os.environ.get("OPENSEARCH_PASSWORD", "")) if at.user else None
        return self._client(_base(at), http_auth=auth, timeout=TIMEOUT, max_retries=0, retry_on_timeout=False)

    def send(
        self, client: Any, method: str, path: str, params: Mapping[str, str], kind: str, body: bytes | None
    ) -> Any:
        headers = {"content-type": f"application/{kind}"} if body else None
        return client.transport.perform_request(method, path, params=dict(params), headers=headers, body=body)

    def field(self, space: Space) -> dict[str, Any]:
        method = {"name": "hnsw", "engine": "lucene", "space_type": self._spaces[space.metric]}
        return {"type": "knn_vector", "dimension": space.dim, "method": method}

    def exact(self, query: Any, metric: str) -> dict[str, Any]:
        params = {"field": VECTOR, "query_value": query, "space_type": self._spaces[metric]}
        return {"lang": "knn", "source": "knn_score", "params": params}

    def near(self, query: Any, k: int, candidates: int, within: Mapping[str, Any]) -> dict[str, Any]:
        return {"query": {"knn": {VECTOR: {"vector": query, "k": candidates, "filter": within}}}}


_DIALECTS: dict[str, Callable[[], _Elastic | _OpenSearch]] = {"elastic": _Elastic, "opensearch": _OpenSearch}


def _base(at: address.Address) -> str:
    host = f"[{at.host}]" if ":" in at.host else at.host
    return f"{'https' if at.tls else 'http'}://{host}:{at.port}"


def _place(url: str) -> tuple[str, address.Address]:
    scheme = "opensearch" if url.lower().startswith("opensearch:") else "elastic"
    at = address.parse(url, scheme, EXAMPLES[scheme], port=9200, options=frozenset({"tls"}))
    name = at.names[0] if at.names else ""
    if at.folder or name != name.lower() or re.search(r'^[-_+.]|[\\/*?"<>|\s,#:]', name) or len(name.encode()) > 255:
        raise UsageError(
            f'{url!r}: an index is named in lower case, without spaces and any of \\/*?"<>|,#: and begins with '
            f"none of -_+. ; write it like {EXAMPLES[scheme]}"
        )
    return scheme, at


class _Server:
    """A client, the index it is about, and errors as the contract has them."""

    def __init__(self, url: str, client: Any) -> None:
        scheme, at = _place(url)
        try:
            import orjson

            self.dialect = _DIALECTS[scheme]()
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "elastic") from None
        self.url, self._dumps, self._numpy = url, orjson.dumps, orjson.OPT_SERIALIZE_NUMPY
        self._path = f"/{quote(at.names[0], safe='')}"
        self._own = client is None
        self._client = self.dialect.connect(at) if client is None else client

    def close(self) -> None:
        if self._own:
            self._client.close()

    def ask(self, method: str, end: str = "", body: Any = None, *, kind: str = "json", **params: str) -> Any:
        data = body if body is None or isinstance(body, bytes) else self._dumps(body, option=self._numpy)
        try:
            answer = self.dialect.send(self._client, method, f"{self._path}{end}", params, kind, data)
        except self.dialect.errors as error:
            raise _told(self.url, error) from error
        if not isinstance(answer, Mapping):
            raise SinkError(f"{self.url} does not answer as Elasticsearch or OpenSearch do")
        if answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
            raise Transient(f"{self.url}: only a part of the index answered")
        return answer

    def mapping(self) -> Mapping[str, Any] | None:
        try:
            found = self.ask("GET", "/_mapping")
        except _NotThere:
            return None
        if len(found) != 1:
            raise SinkError(f"{self.url} names {len(found)} indices, not one")
        return dict(next(iter(found.values()))["mappings"])

    def manifest(self) -> Manifest | None:
        mapping = self.mapping()
        kept = (mapping or {}).get("_meta", {}).get("penstock")
        return manifests.from_json(kept, self.url) if kept is not None else None

    def create(self, manifest: Manifest) -> Manifest:
        """Make the index, and tell which manifest it has: another run's, where that one was faster."""
        mappings = {
            "dynamic": "strict",
            "_meta": {"penstock": manifests.to_json(manifest)},
            "properties": {**_FIELDS, VECTOR: self.dialect.field(manifest.space)},
        }
        try:
            self.ask("PUT", body={"settings": self.dialect.settings, "mappings": mappings})
        except SinkError as error:
            if "resource_already_exists_exception" not in str(error) or (kept := self.manifest()) is None:
                raise
            manifests.agree(kept, manifest, self.url)
            return kept
        return manifest

    def document(self, row: rows.Row, vector: Any) -> bytes:
        fields = dict(zip(rows.COLUMNS, row, strict=True))
        fields["image"] = None if fields["image"] is None else _base64(fields["image"])
        fields["digest"], fields["bits"], fields[VECTOR] = _digest(fields["text"]), _base64(vector), vector
        return self._dumps({"index": {"_id": _key(fields["id"])}}) + b"\n" + self._dumps(fields, option=self._numpy)

    def removal(self, id: str) -> bytes:
        return self._dumps({"delete": {"_id": _key(id)}})

    def bulk(self, actions: Iterable[tuple[str, bytes]]) -> dict[str, str]:
        """Send (id, action) pairs in requests of a good size; tell which were refused for good, and why."""
        reasons: dict[str, str] = {}
        ids: list[str] = []
        lines: list[bytes] = []
        size = 0
        for id, line in actions:
            if ids and size + len(line) > BULK:
                reasons |= self._send(ids, lines)
                ids, lines, size = [], [], 0
            ids.append(id)
            lines.append(line)
            size += len(line)
        return reasons | self._send(ids, lines) if ids else reasons

    def _send(self, ids: list[str], lines: list[bytes]) -> dict[str, str]:
        body = b"\n".join([*lines, b""])
        answer = self.ask(self.dialect.bulk, "/_bulk", body, kind="x-ndjson")
        items = [next(iter(item.values())) for item in answer["items"]]
        if len(items) != len(ids):
            raise SinkError(f"{self.url} was sent {len(ids)} points and told of {len(items)}")
        reasons: dict[str, str] = {}
        for id, item in zip(ids, items, strict=True):
            if "error" not in item and (item["status"] < 300 or item["status"] == 404):  # 404: nothing to delete
                continue
            why = f"{_reason(item)} ({item['status']})"
            if item["status"] in (408, 409, 429) or item["status"] >= 500:
                raise Transient(f"{self.url}, point {id}: {why}")
            if item["status"] != 400:
                raise SinkError(f"{self.url}, point {id}: {why}")
            reasons[id] = why
        return reasons

    def count(self, within: Mapping[str, Any] | None = None) -> int:
        return int(self.ask("POST", "/_count", {"query": within or {"match_all": {}}})["count"])

    def search(self, body: Mapping[str, Any]) -> list[Any]:
        given = {"track_total_hits": False, **body}
        return list(self.ask("POST", "/_search", given, allow_partial_search_results="false")["hits"]["hits"])

    def fetch(self, ids: Sequence[str]) -> list[Point]:
        wanted = list(dict.fromkeys(ids))
        found: list[Point] = []
        for start in range(0, len(wanted), FETCH):
            keys = [_key(id) for id in wanted[start : start + FETCH]]
            documents = self.ask("POST", "/_mget", {"ids": keys}, _source_excludes=VECTOR)["docs"]
            for document in documents:
                if "error" in document:
                    raise SinkError(f"{self.url}: {_reason(document)}")
                if document["found"]:
                    source = document["_source"]
                    found.append(Point(rows.chunk(_row(source)), {VECTOR: Dense(_vector(source))}))
        return found


class _NotThere(SinkError):
    """404: of an index, where it is asked whether there is one."""


def _told(url: str, error: Exception) -> SinkError:
    status = getattr(error, "status_code", None)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not isinstance(status, int):
        cause = " ".join(str(getattr(error, "message", "") or getattr(error, "info", "") or error).split())[:300]
        if kinds & {"TlsError", "SSLError"}:
            return SinkError(f"{url}: no connection by TLS: {cause}")
        if kinds & {"ConnectionError", "ConnectionTimeout"}:
            return Transient(f"{url} cannot be reached: {cause}")
        return SinkError(f"{url} does not answer as Elasticsearch or OpenSearch do: {cause}")
    why = _reason(getattr(error, "info", None) or getattr(error, "body", None))
    if status in (401, 403):
        keys = "ELASTIC_API_KEY, or a user in the url and ELASTIC_PASSWORD"
        if url.lower().startswith("opensearch"):
            keys = "a user in the url and OPENSEARCH_PASSWORD"
        return SinkError(f"{url} does not let us in ({status}: {why}); set {keys}")
    if status == 404:
        return _NotThere(f"{url}: there is no such index ({why})")
    if status == 413:
        return TooLarge(f"{url} does not take requests so large ({why})")
    if status in (408, 429) or status >= 500:
        return Transient(f"{url}: {status}: {why}")
    if status < 400:
        return SinkError(f"{url} is not Elasticsearch (OpenSearch is written opensearch://...)")
    if "media_type_header" in why:
        return SinkError(f'{url} is older than its driver; pip install "elasticsearch<9" ({why})')
    return SinkError(f"{url}: {status}: {why}")


def _reason(answer: Any) -> str:
    """Why a request or an item of it failed, in a line."""
    error = answer.get("error", answer) if isinstance(answer, Mapping) else answer
    told: list[str] = []
    while isinstance(error, Mapping) and len(told) < 4:
        told.append(f"{error.get('type', '')}: {error.get('reason', '')}")
        error = error.get("caused_by")
    return " ".join((" <- ".join(told) or str(error)).split())[:500]


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


def _vector(source: Mapping[str, Any]) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(base64.b64decode(source["bits"]), dtype="<f4").astype(np.float32, copy=False)


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
        case filters.Every(terms):
            return {"bool": {"filter": [_within(term, url) for term in terms]}} if terms else {"match_all": {}}
        case filters.Some(terms):
            return _any([_within(term, url) for term in terms])
        case filters.Not(term):
            return {"bool": {"must_not": [_within(term, url)]}}


def _any(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}


class _Component:
    """What the sink and the index share: a place, and a server once they are open."""

    def __init__(self, url: str, client: Any = None) -> None:
        _place(url)
        self._url, self._client = url, client
        self._server: _Server | None = None
        self._space: Space | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url,) if self._client is None else (self._url, self._client)

    def _opened(self) -> tuple[_Server, Space]:
        if self._server is None or self._space is None:
            raise SinkError(f"{self._url} is not open")
        return self._server, self._space

    def _kept(self) -> Manifest | None:
        if self._server is not None:
            return self._server.manifest()
        server = _Server(self._url, self._client)
        try:
            return server.manifest()
        finally:
            server.close()

    def count(self) -> int:
        return self._opened()[0].count()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self._opened()[0].fetch(ids)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None


class ElasticSink(_Component, Sink):
    """An index of Elasticsearch or OpenSearch. `client` is one of the user's, for other ways to log in."""

    max_rows = 1024
    max_bytes = BULK
    max_text = 16 << 20
    """Of control characters six times that as JSON: the 100 MB that a server takes."""
    writers = 2

    @property
    def url(self) -> str:
        return self._url

    def manifest(self) -> Manifest | None:
        return self._kept()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.space, {"Dense"}, self._url)
        server = _Server(self._url, self._client)
        try:
            kept = server.manifest()
            if kept is not None:
                manifests.agree(kept, manifest, self._url)
            elif server.mapping() is not None:
                raise SinkError(f"{self._url} is an index that is not Penstock's; name another one")
            else:
                kept = server.create(manifest)
        except BaseException:
            server.close()
            raise
        self._server, self._space = server, kept.space

    def replace_manifest(self, manifest: Manifest) -> None:
        server, _ = self._opened()
        server.ask("PUT", "/_mapping", {"_meta": {"penstock": manifests.to_json(manifest)}})
        self._space = manifest.space

    def write(self, points: Sequence[Point]) -> None:
        server, space = self._opened()
        batch = rows.Batch(points, space, self._url)
        batch.reasons |= server.bulk(self._actions(server, batch))
        batch.finish()

    def _actions(self, server: _Server, batch: rows.Batch) -> Iterator[tuple[str, bytes]]:
        for row, vector in zip(batch.rows, batch.vectors, strict=True):
            try:
                line = server.document(row, vector)
            except TypeError as error:  # a number of more than 64 bits
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


class ElasticIndex(_Component, Index):
    """Compares with every vector where few come into question, else with those that the graph leads to."""

    def manifest(self) -> Manifest:
        if (kept := self._kept()) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def open(self) -> None:
        self._space = self.manifest().space
        self._server = _Server(self._url, self._client)

    def search(self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        server, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        if k > LARGEST_K:
            raise UsageError(f"{self._url} finds {LARGEST_K:,} at most, not {k:,}")
        wanted = filters.parse(where)
        within = {"match_all": {}} if wanted is None else _within(wanted, self._url)
        assert isinstance(vector, Dense)
        query = _query(vector, space.metric, self._url)
        few = server.count(within)
        found = self._walked(server, query, k, within) if few > EXACT else []
        if len(found) < min(k, few):
            score = {"query": within, "script": server.dialect.exact(query, space.metric)}
            found = server.search({"size": k, "_source": _SOURCE, "query": {"script_score": score}})
        scores = _scores(query, [_vector(hit["_source"]) for hit in found], space.metric)
        best = sorted(range(len(found)), key=lambda i: -scores[i])
        return [Hit(scores[i], rows.chunk(_row(found[i]["_source"]))) for i in best]

    def _walked(self, server: _Server, query: Any, k: int, within: Mapping[str, Any]) -> list[Any]:
        """Those that the graph leads to: nearly always the nearest, from ten times as many candidates."""
        candidates = min(max(10 * k, CANDIDATES), LARGEST_K)
        return server.search({"size": k, "_source": _SOURCE, **server.dialect.near(query, k, candidates, within)})


def _query(vector: Dense, metric: str, url: str) -> NDArray[np.float32]:
    import numpy as np

    query = np.ascontiguousarray(vector.values, dtype=np.float32)
    if not np.isfinite(query).all() or (metric == "cosine" and not query.any()):
        raise SinkError(f"a query of {url} is all zeros, or holds NaN or infinity: nothing is near it")
    return query


def _scores(query: NDArray[np.float32], vectors: Sequence[NDArray[np.float32]], metric: str) -> list[float]:
    import numpy as np

    if not vectors:
        return []
    matrix, wanted = np.stack(vectors).astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        scores = -((matrix - wanted) ** 2).sum(axis=1)
    elif metric == "dot":
        scores = matrix @ wanted
    else:
        scores = matrix @ wanted / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted))
    return [float(score) for score in scores]
