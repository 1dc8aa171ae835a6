"""Pinecone, control and data plane, as far as the sink goes: strict, in memory, in a thread of this process.

It is spoken to by the official clients: 8 (API 2025-10) and 10 (2026-07). What the service refuses it refuses, limits
that the clients do not check included, and more: a path, key or operator it does not know is a 400. It is as late as
the service: what was written is searched after `lag` seconds, read by id, listed and counted after twice as many.

    with PineconeServer(key="secret") as server:
        Pinecone(api_key="secret", host=server.base)
        server.fail(503, "/vectors/upsert", times=4)

Each index has a port of its own.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import orjson

from penstock.testing.emulators.pinecone_filter import Refusal, compile_filter

VERSIONS = ("2025-10", "2026-07")
METRICS = ("cosine", "dotproduct", "euclidean")
MOST, REQUEST, METADATA, ANSWER, URL = 1000, 2_000_000, 40_960, 4_000_000, 8000
MOST_VALUES = 1000
"""Of a sparse vector, by the strictest of what was documented."""

Record = tuple[Any, dict[str, Any]]
"""The vector and the metadata."""


def only(given: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(given.keys() - known):
        raise Refusal(400, f'{what}: Cannot find field: "{unknown[0]}"')


@dataclass
class View:
    """The records as one way of reading sees them: those of the log up to a place."""

    lag: float
    records: dict[str, Record] = field(default_factory=dict)
    at: int = 0


class Space:
    """A namespace: a log of what was written, and two views that follow it."""

    def __init__(self, lag: float) -> None:
        self.log: list[tuple[float, dict[str, Record | None]]] = []
        self.searched, self.read = View(lag), View(2 * lag)

    def append(self, changes: dict[str, Record | None]) -> int:
        self.log.append((time.monotonic(), changes))
        return len(self.log)

    def see(self, view: View) -> dict[str, Record]:
        while view.at < len(self.log) and self.log[view.at][0] + view.lag <= time.monotonic():
            for id, record in self.log[view.at][1].items():
                if record is None:
                    view.records.pop(id, None)
                else:
                    view.records[id] = record
            view.at += 1
        return view.records


@dataclass
class Index:
    name: str
    dimension: int | None
    """None of sparse vectors, which are dictionaries."""
    metric: str
    place: dict[str, str]
    tags: dict[str, str] | None
    spaces: dict[str, Space] = field(default_factory=dict)
    ready: float = 0.0
    door: Door = field(init=False)

    @property
    def kind(self) -> str:
        return "sparse" if self.dimension is None else "dense"


class Door:
    """A port of this machine, and the thread that serves it."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.port = int(self._http.server_address[1])
        self.base = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class PineconeServer:
    def __init__(self, key: str = "key", lag: float = 0.01, *, positions: bool = True) -> None:
        self.key, self.lag, self.positions = key, lag, positions
        """`positions`: whether answers tell places in the log."""
        self.indexes: dict[str, Index] = {}
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and bytes of each."""
        self.refused: set[str] = set()
        """Ids that upserts are refused for."""
        self._faults: list[tuple[int, str]] = []
        self._lock = threading.Lock()
        self._door = Door(_handler(self, None))
        self.port, self.base = self._door.port, self._door.base

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.forget()
        self._door.close()

    def forget(self) -> None:
        """Have no index any more."""
        for name in list(self.indexes):
            self.indexes.pop(name).door.close()

    def fail(self, status: int, path: str, *, times: int = 1) -> None:
        """Answer the next requests of that path with this status, 0 for no answer at all."""
        with self._lock:
            self._faults += [(status, path)] * times

    def fault(self, path: str) -> int | None:
        with self._lock:
            for i, (status, wanted) in enumerate(self._faults):
                if wanted == path:
                    del self._faults[i]
                    return status
        return None

    def control(self, method: str, path: str, body: bytes, version: str) -> Any:
        """Status, body and headers."""
        with self._lock:
            match method, [unquote(part) for part in path.split("/") if part]:
                case "POST", ["indexes"]:
                    return 201, self._create(orjson.loads(body), version), {}
                case "GET", ["indexes"]:
                    return 200, {"indexes": [self._described(index, version) for index in self.indexes.values()]}, {}
                case "GET", ["indexes", name]:
                    return 200, self._described(self._named(name), version), {}
                case "DELETE", ["indexes", name]:
                    self._named(name).door.close()
                    del self.indexes[name]
                    return 202, None, {}
        raise Refusal(404, f"no such path: {method} {path}")

    def data(self, index: Index, method: str, path: str, params: dict[str, list[str]], body: bytes) -> Any:
        with self._lock:
            if self.indexes.get(index.name) is not index or index.ready > time.monotonic():
                raise Refusal(404, "Index not found")
            match method, [unquote(part) for part in path.split("/") if part]:
                case "POST", ["vectors", "upsert"]:
                    return self._upsert(index, orjson.loads(body), len(body))
                case "POST", ["vectors", "delete"]:
                    return self._delete(index, orjson.loads(body))
                case "POST", ["query"]:
                    return self._query(index, orjson.loads(body))
                case "GET", ["vectors", "fetch"]:
                    return self._fetch(index, params)
                case "GET", ["vectors", "list"]:
                    return self._list(index, params)
                case "POST", ["describe_index_stats"]:
                    return self._stats(index, orjson.loads(body))
                case "DELETE", ["namespaces", name]:
                    return self._remove(index, name)
        raise Refusal(404, f"no such path: {method} {path}")

    # ------------------------------------------------------------ control plane

    def _named(self, name: str) -> Index:
        if name not in self.indexes:
            raise Refusal(404, f"Resource {name} not found")
        return self.indexes[name]

    def _create(self, body: dict[str, Any], version: str) -> dict[str, Any]:
        common = {"name", "deletion_protection", "tags"}
        if version == "2026-07":
            only(body, common | {"schema", "deployment"}, "create index")
            [(name, vector)] = body["schema"]["fields"].items()
            kind = {"_values": "dense_vector", "_sparse_values": "sparse_vector"}[name]
            only(vector, {"type", "dimension", "metric"} if name == "_values" else {"type"}, name)
            only(body["deployment"], {"deployment_type", "cloud", "region"}, "deployment")
            if (vector["type"], body["deployment"]["deployment_type"]) != (kind, "managed"):
                raise Refusal(400, "only serverless indexes of one kind of vectors are emulated")
            if name == "_sparse_values":
                vector |= {"vector_type": "sparse", "metric": "dotproduct"}
            place = {name: body["deployment"][name] for name in ("cloud", "region")}
        else:
            only(body, common | {"spec", "dimension", "metric", "vector_type"}, "create index")
            vector, place = body, body["spec"]["serverless"]
            only(place, {"cloud", "region"}, "serverless")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?", body["name"]):
            raise Refusal(400, "Name must consist of lower case alphanumeric characters or '-'")
        if vector.get("vector_type") == "sparse":
            if "dimension" in vector or vector["metric"] != "dotproduct":
                raise Refusal(400, "Sparse vector indexes have no dimension, and the metric dotproduct")
        elif not 1 <= vector["dimension"] <= 20_000 or vector["metric"] not in METRICS:
            raise Refusal(400, "the dimension is 1 to 20000, and the metric one of " + ", ".join(METRICS))
        if place["cloud"] not in ("aws", "gcp", "azure"):
            raise Refusal(404, f"Resource cloud: {place['cloud']} region: {place['region']} not found")
        if body["name"] in self.indexes:
            raise Refusal(409, "Resource  already exists")
        made = Index(body["name"], vector.get("dimension"), vector["metric"], dict(place), body.get("tags"))
        made.ready, made.door = time.monotonic() + self.lag, Door(_handler(self, made))
        self.indexes[made.name] = made
        return self._described(made, version)

    def _described(self, index: Index, version: str) -> dict[str, Any]:
        ready = index.ready <= time.monotonic()
        sparse = index.dimension is None
        shape = {"metric": index.metric} if sparse else {"dimension": index.dimension, "metric": index.metric}
        told: dict[str, Any] = {
            "name": index.name,
            "host": f"127.0.0.1:{index.door.port}",
            "status": {"ready": ready, "state": "Ready" if ready else "Initializing"},
            "deletion_protection": "disabled",
            "tags": index.tags,
        }
        if version == "2026-07":
            dense = {"_values": {"type": "dense_vector", **shape}}
            told["schema"] = {"fields": {"_sparse_values": {"type": "sparse_vector"}} if sparse else dense}
            told["deployment"] = {"deployment_type": "managed", **index.place}
            return told
        return told | shape | {"spec": {"serverless": index.place}, "vector_type": index.kind}

    # ------------------------------------------------------------ data plane

    def _upsert(self, index: Index, body: dict[str, Any], size: int) -> Any:
        only(body, {"vectors", "namespace"}, "upsert")
        if size > REQUEST:
            raise Refusal(400, f"Request size {size} exceeds the maximum supported size of {REQUEST} bytes")
        if not 1 <= len(body["vectors"]) <= MOST:
            raise Refusal(400, f"Upsert requests take 1 to {MOST} vectors, not {len(body['vectors'])}")
        changes: dict[str, Record | None] = {}
        for vector in body["vectors"]:
            only(
                vector, {"id", "metadata", "values"} | ({"sparseValues"} if index.kind == "sparse" else set()), "vector"
            )
            if index.kind == "sparse" and vector.get("values"):  # the client sends an empty list
                raise Refusal(400, "Sparse indexes take no dense values")
            _check_id(vector["id"])
            if vector["id"] in self.refused:
                raise Refusal(400, f"refused: {vector['id']}")
            if vector["id"] in changes:
                raise Refusal(400, f"Duplicate vector ID {vector['id']}")
            metadata = vector.get("metadata", {})
            _check_metadata(metadata)
            values = _entries(vector["sparseValues"]) if index.kind == "sparse" else _values(vector["values"], index)
            changes[vector["id"]] = values, metadata
        space = index.spaces.setdefault(body.get("namespace", ""), Space(self.lag))
        return 200, {"upsertedCount": len(changes)}, self._position("x-pinecone-request-lsn", space.append(changes))

    def _position(self, name: str, place: int) -> dict[str, str]:
        return {name: str(place)} if self.positions else {}

    def _delete(self, index: Index, body: dict[str, Any]) -> Any:
        only(body, {"ids", "namespace"}, "delete")
        if not 1 <= len(body["ids"]) <= MOST:
            raise Refusal(400, f"Delete requests take 1 to {MOST} ids")
        if (space := index.spaces.get(body.get("namespace", ""))) is None:
            raise Refusal(404, "Namespace not found")
        for id in body["ids"]:
            _check_id(id)
        return 200, {}, self._position("x-pinecone-request-lsn", space.append(dict.fromkeys(body["ids"])))

    def _remove(self, index: Index, name: str) -> Any:
        if (space := index.spaces.get(name)) is None:
            raise Refusal(404, "Namespace not found")
        space.append({id: None for _, changes in space.log for id in changes})
        return 200, {}, {}

    def _query(self, index: Index, body: dict[str, Any]) -> Any:
        sparse = index.kind == "sparse"
        asked, most = ("sparseVector", 1000) if sparse else ("vector", 10_000)
        only(body, {"topK", "includeValues", "includeMetadata", "namespace", asked, "filter"}, "query")
        if not 1 <= body["topK"] <= most:
            raise Refusal(400, f"topK must be 1 to {most}")
        query = _entries(body[asked]) if sparse else _values(body[asked], index).astype(np.float64)
        name = body.get("namespace", "")
        space = index.spaces.get(name, Space(0))
        passes = compile_filter(body["filter"]) if "filter" in body else None
        found = {id: r for id, r in space.see(space.searched).items() if passes is None or passes(r[1])}
        nearest = (_overlapping(query, found) if sparse else _nearest(query, found, index.metric))[: body["topK"]]
        matches = []
        for id, score in nearest:
            match: dict[str, Any] = {"id": id, "score": score, "values": []}
            if body.get("includeValues"):
                match |= _told(found[id][0])
            if body.get("includeMetadata"):
                match["metadata"] = found[id][1]
            matches.append(match)
        answer = {"matches": matches, "namespace": name, "usage": {"readUnits": 1}}
        if len(_json(answer)) > ANSWER:
            raise Refusal(400, "The query result is larger than 4MB")
        return 200, answer, self._position("x-pinecone-max-indexed-lsn", space.searched.at)

    def _read(self, index: Index, name: str) -> dict[str, Record]:
        space = index.spaces.get(name)
        return space.see(space.read) if space else {}

    def _fetch(self, index: Index, params: dict[str, list[str]]) -> Any:
        only(params, {"ids", "namespace"}, "fetch")
        if not 1 <= len(params["ids"]) <= MOST:
            raise Refusal(400, f"Fetch requests take 1 to {MOST} ids")
        name = params.get("namespace", [""])[0]
        records = self._read(index, name)
        found: dict[str, Any] = {}
        for id in params["ids"]:
            _check_id(id)
            if id in records:
                found[id] = {"id": id, **_told(records[id][0]), "metadata": records[id][1]}
        return 200, {"vectors": found, "namespace": name, "usage": {"readUnits": 1}}, {}

    def _list(self, index: Index, params: dict[str, list[str]]) -> Any:
        only(params, {"namespace", "limit", "paginationToken", "prefix"}, "list")
        limit = int(params.get("limit", ["100"])[0])
        if not 1 <= limit <= 100:
            raise Refusal(400, "limit must be 1 to 100")
        after = base64.b64decode(params.get("paginationToken", [""])[0]).decode()
        prefix, name = params.get("prefix", [""])[0], params.get("namespace", [""])[0]
        ids = sorted(id for id in self._read(index, name) if id > after and id.startswith(prefix))
        answer: dict[str, Any] = {"vectors": [{"id": id} for id in ids[:limit]], "namespace": name}
        if len(ids) > limit:
            answer["pagination"] = {"next": base64.b64encode(ids[limit - 1].encode()).decode()}
        return 200, answer | {"usage": {"readUnits": 1}}, {}

    def _stats(self, index: Index, body: dict[str, Any]) -> Any:
        only(body, set(), "describe_index_stats")
        counts = {name: len(self._read(index, name)) for name in index.spaces}
        told = {(name or "__default__"): {"vectorCount": count} for name, count in counts.items()}
        shape = {"dimension": index.dimension, "metric": index.metric, "vectorType": index.kind}
        return 200, {"namespaces": told, "indexFullness": 0, "totalVectorCount": sum(counts.values())} | shape, {}


def _check_id(id: Any) -> None:
    if not isinstance(id, str) or not re.fullmatch(r"[\x01-\x7f]{1,512}", id):
        raise Refusal(400, f"Vector ID must be ASCII and of 1 to 512 characters, but got {id!r}")


def _check_metadata(metadata: dict[str, Any]) -> None:
    for name, value in metadata.items():
        listed = isinstance(value, list) and all(isinstance(part, str) for part in value)
        if name.startswith("$") or not (listed or isinstance(value, str | int | float | bool)):
            wanted = "Metadata value must be a string, number, boolean or list of strings"
            raise Refusal(400, f"{wanted}, got {value!r} for field '{name}'")
        if isinstance(value, int) and not isinstance(value, bool):
            metadata[name] = float(value)
    if (size := len(_json(metadata))) > METADATA:
        raise Refusal(400, f"Metadata size is {size} bytes, which exceeds the limit of {METADATA} bytes per vector")


def _values(given: Any, index: Index) -> Any:
    values = np.array(given, np.float32)
    if values.shape != (index.dimension,):
        raise Refusal(
            400, f"Vector dimension {len(values)} does not match the dimension of the index {index.dimension}"
        )
    if not np.isfinite(values).all() or not values.any():
        raise Refusal(400, "Dense vectors must contain at least one non-zero value")
    return values


def _entries(given: dict[str, Any]) -> dict[int, float]:
    only(given, {"indices", "values"}, "sparse vector")
    indices, values = given["indices"], np.array(given["values"], np.float32)
    if not 1 <= len(indices) <= MOST_VALUES or len(set(indices)) != len(indices) or len(indices) != len(values):
        raise Refusal(400, f"Sparse vectors have 1 to {MOST_VALUES} values, each with an index of its own")
    if any(not isinstance(index, int) or not 0 <= index < 1 << 32 for index in indices):
        raise Refusal(400, "an index of a sparse vector is a number of 32 bits")
    if not np.isfinite(values).all() or not values.all():
        raise Refusal(400, "Sparse vectors have no zeros")
    return dict(zip(indices, values.tolist(), strict=True))


def _told(vector: Any) -> dict[str, Any]:
    if isinstance(vector, dict):
        sparse = {"indices": list(vector), "values": list(vector.values())}
        return {"values": [], "sparseValues": sparse}  # client 8 fails where there are no values
    return {"values": vector}


def _overlapping(query: dict[int, float], found: dict[str, Record]) -> list[tuple[str, float]]:
    """Those that have a product; what has none is not told."""
    scores = {
        id: sum(query[index] * values[index] for index in query.keys() & values.keys())
        for id, (values, _) in found.items()
    }
    return sorted(((id, score) for id, score in scores.items() if score), key=lambda pair: -pair[1])


def _nearest(query: Any, found: dict[str, Record], metric: str) -> list[tuple[str, float]]:
    if not found:
        return []
    matrix = np.stack([values for values, _ in found.values()]).astype(np.float64)
    if metric == "euclidean":
        scores = ((matrix - query) ** 2).sum(axis=1)
        order = np.argsort(scores, kind="stable")
    else:
        scores = matrix @ query
        if metric == "cosine":
            scores /= np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        order = np.argsort(-scores, kind="stable")
    ids = list(found)
    return [(ids[i], float(scores[i])) for i in order.tolist()]


def _json(answer: Any) -> bytes:
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _handler(server: PineconeServer, index: Index | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.command, self.path, len(body)))
            status = server.fault(split.path)
            if status == 0:
                self.close_connection = True
                return
            try:
                if status is not None:
                    raise Refusal(status, f"injected {status}")
                if self.headers.get("Api-Key") != server.key:
                    raise Refusal(401, "Invalid API Key")
                if (version := self.headers.get("X-Pinecone-Api-Version", "")) not in VERSIONS:
                    raise Refusal(400, f"unknown API version {version!r}")
                if len(self.path) > URL:
                    raise Refusal(414, "URI Too Long")
                params = parse_qs(split.query, keep_blank_values=True)
                if index is None:
                    told = server.control(self.command, split.path, body, version)
                else:
                    told = server.data(index, self.command, split.path, params, body)
            except Refusal as refusal:
                told = refusal.status, _error(split.path, refusal), {}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                told = 400, _error(split.path, Refusal(400, f"{type(error).__name__}: {error}")), {}
            self.tell(*told)

        do_GET = do_POST = do_DELETE = do

        def tell(self, status: int, answer: Any, headers: dict[str, str]) -> None:
            data = b"" if answer is None else _json(answer)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: tests read what was asked from `requests`."""

    return Handler


_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}


def _error(path: str, refusal: Refusal) -> dict[str, Any]:
    if path.startswith("/indexes"):
        error = {"code": _CODES.get(refusal.status, "UNKNOWN"), "message": refusal.message}
        return {"error": error, "status": refusal.status}
    return {"code": {400: 3, 404: 5, 429: 8}.get(refusal.status, 2), "message": refusal.message, "details": []}
