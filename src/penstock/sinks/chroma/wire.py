"""How a collection of Chroma is reached: addresses, clients with timeouts, and what their errors mean."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from penstock.core.errors import MissingExtra, PenstockError, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.schema import Manifest
from penstock.sinks import address, manifests
from penstock.sinks.address import Address
from penstock.sinks.chroma.lock import Lock
from penstock.sinks.store import line

EXAMPLE = "chroma://localhost:8000/notes?tls=1 or chroma://./stores/notes"

TIMEOUT = 120.0
"""Seconds for an answer: a server indexes a batch before it answers."""
MANIFEST = "penstock"
"""The key of the collection's metadata that holds the manifest."""
SPACES = {"cosine": "cosine", "dot": "ip", "l2": "l2"}

_STARTING = threading.Lock()
"""Held while the engine of a folder is started or stopped, which all clients of a process share, without a lock."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


def parse(url: str) -> Address:
    at = address.parse(url, "chroma", EXAMPLE, port=8000, options=frozenset({"tls"}))
    if not _NAME.fullmatch(at.names[0]):
        raise UsageError(f"{url}: Chroma wants names of 3 to 512 letters, digits and .-_, not {at.names[0]!r}")
    return at


def drivers(url: str) -> tuple[Any, Any]:
    try:
        import httpx
        from chromadb import errors
    except ImportError as error:
        raise MissingExtra(f"{url} ({error.name})", "chroma") from None
    return httpx, errors


@contextmanager
def request(url: str) -> Iterator[None]:
    """Around each use of the client: its errors become ours."""
    httpx, errors = drivers(url)
    try:
        yield
    except PenstockError:
        raise
    except (httpx.TransportError, errors.InternalError, errors.RateLimitError) as error:
        raise SinkUnavailable(f"{url}: {line(error)}") from error
    except (errors.AuthorizationError, errors.ChromaAuthError) as error:
        raise _refused(url) from error
    except errors.BatchSizeExceededError as error:
        raise TooLarge(f"{url}: {line(error)}") from error
    except Exception as error:
        # for an answer that is not Chroma's own, its client raises the text while it handles the status
        status = error.__context__.response.status_code if isinstance(error.__context__, httpx.HTTPStatusError) else 0
        if status in (401, 403):
            raise _refused(url) from error
        if status == 404 or isinstance(error, JSONDecodeError):
            raise SinkError(f"{url} does not answer as Chroma does; check the host and the port") from error
        kind = TooLarge if status == 413 else SinkUnavailable if status == 429 or status >= 500 else SinkError
        raise kind(f"{url}: {f'HTTP {status}' if status else type(error).__name__}: {line(error)}") from error


def _refused(url: str) -> SinkError:
    return SinkError(f"{url} refuses the token; set the environment variable CHROMA_TOKEN to one that may do this")


class Server:
    """A client of a server that has a timeout from its first request on, as chromadb's own waits for ever."""

    def __init__(self, at: Address) -> None:
        from chromadb.api import ServerAPI
        from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings, System

        token = os.environ.get("CHROMA_TOKEN")
        settings = Settings(
            anonymized_telemetry=False,
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=f"[{at.host}]" if ":" in at.host else at.host,
            chroma_server_http_port=at.port,
            chroma_server_ssl_enabled=at.tls,
            chroma_server_headers={"x-chroma-token": token, "Authorization": f"Bearer {token}"} if token else {},
        )
        kind: Any = ServerAPI
        self._api: Any = System(settings).instance(kind)
        self._api._session.timeout = TIMEOUT
        self._within = {
            "tenant": os.environ.get("CHROMA_TENANT") or DEFAULT_TENANT,
            "database": os.environ.get("CHROMA_DATABASE") or DEFAULT_DATABASE,
        }

    def get_collection(self, name: str, embedding_function: None) -> Any:
        return self._collection(self._api.get_collection(name, **self._within))

    def create_collection(self, name: str, embedding_function: None, **options: Any) -> Any:
        return self._collection(self._api.create_collection(name, **options, **self._within))

    def delete_collection(self, name: str) -> None:
        self._api.delete_collection(name, **self._within)

    def _collection(self, model: Any) -> Any:
        from chromadb.api.models.Collection import Collection

        return Collection(client=self._api, model=model, embedding_function=None)

    def get_max_batch_size(self) -> int:
        return int(self._api.get_max_batch_size())

    def close(self) -> None:
        self._api._session.close()


