"""How a collection of Qdrant is reached: addresses, clients, and what their errors mean."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.errors import MissingExtra, SinkError, SinkInUse, SinkUnavailable, TooLarge, UsageError
from penstock.core.precision import INT8
from penstock.core.schema import Manifest
from penstock.sinks import address, manifests
from penstock.sinks.collection import place_of
from penstock.sinks.store import line, secret
from penstock.support.turns import turn
from penstock.support.vacuum import vacuum

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

EXAMPLE = "qdrant://host:6333/notes?tls=1 or qdrant://./stores/notes"
KEY = "QDRANT_API_KEY"
MANIFEST = "penstock"
"""The key of the collection's metadata that holds the manifest."""
WORDS = "words"
"""The sparse vector of the words of a point, which is no vector of the index's schema."""
TIMEOUT = 60
"""Seconds."""
WRITING = 10
"""Looks at a file that another process may be writing."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\0-\x1f]')
_LOCK = threading.RLock()
"""For the local client, which has no locks of its own."""
_FOLDERS: dict[tuple[Path, tuple[int, ...]], tuple[QdrantClient, int]] = {}
"""Clients of folders, of which a folder admits one, and the number of their users."""


def parse(url: str) -> address.Address:
    at = address.parse(url, "qdrant", EXAMPLE, port=6333, options=frozenset({"tls", address.QUANTIZATION}))
    if at.quantization and at.folder:
        raise UsageError(f"{url!r}: a folder compares all vectors as they are: {address.QUANTIZATION} is for servers")
    if at.user:
        raise UsageError(f"{url!r}: Qdrant has no users; put its key into the environment variable {KEY}")
    if _FORBIDDEN.search(at.names[0]) or len(at.names[0]) > 255:
        raise UsageError(f"{url!r}: Qdrant allows no such name for a collection")
    return at


class Refused(SinkError):
    """A request that Qdrant calls invalid: of a batch, one point may be to blame."""


class Collection:
    """A client, the user's or one of our own, and the collection that it is used for."""

    def __init__(self, url: str, at: address.Address, client: QdrantClient | None) -> None:
        try:
            import qdrant_client
            from qdrant_client.common.client_exceptions import QdrantException
            from qdrant_client.http import exceptions
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "qdrant") from None
        self.url, self.name, self.local, self._folder = url, at.names[0], at.folder is not None, at.folder
        self.models, self._own, self._closed = qdrant_client.models, client is None, False
        self._refused, self._unreadable = exceptions.UnexpectedResponse, exceptions.ResponseHandlingException
        self._exhausted = QdrantException
        with self.request():
            self.client = client or (self._shared() if self.local else self._server(at))

    def _server(self, at: address.Address) -> QdrantClient:
        from qdrant_client import QdrantClient

        host = f"[{at.host}]" if ":" in at.host else at.host
        return QdrantClient(
            host=host,
            port=at.port,
            https=at.tls,
            api_key=secret(KEY, self.url) or None,
            timeout=TIMEOUT,
            check_compatibility=False,  # it asks in a thread of its own, and warns from there
        )

    def _shared(self) -> QdrantClient:
        from qdrant_client import QdrantClient

        assert self._folder is not None
        self._folder = self._folder.resolve()
        client, users = _FOLDERS.get((self._folder, place_of(self._folder)), (None, 0))
        if client is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with turn(self._folder / ".penstock.lock", TIMEOUT):  # the client makes a new folder without its own lock
                client = QdrantClient(path=str(self._folder), force_disable_check_same_thread=True)
        self._shared_as = self._folder, place_of(self._folder)
        _FOLDERS[self._shared_as] = client, users + 1
        return client

    def close(self) -> None:
        if self._closed or not self._own:
            return
        self._closed = True
        if not self.local:
            self.client.close()
            return
        assert self._folder is not None
        with self.request():
            client, users = _FOLDERS.pop(self._shared_as)
            if users > 1:
                _FOLDERS[self._shared_as] = client, users - 1
            else:
                client.close()

    def shrink(self) -> None:
        """In a folder, where the client never gives room back: do so where much was deleted."""
        if self.local and self._folder is not None:
            path = self._folder / "collection" / self.name / "storage.sqlite"
            with _LOCK, suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as file:
                vacuum(file.execute)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around each use of the client: threads take turns in a folder, and its errors become ours."""
        try:
            if self.local:
                with _LOCK:
                    yield
            else:
                yield
        except self._refused as error:
            raise self._by_status(error.status_code or 0, error.content) from error
        except self._exhausted as error:
            seconds = getattr(error, "retry_after_s", None)
            raise SinkUnavailable(f"{self.url}: Qdrant asks to wait: {line(error)}", retry_after=seconds) from error
        except self._unreadable as error:
            raise self._without_answer(error.source) from error
        except ValueError as error:
            raise Refused(f"{self.url}: Qdrant refused a request: {line(error)}") from error
        except (RuntimeError, OSError, sqlite3.Error) as error:
            if "already accessed" in str(error):
                raise SinkInUse(
                    f"{self.url} is in use by another process, and a folder serves one at a time: "
                    "end that one, or use a server"
                ) from error
            raise SinkError(f"{self.url}: {line(error)}") from error

    def _by_status(self, status: int, content: bytes) -> SinkError:
        reason = _reason(content)
        if status in (401, 403):
            return SinkError(f"{self.url}: Qdrant refuses the key ({status}): set {KEY} to one that may write here")
        if status == 413:
            return TooLarge(f"{self.url}: {reason or 'a request is too large'}")
        if status in (408, 429) or status >= 500:
            return SinkUnavailable(f"{self.url}: Qdrant answered {status}: {reason}")
        if status in (400, 422):
            return Refused(f"{self.url}: Qdrant refused a request ({status}): {reason}")
        return SinkError(f"{self.url}: Qdrant answered {status}: {reason or 'is it a Qdrant server?'}")

    def _without_answer(self, cause: Exception) -> SinkError:
        from httpx import TransportError

        if not isinstance(cause, TransportError):
            return SinkError(f"{self.url} does not answer as Qdrant does, or is of another version: {line(cause)}")
        if "[SSL" in str(cause):
            return SinkError(f"{self.url}: no TLS connection: {line(cause)}; tls=1 is for servers that have it")
        return SinkUnavailable(f"{self.url} cannot be reached: {type(cause).__name__}: {line(cause)}")

    def info(self) -> models.CollectionInfo | None:
        with self.request():
            if self.local and not self.client.collection_exists(self.name):
                return None
            try:
                return self.client.get_collection(self.name)
            except self._refused as error:
                if error.status_code == 404 and _reason(error.content):
                    return None
                raise

    def manifest(self) -> Manifest | None:
        info = self.info()
        return None if info is None else manifest_of(info.config.metadata, self.url)

    @cached_property
    def has_words(self) -> bool:
        """Whether its points have their words as a vector. Those of collections of earlier versions have not."""
        info = self.info()
        kept = (info.config.params.sparse_vectors or {}).get(WORDS) if info is not None else None
        return kept is not None and kept.modifier == self.models.Modifier.IDF

    def quantize(self, names: Sequence[str], precision: str) -> None:
        """Have the server keep a copy of the vectors of these names in memory in that precision, and the vectors
        themselves on disk; it is built in the background. Nothing changes where it is so."""
        m = self.models
        wanted = (
            m.ScalarQuantization(scalar=m.ScalarQuantizationConfig(type=m.ScalarType.INT8, always_ram=True))
            if precision == INT8
            else m.BinaryQuantization(binary=m.BinaryQuantizationConfig(always_ram=True))
        )
        diff = {name: m.VectorParamsDiff(quantization_config=wanted, on_disk=True) for name in names}
        with self.request():
            self.client.update_collection(self.name, vectors_config=diff)

    def count(self) -> int:
        with self.request():
            return int(self.client.count(self.name, exact=True).count)

    def remove(self) -> None:
        """With its aliases, which Qdrant removes by itself."""
        with self.request():
            if not self.client.delete_collection(self.name):
                raise SinkError(f"{self.url} was not removed: is {self.name!r} an alias, or gone already?")

    def alias(self, name: str) -> bool:
        """In one request, so that the alias is never missing."""
        m = self.models
        old = m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=name))  # if it exists
        new = m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name=self.name, alias_name=name))
        with self.request():
            self.client.update_collection_aliases([old, new])
        return True


def _reason(content: bytes) -> str:
    """The reason that Qdrant gives; empty if the answer is not Qdrant's."""
    try:
        return line(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def manifest_of(metadata: Mapping[str, Any] | None, url: str) -> Manifest:
    text = (metadata or {}).get(MANIFEST)
    if not isinstance(text, str):
        raise SinkError(f"{url} is a collection that is not Penstock's; name another one")
    return manifests.from_json(text, url)


def manifest_in(folder: Path, name: str, url: str) -> Manifest | None:
    """Read the manifest in a folder without the client, which would read every point and lock the folder."""
    for left in reversed(range(WRITING)):
        try:
            config = json.loads((folder / "meta.json").read_bytes())["collections"].get(name)
            break
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not left:
                raise SinkError(f"{url} cannot be read: {line(error)}") from error
            time.sleep(0.02)  # the client of another process may be making it
    return None if config is None else manifest_of(config.get("metadata"), url)
