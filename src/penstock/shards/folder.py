"""The folder of parts: what it holds, which shards of it are finished, and which shard an input belongs to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
"""Shards."""
RECORD = re.compile(r"[0-9]{4,}-[0-9]{6}\.json")
"""The name of a record, and of a lease: shard and term."""
SENSELESS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What JSON of other types than expected makes of reading it."""
_PARQUET = r"[^/]*\.parq(?:uet)?"
_CONTAINER = re.compile(
    rf"(?!file:)[a-z0-9+.-]+://(?:[^/]*/)*?(?:[^/]*\.tar|{_PARQUET}(?:(?:/[^/=]+=[^/]*)*/{_PARQUET})*)(?=[/#]|$)",
    re.IGNORECASE,
)
"""A tar or Parquet file in a bucket, at the start of a uri. Where its folder has such a name too, as Spark writes them,
it is the file within. A row without a key is named `file#number`."""
_PART = re.compile(r"part-([0-9]{4})-([0-9]{6})-([0-9]{6})\.parquet")


@dataclass(frozen=True, slots=True)
class Done:
    """The record of a finished shard."""

    shard: int
    term: int
    inputs: int
    """How many the source listed for it."""
    digest: str
    """Of their uris."""
    counts: Mapping[str, int]
    """What became of them: `embedded`, `duplicate`, `failed`, `skipped`."""
    parts: Sequence[Listed]
    """Those that count, in order. Others of this shard were written by a worker that had lost its lease."""

    def to_json(self) -> dict[str, Any]:
        facts = asdict(self)
        return {"penstock_done": 1, "piece": facts.pop("shard"), **facts}

    @classmethod
    def from_json(cls, data: bytes) -> Done:
        """Raises one of SENSELESS for what is no such record."""
        facts = json.loads(data)
        del facts["penstock_done"]
        parts = [_listed(**part) for part in facts.pop("parts")]
        done = cls(shard=facts.pop("piece"), parts=parts, **facts)
        counts = done.counts.values() if isinstance(done.counts, dict) else [None]
        if not all(map(_is_count, [done.shard, done.term, done.inputs, *counts])) or not isinstance(done.digest, str):
            raise ValueError("a count or the digest is of another type than expected")
        return done


def _listed(name: Any, rows: Any, sha256: Any, entries: Any = 0) -> Listed:
    """Its name is opened in the folder, and may lead to nothing else."""
    if not isinstance(name, str) or not _PART.fullmatch(name):
        raise ValueError("a part of another name than those of parts")
    if not _is_count(rows) or not _is_count(entries) or not isinstance(sha256, str):
        raise ValueError(f"invalid counts or digest of {name}")
    return Listed(name, rows, sha256, entries)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


