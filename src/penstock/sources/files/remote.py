"""A file or a folder in any store that fsspec knows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, ClassVar, cast
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from penstock.core.errors import MissingExtra, SourceError, UsageError
from penstock.core.records import Item, Unreadable, Upsert
from penstock.registry import SOURCES
from penstock.sources.files.address import Address
from penstock.sources.files.archives import Archive, is_archive
from penstock.sources.files.globs import Selection

READ = 4 << 20
"""Bytes asked for at once. fsspec's own default for S3 is 50 MiB for each open file, outside any budget."""

_VERSIONS = ("ETag", "etag", "generation", "version_id", "content_md5", "md5Hash", "sha", "checksum")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "modificationTime", "created")
_Info = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Opens a file that was listed. fsspec's file systems pickle, and are one again in each process."""

    fs: Any
    path: str

    def __call__(self) -> BinaryIO:
        return cast(BinaryIO, self.fs.open(self.path, "rb", block_size=READ))

    def __repr__(self) -> str:
        return f"RemoteFile({self.path!r})"


@dataclass(frozen=True, slots=True)
class RemoteBytes:
    """Reads parts of an archive, with a request each."""

    fs: Any
    path: str
    ahead: ClassVar[int] = READ

    def __call__(self, start: int, size: int) -> bytes:
        return cast(bytes, self.fs.cat_file(self.path, start=start, end=start + size)) if size > 0 else b""

    def __repr__(self) -> str:
        return f"RemoteBytes({self.path!r})"