def _client(at: Address) -> Any:
    if at.folder is None:
        return Server(at)
    from chromadb import PersistentClient
    from chromadb.config import Settings

    with _STARTING:
        return PersistentClient(str(at.folder.resolve()), settings=Settings(anonymized_telemetry=False))


class Collection:
    """A client, the user's or one of our own, and the collection that it is used for, if there is one.

    `write` locks the folder for a writer, or for readers if it is False; a manifest is read without a lock, since the
    vectors are left alone.
    """

    def __init__(self, url: str, at: Address, client: Any, *, write: bool | None = None) -> None:
        drivers(url)
        self.url, self.name, self._at, self._own = url, at.names[0], at, client is None
        self.client: Any = client
        self.collection: Any = None
        self._lock: Lock | None = None
        try:
            if self._own and at.folder is not None and write is not None:
                if write:
                    manifests.make_folder(at.folder, url)
                self._lock = Lock(at.folder.resolve(), url, write=write)
            with self.request():
                self.client = client if client is not None else _client(at)
        except BaseException:
            self.close()
            raise

    def request(self) -> AbstractContextManager[None]:
        return request(self.url)

    def _find(self) -> Any:
        from chromadb.errors import NotFoundError

        with self.request():
            try:
                return self.client.get_collection(self.name, embedding_function=None)
            except NotFoundError:
                return None

    def manifest(self) -> Manifest | None:
        """Read it anew. The collection found first is the one that points are written to and read from."""
        if (found := self._find()) is None:
            return None
        kept = (found.metadata or {}).get(MANIFEST)
        if not isinstance(kept, str):
            raise SinkError(f"{self.url} is a collection that is not Penstock's; name another one")
        if self.collection is None:
            self.collection = found
        return manifests.from_json(kept, self.url)

    def create(self, manifest: Manifest) -> Manifest:
        """Create it. Another process may have been faster: then its manifest is returned."""
        try:
            with self.request():
                self.client.create_collection(
                    self.name,
                    embedding_function=None,
                    configuration={"hnsw": {"space": SPACES[manifest.schema.only.metric]}},
                    metadata={MANIFEST: manifests.to_json(manifest)},
                    get_or_create=False,
                )
        except SinkError:
            if (kept := self.manifest()) is None:
                raise
            return kept
        return self.manifest() or manifest

    def keep(self, manifest: Manifest) -> None:
        others = {k: v for k, v in self.points.metadata.items() if not k.startswith("hnsw:")}
        with self.request():
            self.points.modify(metadata={**others, MANIFEST: manifests.to_json(manifest)})

    @property
    def points(self) -> Any:
        """The client's collection."""
        if self.collection is None:
            raise SinkError(f"there is no index at {self.url}")
        return self.collection

    def count(self) -> int:
        with self.request():
            return int(self.points.count())

    def get(self, **arguments: Any) -> Any:
        with self.request():
            return self.points.get(**arguments)

    def remove(self) -> None:
        """With the folder of its vectors, which Chroma leaves behind."""
        with self.request():
            if (found := self._find()) is None:
                return
            folders = _vector_folders(self._at, str(found.id)) if self._own else []
            self.client.delete_collection(self.name)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)  # at worst it takes room on the disk

    def close(self) -> None:
        lock, self._lock = self._lock, None
        try:
            if self._own and self.client is not None:
                with _STARTING:
                    self.client.close()
        finally:
            if lock is not None:
                lock.close()


def _vector_folders(at: Address, collection: str) -> list[Path]:
    """The folders that hold the vectors of a collection."""
    if at.folder is None:
        return []
    path = at.folder / "chroma.sqlite3"
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as file:
        found = file.execute("SELECT id FROM segments WHERE collection = ? AND scope = 'VECTOR'", (collection,))
        return [at.folder / str(id) for (id,) in found]
