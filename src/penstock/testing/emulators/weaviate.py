"""A Weaviate server as its client sees it, over REST and gRPC: enough for a sink, and strict about every field.

    with Emulator(api_key="secret") as server:
        WeaviateSink(f"weaviate://127.0.0.1:{server.port}/Notes?grpc={server.grpc_port}")
        server.fail(grpc.StatusCode.UNAVAILABLE)    # the next call of gRPC; a number: the next request of REST
        server.refused["<uuid>"] = "why"            # an object's error, returned as Weaviate does

True to recorded requests of weaviate-client 4.23 and replies of 1.33 and 1.36, and to what is documented of the server:
names begin with a capital, replies of the schema are completed, `id` and `vector` are reserved, ids are UUIDs, filters
need an index, texts are trimmed by it, messages end at 10 MB, errors of objects are returned, blobs are base64 and not
empty. There is no Not, as before 1.33; `absent_is_unequal` says which of two meanings NotEqual has.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl

import grpc
import numpy as np
from weaviate.proto.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    health_weaviate_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

from penstock.testing.emulators.weaviate_objects import Collection, invalid, only
from penstock.testing.emulators.weaviate_schema import Refusal, completed

LARGEST = 10 << 20
MOST = 10_000


class Emulator:
    """The server, in threads of this process. `requests` has the methods and paths of all requests."""

    def __init__(self, api_key: str | None = None, *, version: str = "1.36.0", absent_is_unequal: bool = True) -> None:
        self.api_key, self.version, self.absent_is_unequal = api_key, version, absent_is_unequal
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._faults: deque[int | grpc.StatusCode | float] = deque()
        self._leaving = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"emulator": self}))
        self._http.daemon_threads, self._http.block_on_close = True, False
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.port = int(self._http.server_address[1])
        limits = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=[*limits, ("grpc.so_reuseport", 0)])
        weaviate_pb2_grpc.add_WeaviateServicer_to_server(_servicer(self), self._grpc)  # type: ignore[no-untyped-call]
        check = grpc.unary_unary_rpc_method_handler(
            lambda request, context: health_weaviate_pb2.WeaviateHealthCheckResponse(status="SERVING"),
            request_deserializer=health_weaviate_pb2.WeaviateHealthCheckRequest.FromString,
            response_serializer=health_weaviate_pb2.WeaviateHealthCheckResponse.SerializeToString,
        )
        health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
        self._grpc.add_generic_rpc_handlers((health,))
        self.grpc_port = int(self._grpc.add_insecure_port("127.0.0.1:0"))

    def __enter__(self) -> Self:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leaving.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait(5)

    def fail(self, status: int | grpc.StatusCode, times: int = 1) -> None:
        """The next requests, of REST for a number, else of gRPC, are answered with this and nothing is done."""
        self._faults.extend([status] * times)

    def stall(self, seconds: float) -> None:
        """The next call of gRPC fails after so long, or when the emulator ends, and nothing is done."""
        self._faults.append(float(seconds))

    def fault(self, rest: bool) -> None:
        if not self._faults or (type(self._faults[0]) is int) is not rest:
            return
        fault = self._faults.popleft()
        if isinstance(fault, float):
            self._leaving.wait(fault)
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "stalled")  # its client may have gone long since
        raise Refusal(fault, "injected")

    def rest(self, method: str, path: str, body: Any, parameters: dict[str, str]) -> tuple[int, Any]:
        match method, path.strip("/").split("/")[1:]:
            case "GET", [".well-known", "ready" | "live"]:
                return 200, None
            case "GET", [".well-known", "openid-configuration"]:
                return 404, {}
            case "GET", ["meta"]:
                meta = {"hostname": "http://[::]:8080", "modules": {}, "version": self.version}
                return 200, {**meta, "grpcMaxMessageSize": LARGEST}
            case "GET", ["schema"]:
                return 200, {"classes": [one.schema for one in self.collections.values()]}
            case "POST", ["schema"]:
                schema = completed(body)
                name = schema["class"]
                if name in self.collections:
                    raise Refusal(422, f"class name {name} already exists")
                if name in self.aliases:
                    raise Refusal(422, f"class name {name} already exists as an alias")
                self.collections[name] = Collection(schema, absent_is_unequal=self.absent_is_unequal)
                return 200, schema
            case "GET", ["schema", name]:
                return (200, self.collections[name].schema) if name in self.collections else (404, None)
            case "PUT", ["schema", name] if name in self.collections:
                old, new = self.collections[name].schema, completed(body)
                for part in old.keys() - {"description", "invertedIndexConfig"}:
                    if old[part] != new.get(part):
                        raise Refusal(422, f"{part} is immutable")
                self.collections[name].schema = new
                return 200, new
            case "DELETE", ["schema", name]:
                self.collections.pop(name, None)
                return 200, None
            case method, ["aliases", *alias] if len(alias) < 2 and self.version >= "1.32":
                return self._alias(method, "".join(alias), body, parameters.get("class"))
            case "GET", ["objects", name, id] if name in self.collections and id in self.collections[name].objects:
                return 200, {"class": name, "id": id, "properties": self.collections[name].objects[id][0]}
        return 404, None

    def _alias(self, method: str, alias: str, body: Any, of: str | None) -> tuple[int, Any]:
        """An alias outlives the collection that it stands for."""
        if unknown := (body or {}).keys() - {"alias", "class"}:
            raise Refusal(422, f"unknown field {min(unknown)!r} of an alias")
        if method == "POST" and not alias:
            alias = body["alias"][:1].upper() + body["alias"][1:]
            if not re.fullmatch("[A-Z][_0-9A-Za-z]{0,254}", alias):
                raise Refusal(422, f"'{alias}' is not a valid alias name")
            if alias in self.collections or alias in self.aliases:
                raise Refusal(422, f"create alias: {alias} already exists")
        elif method == "GET" and not alias:
            found = [{"alias": a, "class": c} for a, c in self.aliases.items() if of in (None, c)]
            return 200, {"aliases": found}
        elif alias not in self.aliases:
            return 404, None
        if method in ("POST", "PUT"):
            if body["class"] not in self.collections:
                raise Refusal(422, f"alias: collection {body['class']} does not exist")
            self.aliases[alias] = body["class"]
        if method == "DELETE":
            del self.aliases[alias]
            return 204, None
        return 200, {"alias": alias, "class": self.aliases[alias]}

    def collection(self, name: str) -> Collection:
        name = self.aliases.get(name, name)
        if name not in self.collections:
            raise invalid(f"could not find class {name} in schema")
        return self.collections[name]

    def batch(self, request: batch_pb2.BatchObjectsRequest) -> batch_pb2.BatchObjectsReply:
        errors = []
        for index, one in enumerate(only(request).objects):
            try:
                if one.uuid in self.refused:
                    raise ValueError(self.refused[one.uuid])
                self.collection(only(one).collection).take(one)
            except (ValueError, Refusal) as error:
                errors.append(batch_pb2.BatchObjectsReply.BatchError(index=index, error=str(error)))
        return batch_pb2.BatchObjectsReply(took=0.01, errors=errors)

    def remove(self, request: batch_delete_pb2.BatchDeleteRequest) -> batch_delete_pb2.BatchDeleteReply:
        collection = self.collection(only(request).collection)
        deleted = list(collection.matching(request.filters))[:MOST]
        for id in deleted:
            del collection.objects[id]
        return batch_delete_pb2.BatchDeleteReply(took=0.01, matches=len(deleted), successful=len(deleted))

    def aggregate(self, request: aggregate_pb2.AggregateRequest) -> aggregate_pb2.AggregateReply:
        count = len(self.collection(only(request).collection).objects)
        single = aggregate_pb2.AggregateReply.Single(objects_count=count)
        return aggregate_pb2.AggregateReply(took=0.01, single_result=single)

    def search(self, request: search_get_pb2.SearchRequest) -> search_get_pb2.SearchReply:
        collection, limit = self.collection(only(request).collection), request.limit or 10
        if limit > MOST:
            raise invalid("query maximum results exceeded")
        wanted = request.filters if request.HasField("filters") else None
        searches = request.HasField("near_vector") or request.HasField("bm25_search")
        if request.after and (wanted is not None or searches):
            raise invalid("cursor api: cannot be used with where filters or searches")
        ids, distances, scores = sorted(collection.matching(wanted)), None, dict[str, float]()
        if request.HasField("bm25_search"):
            scores = collection.ranked(only(request.bm25_search), ids)
            ids = sorted(scores, key=lambda id: -scores[id])
        if request.after:
            ids = [id for id in ids if id > str(uuid.UUID(request.after))]
        if request.HasField("near_vector"):
            near = only(request.near_vector)
            [target], [query] = near.targets.target_vectors, near.vectors
            distances = collection.distances(target, query, ids)
            order = np.argsort(distances, kind="stable")[:limit]
            ids, distances = [ids[i] for i in order], distances[order]
        results = [
            self._result(collection, id, request, None if distances is None else float(distances[i]))
            for i, id in enumerate(ids[:limit])
        ]
        for id, result in zip(ids, results, strict=False):
            if id in scores and request.metadata.score:
                result.metadata.score, result.metadata.score_present = scores[id], True
        return search_get_pb2.SearchReply(took=0.01, results=results)

    def _result(
        self, collection: Collection, id: str, request: search_get_pb2.SearchRequest, distance: float | None
    ) -> search_get_pb2.SearchResult:
        kept, vectors = collection.objects[id]
        meta = search_get_pb2.MetadataResult(id=id, id_as_bytes=uuid.UUID(id).bytes)
        metadata = only(request.metadata)
        if metadata.distance and distance is not None:
            meta.distance, meta.distance_present = distance, True
        for name in metadata.vectors:
            if name in vectors:
                data = vectors[name].tobytes()
                if vectors[name].ndim == 2:
                    data = vectors[name].shape[1].to_bytes(2, "little") + data
                meta.vectors.append(base_pb2.Vectors(name=name, vector_bytes=data, type=collection.kind(name)))  # type: ignore[arg-type]
        known = collection.properties
        names: Iterable[str] = [name for name in known if known[name]["dataType"] != ["blob"]]
        if request.HasField("properties") and not only(request.properties).return_all_nonref_properties:
            names = request.properties.non_ref_properties
        result = search_get_pb2.SearchResult(metadata=meta)
        result.properties.target_collection = request.collection
        for name in names:
            if name not in known:
                raise invalid(f"no such prop with name '{name}'")
            cell, kind = result.properties.non_ref_props.fields[name], known[name]["dataType"][0]
            if isinstance(kept.get(name), list):
                cell.list_value.text_values.values.extend(kept[name])
            elif name in kept:
                setattr(cell, {"boolean": "bool"}.get(kind, kind) + "_value", kept[name])
            else:
                cell.null_value = 0
        return result


def _servicer(emulator: Emulator) -> Any:
    """The calls of gRPC, each after the same checks."""

    def guarded(name: str, act: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(self: object, request: Any, context: grpc.ServicerContext) -> Any:
            emulator.requests.append(name)
            try:
                emulator.fault(rest=False)
                key = dict(context.invocation_metadata()).get("authorization")
                if emulator.api_key is not None and key != f"Bearer {emulator.api_key}":
                    raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "unauthorized: invalid api key")
                with emulator.lock:
                    return act(request)
            except Refusal as refusal:
                context.abort(refusal.status, str(refusal))

        return call

    acts = {
        "BatchObjects": emulator.batch,
        "BatchDelete": emulator.remove,
        "Aggregate": emulator.aggregate,
        "Search": emulator.search,
    }
    calls = {name: guarded(name, act) for name, act in acts.items()}
    return type("Servicer", (weaviate_pb2_grpc.WeaviateServicer,), calls)()


class _Handler(BaseHTTPRequestHandler):
    emulator: Emulator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        emulator, (path, _, query) = self.emulator, self.path.partition("?")
        emulator.requests.append(f"{self.command} {path}")
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            emulator.fault(rest=True)
            key = self.headers.get("Authorization")
            public = "/.well-known/" in path
            if emulator.api_key is not None and not public and key != f"Bearer {emulator.api_key}":
                raise Refusal(401, "anonymous access not enabled, please provide an auth scheme such as an API key")
            with emulator.lock:
                parameters = dict(parse_qsl(query))
                status, answer = emulator.rest(self.command, path, json.loads(raw) if raw else None, parameters)
        except Refusal as refusal:
            status, answer = int(str(refusal.status)), {"error": [{"message": str(refusal)}]}
        except (KeyError, TypeError, ValueError) as error:
            status, answer = 422, {"error": [{"message": f"invalid body: {error!r}"}]}
        data = b"" if answer is None else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:
            self.close_connection = True  # the client has gone, as after a timeout

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: all requests are in `requests`."""
