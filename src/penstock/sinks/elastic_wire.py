"""How Elasticsearch and OpenSearch are spoken to: two dialects, one set of requests, errors as in the contract."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.records import VECTOR
from penstock.core.schema import VectorSpec
from penstock.sinks import address

SINCE = {"MultiVector": (8, 18), "Sparse": (8, 15)}
"""The version of Elasticsearch that searches them."""
EXAMPLES = {"elastic": "elastic://localhost:9200/notes", "opensearch": "opensearch://localhost:9200/notes"}
TIMEOUT = 60
BULK = 8 << 20
"""Bytes of a request: servers do best with some megabytes, and small ones of AWS refuse more than ten."""


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
    _max_sim = "double d = maxSimDotProduct(params.q, 'vector'); return d < 0 ? 1 / (1 - d) : d + 1;"

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

    def send(self, client: Any, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Any:
        headers = {"accept": "application/json", **headers}
        return client.perform_request(method, target, headers=headers, body=body).body

    def field(self, space: VectorSpec) -> dict[str, Any]:
        if space.kind == "Sparse":
            return {"type": "sparse_vector"}
        if space.kind == "MultiVector":
            return {"type": "rank_vectors", "dims": space.dim}
        graph = {"type": "hnsw"}  # else it quantizes
        given = {"dims": space.dim, "similarity": self._similarity[space.metric], "index_options": graph}
        return {"type": "dense_vector", "index": True, **given}

    def exact(self, query: Any, space: VectorSpec) -> dict[str, Any]:
        source = self._max_sim if space.kind == "MultiVector" else self._scripts[space.metric]
        return {"source": source, "params": {"q": query}}

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
        self._not_found = opensearchpy.exceptions.NotFoundError
        self.errors: tuple[type[Exception], ...] = (opensearchpy.exceptions.OpenSearchException,)

    def connect(self, at: address.Address) -> Any:
        auth = (at.user, os.environ.get("OPENSEARCH_PASSWORD", "")) if at.user else None
        return self._client(_base(at), http_auth=auth, timeout=TIMEOUT, max_retries=0, retry_on_timeout=False)

    def send(self, client: Any, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Any:
        # 404 is not left to the driver, which would warn of it in the log whenever an index is looked for
        answer = client.transport.perform_request(method, target, headers=headers, body=body, ignore=(404,))
        if isinstance(answer, Mapping) and answer.get("status") == 404 and "error" in answer:
            raise self._not_found(404, "", answer)
        return answer

    def field(self, space: VectorSpec) -> dict[str, Any]:
        method = {"name": "hnsw", "engine": "lucene", "space_type": self._spaces[space.metric]}
        return {"type": "knn_vector", "dimension": space.dim, "method": method}

    def exact(self, query: Any, space: VectorSpec) -> dict[str, Any]:
        params = {"field": VECTOR, "query_value": query, "space_type": self._spaces[space.metric]}
        return {"lang": "knn", "source": "knn_score", "params": params}

    def near(self, query: Any, k: int, candidates: int, within: Mapping[str, Any]) -> dict[str, Any]:
        return {"query": {"knn": {VECTOR: {"vector": query, "k": candidates, "filter": within}}}}


_DIALECTS: dict[str, Callable[[], _Elastic | _OpenSearch]] = {"elastic": _Elastic, "opensearch": _OpenSearch}


def _base(at: address.Address) -> str:
    host = f"[{at.host}]" if ":" in at.host else at.host
    return f"{'https' if at.tls else 'http'}://{host}:{at.port}"


def place(url: str) -> tuple[str, address.Address]:
    scheme = "opensearch" if url.lower().startswith("opensearch:") else "elastic"
    at = address.parse(url, scheme, EXAMPLES[scheme], port=9200, options=frozenset({"tls"}))
    name = at.names[0] if at.names else ""
    if at.folder or name != name.lower() or re.search(r'^[-_+.]|[\\/*?"<>|\s,#:]', name) or len(name.encode()) > 255:
        raise UsageError(
            f'{url!r}: an index is named in lower case, without spaces and any of \\/*?"<>|,#: and begins with '
            f"none of -_+. ; write it like {EXAMPLES[scheme]}"
        )
    return scheme, at


class Server:
    """A client, the index it is about, and errors as the contract has them."""

    def __init__(self, url: str, client: Any) -> None:
        scheme, at = place(url)
        try:
            import orjson

            self.dialect = _DIALECTS[scheme]()
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "elastic") from None
        self.url = url
        self.dumps: Callable[[Any], bytes] = partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)
        self.name = at.names[0]
        self._own = client is None
        self._client = self.dialect.connect(at) if client is None else client

    def close(self) -> None:
        if self._own:
            self._client.close()

    def ask(self, method: str, end: str = "", body: Any = None, *, kind: str = "json", of: str | None = None) -> Any:
        """A request about the index, or about another name; `of=""` for the server as a whole."""
        data = body if body is None or isinstance(body, bytes) else self.dumps(body)
        headers = {} if data is None else {"content-type": f"application/{kind}"}
        name = self.name if of is None else of
        path = f"/{quote(name, safe='')}" if name else ""
        try:
            answer = self.dialect.send(self._client, method, path + end, headers, data)
        except self.dialect.errors as error:
            raise _told(self.url, error) from error
        if not isinstance(answer, Mapping):
            raise SinkError(f"{self.url} does not answer as Elasticsearch or OpenSearch do")
        if answer.get("timed_out") is True or answer.get("_shards", {}).get("failed"):
            raise SinkUnavailable(f"{self.url}: only a part of the index answered")
        return answer

    def mapping(self) -> Mapping[str, Any] | None:
        try:
            found = self.ask("GET", "/_mapping")
        except NotThere:
            return None
        if len(found) != 1:
            raise SinkError(f"{self.url} names {len(found)} indices, not one")
        return dict(next(iter(found.values()))["mappings"])

    def suits(self, space: VectorSpec) -> None:
        """Raise UsageError where the server is too old for vectors of that kind."""
        if (since := SINCE.get(space.kind)) is None:
            return
        told = self.ask("GET", "/", of="").get("version", {})
        found = tuple(map(int, re.findall("[0-9]+", str(told.get("number")))[:2]))
        if told.get("build_flavor") != "serverless" and found < since:  # which calls itself 8.11 for ever
            wanted = ".".join(map(str, since))
            raise UsageError(f"{self.url} takes {space.kind} vectors from {wanted} on; it is {told.get('number')}")

    def remove(self) -> None:
        """With its aliases; neither store removes an index by the name of an alias."""
        self.ask("DELETE")

    def alias(self, name: str) -> None:
        """Have `name` stand for this index: in one request, so that it is never missing, nor stands for two."""
        try:
            found = set(self.ask("GET", "/_alias", of=name))
        except NotThere:
            found = set()
        if name in found:
            raise SinkError(f"{self.url}: there is an index {name!r}, so no alias can have its name")
        gone = [{"remove": {"index": other, "alias": name}} for other in sorted(found - {self.name})]
        self.ask("POST", "/_aliases", {"actions": [*gone, {"add": {"index": self.name, "alias": name}}]}, of="")

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
            why = f"{reason(item)} ({item['status']})"
            if item["status"] in (408, 409, 429) or item["status"] >= 500:
                raise SinkUnavailable(f"{self.url}, point {id}: {why}")
            if item["status"] != 400:
                raise SinkError(f"{self.url}, point {id}: {why}")
            reasons[id] = why
        return reasons

    def count(self, within: Mapping[str, Any] | None = None) -> int:
        return int(self.ask("POST", "/_count", {"query": within or {"match_all": {}}})["count"])

    def search(self, body: Mapping[str, Any]) -> list[Any]:
        given = {"track_total_hits": False, **body}
        return list(self.ask("POST", "/_search?allow_partial_search_results=false", given)["hits"]["hits"])


class NotThere(SinkError):
    """404: of an index, where it is asked whether there is one."""


def _told(url: str, error: Exception) -> SinkError:
    status = getattr(error, "status_code", None)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not isinstance(status, int):
        cause = " ".join(str(getattr(error, "message", "") or getattr(error, "info", "") or error).split())[:300]
        if kinds & {"TlsError", "SSLError"}:
            return SinkError(f"{url}: no connection by TLS: {cause}")
        if kinds & {"ConnectionError", "ConnectionTimeout"}:
            return SinkUnavailable(f"{url} cannot be reached: {cause}")
        return SinkError(f"{url} does not answer as Elasticsearch or OpenSearch do: {cause}")
    why = reason(getattr(error, "info", None) or getattr(error, "body", None) or getattr(error, "error", ""))
    if status == 403 and "license" in why:
        return SinkError(f"{url}: the server's licence does not include this: {why}")
    if status in (401, 403):
        keys = "ELASTIC_API_KEY, or a user in the url and ELASTIC_PASSWORD"
        if url.lower().startswith("opensearch"):
            keys = "a user in the url and OPENSEARCH_PASSWORD"
        return SinkError(f"{url} does not let us in ({status}: {why}); set {keys}")
    if status == 404:
        return NotThere(f"{url}: there is no such index ({why})")
    if status == 413:
        return TooLarge(f"{url} does not take requests so large ({why})")
    if status in (408, 429) or status >= 500:
        return SinkUnavailable(f"{url}: {status}: {why}")
    if status < 400:
        return SinkError(f"{url} is not Elasticsearch (OpenSearch is written opensearch://...)")
    if "media_type_header" in why:
        return SinkError(f'{url} is older than its driver; pip install "elasticsearch<9" ({why})')
    return SinkError(f"{url}: {status}: {why}")


def reason(answer: Any) -> str:
    """Why a request or an item of it failed, in a line."""
    error = answer.get("error", answer) if isinstance(answer, Mapping) else answer
    told: list[str] = []
    while isinstance(error, Mapping) and len(told) < 4:
        told.append(f"{error.get('type', '')}: {error.get('reason', '')}")
        error = error.get("caused_by")
    return " ".join((" <- ".join(told) or str(error)).split())[:500]
