"""Tars and zips as folders: a member is an item, whose uri is the archive's with the member's name beneath it.

A member is opened by its offset, so an archive is never unpacked, and is listed in constant memory. Archives within
archives are not entered. Names are taken as names only: one that is absolute, leads out or holds backslashes is a
failure of that member. Of members with one name the first is read, and each other one is a failure.

What follows one another and differs only from the first dot of its base name on is a *sample*, as in WebDataset: in it
the opener of `a.txt` and `a.json` knows the other members of the sample, and each of those knows these two.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote_from_bytes

from penstock.core.errors import SourceError
from penstock.core.records import Item, Unreadable, Upsert
from penstock.sources.files import tars, zips
from penstock.sources.files.globs import Selection
from penstock.sources.files.members import Damaged, Entry, Opener, Reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Offsets = tuple[NDArray[np.int64], NDArray[np.int64], str]
    """Hashes of names, in order; where reading may begin to meet the member; what the archive breaks off with."""

SAMPLE = 64
"""The most members of a sample."""
LONGEST = 4096
"""The most bytes of a name."""
KNOWN = 4 << 20
"""Members whose offsets are kept at hand, 16 bytes each."""

_SIDES = (".txt", ".json")


def is_archive(name: str) -> bool:
    return name[-4:].lower() in (".tar", ".zip")


@dataclass(frozen=True, slots=True)
class Archive:
    uri: str
    fingerprint: str
    size: int
    read: Reader

    def walk(self, selection: Selection, folder: str, passed_over: Counter[str]) -> Iterator[Upsert | Unreadable]:
        """The changes of a listing. `folder` is the archive's path below the root, with a slash; empty where it is the
        root. Damaged members are Unreadable; failures to read are raised."""
        with closing(_Names()) as names:
            try:
                for entry, name, fault in self._members():
                    path = folder + os.fsdecode(name)
                    if entry.left:
                        passed_over[entry.left] += 1
                    elif not selection.hidden and (name.startswith(b".") or b"/." in name) and not fault:
                        passed_over["hidden"] += 1
                    elif not selection.takes(path):
                        passed_over["excluded"] += 1
                    elif fault or names.again(name):
                        cause = fault or "another member of this name comes before it, and is the one that is read"
                        # By its offset: the uri that its name makes may be another one's, or none.
                        shown = quote_from_bytes(name[:200].replace(b"\0", b"?"), safe="")
                        yield Unreadable(f"{self.uri}/{shown}#{entry.at}", cause)
                    elif entry.fault:
                        yield Unreadable(self._uri(name), entry.fault)
                    else:
                        yield Upsert(self._item(entry, name))
            except Damaged as damage:
                # What comes after is not known to be gone: nothing beneath this uri is deleted.
                yield Unreadable(self.uri, str(damage))

    def find(self, name: bytes) -> Item | None:
        """The member of that name, as `walk` lists it. Reads the headers once, and then keeps the offsets at hand."""
        offsets, damage = _directory.of(self, name)
        for start in offsets:
            for entry, its, fault in self._members(start):
                if its == name and not (fault or entry.left):
                    return None if entry.fault else self._item(entry, name)
                if _key(its) != _key(name):
                    break
        if damage:
            raise SourceError(f"cannot read {self.uri}: {damage}")
        return None

    def _item(self, entry: Entry, name: bytes) -> Item:
        # A zip has a checksum of each member. A tar has none: with the archive all its members may have changed.
        kind = f"{self.fingerprint}-" if self.uri[-4:].lower() == ".tar" else ""
        return Item(self._uri(name), kind + entry.stamp, entry.opener, entry.size)

    def _uri(self, name: bytes) -> str:
        return f"{self.uri}/{quote_from_bytes(name)}"

    def _members(self, start: int = 0) -> Iterator[tuple[Entry, bytes, str]]:
        """Each member with its proper name, and the fault of that name. Those of a sample know each other."""
        read = tars.entries if self.uri[-4:].lower() == ".tar" else zips.entries
        sample: list[tuple[Entry, bytes, str]] = []
        key: bytes | None = None
        broken: Exception | None = None
        try:
            for entry in read(self.read, self.size, start):
                name, fault = _proper(entry.name)
                if (its := _key(name)) != key or len(sample) >= SAMPLE:
                    yield from _knowing(sample)
                    sample, key = [], its
                sample.append((entry, name, fault))
        except Exception as error:  # the members before it come first
            broken = error
        yield from _knowing(sample)
        if broken is not None:
            raise broken


def _proper(name: bytes) -> tuple[bytes, str]:
    """A name without `./`, and its fault."""
    if len(name) > LONGEST:
        return name, f"a name of {len(name):,} bytes"
    if name.startswith(b"/"):
        return name, "an absolute name"
    if b"\\" in name or b"\0" in name:
        return name, "a name with a backslash or a NUL"
    if b"//" in name or b"./" in name or name.endswith((b".", b"/")):
        parts = name.split(b"/")
        if b".." in parts:
            return name, "a name that leads out of the archive"
        name = b"/".join(part for part in parts if part not in (b"", b"."))
    return name, "" if name else "no name"


def _key(name: bytes) -> bytes:
    dot = name.find(b".", name.rfind(b"/") + 1)
    return name if dot < 0 else name[:dot]


def _knowing(sample: list[tuple[Entry, bytes, str]]) -> Iterator[tuple[Entry, bytes, str]]:
    if len(sample) < 2:
        yield from sample
        return
    endings = [os.fsdecode(name[len(_key(name)) :]).lower() for _, name, _ in sample]
    named = [(ending, entry) for ending, (entry, _, fault) in zip(endings, sample, strict=True) if not fault]
    present = [
        (ending, entry) for ending, entry in reversed(named) if not (entry.left or entry.fault)
    ]  # the first counts
    sides = {ending: entry for ending, entry in present if ending in _SIDES}
    others = {f".{ending.rpartition('.')[2]}": entry.opener for ending, entry in present if ending not in _SIDES}
    for ending, (entry, name, fault) in zip(endings, sample, strict=True):
        if ending in _SIDES and others:
            entry = _beside(entry, others)
        elif ending not in _SIDES and sides:
            # Another caption makes another document of the image.
            stamp = "+".join([entry.stamp, *(sides[side].stamp for side in _SIDES if side in sides)])
            entry = _beside(entry._replace(stamp=stamp), {side: its.opener for side, its in sides.items()})
        yield entry, name, fault


def _beside(entry: Entry, others: Mapping[str, Opener]) -> Entry:
    return entry._replace(opener=replace(cast(Any, entry.opener), beside=others))


class _Names:
    """The names that were listed. In a temporary file once they are many: an archive may have millions."""

    def __init__(self) -> None:
        # An unnamed database is a file that vanishes with the connection.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def again(self, name: bytes) -> bool:
        return self._db.execute("INSERT OR IGNORE INTO names VALUES (?)", (name,)).rowcount == 0

    def close(self) -> None:
        self._db.close()


class _Directory:
    """Offsets of members in the archives used last, up to KNOWN members in all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Archive, Offsets] = OrderedDict()

    def of(self, archive: Archive, name: bytes) -> tuple[list[int], str]:
        import numpy as np

        with self._lock:  # held while it is read: another thread that wants the same one waits for it
            found = self._known.pop(archive, None) or _read_offsets(archive)
            self._known[archive] = found
            while len(self._known) > 1 and sum(len(known[0]) for known in self._known.values()) > KNOWN:
                self._known.popitem(last=False)
        hashes, offsets, damage = found
        wanted = hash(name)
        first, last = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, side="right")
        return [int(offset) for offset in offsets[first:last]], damage


def _read_offsets(archive: Archive) -> Offsets:
    import numpy as np

    damage = ""

    def offsets() -> Iterator[tuple[int, int]]:
        nonlocal damage
        start, key = 0, None
        try:
            for entry, name, fault in archive._members():
                if (its := _key(name)) != key:
                    start, key = entry.at, its
                if not (fault or entry.left):
                    yield hash(name), start
        except Damaged as error:
            damage = str(error)

    table = np.fromiter(offsets(), dtype=np.dtype((np.int64, 2)))
    order = np.argsort(table[:, 0], kind="stable")  # of one name twice, the first one comes first
    return table[order, 0], table[order, 1], damage


_directory = _Directory()
