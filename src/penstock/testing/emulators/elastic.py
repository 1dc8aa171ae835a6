"""Elasticsearch 8 and 9, and OpenSearch 3, as far as the sink goes: strict, in memory, in a thread of this process.

It is spoken to by the official clients. What the real servers refuse it refuses, with their errors, and more: a field,
key or path it does not know is a 400. What was written is not searched before a refresh.

    with ElasticServer(user="me", password="secret") as server:
        Elasticsearch(server.base, basic_auth=("me", "secret"))
        server.fail(429, "_bulk", times=2)
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

LARGEST_TERM = 32_766
LARGEST_PAGE = 10_000
DEEPEST_BOOL = 30
_OPTIONS: dict[str, set[str]] = {
    "keyword": {"index", "doc_values", "ignore_above"},
    "text": {"index"},
    "long": {"index", "doc_values"},
    "integer": {"index", "doc_values"},
    "binary": {"doc_values"},
    "dense_vector": {"dims", "similarity", "index", "index_options"},
    "knn_vector": {"dimension", "method"},
}
_SIMILARITIES = {
    "cosine": "cosine",
    "max_inner_product": "dot",
    "l2_norm": "l2",
    "cosinesimil": "cosine",
    "innerproduct": "dot",
    "l2": "l2",
}
_SCRIPTS = {
    re.compile(r"cosineSimilarity\(params\.(\w+), '(\w+)'\) \+ 1\.0"): "cosine",
    re.compile(r"double d = dotProduct\(params\.(\w+), '(\w+)'\); return d < 0 \? 1 / \(1 - d\) : d \+ 1;"): "dot",
    re.compile(r"1 / \(1 \+ l2norm\(params\.(\w+), '(\w+)'\)\)"): "l2",
}
Document = dict[str, Any]


class Refusal(Exception):
    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind, self.reason = status, kind, reason

    def body(self) -> dict[str, Any]:
        cause = {"type": self.kind, "reason": self.reason}
        return {"error": {"root_cause": [cause], **cause}, "status": self.status}


def _refuse(kind: str, reason: str) -> Refusal:
    return Refusal(400, kind, reason)


class _Index:
    def __init__(self, mappings: dict[str, Any], vectors: str) -> None:
        if unknown := mappings.keys() - {"dynamic", "_meta", "properties"}:
            raise _refuse("mapper_parsing_exception", f"unsupported parameters: {sorted(unknown)}")
        self.meta = mappings.get("_meta", {})
        self.dynamic = mappings.get("dynamic", "true")
        self.fields: dict[str, dict[str, Any]] = mappings.get("properties", {})
        for name, field in self.fields.items():
            _check_field(name, field, vectors)
        self.written: dict[str, Document] = {}
        self.shown: dict[str, Document] = {}
        self.pending: set[str] = set()
        self.lock = threading.Lock()

    def mapping(self) -> dict[str, Any]:
        return {"dynamic": self.dynamic, "_meta": self.meta, "properties": self.fields}

    def refresh(self) -> None:
        with self.lock:
            shown = dict(self.shown)
            for id in self.pending:
                if (document := self.written.get(id)) is None:
                    shown.pop(id, None)
                else:
                    shown[id] = document
            self.shown, self.pending = shown, set()

    def put(self, id: str, document: Document | None) -> bool:
        """Whether it was there before."""
        with self.lock:
            self.pending.add(id)
            if document is None:
                return self.written.pop(id, None) is not None
            there = id in self.written
            self.written[id] = document
            return there

    def check(self, id: object, source: object) -> Document:
        if not isinstance(id, str) or not id:
            raise _refuse("illegal_argument_exception", "if _id is specified it must not be empty")
        if len(id.encode()) > 512:
            raise _refuse("illegal_argument_exception", "id is too long, must be no longer than 512 bytes")
        if not isinstance(source, dict):
            raise _refuse("mapper_parsing_exception", "failed to parse: not an object")
        checked = dict(source)
        for name, value in source.items():
            if (field := self.fields.get(name)) is None:
                if self.dynamic == "strict":
                    reason = f"[1:1] mapping set to strict, dynamic introduction of [{name}] is not allowed"
                    raise _refuse("strict_dynamic_mapping_exception", reason)
                continue
            if value is not None:
                checked[name] = _value(name, field, value)
        return checked


def _check_field(name: str, field: dict[str, Any], vectors: str) -> None:
    kind = field.get("type")
    other = {"dense_vector": "knn_vector", "knn_vector": "dense_vector"}[vectors]
    if kind not in _OPTIONS or kind == other:
        raise _refuse("mapper_parsing_exception", f"No handler for type [{kind}] declared on field [{name}]")
    if unknown := field.keys() - _OPTIONS[kind] - {"type"}:
        raise _refuse(
            "mapper_parsing_exception", f"unknown parameter {sorted(unknown)} on mapper [{name}] of type [{kind}]"
        )
    if kind == vectors:
        dims, most = _dims(field), 4096 if kind == "dense_vector" else 16_000
        if not isinstance(dims, int) or not 1 <= dims <= most:
            reason = f"The number of dimensions should be in the range [1, {most}] but was [{dims}]"
            raise _refuse("mapper_parsing_exception", reason)
        if _similarity(field) not in _SIMILARITIES:
            raise _refuse("mapper_parsing_exception", f"Unknown value [{_similarity(field)}] for field [similarity]")


def _dims(field: Mapping[str, Any]) -> Any:
    return field.get("dims", field.get("dimension"))


def _similarity(field: Mapping[str, Any]) -> str:
    return str(field.get("similarity") or field.get("method", {}).get("space_type") or "cosine")


def _value(name: str, field: Mapping[str, Any], value: Any) -> Any:
    kind = field["type"]
    failed = f"failed to parse field [{name}] of type [{kind}]"
    if kind in ("long", "integer"):
        bits = 63 if kind == "long" else 31
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << bits) <= value < 1 << bits:
            raise _refuse("document_parsing_exception", f"{failed}: {str(value)[:50]} is out of range")
    elif kind in _VECTORS:
        if not isinstance(value, list) or len(value) != _dims(field):
            length = len(value) if isinstance(value, list) else type(value).__name__
            reason = f"The [{kind}] field [{name}] has [{length}] dimensions, other than defined [{_dims(field)}]"
            raise _refuse("document_parsing_exception", reason)
        if not set(map(type, value)) <= {float, int}:
            raise _refuse("document_parsing_exception", f"{failed}: not a number")
        vector = np.array(value, dtype=np.float32)
        if _SIMILARITIES[_similarity(field)] == "cosine" and not vector.any():
            reason = "The [cosine] similarity does not support vectors with zero magnitude."
            raise _refuse("document_parsing_exception", reason)
        return vector
    elif not isinstance(value, str):
        raise _refuse("document_parsing_exception", f"{failed}: not a string")
    elif kind == "binary":
        try:
            base64.b64decode(value, validate=True)
        except ValueError as error:
            raise _refuse("document_parsing_exception", f"{failed}: {error}") from None
    elif kind == "keyword" and len(value.encode()) > LARGEST_TERM:
        reason = f'Document contains at least one immense term in field="{name}" (longer than 32766 as UTF8)'
        raise _refuse("illegal_argument_exception", reason)
    return value


_VECTORS = ("dense_vector", "knn_vector")
Test = Callable[[Document], bool]


def _only(body: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(body.keys() - known):
        raise _refuse("parsing_exception", f"[{what}] unknown key [{unknown[0]}]")


def _searched(index: _Index, name: str) -> Mapping[str, Any]:
    if (field := index.fields.get(name)) is None:
        raise _refuse("query_shard_exception", f"no field [{name}] (a real server would find nothing)")
    if field["type"] not in ("keyword", "long", "integer") or not field.get("index", True):
        raise _refuse("query_shard_exception", f"Cannot search on field [{name}] since it is not indexed.")
    return field


def _typed(index: _Index, name: str, value: Any) -> Any:
    field = _searched(index, name)
    wanted = str if field["type"] == "keyword" else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise _refuse("query_shard_exception", f"failed to create query: For input string: {value!r}")
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def compile_query(query: Any, index: _Index, depth: int = 0) -> Test:
    """A query as a test of a document."""
    if not isinstance(query, dict) or len(query) != 1:
        raise _refuse("parsing_exception", "[bool] malformed query, expected a single query name")
    [(kind, body)] = query.items()
    match kind:
        case "match_all" | "match_none" if body == {}:
            return lambda document: kind == "match_all"
        case "bool":
            return _bool(body, index, depth + 1)
        case "term" | "terms" if len(body) == 1:
            [(name, value)] = body.items()
            if (kind == "terms") != isinstance(value, list) or (kind == "terms" and len(value) > 65_536):
                raise _refuse("parsing_exception", f"[{kind}] query does not support this value")
            values = {_typed(index, name, one) for one in _listed(value)}
            return lambda document: document.get(name) in values
        case "range" if len(body) == 1:
            [(name, bounds)] = body.items()
            _only(bounds, {"gt", "gte", "lt", "lte"}, "range")
            return _range(name, {sign: _typed(index, name, value) for sign, value in bounds.items()})
        case "exists":
            _only(body, {"field"}, "exists")
            _searched(index, body["field"])
            return lambda document: document.get(body["field"]) is not None
    raise _refuse("parsing_exception", f"unknown query [{kind}]")


def _bool(body: Mapping[str, Any], index: _Index, depth: int) -> Test:
    _only(body, {"filter", "must", "should", "must_not", "minimum_should_match"}, "bool")
    if depth > DEEPEST_BOOL:
        reason = f"The query contains a nested bool query with a depth greater than [{DEEPEST_BOOL}]"
        raise _refuse("illegal_argument_exception", reason)
    tests = {
        name: [compile_query(part, index, depth) for part in _listed(body.get(name, []))]
        for name in ("filter", "must", "should", "must_not")
    }
    all_of, none_of, some_of = tests["filter"] + tests["must"], tests["must_not"], tests["should"]
    least = body.get("minimum_should_match", 0 if all_of or not some_of else 1)
    return lambda document: (
        all(test(document) for test in all_of)
        and not any(test(document) for test in none_of)
        and sum(test(document) for test in some_of) >= least
    )


def _range(name: str, bounds: Mapping[str, Any]) -> Test:
    def bytewise(value: Any) -> Any:
        return value.encode() if isinstance(value, str) else value

    limits = [(sign, bytewise(value)) for sign, value in bounds.items()]

    def test(document: Document) -> bool:
        if (found := bytewise(document.get(name))) is None:
            return False
        compare = {"gt": found.__gt__, "gte": found.__ge__, "lt": found.__lt__, "lte": found.__le__}
        return all(compare[sign](value) for sign, value in limits)

    return test


def _near(
    index: _Index, name: Any, query: Any, metric: str | None, documents: Mapping[str, Document]
) -> dict[str, float]:
    """The similarity of each document with the query, as scores of the server: never negative, and float32."""
    field = index.fields.get(name)
    if field is None or field["type"] not in _VECTORS:
        raise _refuse("illegal_argument_exception", f"field [{name}] does not hold vectors")
    if not isinstance(query, list) or len(query) != _dims(field):
        reason = f"The query vector has a different number of dimensions than the document vectors [{_dims(field)}]."
        raise _refuse("illegal_argument_exception", reason)
    given = np.array(query, dtype=np.float32)
    measure = metric or _SIMILARITIES[_similarity(field)]
    if measure == "cosine" and not given.any():
        reason = "The [cosine] similarity does not support vectors with zero magnitude."
        raise _refuse("illegal_argument_exception", reason)
    ids = [id for id, document in documents.items() if document.get(name) is not None]
    if not ids:
        return {}
    matrix = np.stack([documents[id][name] for id in ids])
    if measure == "cosine":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(given)
        scores = (1 + (matrix @ given) / lengths) / 2
    elif measure == "dot":
        products = matrix @ given
        scores = np.where(products < 0, 1 / (1 - np.minimum(products, 0)), products + 1)
    else:
        scores = 1 / (1 + ((matrix - given) ** 2).sum(axis=1))
    return dict(zip(ids, np.maximum(scores, 0).astype(np.float32).tolist(), strict=True))


class ElasticServer:
    """`flavor` is elasticsearch or opensearch; without `product`, the header is missing that clients ask for."""

    def __init__(
        self, flavor: str = "elasticsearch", version: int = 9, user: str = "", password: str = "", key: str = "",
        *, product: bool = True,
    ) -> None:  # fmt: skip
        self.flavor, self.version, self.product = flavor, version, product
        self.secrets = {f"ApiKey {key}"} if key else set()
        if user:
            self.secrets.add("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        self.indices: dict[str, _Index] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path of each, as they came."""
        self.sizes: list[int] = []
        """Bytes of each bulk request."""
        self.refused: dict[str, int] = {}
        """Document id -> status that its bulk items are answered with."""
        self.largest = 100 << 20
        """Bytes of a request: http.max_content_length."""
        self.recall = 1.0
        """The part of the nearest that the graph finds."""
        self._faults: list[tuple[int, str, float]] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, status: int, end: str, *, times: int = 1, after: float = 0) -> None:
        """Answer the next requests whose path has `end` in it with this status, 0 for no answer at all."""
        with self._lock:
            self._faults += [(status, end, after)] * times

    def fault(self, path: str) -> tuple[int, float] | None:
        with self._lock:
            for i, (status, end, after) in enumerate(self._faults):
                if end in path:
                    del self._faults[i]
                    return status, after
        return None

    @property
    def vectors(self) -> str:
        return "dense_vector" if self.flavor == "elasticsearch" else "knn_vector"

    def index(self, name: str) -> _Index:
        if (found := self.indices.get(name)) is None:
            raise Refusal(404, "index_not_found_exception", f"no such index [{name}]")
        return found

    # ------------------------------------------------------------ what can be asked

    def answer(self, method: str, path: str, params: dict[str, str], body: bytes) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.split("/") if part]
        match method, parts:
            case (("GET" | "HEAD"), []):
                return 200, self._info()
            case (("PUT" | "POST"), [*name, "_bulk"]) if len(name) < 2:
                _only(params, {"refresh", "timeout"}, "_bulk")
                return 200, self._bulk(name[0] if name else None, body, params.get("refresh", "false"))
            case "PUT", [name]:
                return 200, self._create(name, _json(body))
            case (("GET" | "HEAD" | "DELETE"), [name]):
                found = self.index(name)
                if method == "DELETE":
                    del self.indices[name]
                return 200, {"acknowledged": True} if method == "DELETE" else {name: {"mappings": found.mapping()}}
            case "GET", [name, "_mapping"]:
                return 200, {name: {"mappings": self.index(name).mapping()}}
            case "PUT", [name, "_mapping"]:
                return 200, self._remap(self.index(name), _json(body))
            case (("GET" | "POST"), [name, "_refresh"]):
                self.index(name).refresh()
                return 200, {"_shards": {"total": 1, "successful": 1, "failed": 0}}
            case (("GET" | "POST"), [name, "_count"]):
                asked = _json(body) if body else {"query": {"match_all": {}}}
                _only(asked, {"query"}, "_count")
                shown = self._passing(self.index(name), asked["query"])
                return 200, {"count": len(shown), "_shards": _SHARDS}
            case (("GET" | "POST"), [name, "_mget"]):
                return 200, self._mget(name, _json(body), params)
            case (("GET" | "POST"), [name, "_search"]):
                _only(params, {"allow_partial_search_results"}, "_search")
                return 200, self._search(name, _json(body))
        raise _refuse("illegal_argument_exception", f"no handler found for uri [{path}] and method [{method}]")

    def _info(self) -> dict[str, Any]:
        version: dict[str, Any] = {"number": f"{self.version}.2.0", "build_flavor": "default"}
        if self.flavor == "opensearch":
            version["distribution"] = "opensearch"
        return {"name": "n", "cluster_name": "c", "version": version, "tagline": "You Know, for Search"}

    def _create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, {"mappings", "settings"}, "create index")
        if name != name.lower() or re.search(r'^[-_+]|[\\/*?"<>|\s,#:]', name) or len(name.encode()) > 255:
            raise _refuse("invalid_index_name_exception", f"Invalid index name [{name}]")
        settings = body.get("settings") or {}
        knn = settings == {"index": {"knn": True}}
        if settings and not (knn and self.flavor == "opensearch"):
            raise _refuse("illegal_argument_exception", f"unknown setting {settings}")
        made = _Index(body.get("mappings") or {}, self.vectors)
        with self._lock:
            if name in self.indices:
                raise _refuse("resource_already_exists_exception", f"index [{name}/x] already exists")
            self.indices[name] = made
        return {"acknowledged": True, "shards_acknowledged": True, "index": name}

    def _remap(self, index: _Index, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, {"_meta", "properties"}, "mapping")
        for name, field in body.get("properties", {}).items():
            if index.fields.get(name, field) != field:
                raise _refuse("illegal_argument_exception", f"mapper [{name}] cannot be changed")
            _check_field(name, field, self.vectors)
            index.fields[name] = field
        index.meta = body.get("_meta", index.meta)
        return {"acknowledged": True}

    def _bulk(self, default: str | None, body: bytes, refresh: str) -> dict[str, Any]:
        self.sizes.append(len(body))
        if not body.endswith(b"\n"):
            raise _refuse("illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
        lines = iter(body.split(b"\n")[:-1])
        items = [self._item(_json(line), lines, default) for line in lines]
        if refresh != "false":
            for index in self.indices.values():
                index.refresh()
        return {"took": 1, "errors": any("error" in next(iter(i.values())) for i in items), "items": items}

    def _item(self, action: dict[str, Any], lines: Iterator[bytes], default: str | None) -> dict[str, Any]:
        kind, given = next(iter(action.items())) if len(action) == 1 else ("", {})
        if kind not in ("index", "delete") or given.keys() - {"_id", "_index"}:
            raise _refuse("illegal_argument_exception", f"Malformed action/metadata line: {action}")
        name, id = given.get("_index", default), given.get("_id")
        told: dict[str, Any] = {"_index": name, "_id": id}
        source = next(lines, None) if kind == "index" else None
        if kind == "index" and source is None:
            raise _refuse("illegal_argument_exception", "The bulk request must have a source after each action")
        try:
            if (status := self.refused.get(str(id))) is not None:
                raise Refusal(status, "injected_exception", f"refused with {status}")
            index = self.index(str(name))
            there = index.put(str(id), None if source is None else index.check(id, _json(source)))
        except Refusal as refusal:
            return {kind: told | {"status": refusal.status, "error": {"type": refusal.kind, "reason": refusal.reason}}}
        if kind == "delete":
            told |= {"status": 200 if there else 404, "result": "deleted" if there else "not_found"}
        else:
            told |= {"status": 200 if there else 201, "result": "updated" if there else "created"}
        return {kind: told | {"_version": 1, "_seq_no": 1, "_primary_term": 1}}

    def _mget(self, name: str, body: dict[str, Any], params: dict[str, str]) -> dict[str, Any]:
        _only(params, {"_source_excludes"}, "_mget")
        _only(body, {"ids"}, "_mget")
        index = self.index(name)
        if not body["ids"]:
            raise _refuse("action_request_validation_exception", "no documents to get")
        excluded = set(params.get("_source_excludes", "").split(","))
        docs: list[dict[str, Any]] = []
        for id in body["ids"]:
            document = index.written.get(id)
            found = {} if document is None else {"_source": _source(index, document, excluded)}
            docs.append({"_index": name, "_id": id, "found": document is not None, **found})
        return {"docs": docs}

    def _passing(self, index: _Index, query: Any) -> dict[str, Document]:
        test = compile_query(query, index)
        return {id: document for id, document in index.shown.items() if test(document)}

    def _search(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        index, size = self.index(name), body.get("size", 10)
        known = {"size", "query", "knn", "sort", "search_after", "_source", "track_total_hits"}
        _only(body, known - ({"knn"} if self.flavor == "opensearch" else set()), "_search")
        if not 0 <= size <= LARGEST_PAGE:
            reason = f"Result window is too large, it must be less than or equal to: [{LARGEST_PAGE}] but was [{size}]"
            raise _refuse("illegal_argument_exception", reason)
        scores, found = self._found(index, body)
        field = None
        if "sort" in body:
            [(field, order)] = [next(iter(one.items())) for one in body["sort"]]
            if order != "asc" or not _searched(index, field).get("doc_values", True):
                raise _refuse("illegal_argument_exception", f"cannot sort on [{field}]")
            after = body.get("search_after")
            found = sorted(found, key=lambda id: _order(index.shown[id][field]))
            if after is not None:
                found = [id for id in found if _order(index.shown[id][field]) > _order(after[0])]
        elif scores:
            found = sorted(found, key=lambda id: -scores[id])
        asked = body.get("_source", True)
        if not isinstance(asked, bool):
            _only(asked, {"excludes"}, "_source")
        excluded = set() if isinstance(asked, bool) else set(asked["excludes"])
        hits: list[dict[str, Any]] = []
        for id in found[:size]:
            document = index.shown[id]
            hit: dict[str, Any] = {"_index": name, "_id": id, "_score": scores.get(id, 1.0)}
            if asked is not False:
                hit["_source"] = _source(index, document, excluded)
            if field is not None:
                hit |= {"_score": None, "sort": [document[field]]}
            hits.append(hit)
        return {"took": 1, "timed_out": False, "_shards": _SHARDS, "hits": {"max_score": None, "hits": hits}}

    def _found(self, index: _Index, body: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
        if near := body.get("knn"):
            _only(near, {"field", "query_vector", "k", "num_candidates", "filter"}, "knn")
            if not 1 <= near["k"] <= near["num_candidates"] <= LARGEST_PAGE:
                raise _refuse("illegal_argument_exception", "[k] must be 1 to [num_candidates], that 10000 at most")
            return self._graph(index, near["field"], near["query_vector"], near["k"], near.get("filter"))
        query = body.get("query", {"match_all": {}})
        if near := query.get("knn") if self.flavor == "opensearch" else None:
            [(name, near)] = near.items()
            _only(near, {"vector", "k", "filter"}, "knn")
            if not 1 <= near["k"] <= LARGEST_PAGE:
                raise _refuse("illegal_argument_exception", "[knn] requires k to be in the range (0, 10000]")
            return self._graph(index, name, near["vector"], near["k"], near.get("filter"))
        if scored := query.get("script_score"):
            _only(scored, {"query", "script"}, "script_score")
            passing = self._passing(index, scored["query"])
            scores = _near(index, *self._script(scored["script"]), passing)
            return scores, list(scores)
        return {}, list(self._passing(index, query))

    def _graph(self, index: _Index, name: str, query: Any, k: int, within: Any) -> tuple[dict[str, float], list[str]]:
        passing = self._passing(index, within) if within is not None else index.shown
        scores = _near(index, name, query, None, passing)
        nearest = sorted(scores, key=lambda id: -scores[id])[:k]
        return scores, nearest[: max(1, int(len(nearest) * self.recall))]

    def _script(self, script: Mapping[str, Any]) -> tuple[str, Any, str]:
        source, params = script["source"], script["params"]
        if self.flavor == "opensearch":
            if (script.get("lang"), source) != ("knn", "knn_score"):
                raise _refuse("script_exception", "compile error")
            _only(params, {"field", "query_value", "space_type"}, "knn_score")
            return params["field"], params["query_value"], _SIMILARITIES[params["space_type"]]
        for pattern, metric in _SCRIPTS.items():
            if matched := pattern.fullmatch(source):
                return matched[2], params[matched[1]], metric
        raise _refuse("script_exception", "compile error")


_SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}


def _order(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _source(index: _Index, document: Document, excluded: set[str]) -> Document:
    """Without vectors, as Elasticsearch 9.2 keeps it: only the graph has them, normalized."""
    return {
        name: value
        for name, value in document.items()
        if name not in excluded and index.fields.get(name, {}).get("type") not in _VECTORS
    }


def _json(data: bytes) -> dict[str, Any]:
    def constant(name: str) -> Any:
        raise ValueError(f"Non-standard token '{name}'")

    try:
        value = json.loads(data, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise _refuse("x_content_parse_exception", str(error)) from None
    if not isinstance(value, dict):
        raise _refuse("parsing_exception", "Expected [START_OBJECT]")
    return value


def _handler(server: ElasticServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do(self) -> None:
            split = urlsplit(self.path)
            server.requests.append((self.command, self.path))
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if fault := server.fault(self.path):
                status, after = fault
                time.sleep(after)
                if status == 0:
                    self.close_connection = True
                    return
                refusal = Refusal(status, "injected_exception", f"injected {status}")
                self.tell(status, refusal.body())
                return
            try:
                self.authorize()
                self.negotiate(bool(body), split.path)
                if length > server.largest:
                    raise Refusal(413, "content_too_long_exception", "entity content is too long")
                params = dict(parse_qsl(split.query, keep_blank_values=True))
                status, answer = server.answer(self.command, split.path, params, body)
            except Refusal as refusal:
                status, answer = refusal.status, refusal.body()
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                status, answer = 400, _refuse("parse_exception", f"{type(error).__name__}: {error}").body()
            self.tell(status, answer)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

        def authorize(self) -> None:
            if server.secrets and self.headers.get("Authorization") not in server.secrets:
                raise Refusal(401, "security_exception", "missing or wrong authentication credentials for REST request")

        def negotiate(self, has_body: bool, path: str) -> None:
            given = self.headers.get("Content-Type", "")
            kinds = ("json", "x-ndjson") if path.endswith("_bulk") else ("json",)
            plain = given.replace("vnd.elasticsearch+", "").partition(";")[0]
            if has_body and plain not in {f"application/{kind}" for kind in kinds}:
                raise Refusal(406, "illegal_argument_exception", f"Content-Type header [{given}] is not supported")
            for name in ("Accept", "Content-Type"):
                value = self.headers.get(name, "")
                if "vnd.elasticsearch" in value and server.flavor == "opensearch":
                    raise Refusal(406, "illegal_argument_exception", f"{name} header [{value}] is not supported")
                asked = re.search(r"compatible-with=(\d+)", value)
                if asked and int(asked[1]) not in (server.version, server.version - 1):
                    either = f"either version {server.version} or {server.version - 1}"
                    reason = f"{name} version must be {either}, but found {asked[1]}"
                    raise _refuse("media_type_header_exception", reason)

        def tell(self, status: int, answer: Any) -> None:
            data = json.dumps(answer, ensure_ascii=False).encode()
            self.send_response(status)
            kind = "application/json"
            if server.flavor == "elasticsearch":
                if "vnd.elasticsearch" in self.headers.get("Accept", ""):
                    kind = f"application/vnd.elasticsearch+json;compatible-with={server.version}"
                if server.product:
                    self.send_header("X-Elastic-Product", "Elasticsearch")
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="security"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: tests read what was asked from `requests`."""

    return Handler
