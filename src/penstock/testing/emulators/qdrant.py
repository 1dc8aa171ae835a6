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
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from penstock.testing.emulators.qdrant_points import DISTANCES, Collection, Json, Refusal, only, order, point_id, record

LARGEST = 32 << 20


class Emulator:
    """The server, in threads of this process. `requests` has the methods and paths of all requests."""

    def __init__(
        self, api_key: str | None = None, *, keeps_metadata: bool = True, matches_prefixes: bool = True
    ) -> None:
        self.api_key, self.keeps_metadata, self.matches_prefixes = api_key, keeps_metadata, matches_prefixes
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.requests: list[str] = []
        self.searched: Json = {}
        """The parameters of the last search."""
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
        """The next request fails after so long, or when the emulator ends, and nothing is done."""
        self._faults.append(float(seconds))

    def fault(self) -> None:
        if not self._faults:
            return
        fault = self._faults.popleft()
        if isinstance(fault, int):
            raise Refusal(fault, "Service internal error: injected")
        self._leaving.wait(fault)
        raise Refusal(504, "Service internal error: a stalled request")  # its client may have gone long since

    def answer(self, method: str, path: str, body: Json | None) -> Any:
        match method, [unquote(part) for part in path.strip("/").split("/")]:
            case "GET", [""]:
                return {"title": "qdrant - vector search engine", "version": "1.20.0", "commit": "emulator"}
            case "GET", ["collections", name, "exists"]:
                return {"exists": name in self.collections}
            case "POST", ["collections", "aliases"]:
                return self._alias(only(body, "aliases")["actions"])
            case "GET", ["aliases"]:
                return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in self.aliases.items()]}
            case "PUT", ["collections", name]:
                return self._create(name, only(body, "create"))
            case "DELETE", ["collections", name]:
                self.aliases = {alias: to for alias, to in self.aliases.items() if to != name}
                return self.collections.pop(name, None) is not None
            case "GET", ["collections", name]:
                return self._named(name).info()
            case "PATCH", ["collections", name]:
                collection, update = self._named(name), only(body, "update")
                collection.update(update.get("metadata") or {}, update.get("vectors") or {})
                return True
            case "PUT", ["collections", name, "index"]:
                self._named(name).index(only(body, "index"))
                return {"operation_id": 0, "status": "completed"}
            case "PUT" | "POST", ["collections", name, "points", *verb] if len(verb) < 2:
                return self._points(self._named(name), method, verb[0] if verb else "", body)
        raise Refusal(404, "")

    def _named(self, name: str) -> Collection:
        name = self.aliases.get(name, name)
        if name not in self.collections:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.collections[name]

    def _create(self, name: str, request: Json) -> bool:
        if name in self.collections:
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self.aliases:
            raise Refusal(
                400, f"Wrong input: Can't create collection with name {name}. Alias with the same name exists"
            )
        vectors, sparse = request.get("vectors") or {}, request.get("sparse_vectors") or {}
        for config in vectors.values():
            only(config, "vector")
            if config["distance"] not in DISTANCES or not 0 < config["size"] <= 65536:
                raise Refusal(422, "Validation error in JSON body: [vectors: size or distance]")
            if config.get("datatype", "float32") not in ("float32", "float16"):
                raise Refusal(400, "Format error in JSON body: unknown variant of datatype")
            if "multivector_config" in config and only(config["multivector_config"], "multivector") != {
                "comparator": "max_sim"
            }:
                raise Refusal(400, "Format error in JSON body: unknown comparator")
        for config in sparse.values():
            if only(config, "sparse").get("modifier", "none") not in ("none", "idf"):
                raise Refusal(400, "Format error in JSON body: unknown variant of modifier")
        metadata = request.get("metadata") if self.keeps_metadata else None
        self.collections[name] = Collection(vectors, sparse, metadata, self.matches_prefixes)
        return True

    def _alias(self, actions: list[Json]) -> bool:
        """All of them or none."""
        aliases = dict(self.aliases)
        for action in actions:
            [(kind, fields)] = only(action, "alias action").items()
            alias = only(fields, kind)["alias_name"]
            if kind == "delete_alias":
                aliases.pop(alias, None)
                continue
            if fields["collection_name"] not in self.collections:
                raise Refusal(404, f"Not found: Collection `{fields['collection_name']}` doesn't exist!")
            if alias in self.collections:
                raise Refusal(400, f"Wrong input: Collection `{alias}` already exists!")
            aliases[alias] = fields["collection_name"]
        self.aliases = aliases
        return True

    def _points(self, collection: Collection, method: str, verb: str, body: Json | None) -> Any:
        match method, verb:
            case "PUT", "":
                collection.upsert(only(body, "upsert")["points"])
                return {"operation_id": 0, "status": "completed"}
            case "POST", "":
                request = only(body, "retrieve")
                ids = [point_id(id) for id in request["ids"]]
                return [record(id, *collection.points[id], request) for id in ids if id in collection.points]
            case "POST", "delete":
                request = only(body, "delete")
                deleted = [point_id(id) for id in request.get("points", ())]
                if "filter" in request:
                    deleted += [id for id, _, _ in collection.matching(request["filter"])]
                for id in deleted:
                    collection.points.pop(id, None)
                return {"operation_id": 0, "status": "completed"}
            case "POST", "count":
                return {"count": sum(1 for _ in collection.matching(only(body, "count").get("filter")))}
            case "POST", "scroll":
                return self._scroll(collection, only(body, "scroll"))
            case "POST", "query":
                return {"points": self._query(collection, only(body, "query"))}
        raise Refusal(404, "")

    def _scroll(self, collection: Collection, request: Json) -> Json:
        limit, offset = request.get("limit", 10), request.get("offset")
        found = sorted(collection.matching(request.get("filter")), key=lambda one: order(one[0]))
        if offset is not None:
            found = [one for one in found if order(one[0]) >= order(point_id(offset))]
        following = found[limit][0] if len(found) > limit else None
        return {"points": [record(*one, request) for one in found[:limit]], "next_page_offset": following}

    def _query(self, collection: Collection, request: Json) -> list[Json]:
        name, limit = request.get("using", ""), request.get("limit", 10)
        self.searched = only(request.get("params") or {}, "params")
        only(self.searched.get("quantization") or {}, "quantization params")
        query = collection.weighed(name, collection.take(name, only(request["query"], "nearest")["nearest"]))
        if limit < 1:
            raise Refusal(422, "Validation error in JSON body: [limit: value 0 invalid, must be 1 or larger]")
        found = []
        for id, vectors, payload in collection.matching(request.get("filter")):
            score = collection.score(name, query, vectors[name]) if name in vectors else None
            if score is not None:
                found.append(record(id, vectors, payload, request) | {"version": 0, "score": score})
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
        """Quiet: all requests are in `requests`."""
