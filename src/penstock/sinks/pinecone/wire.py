"""The official client (8 to 10) and the namespace that it is used for; errors as the contract has them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.pieces import grouped
from penstock.core.schema import Manifest, VectorSpec
from penstock.sinks import address, manifests
from penstock.sinks.pinecone.records import probe

EXAMPLE = "pinecone://my-index/notes?cloud=aws&region=us-east-1"
MANIFESTS = "penstock-manifests"
"""The namespace of the manifests: one record for each namespace of Penstock's in the index, under its name."""
WAIT = 60.0
"""Seconds until a write has to be seen, or an index has to be ready."""
SLACK = 5.0
"""Seconds that reading by id may be behind searching."""
URL_BYTES = 6000
FETCH = 100
TAG = "made-by"
"""Of indexes that Penstock created, and may remove."""
METRICS = {"cosine": "cosine", "dot": "dotproduct", "l2": "euclidean"}
LOCAL = ("localhost", "127.0.0.1", "::1")


def shape(space: VectorSpec) -> tuple[str, int | None, str]:
    """The kind of an index for the space, its dimensions and its metric."""
    if space.kind == "Sparse":
        return "sparse", None, METRICS["dot"]
    return "dense", space.dim, METRICS[space.metric]


def parse(url: str) -> address.Address:
    """The address. Raises UsageError for names that no index or namespace can have."""
    known = frozenset({"host", "tls", "cloud", "region"})
    at = address.parse(url, "pinecone", EXAMPLE, port=443, options=known)
    namespace = at.names[0]
    if at.folder or at.user or not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?", at.host):
        raise UsageError(
            f"invalid index name in {url!r}: expected at most 45 of a-z, 0-9 and -; write it like {EXAMPLE}"
        )
    if not re.fullmatch(r"[!-~]{1,512}", namespace) or namespace.startswith("__") or namespace == MANIFESTS:
        raise UsageError(
            f"invalid namespace {namespace!r} in {url!r}: expected at most 512 of printable ASCII, not beginning with"
            f" __ and not {MANIFESTS}; write it like {EXAMPLE}"
        )
    if ("cloud" in at.options) != ("region" in at.options):
        raise UsageError(f"{url!r}: cloud and region go together; write it like {EXAMPLE}")
    _controller(at)
    return at


def _controller(at: address.Address) -> str:
    """The controller's url; empty for Pinecone's own. Without TLS only on this machine."""
    host = at.options.get("host", "")
    if not host:
        return ""
    found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?", host)
    if not found:
        raise UsageError(f"invalid host {host!r} in {at.url!r}: write it like host=localhost:5080")
    plain = found[1].strip("[]").lower() in LOCAL and not at.tls
    return f"{'http' if plain else 'https'}://{host}"


