"""A file or a folder on this machine."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import BinaryIO, ClassVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from penstock.core.errors import SourceError, UsageError, Vanished
from penstock.core.records import Item, Unreadable, Upsert
from penstock.sources.files.archives import Archive, is_archive
from penstock.sources.files.globs import Selection
from penstock.support.images import CAPTIONS, ENDINGS

SORTED = 50_000
"""Folders of up to this many entries are listed by name; larger ones in the order they have, in constant memory."""

_plain = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch
_GONE = (errno.ENOENT, errno.ENOTDIR)
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LocalFile:
    """Opens a file that was listed."""

    path: str

    def __call__(self) -> BinaryIO:
        try:
            return open(
                self.path, "rb", io.DEFAULT_BUFFER_SIZE, opener=_open_regular
            )  # a size, so that it does not ask whether it is a tty
        except OSError as error:
            if error.errno in _GONE:
                raise Vanished(f"it vanished after it was listed: {cause_of(error)}") from None
            raise


@dataclass(frozen=True, slots=True)
class LocalBytes:
    """Reads parts of an archive, as long as it is the one that was listed."""

    path: str
    size: int
    mtime: int
    """In nanoseconds."""
    flags: int = 0
    ahead: ClassVar[int] = 1 << 16

    def __call__(self, start: int, size: int) -> bytes:
        handle = _open_regular(self.path, os.O_RDONLY | self.flags)
        try:
            status = os.fstat(handle)
            if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime):
                raise OSError(errno.ESTALE, "the archive was rewritten meanwhile", self.path)
            parts = []
            while size > 0 and (part := os.pread(handle, min(size, 1 << 30), start)):
                parts.append(part)
                start, size = start + len(part), size - len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(handle)


def _open_regular(path: str, flags: int) -> int:
    # What was a file when it was listed may be a pipe by now: opening that must not wait for a writer.
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no longer a regular file", path)
    return handle


def uri_of(path: str) -> str:
    """The file: URI of an absolute path; any bytes a file system allows survive the way there and back."""
    return "file://" + quote_from_bytes(os.fsencode(path))


def path_of(uri: str) -> str:
    """The absolute path of a file: URI."""
    host, slash, rest = uri.partition("://")[2].partition("/")
    if host not in ("", "localhost") or not slash:
        raise UsageError(f"not a file on this machine: {uri}")
    path = os.fsdecode(unquote_to_bytes("/" + rest))
    if "\0" in path:
        raise UsageError(f"not a file: {uri}")
    return path


def cause_of(error: OSError) -> str:
    # Not str(error): it repeats the path, which is in the uri, and may hold what no terminal can print.
    return f"{type(error).__name__}: {error.strerror or error}"


class LocalTree:
    """One root: a folder with all beneath it, or a single file (which is taken whatever the patterns say).

    `skip`: real paths that are never listed, such as an index inside its own documents.
    """

    def __init__(self, root: str, selection: Selection, follow_links: bool, skip: Iterable[str]) -> None:
        self.root = root
        self.uri = uri_of(root)
        self.passed_over: Counter[str] = Counter()
        self.select_container: Callable[[str], bool] | None = None
        self._selection = selection
        self._follow = follow_links
        self._skip = frozenset(skip)

    def check(self) -> None:
        self._identify()

    def _identify(self) -> os.stat_result:
        try:
            return os.stat(self.root)
        except (OSError, ValueError) as error:
            cause = cause_of(error) if isinstance(error, OSError) else str(error)
            raise SourceError(f"cannot read {self.uri}: {cause}") from None

    def walk(self) -> Iterator[Upsert | Unreadable]:
        top = self._identify()
        if stat.S_ISREG(top.st_mode):
            if is_archive(self.root):
                yield from self._enter(self.uri, self.root, top, "")
            else:
                yield Upsert(_item(self.uri, self.root, top))
            return
        if not stat.S_ISDIR(top.st_mode):
            raise SourceError(f"neither a file nor a folder: {self.uri}")
        yield from self._descend()
        try:
            left = os.stat(self.root)
        except OSError as error:
            yield Unreadable(self.uri + "/", f"vanished while it was listed: {cause_of(error)}", listing=True)
            return
        # Unmounted meanwhile, a folder is still there and empty; what was under it is not gone.
        if (left.st_dev, left.st_ino) != (top.st_dev, top.st_ino):
            yield Unreadable(self.uri + "/", "became another folder while it was listed", listing=True)

    def _descend(self) -> Iterator[Upsert | Unreadable]:
        follow, passed_over = self._follow, self.passed_over
        skip = self._skips()
        base = len(self.root.rstrip("/")) + 1
        ancestors: list[_Identity] = []
        frames: list[tuple[Iterator[os.DirEntry[str]], str]] = []
        wanted: str | None = self.root  # the folder to step into next
        while wanted is not None or frames:
            if wanted is not None:
                folder, wanted = wanted, None
                try:
                    identity = _identity(folder) if follow else (0, 0)
                    if follow and identity in ancestors:
                        passed_over["loop"] += 1
                    else:
                        frames.append((_entries(folder), _prefix(uri_of(folder))))
                        ancestors.append(identity)
                except OSError as error:
                    if error.errno not in _GONE or os.path.lexists(folder):
                        yield Unreadable(_prefix(uri_of(folder)), cause_of(error), listing=True)
                continue
            entries, uri_prefix = frames[-1]
            try:
                for entry in entries:
                    name, path = entry.name, entry.path
                    try:
                        if reason := self._leaves(entry, path[base:], skip):
                            passed_over[reason] += 1
                            continue
                        if entry.is_dir():
                            wanted = path
                            break
                        status = entry.stat()
                    except OSError as error:
                        uri = uri_prefix + _quoted(name)
                        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
                            yield Unreadable(uri, "a link that leads nowhere")
                        elif error.errno != errno.ENOENT:
                            yield Unreadable(uri, cause_of(error), listing=_may_be_folder(entry))
                        continue
                    uri = uri_prefix + (name if _plain(name) else _quoted(name))
                    if is_archive(name):
                        yield from self._enter(uri, path, status, path[base:] + "/")
                    else:
                        yield Upsert(_item(uri, path, status))
                else:
                    frames.pop()
                    ancestors.pop()
            except OSError as error:  # the rest of a folder that could be opened cannot be read
                yield Unreadable(uri_prefix, cause_of(error), listing=True)
                frames.pop()
                ancestors.pop()

    def _leaves(self, entry: os.DirEntry[str] | _Named, below: str, skip: frozenset[str]) -> str:
        """Why a walk leaves this entry of a folder alone; nothing where it lists or enters it."""
        name, selection = entry.name, self._selection
        if name[0] == "." and not selection.hidden:
            return "hidden"
        if skip and entry.path in skip:
            return "excluded"
        link = entry.is_symlink()
        if link and not self._follow:
            return "link"
        if entry.is_dir():
            entered = selection.enters(below) and not (link and os.path.realpath(entry.path) in self._skip)
            return "" if entered else "excluded"
        # An archive is entered, like a folder.
        if not (selection.enters if is_archive(name) else selection.takes)(below):
            return "excluded"
        return "" if stat.S_ISREG(entry.stat().st_mode) else "special"

    def passes_over(self, uri: str) -> str:
        """As a walk comes to it: folder by folder, and then into an archive."""
        path = path_of(uri)
        base, skip = len(_prefix(self.root)), self._skips()
        file, member = within(path)
        at = len(self.root.rstrip("/"))
        try:
            ancestors = [_identity(self.root)]
            while at < len(file):
                at = file.find("/", at + 1)
                at = len(file) if at < 0 else at
                entry = _Named(file[:at])
                if reason := self._leaves(entry, entry.path[base:], skip):
                    return reason
                if self._follow and (identity := _identity(entry.path)) in ancestors:
                    return "loop"
                elif self._follow:
                    ancestors.append(identity)
        except OSError:
            return ""  # it is not there, or cannot be read: that is another matter
        return self._selection.passes_over(f"{file[base:]}/{member}".lstrip("/")) if member else ""

    def _enter(self, uri: str, path: str, status: os.stat_result, folder: str) -> Iterator[Upsert | Unreadable]:
        if self.select_container is not None and not self.select_container(uri):
            return
        try:
            yield from archive_of(uri, path, status).walk(self._selection, folder, self.passed_over)
        except OSError as error:
            yield Unreadable(uri, cause_of(error), listing=True)

    def _skips(self) -> frozenset[str]:
        """The paths to leave out as a walk meets them: it starts at the root as given, not at its real path."""
        real = _prefix(os.path.realpath(self.root))
        here = _prefix(self.root)
        return frozenset(here + path[len(real) :] for path in self._skip if path.startswith(real)) | self._skip

    def holds(self, uri: str) -> bool:
        return uri == self.uri or uri.startswith(_prefix(self.uri))

    def lookup(self, uri: str) -> Item | None:
        path = path_of(uri)
        if uri.endswith("/"):
            raise SourceError(f"a folder, which the next listing will read again: {uri}")
        if path != os.path.normpath(path) or not (path == self.root or path.startswith(_prefix(self.root))):
            raise SourceError(f"not within {self.uri}: {uri}")
        self.check()
        file, member = within(path)
        try:
            status = os.stat(file)
            if is_archive(file) and not member and stat.S_ISREG(status.st_mode):
                raise SourceError(f"an archive, which the next listing will read again: {uri}")
            if not stat.S_ISREG(status.st_mode) or self.passes_over(uri):
                return None
            if member:
                return archive_of(uri_of(file), file, status).find(os.fsencode(member))
        except OSError as error:
            if error.errno in (*_GONE, errno.ELOOP):
                return None
            raise SourceError(f"cannot read {uri}: {cause_of(error)}") from None
        return _item(uri_of(file), file, status)


def within(path: str) -> tuple[str, str]:
    """The archive that the path leads into, and the member's name; for any other one itself, and nothing."""
    at = -1
    while (at := path.find("/", at + 1)) >= 0:
        if is_archive(path[:at]) and os.path.isfile(path[:at]):
            return path[:at], path[at + 1 :]
    return path, ""