class RemoteTree:
    """One root: a folder, bucket or prefix with all beneath it, or a single file.

    `skip`: uris of other roots inside this one.
    """

    def __init__(self, url: str, selection: Selection, skip: Iterable[str], storage: Mapping[str, Any]) -> None:
        self._address = Address(url, storage)
        if self._address.signed:
            raise UsageError(f"a signed url opens over https:// only: {self._address.uri}")
        self.uri = self._address.uri
        self.passed_over: Counter[str] = Counter()
        self.select_container: Callable[[str], bool] | None = None
        self._selection = selection
        # What the root itself lies in is no bar to a walk.
        self._skip = frozenset(other for other in skip if other.startswith(f"{self.uri}/"))
        self._storage = dict(storage)
        self._connected: tuple[Any, str] | None = None

    def _connect(self) -> tuple[Any, str]:
        if self._connected is None:
            try:
                from fsspec.core import url_to_fs

                # A cached listing may be out of date, and grows with the store.
                fs, path = url_to_fs(self._address.url, **{"use_listings_cache": False, **self._storage})
            except ImportError as error:
                extra = SOURCES.get(self._address.scheme, ("", None))[1]
                if extra is None:
                    raise UsageError(f"{self.uri}: {error}") from None
                raise MissingExtra(f"{self._address.scheme}://", extra) from None
            except Exception as error:  # drivers raise what they like, and may quote a password
                raise SourceError(f"cannot connect to {self.uri}: {self._address.cause(error)}") from None
            self._connected = fs, path.rstrip("/")
        return self._connected

    def check(self) -> None:
        self._root()

    def _root(self) -> _Info:
        fs, path = self._connect()
        try:
            return cast(_Info, fs.info(path))
        except Exception as error:
            raise SourceError(f"cannot read {self.uri}: {self._address.cause(error)}") from None

    def walk(self) -> Iterator[Upsert | Unreadable]:
        fs, path = self._connect()
        root = self._root()
        if root["type"] == "file":
            if is_archive(path):
                yield from self._enter(fs, self.uri, root, "")
            else:
                yield Upsert(self._item(fs, self.uri, root))
            return
        listed = self._pages(fs, path) if hasattr(fs, "call_s3") else self._folders(fs, path)
        for info in listed:
            if isinstance(info, Unreadable):
                yield info
                continue
            below = info["name"][len(path) + 1 :]
            uri = f"{self.uri}/{below}"
            if reason := self._leaves(uri, below):
                self.passed_over[reason] += 1
            elif info["type"] != "file":
                self.passed_over["special"] += 1
            elif is_archive(below):
                yield from self._enter(fs, uri, info, below + "/")
            else:
                yield Upsert(self._item(fs, uri, info))

    def _leaves(self, uri: str, below: str) -> str:
        """Why a walk leaves this file alone, whose folders it enters; nothing where it lists or enters it."""
        if not self._selection.hidden and (below[0] == "." or "/." in below):
            return "hidden"
        # An archive is entered, like a folder.
        takes = self._selection.enters if is_archive(below) else self._selection.takes
        return "excluded" if uri in self._skip or not takes(below) else ""

    def passes_over(self, uri: str) -> str:
        below = uri[len(self.uri) + 1 :]
        if self._within_skip(uri):
            return "excluded"
        return self._leaves(uri, below) if below else ""

    def _enter(self, fs: Any, uri: str, info: _Info, folder: str) -> Iterator[Upsert | Unreadable]:
        if self.select_container is not None and not self.select_container(uri):
            return
        try:
            yield from self._archive(fs, uri, info).walk(self._selection, folder, self.passed_over)
        except Exception as error:  # drivers raise what they like
            yield Unreadable(uri, self._address.cause(error), listing=True)

    def _folders(self, fs: Any, path: str) -> Iterator[_Info | Unreadable]:
        """Folder by folder: in memory are one folder's entries and the folders still to come."""
        pending = [path]
        while pending:
            folder = pending.pop()
            below = folder[len(path) + 1 :]
            try:
                entries = sorted(fs.ls(folder, detail=True), key=lambda info: str(info["name"]))
            except FileNotFoundError as error:
                if folder == path:
                    yield Unreadable(self.uri + "/", self._address.cause(error), listing=True)
                continue  # gone since its parent was read
            except Exception as error:  # drivers raise what they like
                yield Unreadable(f"{self.uri}/{below}".rstrip("/") + "/", self._address.cause(error), listing=True)
                continue
            folders = []
            for info in entries:
                name = info["name"].rstrip("/")
                if name == folder or not name.startswith(folder):
                    continue  # a store's mark for the folder itself
                if info["type"] != "directory":
                    yield info
                elif self._enters(name[len(path) + 1 :]):
                    folders.append(name)
            pending.extend(reversed(folders))

    def _enters(self, below: str) -> bool:
        if not self._selection.hidden and below.rpartition("/")[2].startswith("."):
            self.passed_over["hidden"] += 1
        elif f"{self.uri}/{below}" in self._skip or not self._selection.enters(below):
            self.passed_over["excluded"] += 1
        else:
            return True
        return False

    def _pages(self, fs: Any, path: str) -> Iterator[_Info | Unreadable]:
        """S3 by pages of 1,000 keys in the order of their names: a bucket with millions in one prefix is common,
        and `ls` would hold them all."""
        bucket, _, prefix = path.partition("/")
        request = {"Bucket": bucket, "Prefix": prefix and prefix + "/", **fs.req_kw}
        after: dict[str, str] = {}
        while True:
            try:
                page = fs.call_s3("list_objects_v2", **request, **after)
            except Exception as error:  # drivers raise what they like
                yield Unreadable(self.uri + "/", self._address.cause(error), listing=True)
                return
            for key in page.get("Contents", ()):
                if not key["Key"].endswith("/"):  # a console's mark for a folder
                    name = f"{bucket}/{key['Key']}"
                    if self._skip and self._within_skip(f"{self.uri}/{name[len(path) + 1 :]}"):
                        self.passed_over["excluded"] += 1
                    else:
                        found = {"name": name, "type": "file", "size": key["Size"], "ETag": key["ETag"]}
                        yield found | {"LastModified": key.get("LastModified")}
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _within_skip(self, uri: str) -> bool:
        return any(uri.startswith(skipped + "/") for skipped in self._skip)

    def holds(self, uri: str) -> bool:
        return uri == self.uri or uri.startswith(self.uri + "/")

    def lookup(self, uri: str) -> Item | None:
        if uri.endswith("/"):
            raise SourceError(f"a folder, which the next listing will read again: {uri}")
        below = uri[len(self.uri) + 1 :]
        if not self.holds(uri) or ".." in below.split("/"):
            raise SourceError(f"not within {self.uri}: {uri}")
        self.check()
        fs, path = self._connect()
        try:
            for file, member in _readings(f"{path}/{below}" if below else path, len(path)):
                info = self._file_info(fs, file)
                if info is None:
                    continue
                if is_archive(file) and not member:
                    raise SourceError(f"an archive, which the next listing will read again: {uri}")
                name = unquote_to_bytes(member)
                name_below = below[: len(below) - len(member)] + os.fsdecode(name)
                if name_below and self._selection.passes_over(name_below):
                    return None
                if member:
                    return self._archive(fs, uri[: -1 - len(member)], info).find(name)
                return self._item(fs, uri, info)
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"cannot read {uri}: {self._address.cause(error)}") from None
        return None

    def _file_info(self, fs: Any, file: str) -> _Info | None:
        try:
            info = cast(_Info, fs.info(file))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info if info["type"] == "file" else None

    def _archive(self, fs: Any, uri: str, info: _Info) -> Archive:
        size = info.get("size")
        if size is None:
            raise SourceError("the store does not say its size")
        return Archive(uri, _fingerprint(info, size), size, RemoteBytes(fs, info["name"]))

    def _item(self, fs: Any, uri: str, info: _Info) -> Item:
        size = info.get("size")
        opener = RemoteFile(fs, info["name"])
        return Item(uri, _fingerprint(info, size), opener, size, modified=_modified(info))


def _readings(path: str, root: int) -> Iterator[tuple[str, str]]:
    """A file and the name of a member in it, as a path may be read: itself, and each archive on its way."""
    yield path, ""
    at = root - 1
    while (at := path.find("/", at + 1)) >= 0:
        if is_archive(path[:at]):
            yield path[:at], path[at + 1 :]


def _fingerprint(info: _Info, size: int | None) -> str:
    for key in _VERSIONS:
        if info.get(key):
            return f"{size}-{str(info[key]).strip(chr(34))}"
    for key in _TIMES:
        if info.get(key):
            when = info[key]
            return f"{size}-{when.timestamp() if isinstance(when, datetime) else when}"
    return unknown()


def _modified(info: _Info) -> float | None:
    when = next((info[key] for key in _TIMES[:-1] if info.get(key)), None)
    # Whole seconds: a listing tells more of them than the headers of one file do.
    return int(when.timestamp() if isinstance(when, datetime) else when) if isinstance(when, datetime | float) else None


UNKNOWN = "unknown-"


def unknown() -> str:
    """A unique fingerprint: where a store has no versions, the content is read again each time."""
    return f"{UNKNOWN}{uuid4().hex}"
