"""A Qdrant server as its client sees it over REST: enough for a sink, and strict about every field and path.

    with Emulator(api_key="secret") as server:
        QdrantSink(f"qdrant://127.0.0.1:{server.port}/notes")
        server.fail(503, times=2)
        server.stall(30)

True to recorded requests of qdrant-client 1.20, and to what is documented of the server: ids are UUIDs or unsigned, a
cosine collection keeps its vectors scaled to length 1, requests end at 32 MB, a batch is taken or refused as a whole.
Points lie in memory and are searched one by one.
"""

from __future__ import annotations

import json
import operator
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

Json = dict[str, Any]
LARGEST = 32 << 20

_DISTANCES = ("Cosine", "Dot", "Euclid")
_FIELDS = {
    "create": {"vectors", "sparse_vectors", "metadata"},
    "update": {"metadata"},
    "aliases": {"actions"},
    "alias action": {"create_alias", "delete_alias"},
    "create_alias": {"alias_name", "collection_name"},
    "delete_alias": {"alias_name"},
    "index": {"field_name", "field_schema"},
    "upsert": {"points"},
    "point": {"id", "vector", "payload"},
    "delete": {"points", "filter"},
    "retrieve": {"ids", "with_payload", "with_vector"},
    "scroll": {"limit", "filter", "offset", "with_payload", "with_vector"},
    "count": {"exact", "filter"},
    "query": {"query", "using", "filter", "limit", "params", "with_vector", "with_payload"},
    "nearest": {"nearest"},
    "params": {"exact"},
    "vector": {"size", "distance", "multivector_config"},
    "multivector": {"comparator"},
    "sparse": {"modifier"},
    "sparse vector": {"indices", "values"},
    "filter": {"must", "should", "must_not"},
    "match": {"value", "any"},
    "range": {"lt", "lte", "gt", "gte"},
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


class Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _only(given: object, kind: str) -> Json:
    if not isinstance(given, dict):
        raise Refusal(400, f"Format error in JSON body: expected {kind}")
    if unknown := given.keys() - _FIELDS[kind]:
        raise Refusal(400, f"Format error in JSON body: unknown field `{min(unknown)}` in {kind}")
    return given


def _id(given: object) -> str | int:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 1 << 64:
        return given
    try:
        return str(uuid.UUID(str(given)))
    except ValueError:
        raise Refusal(400, f"value {given} is not a valid point ID: an unsigned integer or a UUID") from None


def _order(id: str | int) -> tuple[bool, str | int]:
    return isinstance(id, str), id


@dataclass(slots=True)
class Collection:
    vectors: dict[str, Json]
    sparse: dict[str, Json]
    metadata: Json | None
    indexes: dict[str, str] = field(default_factory=dict)
    points: dict[str | int, tuple[dict[str, Any], Json]] = field(default_factory=dict)

    def info(self) -> Json:
        params = {"vectors": self.vectors, "shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1}
        params |= {"on_disk_payload": True} | ({"sparse_vectors": self.sparse} if self.sparse else {})
        config: Json = {
            "params": params,
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "on_disk": False},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        }
        if self.metadata is not None:
            config["metadata"] = self.metadata
        schema = {name: {"data_type": kind, "points": len(self.points)} for name, kind in self.indexes.items()}
        counts = {"indexed_vectors_count": 0, "points_count": len(self.points), "segments_count": 1}
        return {"status": "green", "optimizer_status": "ok", **counts, "config": config, "payload_schema": schema}

    def take(self, name: str, given: Any) -> Any:
        """A vector as it is kept: float32, scaled in a cosine collection."""
        if name in self.sparse:
            sparse = _only(given, "sparse vector")
            if len(sparse["indices"]) != len(sparse["values"]) or len(set(sparse["indices"])) != len(sparse["indices"]):
                raise Refusal(422, "Validation error in JSON body: [values: must be the same length, indices unique]")
            pairs = sorted(zip(sparse["indices"], sparse["values"], strict=True))
            return {index: np.float32(value) for index, value in pairs}
        if name not in self.vectors:
            raise Refusal(400, f"Wrong input: Not existing vector name error: {name}")
        config = self.vectors[name]
        try:
            values = np.array(given, dtype=np.float32)
        except (ValueError, TypeError):
            raise Refusal(400, "Format error in JSON body: data did not match any variant of VectorStruct") from None
        if values.ndim != (2 if "multivector_config" in config else 1) or not values.size:
            raise Refusal(400, "Wrong input: Conversion between multi and regular vectors failed")
        if values.shape[-1] != config["size"]:
            wanted = config["size"]
            raise Refusal(400, f"Wrong input: Vector dimension error: expected dim: {wanted}, got {values.shape[-1]}")
        if config["distance"] == "Cosine":
            length = np.linalg.norm(values, axis=-1, keepdims=True)
            values = (values / np.where(length > 0, length, 1)).astype(np.float32)
        return values

    def score(self, name: str, query: Any, kept: Any) -> float | None:
        if name in self.sparse:
            common = query.keys() & kept.keys()
            return float(sum(query[i] * kept[i] for i in common)) if common else None
        config = self.vectors[name]
        if config["distance"] == "Euclid":
            return float(np.linalg.norm(query - kept))
        return float((query @ kept.T).max(axis=-1).sum())

    def upsert(self, points: list[Any]) -> None:
        if not points:
            raise Refusal(400, "Empty update request")
        ready: dict[str | int, tuple[dict[str, Any], Json]] = {}
        for given in points:
            point = _only(given, "point")
            if not isinstance(point["vector"], dict):
                raise Refusal(400, "Wrong input: Not existing vector name error: ")
            vectors = {name: self.take(name, vector) for name, vector in point["vector"].items()}
            ready[_id(point["id"])] = vectors, point.get("payload") or {}
        self.points.update(ready)

    def matching(self, wanted: Any) -> Iterator[tuple[str | int, dict[str, Any], Json]]:
        for id, (vectors, payload) in self.points.items():
            if wanted is None or passes(wanted, id, payload):
                yield id, vectors, payload


def passes(condition: Any, id: str | int, payload: Json) -> bool:
    """A filter, or one condition of it."""
    match condition:
        case {"has_id": list(ids), **rest} if not rest:
            return id in map(_id, ids)
        case {"is_empty": {"key": str(name)}, **rest} if not rest:
            return payload.get(name) in (None, [])
        case {"key": str(name), "match": match, **rest} if not rest:
            match _only(match, "match"):
                case {"value": value, **more} if not more:
                    return name in payload and type(payload[name]) is type(value) and payload[name] == value
                case {"any": list(values), **more} if not more:
                    return payload.get(name) in values
        case {"key": str(name), "range": bounds, **rest} if not rest:
            found = payload.get(name)
            bounds = {sign: bound for sign, bound in _only(bounds, "range").items() if bound is not None}
            number = isinstance(found, int | float) and not isinstance(found, bool)
            return number and all(_COMPARISONS[sign](found, bound) for sign, bound in bounds.items())
        case {"key": _} | {"has_id": _} | {"is_empty": _}:
            pass
        case _:
            parts = {name: part or [] for name, part in _only(condition, "filter").items()}
            return (
                all(passes(term, id, payload) for term in parts.get("must", []))
                and not any(passes(term, id, payload) for term in parts.get("must_not", []))
                and (not parts.get("should") or any(passes(term, id, payload) for term in parts["should"]))
            )
    raise Refusal(400, "Format error in JSON body: data did not match any variant of untagged enum Condition")


def _record(id: str | int, vectors: dict[str, Any], payload: Json, asked: Json) -> Json:
    record: Json = {"id": id, "payload": None}
    match asked.get("with_payload", True):
        case True:
            record["payload"] = payload
        case list(names):
            record["payload"] = {name: payload[name] for name in names if name in payload}
    if asked.get("with_vector"):
        record["vector"] = {name: _told(vector) for name, vector in vectors.items()}
    return record


def _told(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {"indices": list(vector), "values": [float(value) for value in vector.values()]}
    return vector.tolist()


class Emulator:
    """The server, in threads of this process. `requests` are the methods and paths that came."""

    def __init__(self, api_key: str | None = None, *, keeps_metadata: bool = True) -> None:
        self.api_key, self.keeps_metadata = api_key, keeps_metadata
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._faults: deque[int | float] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"emulator": self}))
        self._server.daemon_threads, self._server.block_on_close = True, False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.port = int(self._server.server_address[1])
        self._leaving = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leaving.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, status: int, times: int = 1) -> None:
        """The next requests are answered with this status and nothing is done."""
        self._faults.extend([status] * times)

    def stall(self, seconds: float) -> None:
        """The next request is answered after so long, or never when the emulator ends."""
        self._faults.append(float(seconds))

    def fault(self) -> None:
        if not self._faults:
            return
        fault = self._faults.popleft()
        if isinstance(fault, int):
            raise Refusal(fault, "Service internal error: injected")
        self._leaving.wait(fault)

    def answer(self, method: str, path: str, body: Json | None) -> Any:
        match method, [unquote(part) for part in path.strip("/").split("/")]:
            case "GET", [""]:
                return {"title": "qdrant - vector search engine", "version": "1.20.0", "commit": "emulator"}
            case "GET", ["collections", name, "exists"]:
                return {"exists": name in self.collections}
            case "POST", ["collections", "aliases"]:
                return self._alias(_only(body, "aliases")["actions"])
            case "GET", ["aliases"]:
                return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in self.aliases.items()]}
            case "PUT", ["collections", name]:
                return self._create(name, _only(body, "create"))
            case "DELETE", ["collections", name]:
                self.aliases = {alias: to for alias, to in self.aliases.items() if to != name}
                return self.collections.pop(name, None) is not None
            case "GET", ["collections", name]:
                return self._named(name).info()
            case "PATCH", ["collections", name]:
                given = _only(body, "update").get("metadata") or {}
                collection = self._named(name)
                collection.metadata = (collection.metadata or {}) | given
                return True
            case "PUT", ["collections", name, "index"]:
                asked = _only(body, "index")
                self._named(name).indexes[asked["field_name"]] = asked["field_schema"]
                return {"operation_id": 0, "status": "completed"}
            case "PUT" | "POST", ["collections", name, "points", *verb] if len(verb) < 2:
                return self._points(self._named(name), method, verb[0] if verb else "", body)
        raise Refusal(404, "")

    def _named(self, name: str) -> Collection:
        name = self.aliases.get(name, name)
        if name not in self.collections:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.collections[name]

    def _create(self, name: str, asked: Json) -> bool:
        if name in self.collections:
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self.aliases:
            raise Refusal(
                400, f"Wrong input: Can't create collection with name {name}. Alias with the same name exists"
            )
        vectors, sparse = asked.get("vectors") or {}, asked.get("sparse_vectors") or {}
        for config in vectors.values():
            _only(config, "vector")
            if config["distance"] not in _DISTANCES or not 0 < config["size"] <= 65536:
                raise Refusal(422, "Validation error in JSON body: [vectors: size or distance]")
            if "multivector_config" in config and _only(config["multivector_config"], "multivector") != {
                "comparator": "max_sim"
            }:
                raise Refusal(400, "Format error in JSON body: unknown comparator")
        for config in sparse.values():
            _only(config, "sparse")
        metadata = asked.get("metadata") if self.keeps_metadata else None
        self.collections[name] = Collection(vectors, sparse, metadata)
        return True

    def _alias(self, actions: list[Json]) -> bool:
        """All of them or none."""
        aliases = dict(self.aliases)
        for action in actions:
            [(kind, given)] = _only(action, "alias action").items()
            alias = _only(given, kind)["alias_name"]
            if kind == "delete_alias":
                aliases.pop(alias, None)
                continue
            if given["collection_name"] not in self.collections:
                raise Refusal(404, f"Not found: Collection `{given['collection_name']}` doesn't exist!")
            if alias in self.collections:
                raise Refusal(400, f"Wrong input: Collection `{alias}` already exists!")
            aliases[alias] = given["collection_name"]
        self.aliases = aliases
        return True

    def _points(self, collection: Collection, method: str, verb: str, body: Json | None) -> Any:
        match method, verb:
            case "PUT", "":
                collection.upsert(_only(body, "upsert")["points"])
                return {"operation_id": 0, "status": "completed"}
            case "POST", "":
                asked = _only(body, "retrieve")
                ids = [_id(id) for id in asked["ids"]]
                return [_record(id, *collection.points[id], asked) for id in ids if id in collection.points]
            case "POST", "delete":
                asked = _only(body, "delete")
                gone = [_id(id) for id in asked.get("points", ())]
                if "filter" in asked:
                    gone += [id for id, _, _ in collection.matching(asked["filter"])]
                for id in gone:
                    collection.points.pop(id, None)
                return {"operation_id": 0, "status": "completed"}
            case "POST", "count":
                return {"count": sum(1 for _ in collection.matching(_only(body, "count").get("filter")))}
            case "POST", "scroll":
                return self._scroll(collection, _only(body, "scroll"))
            case "POST", "query":
                return {"points": self._query(collection, _only(body, "query"))}
        raise Refusal(404, "")

    def _scroll(self, collection: Collection, asked: Json) -> Json:
        limit, offset = asked.get("limit", 10), asked.get("offset")
        found = sorted(collection.matching(asked.get("filter")), key=lambda one: _order(one[0]))
        if offset is not None:
            found = [one for one in found if _order(one[0]) >= _order(_id(offset))]
        following = found[limit][0] if len(found) > limit else None
        return {"points": [_record(*one, asked) for one in found[:limit]], "next_page_offset": following}

    def _query(self, collection: Collection, asked: Json) -> list[Json]:
        name, limit = asked.get("using", ""), asked.get("limit", 10)
        _only(asked.get("params") or {}, "params")
        query = collection.take(name, _only(asked["query"], "nearest")["nearest"])
        if limit < 1:
            raise Refusal(422, "Validation error in JSON body: [limit: value 0 invalid, must be 1 or larger]")
        found = []
        for id, vectors, payload in collection.matching(asked.get("filter")):
            score = collection.score(name, query, vectors[name]) if name in vectors else None
            if score is not None:
                found.append(_record(id, vectors, payload, asked) | {"version": 0, "score": score})
        nearest_last = name in collection.vectors and collection.vectors[name]["distance"] == "Euclid"
        return sorted(found, key=lambda hit: hit["score"] if nearest_last else -hit["score"])[:limit]


