"""Reaching Chroma: its client with timeouts, its errors in Penstock's terms, and a lock on its folders."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any

from penstock.core.errors import MissingExtra, PenstockError, SinkError, SinkUnavailable, TooLarge
from penstock.sinks.address import Address
from penstock.sinks.store import line

TIMEOUT = 120.0
"""Seconds that a server may keep silent: it indexes a batch before it answers."""


def drivers(url: str) -> tuple[Any, Any]:
    try:
        import httpx
        from chromadb import errors
    except ImportError as error:
        raise MissingExtra(f"{url} ({error.name})", "chroma") from None
    return httpx, errors


@contextmanager
def told(url: str) -> Iterator[None]:
    """What Chroma and its client raise, as errors of Penstock."""
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
        # of an answer that is not Chroma's own, its client raises the text, while it handles the status
        status = error.__context__.response.status_code if isinstance(error.__context__, httpx.HTTPStatusError) else 0
        if status in (401, 403):
            raise _refused(url) from error
        if status == 404 or isinstance(error, JSONDecodeError):
            raise SinkError(f"{url} does not answer as a Chroma server does; is that its port?") from error
        kind = TooLarge if status == 413 else SinkUnavailable if status == 429 or status >= 500 else SinkError
        raise kind(f"{url}: {f'HTTP {status}' if status else type(error).__name__}: {line(error)}") from error


def _refused(url: str) -> SinkError:
    return SinkError(f"{url} refuses the token; set the environment variable CHROMA_TOKEN to one that may do this")


class Server:
    """What is needed of chromadb's client, which waits for ever: this one has a timeout from its first request on."""

    def __init__(self, place: Address) -> None:
        from chromadb.api import ServerAPI
        from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings, System

        token = os.environ.get("CHROMA_TOKEN")
        settings = Settings(
            anonymized_telemetry=False,
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=f"[{place.host}]" if ":" in place.host else place.host,
            chroma_server_http_port=place.port,
            chroma_server_ssl_enabled=place.tls,
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

    def create_collection(self, name: str, embedding_function: None, **given: Any) -> Any:
        return self._collection(self._api.create_collection(name, **given, **self._within))

    def delete_collection(self, name: str) -> None:
        self._api.delete_collection(name, **self._within)

    def _collection(self, model: Any) -> Any:
        from chromadb.api.models.Collection import Collection

        return Collection(client=self._api, model=model, embedding_function=None)

    def get_max_batch_size(self) -> int:
        return int(self._api.get_max_batch_size())

    def close(self) -> None:
        self._api._session.close()


class Lock:
    """A lock on a folder against other processes; within one they all have the same index in memory."""

    _held: dict[Path, tuple[IO[bytes], int]] = {}  # noqa: RUF012 - one for the process
    _turn = threading.Lock()

    def __init__(self, folder: Path, url: str, *, write: bool) -> None:
        self._folder = folder
        with self._turn:
            known, users = self._held.get(folder, (None, 0))
            try:
                file = known or open(folder / "penstock.lock", "ab")  # noqa: SIM115 - kept
            except OSError as error:
                raise SinkError(f"{url} cannot be locked: {error.strerror}") from error
            try:
                if known is None or (write and os.name != "nt"):
                    _take(file, write)
            except OSError as error:
                if known is None:
                    file.close()
                else:
                    _take(file, False)  # what asks for more and does not get it has lost what it had
                raise SinkError(
                    f"{url} is in use by another process, and Chroma's folders do not bear two; "
                    f"wait, or serve it: chroma run --path {folder}"
                ) from error
            self._held[folder] = file, users + 1

    def close(self) -> None:
        with self._turn:
            file, users = self._held.pop(self._folder)
            if users > 1:
                self._held[self._folder] = file, users - 1
            else:
                file.close()


def _take(file: IO[bytes], write: bool) -> None:
    if os.name == "nt":  # where a lock can only be exclusive
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def client(place: Address) -> Any:
    if place.folder is None:
        return Server(place)
    from chromadb import PersistentClient
    from chromadb.config import Settings

    return PersistentClient(str(place.folder.resolve()), settings=Settings(anonymized_telemetry=False))


def left_behind(place: Address, collection: str) -> list[Path]:
    """Where the vectors of a collection lie in a folder: Chroma does not remove them with it."""
    if place.folder is None:
        return []
    path = place.folder / "chroma.sqlite3"
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as file:
        found = file.execute("SELECT id FROM segments WHERE collection = ? AND scope = 'VECTOR'", (collection,))
        return [place.folder / str(id) for (id,) in found]
