"""The place where a coordinator and its workers meet: files in a folder, or under a prefix in a bucket.

_penstock.json                     what is done with documents: see Work
_shards/0001.json, 0001.known      documents, and the chunks that the index has of them (shard.py)
_contents/000000.bin               contents that the index has (contents.py)
_leases/0001-000002.json           whose a shard is (shards/leases.py)
_taken/0001-000002.json            what its holder found there, who has it as the second one: see Taken
part-0001-000002-000001.parquet    what it made (part.py)
_done/0001-000002.json             that it has come to the end, with so many parts
_workers/machine-4711.json         a worker, as it was last heard of
_claim.json                        whose place it is: the ledger of a run that is not over
_over.json                         the run is over

No clock of one machine is compared with that of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from penstock.core.errors import OwnershipError, SourceError, UsageError
from penstock.core.schema import IndexSchema, from_dict, to_dict
from penstock.shards.folder import LEASES, SENSELESS
from penstock.shards.leases import latest_terms
from penstock.shards.store import Store, at
from penstock.shards.store import Taken as Exists

FORMAT = 1
WORK, OVER, CLAIM = "_penstock.json", "_over.json", "_claim.json"
SHARDS, CONTENTS, TAKEN, DONE, WORKERS = "_shards", "_contents", "_taken", "_done", "_workers"
SHARDS_A_RUN = 100_000
"""The numbers of shards are those of the run times this, and on: none ever comes again, as late parts bear them."""
_SHARD = re.compile(r"([0-9]{4,})\.json")
_RECORD = re.compile(r"([0-9]{4,})-([0-9]{6})\.json")
_PART = re.compile(r"part-([0-9]{4,})-([0-9]{6})-([0-9]{6})\.parquet")


@dataclass(frozen=True, slots=True)
class Work:
    """What workers do with documents. Words alone: nothing that runs is passed on, and no secret."""

    ledger: str
    """The id of the ledger that this is for."""
    run: int
    settings: Mapping[str, Any]
    """Those of the pipeline, in words."""
    schema: IndexSchema
    reading: str
    """A fingerprint of what is read of a document beside its text."""
    version: str
    """Of the coordinator."""

    def to_json(self) -> bytes:
        facts = {name: getattr(self, name) for name in ("ledger", "run", "settings", "reading", "version")}
        return json.dumps({"penstock_work": FORMAT, **facts, "schema": to_dict(self.schema)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Work:
        try:
            facts = json.loads(data)
            if (version := facts.pop("penstock_work")) != FORMAT:
                raise ValueError(f"it is of format {version}, and this Penstock reads format {FORMAT}")
            schema, settings = from_dict(facts.pop("schema")), facts.pop("settings")
            texts = {name: facts.pop(name) for name in ("ledger", "reading", "version")}
            run = facts.pop("run")
            if not isinstance(settings, dict) or type(run) is not int or {*map(type, texts.values())} != {str}:
                raise ValueError("its values are of other types than expected")
        except SENSELESS as error:
            raise UsageError(
                f"{where} does not say what is to be done: {type(error).__name__}: {error!s:.300}"
            ) from None
        return cls(run=run, settings=settings, schema=schema, **texts)

    def same(self, other: Work) -> bool:
        """Whether what was made for the one is good for the other."""
        return (
            (self.ledger, self.version) == (other.ledger, other.version)
            and self.reading == other.reading
            and self.schema.same_space(other.schema)
            and self.schema.chunking == other.schema.chunking
        )


class PartName(NamedTuple):
    """A part: shard, term of the lease it was written under, number."""

    shard: int
    term: int
    number: int

    def __str__(self) -> str:
        return f"part-{self.shard:04}-{self.term:06}-{self.number:06}.parquet"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a worker found as it took a shard over."""

    deaths: int = 0
    """How many of those before it ended without a word."""
    parts: Sequence[PartName] = ()
    """The parts of earlier terms that count. One that comes later does not."""
    tries: Mapping[str, int] = field(default_factory=dict)
    """By document: how many workers ended while it was the only one they read."""
    alone: str = ""
    """The document that its holder reads now, alone."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Taken:
        facts = json.loads(data)
        parts = [PartName(*map(int, part)) for part in facts["parts"]]
        return cls(
            int(facts["deaths"]), parts, {str(k): int(v) for k, v in facts["tries"].items()}, str(facts["alone"])
        )


class Place:
    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    @classmethod
    def at(cls, url: str, storage: Mapping[str, Any] | None = None) -> Place:
        """The place of `shards:///srv/work` or `shards+s3://bucket/work`."""
        kind, mark, rest = url.partition("://")
        inner = kind.removeprefix("shards").removeprefix("+")
        if not mark or not rest or kind not in ("shards", f"shards+{inner or 'file'}"):
            raise UsageError(
                f"invalid place {url!r}: expected a folder such as shards:///srv/work, or shards+s3://bucket/work"
            )
        return cls(at(f"{inner}://{rest}" if inner else rest, storage), url)

    @property
    def url(self) -> str:
        return self.store.url

    # ------------------------------------------------------------ the work

    def work(self) -> Work | None:
        data = self.store.read(WORK)
        return None if data is None else Work.from_json(data, f"{self.url}/{WORK}")

    def claim(self, ledger: str) -> None:
        """Keep other pipelines away until `release`. Raises OwnershipError where one of them was first."""
        try:
            self.store.create(CLAIM, json.dumps({"ledger": ledger}).encode())
        except Exists:
            kept = self.store.read(CLAIM) or b""
            if ledger.encode() not in kept:
                raise OwnershipError(
                    f"{self.url} is taken by another pipeline, whose run is not over: give this one another place"
                ) from None

    def release(self) -> None:
        self.store.remove(CLAIM)

    def begin(self, work: Work) -> None:
        self.store.remove(OVER)
        for name in self.store.names(WORKERS):  # those that are alive write again
            self.store.remove(f"{WORKERS}/{name}")
        self.store.put(WORK, work.to_json())

    def end(self, run: int) -> None:
        self.store.put(OVER, json.dumps({"run": run}).encode())

    def over(self) -> bool:
        return self.store.read(OVER) is not None

    def clear(self) -> None:
        """Remove all shards and what was made of them."""
        for folder in (SHARDS, LEASES, TAKEN, DONE):
            for name in self.store.names(folder):
                self.store.remove(f"{folder}/{name}")
        self.remove_contents()
        for part in self.parts():
            self.store.remove(str(part))

    def remove_contents(self) -> None:
        for name in self.store.names(CONTENTS):
            self.store.remove(f"{CONTENTS}/{name}")

    # ------------------------------------------------------------ shards

    def shards(self) -> list[int]:
        return [int(match[1]) for name in self.store.names(SHARDS) if (match := _SHARD.fullmatch(name))]

    def put_shard(self, shard: int, documents: bytes, known: bytes) -> None:
        """What is known comes first: a shard is there once its documents are."""
        if known:
            self.store.put(f"{SHARDS}/{shard:04}.known", known)
        self.store.put(f"{SHARDS}/{shard:04}.json", documents)

    def read_shard(self, shard: int) -> tuple[bytes, bytes] | None:
        documents = self.store.read(f"{SHARDS}/{shard:04}.json")
        return None if documents is None else (documents, self.store.read(f"{SHARDS}/{shard:04}.known") or b"")

    def remove_shard(self, shard: int) -> None:
        """The shard first, so that no worker takes it up again, and its leases last."""
        self.store.remove(f"{SHARDS}/{shard:04}.json")
        self.store.remove(f"{SHARDS}/{shard:04}.known")
        for part in self.parts(shard):
            self.store.remove(str(part))
        for folder in (DONE, TAKEN, LEASES):
            for name in self.store.names(folder, f"{shard:04}-"):
                self.store.remove(f"{folder}/{name}")

    # ------------------------------------------------------------ parts

    def parts(self, shard: int | None = None) -> list[PartName]:
        prefix = "part-" if shard is None else f"part-{shard:04}-"
        names = (_PART.fullmatch(name) for name in self.store.names("", prefix))
        return [PartName(*map(int, match.groups())) for match in names if match]

    def part_names(self, shard: int) -> list[str]:
        return [*map(str, self.parts(shard))]

    def taken(self, shard: int, term: int) -> Taken | None:
        data = self.store.read(f"{TAKEN}/{shard:04}-{term:06}.json")
        try:
            return None if data is None else Taken.from_json(data)
        except SENSELESS as error:
            raise SourceError(f"{TAKEN} of shard {shard} cannot be read: {type(error).__name__}: {error}") from error

    def put_taken(self, shard: int, term: int, taken: Taken) -> None:
        self.store.put(f"{TAKEN}/{shard:04}-{term:06}.json", taken.to_json())

    def finish(self, shard: int, term: int) -> None:
        self.store.put(f"{DONE}/{shard:04}-{term:06}.json", b"{}")

    def look(self) -> Look:
        """The parts, and then the leases: a lease that has taken a shard over is seen, whoever wrote those parts."""
        parts: dict[int, list[PartName]] = {}
        for part in self.parts():
            parts.setdefault(part.shard, []).append(part)
        return Look(self, parts, self.terms())

    def terms(self) -> dict[int, int]:
        """By shard: the term of its latest lease."""
        return latest_terms(self.store)

    def finished(self) -> dict[int, int]:
        """By shard: the term whose worker has come to its end. It counts if that is the latest one."""
        names = (_RECORD.fullmatch(name) for name in self.store.names(DONE))
        terms: dict[int, int] = {}
        for match in filter(None, names):
            terms[int(match[1])] = max(terms.get(int(match[1]), 0), int(match[2]))
        return terms

    # ------------------------------------------------------------ workers

    def heard(self) -> dict[str, bytes]:
        """By worker: what it said last."""
        names = self.store.names(WORKERS)
        return {name: data for name in names if (data := self.store.read(f"{WORKERS}/{name}")) is not None}

    def say(self, worker: str, facts: Mapping[str, Any]) -> None:
        self.store.put(f"{WORKERS}/{worker}.json", json.dumps(facts).encode())

    def leave(self, worker: str) -> None:
        self.store.remove(f"{WORKERS}/{worker}.json")


@dataclass(frozen=True, slots=True)
class Look:
    """Parts and leases as they were at one time."""

    place: Place
    parts: Mapping[int, Sequence[PartName]]
    terms: Mapping[int, int]

    def counted(self, shard: int, term: int) -> list[PartName] | None:
        """The parts of a shard that count by its latest lease, of that term, in order; None where that is not known
        yet.

        Those of the latest lease count, and of earlier ones those that its holder found as it took the shard. A worker
        that has lost its lease without knowing it may write a part afterwards, which counts no more: the lease that
        took over is there before its holder looks.
        """
        if self.terms.get(shard) != term:
            return None  # taken over meanwhile: then these may be late
        own = [part for part in self.parts.get(shard, ()) if part.term == term]
        if (taken := self.place.taken(shard, term)) is not None:
            return [*taken.parts, *own]
        return own if term == 1 else None