class _Handler(BaseHTTPRequestHandler):
    emulator: Emulator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        emulator, parts = self.emulator, urlsplit(self.path)
        emulator.requests.append(f"{self.command} {parts.path}")
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        try:
            emulator.fault()
            if emulator.api_key is not None and self.headers.get("api-key") != emulator.api_key:
                raise Refusal(401, "Must provide an API key or an Authorization bearer token")
            if length > LARGEST:
                raise Refusal(413, f"Payload error: JSON payload ({length} bytes) is larger than allowed")
            if unknown := parse_qs(parts.query).keys() - {"wait", "timeout"}:
                raise Refusal(400, f"Format error in query parameters: unknown field `{min(unknown)}`")
            try:
                body = json.loads(raw) if raw else None
            except ValueError as error:
                raise Refusal(400, f"Format error in JSON body: {error}") from None
            with emulator.lock:
                answer: Json = {"result": emulator.answer(self.command, parts.path, body), "status": "ok"}
            status = 200
        except Refusal as refusal:
            answer, status = {"status": {"error": str(refusal)}}, refusal.status
        except (KeyError, TypeError, AttributeError) as error:  # a field is missing, or of another type
            answer, status = {"status": {"error": f"Format error in JSON body: {error!r}"}}, 400
        if status == 404 and not answer["status"]["error"]:
            self._send(status, b"")  # an unknown path has no body
        else:
            self._send(status, json.dumps(answer | {"time": 0.001}).encode())

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def _send(self, status: int, data: bytes) -> None:
        try:
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:
            self.close_connection = True  # the client has gone, as after a timeout

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what came is in `requests`."""