class Namespace:
    """A client, an index, and the namespace of it that they are used for. Manifests are in a namespace of their own."""

    def __init__(self, at: address.Address, client: Any = None) -> None:
        self.url, self.at = at.url, at
        url = at.url
        self.name = self.at.names[0]
        try:
            import orjson
            import pinecone
            from pinecone.exceptions import PineconeException
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "pinecone") from None
        self.dumps, self._pinecone = orjson.dumps, pinecone
        others = [getattr(sys.modules.get("urllib3.exceptions"), "HTTPError", None)]  # clients before 9 pass them on
        self._errors: tuple[type[Exception], ...] = (PineconeException, OSError, *(e for e in others if e))
        self._own = client is None
        self._index: Any = None
        if client is None:
            key = os.environ.get("PINECONE_API_KEY", "")
            if not re.fullmatch(r"[!-~]+", key):
                raise UsageError(f"{url}: set PINECONE_API_KEY to a key of the project")
            with self._raising():
                client = pinecone.Pinecone(api_key=key, host=_controller(self.at) or None)
        self._client = client

    def close(self) -> None:
        for part in (self._index, self._client if self._own else None):
            if part is not None and hasattr(part, "close"):
                with suppress(*self._errors):  # nothing is lost with a connection that does not close
                    part.close()
        self._index = None

    @contextmanager
    def _raising(self) -> Iterator[None]:
        """Raise the client's errors as the contract's."""
        try:
            yield
        except self._errors as error:
            raise _sink_error(self.url, error) from error

    # ------------------------------------------------------------ the index

    def describe(self) -> Any:
        """The index's description; None where there is no index."""
        try:
            with self._raising():
                return self._client.describe_index(self.at.host)
        except NotFound:
            return None

    def connect(self) -> bool:
        """Connect to the index, and return whether there is one."""
        if self._index is None and (found := self._ready()) is not None:
            self._reach(found)
        return self._index is not None

    def _ready(self, *, expected: bool = False) -> Any:
        """The description of the index once it is ready: another run may just be creating or removing it. None where
        there is none, unless it is `expected`."""
        deadline = time.monotonic() + WAIT
        while ((found := self.describe()) is None and expected) or (found is not None and not found.status["ready"]):
            self.pause(deadline, "the index is not ready")
        return found

    def _reach(self, found: Any) -> None:
        host = re.sub("^https?://", "", found.host or "")
        if not host:
            raise SinkUnavailable(f"{self.url}: the index has no host yet")
        if _controller(self.at).startswith("http:") and re.sub(r":\d+$", "", host).strip("[]").lower() in LOCAL:
            host = f"http://{host}"  # the client would take it for https
        with self._raising():
            self._index = self._client.Index(host=host)

    def create(self, space: VectorSpec) -> None:
        kind, dim, metric = shape(space)
        if "cloud" not in self.at.options:
            wanted = f"for {kind} vectors, with" + (f" {dim} dimensions and" if dim else "")
            raise SinkError(
                f"{self.url}: there is no index {self.at.host!r}; create it {wanted} the metric {metric}, "
                "or say where, like ?cloud=aws&region=us-east-1"
            )
        spec = self._pinecone.ServerlessSpec(cloud=self.at.options["cloud"], region=self.at.options["region"])
        try:
            with self._raising():
                self._client.create_index(
                    name=self.at.host,
                    metric=metric,
                    vector_type=kind,
                    spec=spec,
                    tags={TAG: "penstock"},
                    timeout=-1,
                    **({"dimension": dim} if dim else {}),
                )
        except Conflict:
            pass  # another run was first
        self._reach(self._ready(expected=True))

    def remove(self) -> None:
        """Remove the records, then the manifest, and with the last of them the index, if Penstock created it: the next
        one of its name may be of another dimension. Returns when nothing is seen of them."""
        with suppress(NotFound), self._raising():
            self._index.delete_namespace(namespace=self.name)
        with suppress(NotFound), self._raising():
            self._index.delete(ids=[self.name], namespace=MANIFESTS)
        deadline = time.monotonic() + WAIT
        while self.kept() is not None or self.count():
            self.pause(deadline, "what was removed is still seen")
        tags = getattr(self.describe(), "tags", None) or {}
        if tags.get(TAG) != "penstock" or any(self.listed(MANIFESTS)) or any(self._counts().values()):
            return
        with suppress(NotFound), self._raising():
            self._client.delete_index(self.at.host, timeout=-1)
        while self.describe() is not None:
            self.pause(deadline, "the index is still there")

    def pause(self, deadline: float, why: str) -> None:
        """Sleep for half a second, or in the first second less. Raises SinkUnavailable after the deadline."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise SinkUnavailable(f"{self.url}: {why} after {WAIT:.0f} s")
        time.sleep(min(0.5, 0.02 + (WAIT - min(left, WAIT)) / 10))

    # ------------------------------------------------------------ records

    def upsert(self, records: Sequence[Mapping[str, Any]], namespace: str = "") -> int | None:
        """Write; return the position in the log, where the server answers with it."""
        with self._raising():
            answer = self._index.upsert(vectors=records, namespace=namespace or self.name)
        if answer.upserted_count != len(records):
            raise SinkError(f"{self.url} was sent {len(records)} points and wrote {answer.upserted_count}")
        return _position(answer, "x-pinecone-request-lsn", "x-pinecone-lsn-committed")

    def delete(self, keys: Sequence[str]) -> None:
        with suppress(NotFound), self._raising():  # a namespace exists from its first point on
            self._index.delete(ids=list(keys), namespace=self.name)

    def fetch(self, keys: Sequence[str], namespace: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for page in _pages(keys):
            with suppress(NotFound), self._raising():
                found |= self._index.fetch(ids=page, namespace=namespace or self.name).vectors
        return found

    def query(
        self, vector: Any, k: int, within: Mapping[str, Any] | None = None, metadata: bool = False
    ) -> tuple[list[Any], int | None]:
        """The nearest, and the position in the log up to which they are true."""
        request: dict[str, Any] = {} if within is None else {"filter": within}
        request |= {"sparse_vector" if isinstance(vector, dict) else "vector": vector}
        try:
            with self._raising():
                answer = self._index.query(
                    top_k=k,
                    namespace=self.name,
                    include_metadata=metadata,
                    include_values=False,
                    **request,
                )
        except NotFound:
            if self.describe() is None:
                raise
            return [], None
        return list(answer.matches), _position(answer, "x-pinecone-max-indexed-lsn", "x-pinecone-lsn-reconciled")

    def listed(self, namespace: str = "") -> Iterator[list[str]]:
        token: str | None = None
        while True:
            more = {"pagination_token": token} if token else {}
            try:
                with self._raising():
                    page = self._index.list_paginated(namespace=namespace or self.name, limit=100, **more)
            except NotFound:
                return
            if page.vectors:
                yield [item.id for item in page.vectors]
            token = page.pagination.next if page.pagination else None
            if not token:
                return

    def count(self) -> int:
        return self._counts().get(self.name, 0)

    def _counts(self) -> dict[str, int]:
        """The records of each namespace but the manifests'."""
        with self._raising():
            namespaces = self._index.describe_index_stats().namespaces
        return {name: int(stats.vector_count) for name, stats in namespaces.items() if name != MANIFESTS}

    # ------------------------------------------------------------ the manifest

    def manifest(self) -> Manifest | None:
        if not self.connect() or (text := self.kept()) is None:
            return None
        return manifests.from_json(text, self.url)

    def kept(self) -> str | None:
        found = self.fetch([self.name], MANIFESTS).get(self.name)
        return None if found is None else str((found.metadata or {}).get("manifest", ""))

    def keep(self, text: str, space: VectorSpec) -> None:
        """Keep the text of a manifest. Returns when it is read back, or another one that was kept since."""
        name = "sparse_values" if space.kind == "Sparse" else "values"
        record = {"id": self.name, name: probe(space), "metadata": {"manifest": text}}
        before = self.kept()
        self.upsert([record], MANIFESTS)
        deadline = time.monotonic() + WAIT
        while (found := self.kept()) != text and found in (before, None):
            self.pause(deadline, "its manifest cannot be read back")


