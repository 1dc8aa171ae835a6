"""How a collection of Milvus is reached: addresses, clients, and what their errors mean. Every call has a timeout."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.schema import IndexSchema, Manifest, VectorSpec
from penstock.sinks import address, manifests
from penstock.sinks.milvus.filters import literal
from penstock.sinks.milvus.lite import Lite
from penstock.sinks.rows import vector_column

EXAMPLE = "milvus://localhost:19530/notes or milvus://./notes.db/notes"

CONNECT, TIMEOUT, LOAD = 10, 60, 600
"""Seconds, as integers: some of the driver's loops ignore any other."""
PAGE = 4096
PROPERTY = "penstock"
"""The collection's property that holds the manifest."""
WORDS = "words"
"""The field that the server fills with the words of the text, for BM25."""
WORDS_SINCE = (2, 5)
"""The first version of a server that does so."""

_METRICS = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}
_WRITES = {"create_collection", "alter_collection_properties", "create_index", "upsert", "delete", "flush"}
_WRITES |= {"load_collection", "drop_collection", "create_alias", "alter_alias", "drop_alias"}
_BUSY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def parse(url: str) -> address.Address:
    at = address.parse(url, "milvus", EXAMPLE, port=19530, options=frozenset({"tls", "database"}))
    (name,) = at.names
    if at.folder is not None and at.folder.suffix != ".db":
        raise UsageError(f"{url!r} names no file of Milvus Lite, which ends in .db; write it like {EXAMPLE}")
    if at.folder is not None and at.options:
        raise UsageError(f"{url!r}: a file has no option {min(at.options)!r}")
    if at.user:
        raise UsageError(f"{url!r}: put the user into the environment variable MILVUS_TOKEN, as user:password")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise UsageError(f"{url!r}: Milvus allows letters, digits and _ in a collection's name, not {name!r}")
    return at


def is_lite(version: object) -> bool:
    return str(version).startswith("milvus_lite")


