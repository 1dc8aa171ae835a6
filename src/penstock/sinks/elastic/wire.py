"""Requests to a server, and its answers: errors as the contract has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.schema import VectorSpec
from penstock.sinks.address import Address
from penstock.sinks.elastic.dialects import DIALECTS, scheme_of

SINCE = {"MultiVector": (8, 18), "Sparse": (8, 15)}
"""The first version of Elasticsearch that searches vectors of the kind."""
SHARD_TERMS = 2_000
"""Terms that each shard counts at least, for the sums of an index that has several: Penstock's have one."""
BULK = 8 << 20
"""Bytes of a request: servers do best with some megabytes, and small ones of AWS refuse more than ten."""


class Server:
    """A client, and the index that it is used for."""

    def __init__(self, address: Address, client: Any) -> None:
        url = address.url
        try:
            import orjson

            self.dialect = DIALECTS[scheme_of(url)]()
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "elastic") from None
        self.url = url
        self.dumps: Callable[[Any], bytes] = partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)
        self.name = address.names[0]
        self._own = client is None
        self._client = self.dialect.connect(address) if client is None else client

    def close(self) -> None:
        if self._own:
            self._client.close()

    def ask(self, method: str, end: str = "", body: Any = None, *, kind: str = "json", of: str | None = None) -> Any:
        """Send a request about the index, or about another name; with `of=""` about the server as a whole."""
        data = body if body is None or isinstance(body, bytes) else self.dumps(body)
        headers = {} if data is None else {"content-type": f"application/{kind}"}
        name = self.name if of is None else of
        path = f"/{quote(name, safe='')}" if name else ""
        try:
            answer = self.dialect.send(self._client, method, path + end, headers, data)
        except self.dialect.errors as error:
            raise _sink_error(self.url, error) from error
        if not isinstance(answer, Mapping):
            raise SinkError(f"{self.url} does not answer as Elasticsearch or OpenSearch do")
        if answer.get("timed_out") is True or answer.get("_shards", {}).get("failed"):
            raise SinkUnavailable(f"{self.url}: only a part of the index answered")
        return answer

    def mapping(self) -> Mapping[str, Any] | None:
        """The index's mapping; None where there is no index."""
        try:
            found = self.ask("GET", "/_mapping")
        except NotFound:
            return None
        if len(found) != 1:
            raise SinkError(f"{self.url} names {len(found)} indices, not one")
        return dict(next(iter(found.values()))["mappings"])

    def check_version(self, space: VectorSpec) -> None:
        """Raise UsageError where the server is too old for vectors of that kind."""
        if (since := SINCE.get(space.kind)) is None:
            return
        version = self.ask("GET", "/", of="").get("version", {})
        number = tuple(map(int, re.findall("[0-9]+", str(version.get("number")))[:2]))
        if version.get("build_flavor") != "serverless" and number < since:  # which calls itself 8.11 for ever
            wanted = ".".join(map(str, since))
            raise UsageError(f"{self.url} takes {space.kind} vectors from {wanted} on; it is {version.get('number')}")

    def remove(self) -> None:
        """Remove the index with its aliases; neither product removes an index by the name of an alias."""
        self.ask("DELETE")

    def alias(self, name: str) -> bool:
        """Have `name` stand for this index: in one request, so that it is never missing, nor stands for two."""
        try:
            found = set(self.ask("GET", "/_alias", of=name))
        except NotFound:
            found = set()
        if name in found:
            raise SinkError(f"{self.url}: there is an index {name!r}, so no alias can have its name")
        removals = [{"remove": {"index": other, "alias": name}} for other in sorted(found - {self.name})]
        self.ask("POST", "/_aliases", {"actions": [*removals, {"add": {"index": self.name, "alias": name}}]}, of="")
        return True

    def bulk(self, actions: Iterable[tuple[str, bytes]]) -> dict[str, str]:
        """Send (id, action) pairs in requests of a good size; return why which ids were refused for good."""
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
        answer = self.ask(self.dialect.bulk_method, "/_bulk", body, kind="x-ndjson")
        items = [next(iter(item.values())) for item in answer["items"]]
        if len(items) != len(ids):
            raise SinkError(f"{self.url} was sent {len(ids)} points and answered for {len(items)}")
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
        request = {"track_total_hits": False, **body}
        return list(self.ask("POST", "/_search?allow_partial_search_results=false", request)["hits"]["hits"])

    def values(
        self, field: str, within: Mapping[str, Any], limit: int, matching: str | None = None
    ) -> list[tuple[str, int]]:
        """The most frequent terms of a field, of those that match a regular expression, and how many documents have
        each."""
        counted: dict[str, Any] = {"field": field, "size": limit, "shard_size": max(limit, SHARD_TERMS)}
        if matching is not None:
            counted["include"] = matching
        request = {"size": 0, "track_total_hits": False, "query": within, "aggs": {"values": {"terms": counted}}}
        answer = self.ask("POST", "/_search?allow_partial_search_results=false", request)
        return [(one["key"], int(one["doc_count"])) for one in answer["aggregations"]["values"]["buckets"]]


class NotFound(SinkError):
    """404: there is no index or alias of that name."""


def _sink_error(url: str, error: Exception) -> SinkError:
    """What a driver raised, as an error of the contract."""
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
        if scheme_of(url) == "opensearch":
            keys = "a user in the url and OPENSEARCH_PASSWORD"
        return SinkError(f"{url} denies access ({status}: {why}); set {keys}")
    if status == 404:
        return NotFound(f"{url}: there is no such index ({why})")
    if status == 413:
        return TooLarge(f"{url} does not take requests so large ({why})")
    if status in (408, 429) or status >= 500:
        return SinkUnavailable(f"{url}: {status}: {why}", retry_after=_retry_after(error))
    if status < 400:
        return SinkError(f"{url} is not Elasticsearch (OpenSearch is written opensearch://...)")
    if "media_type_header" in why:
        return SinkError(f'{url} is older than its driver; pip install "elasticsearch<9" ({why})')
    return SinkError(f"{url}: {status}: {why}")


def _retry_after(error: Exception) -> float | None:
    """The seconds of a Retry-After header; the client of OpenSearch keeps no headers."""
    seconds = str(getattr(getattr(error, "meta", None), "headers", {}).get("retry-after", ""))
    return float(seconds) if re.fullmatch(r"\d{1,6}", seconds) else None


def reason(answer: Any) -> str:
    """Why a request or an item of it failed, in a line."""
    error = answer.get("error", answer) if isinstance(answer, Mapping) else answer
    causes: list[str] = []
    while isinstance(error, Mapping) and len(causes) < 4:
        causes.append(f"{error.get('type', '')}: {error.get('reason', '')}")
        error = error.get("caused_by")
    return " ".join((" <- ".join(causes) or str(error)).split())[:500]
