"""Stores that fail as planned, and pipelines that fill them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, SinkError, Transient
from penstock.core.records import Dense, Point
from penstock.core.schema import Manifest, single
from penstock.embedders.named import Named
from penstock.engine.flow import Flow
from penstock.engine.head import Head
from penstock.engine.journal import ChunkEntry
from penstock.engine.tail import Tail
from penstock.ledger import Ledger
from penstock.sinks.fanout import FanOut
from penstock.sinks.memory import MemorySink
from penstock.testing.sink_suite import everything, point, same
from penstock.testing.sinks import Died
from tests.engine.harness import SPACE, HashEmbedder, expected, lines, listing, parse

DOCUMENTS = {f"doc:{n}": "\n".join(f"line {i} of {n}" for i in range(6)) for n in range(8)}
"""48 chunks."""


class Store(Sink):
    """A store whose readers see writes after a flush, and which loses them where it falls behind before."""

    accepts = frozenset({Dense})
    max_rows = 8
    writers = 2

    def __init__(self, url: str, *, readable: bool = True, max_rows: int = 8) -> None:
        self.real = MemorySink(url)
        self.readable, self.max_rows = readable, max_rows
        self.down = False
        self.fails: Callable[[str, int], bool] = lambda what, call: False
        """Whether the store is unavailable for a call, by its name and its number among all calls."""
        self.dies: int | None = None
        """The number of the call after which the process has died."""
        self.dead = threading.Event()
        """Set once it has: no other thread of it goes on."""
        self.refuses: set[str] = set()
        self.broken = False
        self.calls = 0
        self.log: list[tuple[str, Any]] = []
        self.most = 0
        self._waiting: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        return self.real.url

    @contextmanager
    def _reach(self, what: str, detail: Any = None) -> Iterator[None]:
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
            if self.dead.is_set():
                raise Died("killed")
            if self.down or self.fails(what, call):
                raise Transient("the store is away")
            if self.broken and what == "write":
                raise SinkError("the disk is gone")
            self.log.append((what, detail))
            yield
            if call == self.dies:
                self.dead.set()
                raise Died("killed")

    def manifest(self) -> Manifest | None:
        with self._reach("manifest"):
            return self.real.manifest()

    def open(self, manifest: Manifest) -> None:
        with self._reach("open"):
            self._waiting.clear()
            self.real.open(manifest)

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._reach("replace_manifest"):
            self.real.replace_manifest(manifest)

    def write(self, points: Sequence[Point]) -> None:
        assert len(points) <= self.max_rows
        with self._reach("write", [p.id for p in points]):
            self.most = max(self.most, len(points))
            taken = [p for p in points if p.id not in self.refuses]
            self._waiting.append(lambda: self.real.write(taken))
            if refused := {p.id: "not here" for p in points if p.id in self.refuses}:
                raise Rejected(refused)

    def delete(self, ids: Sequence[str]) -> None:
        assert len(ids) <= self.max_rows
        with self._reach("delete", list(ids)):
            ids = list(ids)
            self._waiting.append(lambda: self.real.delete(ids))

    def flush(self) -> None:
        with self._reach("flush"):
            for change in self._waiting:
                change()
            self._waiting.clear()

    def count(self) -> int:
        with self._reach("count"):
            return self.real.count()

    def ids(self) -> Iterator[Sequence[str]]:
        if not self.readable:
            return super().ids()
        with self._reach("ids"):
            return self.real.ids()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        if not self.readable:
            return super().fetch(ids)
        with self._reach("fetch", list(ids)):
            return self.real.fetch(ids)

    def calm(self) -> None:
        self.down, self.fails, self.dies, self.broken = False, lambda what, call: False, None, False
        self.refuses.clear()
        self.dead.clear()
        self.lose()

    def lose(self) -> None:
        """What was not flushed."""
        self._waiting.clear()


class Harsh(Ledger):
    """Whoever falls behind loses what it had not flushed."""

    stores: Sequence[Store] = ()

    def fell_behind(self, url: str, ids: Sequence[str] = ()) -> None:
        for store in self.stores:
            if store.url == url:
                store.lose()
        super().fell_behind(url, ids)


class World:
    """A ledger and stores that outlive the runs over them. A run is what a session makes of it."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.folder = folder
        self.stores: list[Store] = [self.store(n) for n in range(count)]
        self.embedder = HashEmbedder()
        self.notices: list[str] = []

    def store(self, number: int, **options: Any) -> Store:
        return Store(f"memory://{self.folder}/{number}", **options)

    @contextmanager
    def opened(self, stores: Sequence[Sink] | None = None, **options: Any) -> Iterator[tuple[FanOut, Ledger]]:
        again = options.pop("again", 0.0)
        adopt = options.get("adopt", False)
        dead = threading.Event()
        for store in self.stores:
            store.dead = dead
        harsh = Harsh(self.folder / "ledger.db")
        harsh.stores = self.stores
        with harsh as ledger:
            ledger.open()
            with FanOut(stores or self.stores, grace=options.pop("grace", 0.0), again=again) as fan:
                fan.attach(ledger, **options)
                try:
                    if fan.manifest() is None and not adopt:
                        ledger.reset()
                    fan.open(Manifest(single(SPACE), {"": ledger.id}))
                    yield fan, ledger
                finally:
                    self.notices = fan.notices
                    self.behind = fan.behind

    def run(
        self, documents: dict[str, str], stores: Sequence[Sink] | None = None, max_wait: float = 3.0, **options: Any
    ) -> dict[str, int]:
        after = options.pop("after", True)
        feed = "changes" in options  # one that is taken up at once, item by item
        changes = options.pop("changes", None) or listing(documents)
        with self.opened(stores, **options) as (fan, ledger):
            if fan.lagging:
                fan.catch_up()
            run = ledger.begin_run(SPACE.fingerprint)
            head = Head(
                changes=changes,
                parse=parse,
                embedder=Named(self.embedder),
                ready=lambda: lines,
                view=ledger,
                run=run,
                workers=2,
                feed=feed,
                fetch=fan.fetch,
                fetch_rows=fan.max_rows,
            )
            tail = Tail(
                sink=fan,
                ready=lambda: lines,
                journal=ledger,
                run=run,
                source="test",
                feed=feed,
                max_delete=None,
                linger=0.0,
            )
            flow = Flow(head, tail, budget=8 << 20, max_wait=max_wait)
            flow.run(interval=0.005)
            ledger.end_run(run, "done", {})
            if after:
                fan.catch_up()
            self.failures = list(ledger.failures())
            return flow.counters.values()

    def held(self, store: Store) -> dict[str, list[str]]:
        """uri -> texts in order; and the ordinals are those of the newest version."""
        found: dict[str, list[tuple[int, str]]] = {}
        for p in everything(store.real).values():
            found.setdefault(p.chunk.uri, []).append((p.chunk.ordinal, p.chunk.text))
        for texts in found.values():
            assert sorted(ordinal for ordinal, _ in texts) == list(range(len(texts)))
        return {uri: [text for _, text in sorted(texts)] for uri, texts in found.items()}

    def all_hold(self, documents: dict[str, str]) -> None:
        for store in self.stores:
            assert self.held(store) == expected(documents), store.url
        first, *others = (everything(store.real) for store in self.stores)
        for other in others:
            for id, found in other.items():
                same(found, first[id])


def first_id(world: World, uri: str = "doc:3") -> str:
    return next(p.id for p in everything(world.stores[0].real).values() if p.chunk.uri == uri)


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def numbered(n: int, version: int = 0) -> Point:
    return point(n, dim=4, version=version)


def acknowledge(fan: FanOut, ledger: Ledger, points: Sequence[Point], run: int) -> None:
    """As the engine does it."""
    begun = ledger.begin(sorted({p.chunk.uri for p in points}), run)
    rows = [
        ChunkEntry(begun[p.chunk.uri].document, bytes.fromhex(p.id), p.chunk.ordinal, 7, begun[p.chunk.uri].attempt)
        for p in points
    ]
    ledger.intend(rows)
    for start in range(0, len(points), fan.max_rows):
        fan.write(points[start : start + fan.max_rows])
    fan.flush()
    ledger.acknowledge(rows, run)
