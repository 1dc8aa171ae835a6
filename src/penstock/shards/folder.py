"""The folder that parts are in: what it holds, and which pieces of it are finished."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.core.errors import SinkError, SourceError, SpaceMismatch, UsageError
from penstock.core.schema import IndexSchema, VectorSpec, from_dict, from_space, to_dict
from penstock.shards.format import Listed, Part, decode
from penstock.shards.store import Store, Taken

FACTS = "_penstock.json"
FORMAT = 2
"""Of FACTS. 1 had one vector space (`space`)."""
DONE, LEASES = "_done", "_leases"
MOST = 9_999
"""Pieces."""
_RECORD = re.compile(r"\d{4}-\d{6}\.json")
_PARQUET = r"[^/]*\.parq(?:uet)?"
_SHARD = re.compile(
    rf"(?!file:)[a-z0-9+.-]+://(?:[^/]*/)*?(?:[^/]*\.tar|{_PARQUET}(?:(?:/[^/=]+=[^/]*)*/{_PARQUET})*)(?=[/#]|$)",
    re.IGNORECASE,
)
"""Of Parquet files in folders that are named like one, as Spark has them, it is the file. A row that cannot be told by
its key is told as `file#number`."""
_PART = re.compile(r"part-(\d{4})-(\d{6})-(\d{6})\.parquet")


@dataclass(frozen=True, slots=True)
class Done:
    """The record of a finished piece."""

    piece: int
    term: int
    inputs: int
    """How many the source told for it."""
    digest: str
    """Of their uris."""
    counts: Mapping[str, int]
    """What became of them: `embedded`, `duplicate`, `failed`, `skipped`."""
    parts: Sequence[Listed]
    """Those that count, in order. Others of this piece are what a worker wrote that had lost its lease."""


class Folder:
    def __init__(self, store: Store, schema: IndexSchema, pieces: int, source: str) -> None:
        self.store, self.schema, self.pieces, self.source = store, schema, pieces, source

    @property
    def space(self) -> VectorSpec:
        return self.schema.only

    @classmethod
    def begin(cls, store: Store, schema: IndexSchema, pieces: int, source: str) -> Folder:
        """Make it, or find it made of the same: of several that begin at once, one does."""
        if not 1 <= pieces <= MOST:
            raise UsageError(f"{pieces} pieces: there are 1 to {MOST:,}")
        facts = {"penstock_parts": FORMAT, "schema": to_dict(schema), "pieces": pieces, "source": source}
        try:
            store.create(FACTS, json.dumps(facts, indent=2).encode())
        except Taken:
            return cls.there(store)._agreeing(schema, pieces, source)
        return cls(store, schema, pieces, source)

    @classmethod
    def there(cls, store: Store) -> Folder:
        """The one that is there."""
        data = store.read(FACTS)
        if data is None:
            raise UsageError(f"there are no parts at {store.url}")
        try:
            kept = json.loads(data)
            if (version := kept["penstock_parts"]) > FORMAT:
                raise ValueError(f"it was written by a newer Penstock (format {version})")
            schema = from_dict(kept["schema"]) if version > 1 else from_space(kept["space"])
            return cls(store, schema, int(kept["pieces"]), str(kept["source"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SinkError(f"{store.url}/{FACTS} cannot be read: {type(error).__name__}: {error}") from error

    def _agreeing(self, schema: IndexSchema, pieces: int, source: str) -> Folder:
        url = self.store.url
        if not schema.same_space(self.schema):
            raise SpaceMismatch(f"{url} holds {self.schema}, not {schema}: take another folder")
        if pieces != self.pieces:
            raise UsageError(f"{url} is in {self.pieces} pieces, not in {pieces}: say the same number to every worker")
        if source != self.source:
            raise UsageError(f"{url} is of {self.source}, not of {source}: say the same source to every worker")
        return self

    # ------------------------------------------------------------ parts

    def part_name(self, piece: int, term: int, number: int) -> str:
        return f"part-{piece:04}-{term:06}-{number:06}.parquet"

    def part_names(self, piece: int | None = None) -> list[str]:
        prefix = "part-" if piece is None else f"part-{piece:04}-"
        return [name for name in self.store.names("", prefix) if _PART.fullmatch(name)]

    def read(self, name: str) -> Part:
        data = self.store.read(name)
        if data is None:
            raise SourceError(f"{name} is not there")
        return decode(name, data)

    # ------------------------------------------------------------ pieces

    def finish(self, done: Done) -> None:
        """A record of an older lease that comes late does not count: the latest one does."""
        told = {"penstock_done": 1, **asdict(done)}
        name = f"{done.piece:04}-{done.term:06}.json"
        self.store.put(f"{DONE}/{name}", json.dumps(told, indent=1).encode())
        for older in self.store.names(DONE, f"{done.piece:04}-"):
            if older < name:
                self.store.remove(f"{DONE}/{older}")

    def finished(self) -> dict[int, str]:
        """The record of each piece that has one."""
        return {int(name[:4]): name for name in self.store.names(DONE) if _RECORD.fullmatch(name)}

    def done(self, piece: int) -> Done | None:
        names = [name for name in self.store.names(DONE, f"{piece:04}-") if _RECORD.fullmatch(name)]
        return self.record(piece, names[-1]) if names else None

    def record(self, piece: int, name: str) -> Done | None:
        data = self.store.read(f"{DONE}/{name}")
        if data is None:
            return None
        try:
            kept = json.loads(data)
            del kept["penstock_done"]
            kept["parts"] = [Listed(**part) for part in kept["parts"]]
            found = Done(**kept)
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{DONE}/{name} cannot be read: {type(error).__name__}: {error}") from error
        if found.piece != piece:
            raise SourceError(f"{DONE}/{name} is of piece {found.piece}")
        return found

    def all_done(self) -> Iterator[tuple[int, Done | None]]:
        names = self.finished()
        for piece in range(1, self.pieces + 1):
            yield piece, self.record(piece, names[piece]) if piece in names else None


def shard(uri: str) -> str | None:
    """The tar, or the Parquet file, in a bucket that this is, or is in. To list the one, or to read any image in the
    other, is to read most of it, so that one worker has it whole."""
    found = _SHARD.match(uri)
    return found[0] if found else None


def piece_of(uri: str, pieces: int) -> int:
    """Which piece a uri belongs to, from 1 on: the same on every machine."""
    raw = hashlib.blake2b((shard(uri) or uri).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "big") % pieces + 1


def facts_of(piece: int, term: int, number: int, space: VectorSpec) -> dict[str, Any]:
    return {"piece": piece, "term": term, "number": number, "space": asdict(space)}
