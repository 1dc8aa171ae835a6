"""The store of parts: a folder, or a prefix in any object store that fsspec knows. Whole files, read and put at once.

Half a file is never visible: a folder gets it by a rename, an object store by a single put.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, UsageError
from penstock.registry import SOURCES, scheme
from penstock.support import durable


class Taken(Exception):
    """The file exists already."""


class Store(Protocol):
    url: str

    def names(self, folder: str, prefix: str = "") -> list[str]:
        """The files in a folder (`""` or one beneath it) with this prefix, sorted; empty where there is none."""
        ...

    def read(self, name: str) -> bytes | None: ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file: a reader sees the old content or the new one."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write a new file. Raises Taken if it exists: of two that create it at once, one succeeds."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        ...


def at(url: str | os.PathLike[str], storage: Mapping[str, Any] | None = None) -> Store:
    """The store at `parts/` or `s3://bucket/parts`. `storage`: options of fsspec's file system, which no name shows."""
    location = os.fspath(url)
    if not location:
        raise UsageError("no folder for the parts: give a folder or a url such as s3://bucket/parts")
    kind = scheme(location)
    if kind in ("", "file"):
        return Folder(Path(location.partition("://")[2] if kind else location).expanduser().absolute())
    return Bucket(location.rstrip("/"), storage or {})


class Folder:
    def __init__(self, path: Path) -> None:
        self.url, self._path = str(path), path

    def names(self, folder: str, prefix: str = "") -> list[str]:
        with self._errors(), suppress(FileNotFoundError), os.scandir(self._path / folder) as entries:
            names = (entry.name for entry in entries if entry.is_file())
            return sorted(name for name in names if name.startswith(prefix) and not name.startswith("."))
        return []

    def read(self, name: str) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            return (self._path / name).read_bytes()
        return None

    def put(self, name: str, data: bytes) -> None:
        path = self._path / name
        with self._draft(path, data) as temporary:
            os.replace(temporary, path)

    def create(self, name: str, data: bytes) -> None:
        path = self._path / name
        with self._draft(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise Taken(name) from None
            except OSError:  # a mounted bucket has no links: the one that creates the file replaces it
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                except FileExistsError:
                    raise Taken(name) from None
                os.replace(temporary, path)

    def remove(self, name: str) -> None:
        with self._errors():
            (self._path / name).unlink(missing_ok=True)

    @contextmanager
    def _draft(self, path: Path, data: bytes) -> Iterator[Path]:
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with durable.draft(path, data, 0o644) as temporary:  # workers on other machines read it
                yield temporary

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SinkError(f"{self.url}: {error}") from error


class Bucket:
    def __init__(self, url: str, storage: Mapping[str, Any]) -> None:
        try:
            from fsspec.core import url_to_fs

            # No cached listings: workers see one another by them.
            self._fs, self._root = url_to_fs(url, **{"use_listings_cache": False, **storage})
        except ImportError as error:
            extra = SOURCES.get(scheme(url), ("", None))[1]
            if extra is None:
                raise UsageError(f"{url}: {error}") from None
            raise MissingExtra(f"{scheme(url)}://", extra) from None
        except ValueError as error:
            raise UsageError(f"{url}: {error}") from None
        self.url = url

    def names(self, folder: str, prefix: str = "") -> list[str]:
        path = self._path(folder)
        with self._errors(), suppress(FileNotFoundError):
            self._fs.invalidate_cache(path)
            names = (
                info["name"].rpartition("/")[2] for info in self._fs.ls(path, detail=True) if info["type"] == "file"
            )
            return sorted(name for name in names if name.startswith(prefix))
        return []

    def read(self, name: str) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            data: bytes = self._fs.cat_file(self._path(name))
            return data
        return None

    def put(self, name: str, data: bytes) -> None:
        with self._errors():
            self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> None:
        with self._errors():
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                raise Taken(name) from None
            except OSError as error:
                # Stores have the status of a failed condition in common, not an exception.
                if "PreconditionFailed" in str(error) or "412" in str(error) or "pre-conditions" in str(error):
                    raise Taken(name) from None
                raise

    def remove(self, name: str) -> None:
        with self._errors(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (Taken, FileNotFoundError):
            raise
        except PermissionError as error:
            raise SinkError(f"{self.url}: {error}") from error
        except Exception as error:  # drivers raise what they like
            raise SinkUnavailable(f"{self.url}: {type(error).__name__}: {error}") from error
