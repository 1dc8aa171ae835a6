"""Elasticsearch 8 and 9, and OpenSearch 3, as far as the sink goes: strict, in memory, in a thread of this process.

The official clients speak to it. It refuses what the real servers refuse, with their errors, and more: an unknown
field, key or path is a 400. What was written is not searched before a refresh.

    with ElasticServer(user="me", password="secret") as server:
        Elasticsearch(server.base, basic_auth=("me", "secret"))
        server.fail(429, "_bulk", times=2)
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

from penstock.testing.emulators.elastic_counts import aggregated
from penstock.testing.emulators.elastic_http import Fault, handler, parse_json
from penstock.testing.emulators.elastic_index import (
    ALL_VECTORS,
    SIMILARITIES,
    Document,
    Index,
    Refusal,
    by_signs,
    check_field,
    only,
    refuse,
    requantized,
)
from penstock.testing.emulators.elastic_query import (
    LARGEST_PAGE,
    SCRIPTS,
    compile_query,
    matched,
    scored,
    searched,
    weighed,
)


class ElasticServer:
    """`flavor` is elasticsearch or opensearch. With `product=False` the header that clients require is missing."""

    def __init__(
        self, flavor: str = "elasticsearch", version: int = 9, user: str = "", password: str = "", key: str = "",
        *, product: bool = True,
    ) -> None:  # fmt: skip
        self.flavor, self.version, self.product = flavor, version, product
        self.secrets = {f"ApiKey {key}"} if key else set()
        if user:
            self.secrets.add("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        self.indices: dict[str, Index] = {}
        self.aliases: dict[str, set[str]] = {}
        """Alias -> the indices that it stands for."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each, in order."""
        self.sizes: list[int] = []
        """Bytes of each bulk request."""
        self.refused: dict[str, int] = {}
        """Document id -> status that its bulk items are answered with."""
        self.number = ""
        """Another version than `version`.2.0."""
        self.licensed = True
        """Whether the licence includes rank vectors."""
        self.largest = 100 << 20
        """Bytes of a request: http.max_content_length."""
        self.recall = 1.0
        """The share of the nearest that the graph finds."""
        self._faults: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
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

    def fail(self, status: int, end: str, *, times: int = 1, after: float = 0, retry_after: int | None = None) -> None:
        """Answer the next requests whose path has `end` in it with this status, 0 for no answer at all."""
        with self._lock:
            self._faults += [(end, Fault(status, after, retry_after))] * times

    def fault(self, path: str) -> Fault | None:
        with self._lock:
            for i, (end, fault) in enumerate(self._faults):
                if end in path:
                    del self._faults[i]
                    return fault
        return None

    @property
    def vectors(self) -> str:
        return "dense_vector" if self.flavor == "elasticsearch" else "knn_vector"

    def names(self, name: str) -> list[str]:
        """The indices that a name or alias stands for."""
        if not (found := [name] if name in self.indices else sorted(self.aliases.get(name, ()))):
            raise Refusal(404, "index_not_found_exception", f"no such index [{name}]")
        return found

    def index(self, name: str) -> Index:
        [found] = self.names(name)
        return self.indices[found]

    # ------------------------------------------------------------ requests

    def answer(self, method: str, path: str, params: dict[str, str], body: bytes) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.split("/") if part]
        match method, parts:
            case (("GET" | "HEAD"), []):
                return 200, self._info()
            case (("PUT" | "POST"), [*name, "_bulk"]) if len(name) < 2:
                only(params, {"refresh", "timeout"}, "_bulk")
                return 200, self._bulk(name[0] if name else None, body, params.get("refresh", "false"))
            case "PUT", [name]:
                return 200, self._create(name, parse_json(body))
            case (("GET" | "HEAD" | "DELETE"), [name]):
                if method == "DELETE":
                    return 200, self._remove(name)
                return 200, {found: {"mappings": self.indices[found].mapping()} for found in self.names(name)}
            case "GET", [name, "_mapping"]:
                return 200, {found: {"mappings": self.indices[found].mapping()} for found in self.names(name)}
            case "GET", [name, "_alias"]:
                known = self.aliases.items()
                return 200, {f: {"aliases": {a: {} for a, of in known if f in of}} for f in self.names(name)}
            case "POST", ["_aliases"]:
                return 200, self._alias(parse_json(body))
            case "PUT", [name, "_mapping"]:
                return 200, self._remap(self.index(name), parse_json(body))
            case (("GET" | "POST"), [name, "_refresh"]):
                self.index(name).refresh()
                return 200, {"_shards": {"total": 1, "successful": 1, "failed": 0}}
            case (("GET" | "POST"), [name, "_count"]):
                request = parse_json(body) if body else {"query": {"match_all": {}}}
                only(request, {"query"}, "_count")
                shown = self._passing(self.index(name), request["query"])
                return 200, {"count": len(shown), "_shards": _SHARDS}
            case (("GET" | "POST"), [name, "_mget"]):
                return 200, self._mget(name, parse_json(body), params)
            case (("GET" | "POST"), [name, "_search"]):
                only(params, {"allow_partial_search_results"}, "_search")
                return 200, self._search(name, parse_json(body))
        raise refuse("illegal_argument_exception", f"no handler found for uri [{path}] and method [{method}]")

    def _info(self) -> dict[str, Any]:
        version: dict[str, Any] = {"number": self.number or f"{self.version}.2.0", "build_flavor": "default"}
        if self.flavor == "opensearch":
            version["distribution"] = "opensearch"
        return {"name": "n", "cluster_name": "c", "version": version, "tagline": "You Know, for Search"}

    def _create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        only(body, {"mappings", "settings"}, "create index")
        if name != name.lower() or re.search(r'^[-_+]|[\\/*?"<>|\s,#:]', name) or len(name.encode()) > 255:
            raise refuse("invalid_index_name_exception", f"Invalid index name [{name}]")
        only(settings := body.get("settings") or {}, {"index"}, "settings")
        only(within := settings.get("index", {}), {"knn", "analysis"}, "settings")
        if "knn" in within and self.flavor != "opensearch":
            raise refuse("illegal_argument_exception", "unknown setting [index.knn]")
        index = Index(body.get("mappings") or {}, self.vectors, within.get("analysis", {}))
        if not self.licensed and any(field["type"] == "rank_vectors" for field in index.fields.values()):
            raise Refusal(403, "security_exception", "current license is non-compliant for [Rank Vectors]")
        with self._lock:
            if name in self.aliases:
                raise refuse("invalid_index_name_exception", f"Invalid index name [{name}], already exists as alias")
            if name in self.indices:
                raise refuse("resource_already_exists_exception", f"index [{name}/x] already exists")
            self.indices[name] = index
        return {"acknowledged": True, "shards_acknowledged": True, "index": name}

    def _remove(self, name: str) -> dict[str, Any]:
        if self.names(name) != [name]:
            reason = f"The provided expression [{name}] matches an alias, specify the corresponding concrete indices"
            raise refuse("illegal_argument_exception", f"{reason} instead.")
        del self.indices[name]
        self.aliases = {alias: of - {name} for alias, of in self.aliases.items() if of != {name}}
        return {"acknowledged": True}

    def _alias(self, body: dict[str, Any]) -> dict[str, Any]:
        """Do all of the actions or none."""
        only(body, {"actions"}, "_aliases")
        aliases = {alias: set(of) for alias, of in self.aliases.items()}
        for action in body["actions"]:
            [(kind, names)] = action.items()
            only(action, {"add", "remove"}, "_aliases")
            only(names, {"index", "alias"}, kind)
            name, alias = names["index"], names["alias"]
            if name not in self.indices:
                raise Refusal(404, "index_not_found_exception", f"no such index [{name}]")
            if alias in self.indices:
                reason = f"Invalid alias name [{alias}]: an index or data stream exists with the same name as the alias"
                raise refuse("invalid_alias_name_exception", reason)
            if kind == "add":
                aliases.setdefault(alias, set()).add(name)
            elif name in aliases.get(alias, ()):
                aliases[alias].remove(name)
            else:
                raise Refusal(404, "aliases_not_found_exception", f"aliases [{alias}] missing")
        self.aliases = {alias: of for alias, of in aliases.items() if of}
        return {"acknowledged": True, "errors": False}

    def _remap(self, index: Index, body: dict[str, Any]) -> dict[str, Any]:
        only(body, {"_meta", "properties"}, "mapping")
        for name, field in body.get("properties", {}).items():
            if name in index.fields and not requantized(index.fields[name], field):
                raise refuse("illegal_argument_exception", f"mapper [{name}] cannot be changed")
            check_field(name, field, self.vectors)
            index.fields[name] = field
        index.meta = body.get("_meta", index.meta)
        return {"acknowledged": True}

    def _bulk(self, default: str | None, body: bytes, refresh: str) -> dict[str, Any]:
        self.sizes.append(len(body))
        if not body.endswith(b"\n"):
            raise refuse("illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
        lines = iter(body.split(b"\n")[:-1])
        items = [self._item(parse_json(line), lines, default) for line in lines]
        if refresh != "false":
            for index in self.indices.values():
                index.refresh()
        return {"took": 1, "errors": any("error" in next(iter(i.values())) for i in items), "items": items}

    def _item(self, action: dict[str, Any], lines: Iterator[bytes], default: str | None) -> dict[str, Any]:
        kind, target = next(iter(action.items())) if len(action) == 1 else ("", {})
        if kind not in ("index", "delete") or target.keys() - {"_id", "_index"}:
            raise refuse("illegal_argument_exception", f"Malformed action/metadata line: {action}")
        name, id = target.get("_index", default), target.get("_id")
        item: dict[str, Any] = {"_index": name, "_id": id}
        source = next(lines, None) if kind == "index" else None
        if kind == "index" and source is None:
            raise refuse("illegal_argument_exception", "The bulk request must have a source after each action")
        try:
            if (status := self.refused.get(str(id))) is not None:
                raise Refusal(status, "injected_exception", f"refused with {status}")
            index = self.index(str(name))
            replaced = index.put(str(id), None if source is None else index.check(id, parse_json(source)))
        except Refusal as refusal:
            return {kind: item | {"status": refusal.status, "error": {"type": refusal.kind, "reason": refusal.reason}}}
        if kind == "delete":
            item |= {"status": 200 if replaced else 404, "result": "deleted" if replaced else "not_found"}
        else:
            item |= {"status": 200 if replaced else 201, "result": "updated" if replaced else "created"}
        return {kind: item | {"_version": 1, "_seq_no": 1, "_primary_term": 1}}

    def _mget(self, name: str, body: dict[str, Any], params: dict[str, str]) -> dict[str, Any]:
        only(params, {"_source_excludes"}, "_mget")
        only(body, {"ids"}, "_mget")
        index = self.index(name)
        if not body["ids"]:
            raise refuse("action_request_validation_exception", "no documents to get")
        excluded = set(params.get("_source_excludes", "").split(","))
        docs: list[dict[str, Any]] = []
        for id in body["ids"]:
            document = index.written.get(id)
            found = {} if document is None else {"_source": _source(index, document, excluded)}
            docs.append({"_index": name, "_id": id, "found": document is not None, **found})
        return {"docs": docs}

    def _passing(self, index: Index, query: Any) -> dict[str, Document]:
        test = compile_query(query, index)
        return {id: document for id, document in index.shown.items() if test(document)}

    def _search(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        index, size = self.index(name), body.get("size", 10)
        known = {"size", "query", "knn", "sort", "search_after", "_source", "track_total_hits", "aggs"}
        only(body, known - ({"knn"} if self.flavor == "opensearch" else set()), "_search")
        if not 0 <= size <= LARGEST_PAGE:
            reason = f"Result window is too large, it must be less than or equal to: [{LARGEST_PAGE}] but was [{size}]"
            raise refuse("illegal_argument_exception", reason)
        scores, found = self._found(index, body)
        field = None
        if "sort" in body:
            [(field, order)] = [next(iter(one.items())) for one in body["sort"]]
            if order != "asc" or not searched(index, field).get("doc_values", True):
                raise refuse("illegal_argument_exception", f"cannot sort on [{field}]")
            after = body.get("search_after")
            found = sorted(found, key=lambda id: _order(index.shown[id][field]))
            if after is not None:
                found = [id for id in found if _order(index.shown[id][field]) > _order(after[0])]
        elif scores:
            found = sorted(found, key=lambda id: -scores[id])
        source = body.get("_source", True)
        if not isinstance(source, bool):
            only(source, {"excludes", "includes"}, "_source")
        excluded = _excluded(index, source)
        hits: list[dict[str, Any]] = []
        for id in found[:size]:
            document = index.shown[id]
            hit: dict[str, Any] = {"_index": name, "_id": id, "_score": scores.get(id, 1.0)}
            if source is not False:
                hit["_source"] = _source(index, document, excluded)
            if field is not None:
                hit |= {"_score": None, "sort": [document[field]]}
            hits.append(hit)
        answer = {"took": 1, "timed_out": False, "_shards": _SHARDS, "hits": {"max_score": None, "hits": hits}}
        if "aggs" in body:
            answer["aggregations"] = aggregated(index, body["aggs"], [index.shown[id] for id in found])
        return answer

    def _found(self, index: Index, body: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
        if near := body.get("knn"):
            only(near, {"field", "query_vector", "k", "num_candidates", "filter"}, "knn")
            if not 1 <= near["k"] <= near["num_candidates"] <= LARGEST_PAGE:
                raise refuse("illegal_argument_exception", "[k] must be 1 to [num_candidates], that 10000 at most")
            return self._graph(index, near["field"], near["query_vector"], near["k"], near.get("filter"))
        query = body.get("query", {"match_all": {}})
        if near := query.get("knn") if self.flavor == "opensearch" else None:
            [(name, near)] = near.items()
            only(near, {"vector", "k", "filter"}, "knn")
            if not 1 <= near["k"] <= LARGEST_PAGE:
                raise refuse("illegal_argument_exception", "[knn] requires k to be in the range (0, 10000]")
            return self._graph(index, name, near["vector"], near["k"], near.get("filter"))
        if by := query.get("script_score"):
            only(by, {"query", "script"}, "script_score")
            passing = self._passing(index, by["query"])
            scores = scored(index, *self._script(by["script"]), passing)
            return scores, list(scores)
        if (by := query.get("bool", {})).get("must"):
            [must] = by["must"]
            only(must, {"match"} | ({"sparse_vector"} if self.flavor == "elasticsearch" else set()), "must")
            passing = self._passing(index, {"bool": {name: part for name, part in by.items() if name != "must"}})
            words = must.get("match")
            scores = matched(index, words, passing) if words else weighed(index, must["sparse_vector"], passing)
            return scores, list(scores)
        return {}, list(self._passing(index, query))

    def _graph(self, index: Index, name: str, query: Any, k: int, within: Any) -> tuple[dict[str, float], list[str]]:
        passing = self._passing(index, within) if within is not None else index.shown
        scores = scored(index, name, query, None, passing)
        ranked = by_signs(index, name, query, list(scores)) or scores
        nearest = sorted(scores, key=lambda id: -ranked[id])[:k]
        return scores, nearest[: max(1, int(len(nearest) * self.recall))]

    def _script(self, script: Mapping[str, Any]) -> tuple[str, Any, str]:
        source, params = script["source"], script["params"]
        if self.flavor == "opensearch":
            if (script.get("lang"), source) != ("knn", "knn_score"):
                raise refuse("script_exception", "compile error")
            only(params, {"field", "query_value", "space_type"}, "knn_score")
            return params["field"], params["query_value"], SIMILARITIES[params["space_type"]]
        for pattern, metric in SCRIPTS.items():
            if matched := pattern.fullmatch(source):
                return matched[2], params[matched[1]], metric
        raise refuse("script_exception", "compile error")


_SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}


def _order(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _excluded(index: Index, source: Any) -> set[str]:
    if isinstance(source, bool):
        return set()
    included = source.get("includes")
    return set(source.get("excludes", ())) | (set() if included is None else index.fields.keys() - set(included))


def _source(index: Index, document: Document, excluded: set[str]) -> Document:
    """The document without vectors, as Elasticsearch 9.2 keeps it: only the graph has them, normalized."""
    return {
        name: value
        for name, value in document.items()
        if name not in excluded and index.fields.get(name, {}).get("type") not in ALL_VECTORS
    }