def archive_of(uri: str, path: str, status: os.stat_result, flags: int = 0) -> Archive:
    read = LocalBytes(path, status.st_size, status.st_mtime_ns, flags)
    return Archive(uri, _fingerprint(status), status.st_size, read)


class _Named:
    """An entry of a folder that is known by its path."""

    def __init__(self, path: str) -> None:
        self.path, self.name = path, os.path.basename(path)

    def is_symlink(self) -> bool:
        return os.path.islink(self.path)

    def is_dir(self) -> bool:
        return os.path.isdir(self.path)

    def stat(self) -> os.stat_result:
        return os.stat(self.path)


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() or entry.is_dir()
    except OSError:
        return True


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        head = list(islice(entries, SORTED + 1))
    if len(head) > SORTED:
        return _as_they_come(folder)
    head.sort(key=attrgetter("name"), reverse=True)
    return _popped(head)


def _popped(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """Yield from the last to the first, and keep none: a thousand entries that were used hold half a megabyte."""
    while entries:
        yield entries.pop()


def _as_they_come(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _identity(folder: str) -> _Identity:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _item(uri: str, path: str, status: os.stat_result) -> Item:
    return Item(
        uri,
        _fingerprint(status) + _beside(path),
        LocalFile(path),
        status.st_size,
        path=path,
        modified=status.st_mtime,
        created=getattr(status, "st_birthtime", None),
    )


def _beside(path: str) -> str:
    """The part of a fingerprint that neighbours make: an image's captions; of a text, that it may be a caption."""
    stem, ending = os.path.splitext(path)
    if (ending := ending.lower()) in ENDINGS:
        parts = [f"{side}-{_fingerprint(status)}" for side in CAPTIONS if (status := _regular(stem + side)) is not None]
        return "".join(parts)
    return "-beside" if ending in CAPTIONS and any(_regular(stem + image) for image in ENDINGS) else ""


def _regular(path: str) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _fingerprint(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _prefix(path: str) -> str:
    return path if path.endswith("/") else path + "/"


def _quoted(name: str) -> str:
    return quote_from_bytes(os.fsencode(name), safe="")