class Collection:
    """A client, the user's or one of our own, and the collection that it is used for."""

    def __init__(self, url: str, at: address.Address, client: Any) -> None:
        try:
            import grpc
            import pymilvus
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "milvus") from None
        self.url, self.name = url, at.names[0]
        self._errors = (pymilvus.MilvusException, grpc.RpcError)
        self._lite: Lite | None = None
        self._own = client is None
        self.client = client or self._connect(pymilvus, at)
        try:
            version = str(self.call("get_server_version", named=False))
            self.lite = is_lite(version)
            # Milvus Lite counts how rare a word is in each of its segments apart: what is new would come last.
            self.fills_words = not self.lite and tuple(map(int, re.findall("[0-9]+", version)[:2])) >= WORDS_SINCE
        except BaseException:
            self.close()
            raise

    def _connect(self, pymilvus: Any, at: address.Address) -> Any:
        for noisy in ("pymilvus", "milvus_lite"):  # they log each error they raise, with its traceback
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        if at.folder is None:
            host = f"[{at.host}]" if ":" in at.host else at.host
            uri, token = f"{'https' if at.tls else 'http'}://{host}:{at.port}", os.environ.get("MILVUS_TOKEN", "")
        else:
            try:
                self._lite = Lite.enter(at.folder, self.url)
            except ImportError as error:
                raise MissingExtra(f"{self.url} ({error.name})", "milvus") from None
            uri, token = f"http://127.0.0.1:{self._lite.port}", ""
        database = at.options.get("database", "")
        try:
            with self._translated():
                return pymilvus.MilvusClient(uri, token=token, db_name=database, timeout=CONNECT, dedicated=True)
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        if self._own:
            self.client.close()
        self._leave()

    def _leave(self) -> None:
        if self._lite is not None:
            self._lite.leave()
        self._lite = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _translated(error, self.url) from error

    def call(self, method: str, *, named: bool = True, timeout: int = TIMEOUT, **arguments: Any) -> Any:
        """Call the client's method, with the collection's name if `named`."""
        if named:
            arguments["collection_name"] = self.name
        lock = self._lite.writing if self._lite is not None and method in _WRITES else nullcontext()
        with self._translated(), lock:
            return getattr(self.client, method)(timeout=timeout, **arguments)

    # -------------------------------------------------------- the collection itself

    def exists(self) -> bool:
        return bool(self.call("has_collection"))

    def manifest(self) -> Manifest | None:
        if not self.exists():
            return None
        kept = self.call("describe_collection").get("properties", {}).get(PROPERTY)
        if not kept:
            raise SinkError(f"{self.url} is a collection that is not Penstock's; name another one")
        return manifests.from_json(kept, self.url)

    @cached_property
    def has_words(self) -> bool:
        """Whether there is a field of the words. Collections of earlier versions have none."""
        return any(field["name"] == WORDS for field in self.call("describe_collection")["fields"])

    def keep(self, manifest: Manifest) -> None:
        self.call("alter_collection_properties", properties={PROPERTY: manifests.to_json(manifest)})

    def create(self, schema: Any, manifest: Manifest) -> Manifest:
        """Create it, and return its manifest: another run's, where that one was faster. A server calls it a success to
        create an equal collection again, so the manifest is read back."""
        properties = {PROPERTY: manifests.to_json(manifest)}
        try:
            self.call("create_collection", schema=schema, consistency_level="Strong", properties=properties)
        except SinkError:
            if (kept := self.manifest()) is None:
                raise
            return kept
        return self.manifest() or manifest

    def remove(self) -> None:
        """Aliases first: some servers keep them for ever, others do not let a collection go that has one."""
        if (found := self.call("describe_collection")["collection_name"]) != self.name:
            raise SinkError(f"{self.url} is an alias of {found!r} and was not removed; name the collection itself")
        for alias in self.call("list_aliases")["aliases"]:
            self.call("drop_alias", named=False, alias=alias)
        self.call("drop_collection")

    def alias(self, name: str) -> bool:
        known = self.call("list_aliases", named=False)["aliases"]
        self.call("alter_alias" if name in known else "create_alias", alias=name)
        return True

    def load(self, schema: IndexSchema, turns: int = 20) -> None:
        """Make it searchable; the indexes too, if a run was cut off before it had created them."""
        params = self.client.prepare_index_params()
        for name, space in schema.vectors.items():
            field = vector_column(name)
            if not self.call("list_indexes", field_name=field):
                kind = "SPARSE_INVERTED_INDEX" if space.kind == "Sparse" else "FLAT" if self.lite else "AUTOINDEX"
                params.add_index(field, index_type=kind, metric_type=metric(space))
        if self.has_words and not self.call("list_indexes", field_name=WORDS):
            params.add_index(WORDS, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        if schema.filterable and not self.lite and not self.call("list_indexes", field_name="terms"):
            params.add_index("terms", index_type="INVERTED")
        if len(params):
            try:
                self.call("create_index", index_params=params, sync=False)
            except SinkError as error:
                if "already exists" not in str(error) or turns < 1:
                    raise
                return self.load(schema, turns - 1)  # another run creates them too: see which are missing still
        self.call("load_collection", timeout=LOAD)

    # -------------------------------------------------------- points

    def query(self, condition: str, fields: list[str], **options: Any) -> list[dict[str, Any]]:
        return list(self.call("query", filter=condition, output_fields=fields, consistency_level="Strong", **options))

    def count(self, condition: str = "") -> int:
        return int(self.query(condition, ["count(*)"])[0]["count(*)"])

    def pages(self, condition: str = "", fields: Sequence[str] = ("id",)) -> Iterator[list[dict[str, Any]]]:
        """In the order of the ids. The driver's own iterator does not escape them."""
        within = condition
        ordered = {"iterator": "True", "reduce_stop_for_best": True}
        while page := self.query(within, list(fields), limit=PAGE, **ordered):
            yield page
            within = f"id > {literal(page[-1]['id'])}" + (f" and {condition}" if condition else "")


def metric(space: VectorSpec) -> str:
    return "IP" if space.kind == "Sparse" else _METRICS[space.metric]


def _translated(error: Any, url: str) -> SinkError:
    """The driver's error as one line of ours."""
    import grpc

    cause = error.__cause__ if isinstance(error.__cause__, grpc.RpcError) else error
    code = cause.code() if isinstance(cause, grpc.RpcError) else cause.code
    status = getattr(code, "name", "")
    text = str(cause.details() if isinstance(cause, grpc.RpcError) else cause.message)
    line = f"{url}: {' '.join(text.split())[:400] or status}"
    if status in _REFUSED or code == 1400 or "auth check failure" in text:
        return SinkError(f"{line}; set MILVUS_TOKEN to user:password or an API key that may use it")
    if "maximum vector field" in text:
        return SinkError(f"{line}; use fewer models, or raise the server's proxy.maxVectorFieldNum")
    if "larger than max" in text or "exceeds the limit" in text:
        return TooLarge(line)
    if status in _BUSY or code in (2, 8, 9) or getattr(error, "retriable", False) or "timeout" in text.lower():
        return SinkUnavailable(line)
    return SinkError(line)
