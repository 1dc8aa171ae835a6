"""Pinecone, control and data plane, as far as the sink goes: strict, in memory, in a thread of this process.

The official clients speak to it: 8 (API 2025-10) and 10 (2026-07). It refuses what the service refuses, limits that
the clients do not check included, and more: an unknown path, key or operator is a 400 or 404. It is as late as the
service: a write is searched after `lag` seconds, and read by id, listed and counted after twice as many.

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
from typing import Any, Self
from urllib.parse import unquote

import orjson

from penstock.testing.emulators.listener import Listener, to_json
from penstock.testing.emulators.pinecone_filter import Refusal, compile_filter
from penstock.testing.emulators.pinecone_http import handler
from penstock.testing.emulators.pinecone_index import (
    METRICS,
    MOST_VALUES,
    Index,
    Namespace,
    Record,
    check_id,
    check_metadata,
    checked,
    nearest,
    only,
    overlapping,
    vector_fields,
)

__all__ = ["MOST_VALUES", "PineconeServer"]

MOST, REQUEST, ANSWER = 1000, 2_000_000, 4_000_000
"""Records of a request, and bytes of a request and of an answer."""


class PineconeServer:
    def __init__(self, key: str = "key", lag: float = 0.01, *, positions: bool = True) -> None:
        self.key, self.lag, self.positions = key, lag, positions
        """`positions`: whether answers have positions in the log."""
        self.indexes: dict[str, Index] = {}
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and bytes of each."""
        self.refused: set[str] = set()
        """Ids that upserts are refused for."""
        self._faults: list[tuple[int, str, int | None]] = []
        self._lock = threading.Lock()
        self._listener = Listener(handler(self, None))
        self.port, self.base = self._listener.port, self._listener.base

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.forget()
        self._listener.close()

    def forget(self) -> None:
        """Remove all indexes."""
        for name in list(self.indexes):
            self.indexes.pop(name).listener.close()

    def fail(self, status: int, path: str, *, times: int = 1, retry_after: int | None = None) -> None:
        """Answer the next requests of that path with this status, 0 for no answer at all."""
        with self._lock:
            self._faults += [(status, path, retry_after)] * times

    def fault(self, path: str) -> tuple[int, int | None] | None:
        """The status, and the seconds of a Retry-After header."""
        with self._lock:
            for i, (status, wanted, retry_after) in enumerate(self._faults):
                if wanted == path:
                    del self._faults[i]
                    return status, retry_after
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
                    self._named(name).listener.close()
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
        index = Index(body["name"], vector.get("dimension"), vector["metric"], dict(place), body.get("tags"))
        index.ready, index.listener = time.monotonic() + self.lag, Listener(handler(self, index))
        self.indexes[index.name] = index
        return self._described(index, version)

    def _described(self, index: Index, version: str) -> dict[str, Any]:
        ready = index.ready <= time.monotonic()
        sparse = index.dimension is None
        shape = {"metric": index.metric} if sparse else {"dimension": index.dimension, "metric": index.metric}
        described: dict[str, Any] = {
            "name": index.name,
            "host": f"127.0.0.1:{index.listener.port}",
            "status": {"ready": ready, "state": "Ready" if ready else "Initializing"},
            "deletion_protection": "disabled",
            "tags": index.tags,
        }
        if version == "2026-07":
            dense = {"_values": {"type": "dense_vector", **shape}}
            described["schema"] = {"fields": {"_sparse_values": {"type": "sparse_vector"}} if sparse else dense}
            described["deployment"] = {"deployment_type": "managed", **index.place}
            return described
        return described | shape | {"spec": {"serverless": index.place}, "vector_type": index.kind}

    # ------------------------------------------------------------ data plane

    def _upsert(self, index: Index, body: dict[str, Any], size: int) -> Any:
        only(body, {"vectors", "namespace"}, "upsert")
        if size > REQUEST:
            raise Refusal(400, f"Request size {size} exceeds the maximum supported size of {REQUEST} bytes")
        if not 1 <= len(body["vectors"]) <= MOST:
            raise Refusal(400, f"Upsert requests take 1 to {MOST} vectors, not {len(body['vectors'])}")
        sparse = index.kind == "sparse"
        changes: dict[str, Record | None] = {}
        for vector in body["vectors"]:
            only(vector, {"id", "metadata", "values"} | ({"sparseValues"} if sparse else set()), "vector")
            if sparse and vector.get("values"):  # the client sends an empty list
                raise Refusal(400, "Sparse indexes take no dense values")
            check_id(vector["id"])
            if vector["id"] in self.refused:
                raise Refusal(400, f"refused: {vector['id']}")
            if vector["id"] in changes:
                raise Refusal(400, f"Duplicate vector ID {vector['id']}")
            metadata = vector.get("metadata", {})
            check_metadata(metadata)
            changes[vector["id"]] = checked(vector["sparseValues" if sparse else "values"], index), metadata
        namespace = index.namespaces.setdefault(body.get("namespace", ""), Namespace(self.lag))
        return 200, {"upsertedCount": len(changes)}, self._position("x-pinecone-request-lsn", namespace.append(changes))

    def _position(self, name: str, position: int) -> dict[str, str]:
        return {name: str(position)} if self.positions else {}

    def _delete(self, index: Index, body: dict[str, Any]) -> Any:
        only(body, {"ids", "namespace"}, "delete")
        if not 1 <= len(body["ids"]) <= MOST:
            raise Refusal(400, f"Delete requests take 1 to {MOST} ids")
        if (namespace := index.namespaces.get(body.get("namespace", ""))) is None:
            raise Refusal(404, "Namespace not found")
        for id in body["ids"]:
            check_id(id)
        return 200, {}, self._position("x-pinecone-request-lsn", namespace.append(dict.fromkeys(body["ids"])))

    def _remove(self, index: Index, name: str) -> Any:
        if (namespace := index.namespaces.get(name)) is None:
            raise Refusal(404, "Namespace not found")
        namespace.append({id: None for _, changes in namespace.log for id in changes})
        return 200, {}, {}

    def _query(self, index: Index, body: dict[str, Any]) -> Any:
        sparse = index.kind == "sparse"
        field, most = ("sparseVector", 1000) if sparse else ("vector", 10_000)
        only(body, {"topK", "includeValues", "includeMetadata", "namespace", field, "filter"}, "query")
        if not 1 <= body["topK"] <= most:
            raise Refusal(400, f"topK must be 1 to {most}")
        query = checked(body[field], index)
        name = body.get("namespace", "")
        namespace = index.namespaces.get(name, Namespace(0))
        passes = compile_filter(body["filter"]) if "filter" in body else None
        found = {id: r for id, r in namespace.see(namespace.searched).items() if passes is None or passes(r[1])}
        scores = overlapping(query, found) if sparse else nearest(query, found, index.metric)
        matches = []
        for id, score in scores[: body["topK"]]:
            match: dict[str, Any] = {"id": id, "score": score, "values": []}
            if body.get("includeValues"):
                match |= vector_fields(found[id][0])
            if body.get("includeMetadata"):
                match["metadata"] = found[id][1]
            matches.append(match)
        answer = {"matches": matches, "namespace": name, "usage": {"readUnits": 1}}
        if len(to_json(answer)) > ANSWER:
            raise Refusal(400, "The query result is larger than 4MB")
        return 200, answer, self._position("x-pinecone-max-indexed-lsn", namespace.searched.at)

    def _read(self, index: Index, name: str) -> dict[str, Record]:
        namespace = index.namespaces.get(name)
        return namespace.see(namespace.read) if namespace else {}

    def _fetch(self, index: Index, params: dict[str, list[str]]) -> Any:
        only(params, {"ids", "namespace"}, "fetch")
        if not 1 <= len(params["ids"]) <= MOST:
            raise Refusal(400, f"Fetch requests take 1 to {MOST} ids")
        name = params.get("namespace", [""])[0]
        records = self._read(index, name)
        found: dict[str, Any] = {}
        for id in params["ids"]:
            check_id(id)
            if id in records:
                found[id] = {"id": id, **vector_fields(records[id][0]), "metadata": records[id][1]}
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
        counts = {name: len(self._read(index, name)) for name in index.namespaces}
        namespaces = {(name or "__default__"): {"vectorCount": count} for name, count in counts.items()}
        shape = {"dimension": index.dimension, "metric": index.metric, "vectorType": index.kind}
        return 200, {"namespaces": namespaces, "indexFullness": 0, "totalVectorCount": sum(counts.values())} | shape, {}