def _pages(keys: Sequence[str]) -> Iterator[list[str]]:
    """The keys, as many at a time as a url holds."""
    return grouped(dict.fromkeys(keys), FETCH, URL_BYTES, lambda key: len(quote(key, safe="")) + 5)


def _position(answer: Any, *names: str) -> int | None:
    info = getattr(answer, "response_info", None) or getattr(answer, "_response_info", None)
    headers = info.get("raw_headers") if isinstance(info, Mapping) else getattr(info, "raw_headers", None)
    for name in names:
        value = str((headers or {}).get(name, ""))
        if value.isdigit():
            return int(value)
    return None


class NotFound(SinkError):
    """404: there is no index or namespace of that name."""


class Conflict(SinkError):
    """409: there is an index of that name."""


class Refused(SinkError):
    """400: of a batch, one record of which may be at fault."""


def _sink_error(url: str, error: Exception) -> SinkError:
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    why = " ".join(str(getattr(error, "message", None) or getattr(error, "body", None) or error).split())[:300]
    if not isinstance(status, int):
        cause = f"{type(error).__name__}: {why}"
        if re.search(r"ssl|certificate|tls", cause, re.IGNORECASE):
            return SinkError(f"{url}: no connection by TLS: {cause}")
        if re.search(r"Connection|Timeout|Retry|Protocol|OSError|gaierror", cause):
            return SinkUnavailable(f"{url} cannot be reached: {cause}")
        return SinkError(f"{url} does not answer as Pinecone does: {cause}")
    if status in (401, 403):
        return SinkError(f"{url} denies access ({status}: {why}); set PINECONE_API_KEY to a key that may")
    if status == 404:
        return NotFound(f"{url}: there is no such index or namespace ({why})")
    if status == 409:
        return Conflict(f"{url}: {why}")
    if status == 413 or (status == 400 and re.search("too large|maximum supported size", why)):
        return TooLarge(f"{url} does not take requests so large ({why})")
    if status in (408, 429) or status >= 500:
        return SinkUnavailable(f"{url}: {status}: {why}", retry_after=getattr(error, "retry_after", None))
    return Refused(f"{url}: {status}: {why}") if status == 400 else SinkError(f"{url}: {status}: {why}")
