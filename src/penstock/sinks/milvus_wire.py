"""How Milvus is spoken to: a client, of a server or of Milvus Lite in this process, and one collection.

Every call has a timeout, and what the driver raises becomes one line of ours.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge
from penstock.core.records import VECTOR
from penstock.core.schema import Manifest
from penstock.sinks import address, manifests

CONNECT, TIMEOUT, LOAD = 10, 60, 600
"""Seconds, as integers: the driver takes no heed of others in all its loops."""
PAGE = 4096
PROPERTY = "penstock"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_WRITES = {"create_collection", "alter_collection_properties", "create_index", "upsert", "delete", "flush"}
_WRITES |= {"drop_collection", "create_alias", "alter_alias", "drop_alias"}
_BUSY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


# ---------------------------------------------------------------- Milvus Lite


class Lite:
    """The engine of Milvus Lite on one file, which all of this process share; the last one to leave closes it."""

    running: ClassVar[dict[Path, Lite]] = {}
    lock = threading.Lock()

    def __init__(self, path: Path, url: str) -> None:
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.exceptions import DataDirLockedError

        if path.exists() and not (path / "collections").is_dir():
            raise SinkError(f"{url}: {path} is not a database of Milvus Lite 3; name another file")
        manifests.make_folder(path.parent, url)
        try:
            self.server, self.engine, self.port = start_server_in_thread(str(path), host="127.0.0.1", port=0)
        except DataDirLockedError:
            raise SinkError(
                f"{url} is open already, and Milvus Lite lets one in at a time: close it there, pass its client, "
                "or run `milvus-lite server` and name its host"
            ) from None
        except Exception as error:  # whatever a damaged file makes of it
            raise SinkError(f"{url} cannot be opened: {type(error).__name__}: {error}") from error
        self.path, self.users = path, 0
        self.writing = threading.Lock()
        """Its collections take one writer at a time, and do not see to it themselves."""

    @classmethod
    def enter(cls, path: Path, url: str) -> Lite:
        with cls.lock:
            path = path.absolute()
            lite = cls.running.get(path) or cls(path, url)
            cls.running[path] = lite
            lite.users += 1
            return lite

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                del self.running[self.path]
                self.server.stop(grace=0).wait(5)
                self.engine.close()


# ---------------------------------------------------------------- a collection


class Collection:
    """A client, the user's or one of our own, and the collection that it is used for."""

    def __init__(self, url: str, place: address.Address, client: Any) -> None:
        try:
            import grpc
            import pymilvus
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "milvus") from None
        self.url, self.name = url, place.names[0]
        self._errors = (pymilvus.MilvusException, grpc.RpcError)
        self._lite: Lite | None = None
        self._own = client is None
        self.client = client or self._connect(pymilvus, place)
        try:
            self.lite = str(self.call("get_server_version", named=False)).startswith("milvus_lite")
        except BaseException:
            self.close()
            raise

    def _connect(self, pymilvus: Any, place: address.Address) -> Any:
        for noisy in ("pymilvus", "milvus_lite"):  # they log each error they raise, with its traceback
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        if place.folder is None:
            host = f"[{place.host}]" if ":" in place.host else place.host
            uri, token = f"{'https' if place.tls else 'http'}://{host}:{place.port}", os.environ.get("MILVUS_TOKEN", "")
        else:
            try:
                self._lite = Lite.enter(place.folder, self.url)
            except ImportError as error:
                raise MissingExtra(f"{self.url} ({error.name})", "milvus") from None
            uri, token = f"http://127.0.0.1:{self._lite.port}", ""
        database = place.options.get("database", "")
        try:
            with self._told():
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
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _meant(error, self.url) from error

    def call(self, method: str, *, named: bool = True, timeout: int = TIMEOUT, **given: Any) -> Any:
        if named:
            given["collection_name"] = self.name
        turn = self._lite.writing if self._lite is not None and method in _WRITES else nullcontext()
        with self._told(), turn:
            return getattr(self.client, method)(timeout=timeout, **given)

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

    def keep(self, manifest: Manifest) -> None:
        self.call("alter_collection_properties", properties={PROPERTY: manifests.to_json(manifest)})

    def create(self, schema: Any, manifest: Manifest) -> None:
        kept = {PROPERTY: manifests.to_json(manifest)}
        self.call("create_collection", schema=schema, consistency_level="Strong", properties=kept)

    def remove(self) -> None:
        """Aliases first: some servers keep them for ever, others do not let a collection go that has one."""
        if (found := self.call("describe_collection")["collection_name"]) != self.name:
            raise SinkError(f"{self.url} is an alias of {found!r}, and nothing to remove")
        for alias in self.call("list_aliases")["aliases"]:
            self.call("drop_alias", named=False, alias=alias)
        self.call("drop_collection")

    def alias(self, name: str) -> None:
        """Have `name` stand for this collection."""
        known = self.call("list_aliases", named=False)["aliases"]
        self.call("alter_alias" if name in known else "create_alias", alias=name)

    def load(self, metric: str, of: str = "Dense") -> None:
        """Make it searchable; the index too, if a run was cut off before it was made."""
        if not self.call("list_indexes"):
            index = self.client.prepare_index_params()
            kind = "SPARSE_INVERTED_INDEX" if of == "Sparse" else "FLAT" if self.lite else "AUTOINDEX"
            index.add_index(VECTOR, index_type=kind, metric_type=metric)
            self.call("create_index", index_params=index, sync=False)
        self.call("load_collection", timeout=LOAD)

    # -------------------------------------------------------- points

    def query(self, condition: str, fields: list[str], **given: Any) -> list[dict[str, Any]]:
        return list(self.call("query", filter=condition, output_fields=fields, consistency_level="Strong", **given))

    def count(self, condition: str = "") -> int:
        return int(self.query(condition, ["count(*)"])[0]["count(*)"])

    def pages(self, condition: str = "", fields: Sequence[str] = ("id",)) -> Iterator[list[dict[str, Any]]]:
        """In the order of the ids. The driver's own iterator does not escape them."""
        within = condition
        ordered = {"iterator": "True", "reduce_stop_for_best": True}
        while page := self.query(within, list(fields), limit=PAGE, **ordered):
            yield page
            within = f"id > {literal(page[-1]['id'])}" + (f" and {condition}" if condition else "")


def _meant(error: Any, url: str) -> SinkError:
    """What the driver raised, as one line of ours."""
    import grpc

    cause = error.__cause__ if isinstance(error.__cause__, grpc.RpcError) else error
    code = cause.code() if isinstance(cause, grpc.RpcError) else cause.code
    status = getattr(code, "name", "")
    told = str(cause.details() if isinstance(cause, grpc.RpcError) else cause.message)
    line = f"{url}: {' '.join(told.split())[:400] or status}"
    if status in _REFUSED or code == 1400 or "auth check failure" in told:
        return SinkError(f"{line}; set MILVUS_TOKEN to user:password or an API key that may use it")
    if "larger than max" in told or "exceeds the limit" in told:
        return TooLarge(line)
    if status in _BUSY or code in (2, 8, 9) or getattr(error, "retriable", False) or "timeout" in told.lower():
        return SinkUnavailable(line)
    return SinkError(line)


def literal(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'