class Folder:
    def __init__(self, store: Store, schema: IndexSchema, shards: int, source: str) -> None:
        self.store, self.schema, self.shards, self.source = store, schema, shards, source

    @property
    def space(self) -> VectorSpec:
        return self.schema.only

    @classmethod
    def begin(cls, store: Store, schema: IndexSchema, shards: int, source: str) -> Folder:
        """Create the folder, or open one that is of the same: of several that begin at once, one creates it."""
        if not 1 <= shards <= MOST:
            raise UsageError(f"{shards} shards: expected 1 to {MOST:,} (--pieces)")
        facts = {"penstock_parts": FORMAT, "schema": to_dict(schema), "pieces": shards, "source": source}
        try:
            store.create(FACTS, json.dumps(facts, indent=2).encode())
        except Taken:
            return cls.open(store)._agreeing(schema, shards, source)
        return cls(store, schema, shards, source)

    @classmethod
    def open(cls, store: Store) -> Folder:
        """Open a folder of parts; of format 1 as well, which had one vector space."""
        data = store.read(FACTS)
        if data is None:
            raise UsageError(f"there are no parts at {store.url}")
        try:
            kept = json.loads(data)
            if (version := kept["penstock_parts"]) > FORMAT:
                raise ValueError(f"it was written by a newer Penstock (format {version})")
            schema = from_dict(kept["schema"]) if version > 1 else from_space(kept["space"])
            schema = replace(schema, filterable=True)  # an index of them is made now
            shards, source = kept["pieces"], kept["source"]
            if type(shards) is not int or not 1 <= shards <= MOST or not isinstance(source, str):
                raise ValueError(f"invalid pieces or source: expected 1 to {MOST:,}, and a text")
            return cls(store, schema, shards, source)
        except SENSELESS as error:
            raise SinkError(f"{store.url}/{FACTS} cannot be read: {type(error).__name__}: {error!s:.300}") from error

    def _agreeing(self, schema: IndexSchema, shards: int, source: str) -> Folder:
        url = self.store.url
        if not schema.same_space(self.schema):
            raise SpaceMismatch(f"{url} holds {self.schema}, not {schema}: take another folder")
        if shards != self.shards:
            raise UsageError(f"{url} is in {self.shards} shards, not in {shards}: give every worker the same number")
        if source != self.source:
            raise UsageError(f"{url} is of {self.source}, not of {source}: give every worker the same source")
        return self

    # ------------------------------------------------------------ parts

    def part_name(self, shard: int, term: int, number: int) -> str:
        return f"part-{shard:04}-{term:06}-{number:06}.parquet"

    def part_names(self, shard: int | None = None) -> list[str]:
        prefix = "part-" if shard is None else f"part-{shard:04}-"
        return [name for name in self.store.names("", prefix) if _PART.fullmatch(name)]

    def read(self, name: str) -> Part:
        data = self.store.read(name)
        if data is None:
            raise SourceError(f"{name} does not exist")
        return decode(name, data)

    # ------------------------------------------------------------ shards

    def finish(self, done: Done) -> None:
        """A record of an older lease that comes late does not count: the latest one does."""
        name = f"{done.shard:04}-{done.term:06}.json"
        self.store.put(f"{DONE}/{name}", json.dumps(done.to_json(), indent=1).encode())
        for older in self.store.names(DONE, f"{done.shard:04}-"):
            if older < name:
                self.store.remove(f"{DONE}/{older}")

    def finished(self) -> dict[int, str]:
        """The record of each shard that has one."""
        return {int(name[:4]): name for name in self.store.names(DONE) if RECORD.fullmatch(name)}

    def done(self, shard: int) -> Done | None:
        names = [name for name in self.store.names(DONE, f"{shard:04}-") if RECORD.fullmatch(name)]
        return self.record(shard, names[-1]) if names else None

    def record(self, shard: int, name: str) -> Done | None:
        data = self.store.read(f"{DONE}/{name}")
        if data is None:
            return None
        try:
            done = Done.from_json(data)
        except SENSELESS as error:
            raise SourceError(f"{DONE}/{name} cannot be read: {type(error).__name__}: {error!s:.300}") from error
        if done.shard != shard:
            raise SourceError(f"{DONE}/{name} is of shard {done.shard}")
        return done

    def all_done(self) -> Iterator[tuple[int, Done | None]]:
        names = self.finished()
        for shard in range(1, self.shards + 1):
            yield shard, self.record(shard, names[shard]) if shard in names else None


def container_of(uri: str) -> str | None:
    """The tar or Parquet file in a bucket that a uri names or lies in. It is one worker's as a whole: to list a tar, or
    to read an image of a Parquet file, is to read most of it."""
    match = _CONTAINER.match(uri)
    return match[0] if match else None


def shard_of(uri: str, shards: int) -> int:
    """The number of the shard that a uri belongs to, from 1 on: the same on every machine."""
    raw = hashlib.blake2b((container_of(uri) or uri).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "big") % shards + 1


def facts_of(shard: int, term: int, number: int, space: VectorSpec) -> dict[str, Any]:
    return {"piece": shard, "term": term, "number": number, "space": asdict(space)}
