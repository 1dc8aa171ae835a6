"""Several sinks filled together: who is away catches up, and whatever happens all of them hold the same in the end."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError, Rejected, SinkError, SpaceMismatch, Transient, UsageError
from penstock.core.records import Dense, MultiVector, Point, Sparse
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.embedders.named import Named
from penstock.engine.flow import Flow, Setup
from penstock.ledger import Ledger, Row
from penstock.sinks.fanout import FanOut, joining
from penstock.sinks.fanout import sink as fanout
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.sink_suite import MakeSink, SinkSuite, everything, holds, point, same
from penstock.testing.sinks import Died, Faults, FaultySink
from tests.engine.harness import SPACE, HashEmbedder, expected, lines, listing, parse

pytest.importorskip("apsw")
pytest.importorskip("sqlite_vec")

DOCUMENTS = {f"doc:{n}": "\n".join(f"line {i} of {n}" for i in range(6)) for n in range(8)}
"""48 chunks."""


# ---------------------------------------------------------------- the suite


class TestFanOut(SinkSuite):
    """Without a ledger: two stores of other kinds behave as one."""

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: FanOut([SqliteSink(f"sqlite://{tmp_path}/a.db"), LanceSink(f"lance://{tmp_path}/b")])


class TestFanOutWithALedger(SinkSuite):
    shared = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> Iterator[MakeSink]:
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.open()

            def make() -> Sink:
                fan = FanOut([MemorySink(f"memory://{tmp_path}/a"), MemorySink(f"memory://{tmp_path}/b")])
                fan.attach(ledger)
                return fan

            yield make

    def test_pickles_before_open(self, make_sink: MakeSink) -> None:
        """It leaves the ledger behind, and so nobody else."""
        with pickle.loads(pickle.dumps(make_sink())) as sink:
            sink.open(self.manifest)
            assert not sink.lagging

    def test_the_manifest_is_kept(self, make_sink: MakeSink) -> None:
        """As of one sink, but that another ledger's is refused, which a session sees to where there is one."""
        self.opened(make_sink).close()
        with make_sink() as sink, pytest.raises(OwnershipError, match="/a was filled by another ledger"):
            sink.open(Manifest(self.manifest.schema, owners={"": "ledger 2"}))

    def test_the_manifest_keeps_owners_and_generations(self, make_sink: MakeSink) -> None:
        """Every member keeps the current generation, and of the owners those that fill it."""
        with self.opened(make_sink) as sink:
            sink.replace_manifest(Manifest(self.manifest.schema, {"": "ledger 1", "wiki": "ledger 2"}, 2, 0))
            assert isinstance(sink, FanOut)
            kept = Manifest(self.manifest.schema, {"": "ledger 1"}, 2, 0)
            assert [member.manifest() for member in sink.sinks] == [kept, kept]


# ---------------------------------------------------------------- a store with a will of its own


class Store(Sink):
    """What is written is seen by readers after a flush, and lost if the store is left behind before."""

    accepts = frozenset({Dense})
    max_rows = 8
    writers = 2

    def __init__(self, url: str, *, readable: bool = True, max_rows: int = 8) -> None:
        self.real = MemorySink(url)
        self.readable, self.max_rows = readable, max_rows
        self.down = False
        self.fails: Callable[[str, int], bool] = lambda what, call: False
        """Whether a call of that name, the how-manieth of all, finds the store away."""
        self.dies: int | None = None
        """The call after which the process is gone."""
        self.dead = threading.Event()
        """It is: no other thread of it gets any further."""
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
    def _reach(self, what: str, told: Any = None) -> Iterator[None]:
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
            if self.dead.is_set():
                raise Died("killed")
            if self.down or self.fails(what, call):
                raise Transient("the store is away")
            if self.broken and what == "write":
                raise SinkError("the disk is gone")
            self.log.append((what, told))
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
            flow = Flow(
                Setup(
                    changes=changes,
                    parse=parse,
                    embedder=Named(self.embedder),
                    sink=fan,
                    ready=lambda: lines,
                    ledger=ledger,
                    run=run,
                    source="test",
                    budget=8 << 20,
                    workers=2,
                    linger=0.0,
                    allow_mass_delete=True,
                    max_wait=max_wait,
                    feed=feed,
                )
            )
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


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def first_id(world: World, uri: str = "doc:3") -> str:
    return next(p.id for p in everything(world.stores[0].real).values() if p.chunk.uri == uri)


# ---------------------------------------------------------------- away, and back


def test_a_member_away_for_a_while_catches_up_in_the_run(world: World) -> None:
    """By itself, while the run goes on, and in the same run gets what comes afterwards directly."""
    a, b = world.stores

    def changes() -> Iterator[Any]:
        told = iter(listing(DOCUMENTS))
        yield from itertools.islice(told, 2)
        wait_for(lambda: a.real.count() > 0)
        b.down = True
        yield from itertools.islice(told, 2)
        wait_for(lambda: a.real.count() >= 20)
        b.down = False
        yield from itertools.islice(told, 2)
        wait_for(lambda: b.real.count() >= 30)
        yield from told

    world.run(DOCUMENTS, changes=changes(), after=False)
    world.all_hold(DOCUMENTS)
    assert world.behind == {}
    assert "is away; the others go on without it" in world.notices[0]
    assert "caught up" in world.notices[-1]


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_blink_is_waited_for(world: World) -> None:
    """Within the grace nobody is left behind."""
    b = world.stores[1]
    b.fails = lambda what, call: what == "write" and sum(1 for name, _ in b.log if name == "write") == 1 and once()
    answers = iter([True, True])

    def once() -> bool:
        return next(answers, False)

    world.run(DOCUMENTS, grace=5.0)
    world.all_hold(DOCUMENTS)
    assert not world.notices
    assert next(answers, None) is None


def test_away_until_the_end_it_catches_up_in_the_next_run(world: World) -> None:
    """With what was written, changed, moved and deleted meanwhile; and nothing is embedded again for it."""
    world.run(DOCUMENTS)
    b = world.stores[1]
    b.down = True
    changed = {uri: text.replace("line 2", "another 2") for uri, text in DOCUMENTS.items() if uri != "doc:1"}
    changed["doc:4"] = "first\n" + changed["doc:4"]
    world.run(changed)
    assert list(world.behind) == [b.url]
    assert world.held(b) == expected(DOCUMENTS)
    embedded = len(world.embedder.texts)
    b.down = False
    b.log.clear()
    world.run(changed)
    world.all_hold(changed)
    assert world.behind == {}
    assert len(world.embedder.texts) == embedded
    assert sum(len(ids) for name, ids in b.log if name == "write") < 36  # what it missed, not all
    assert "caught up: " in world.notices[-1]


def test_a_member_that_never_comes_back_blocks_nobody(world: World) -> None:
    """Not in the first run nor in later ones, and it is said each time there is something to write."""
    world.stores[1].down = True
    for n in range(3):
        documents = {**DOCUMENTS, "doc:new": f"version {n}"}
        world.run(documents)
        assert world.held(world.stores[0]) == expected(documents)
        assert list(world.behind) == [world.stores[1].url]
        assert len([said for said in world.notices if "catches up when it is back" in said]) == 1


def test_what_was_written_but_not_flushed_is_written_again(world: World) -> None:
    """A store that goes away between a write and a flush may have lost what it acknowledged to the writer."""
    b = world.stores[1]
    b.fails = lambda what, call: what == "flush" and call > 4
    world.run(DOCUMENTS, after=False)
    assert world.held(b) != expected(DOCUMENTS)
    b.calm()
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_all_away_waits_for_max_wait(world: World) -> None:
    """Then the run ends with what is away, and the next one goes on; nobody is called behind for it."""
    for store in world.stores:
        store.fails = lambda what, call: what == "write"
    with pytest.raises(Exception, match="the store is away"):
        world.run(DOCUMENTS, max_wait=0.2, after=False)
    assert world.behind == {}
    for store in world.stores:
        store.calm()
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_all_away_for_a_while_is_waited_for(world: World) -> None:
    back = time.monotonic() + 0.4
    for store in world.stores:
        store.fails = lambda what, call: what == "write" and time.monotonic() < back
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_the_one_that_is_up_is_not_there_and_the_other_lacks_something(world: World) -> None:
    """Nothing is read from, nor taken for complete, what lacks something."""
    a, b = world.stores
    b.down = True
    world.run(DOCUMENTS)
    a.down, b.down = True, False
    with pytest.raises(Transient):
        world.run(DOCUMENTS)
    a.down = False
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_one_broken_ends_the_run_with_its_name(world: World) -> None:
    world.stores[1].broken = True
    with pytest.raises(Exception, match=rf"{world.stores[1].url}: the disk is gone"):
        world.run(DOCUMENTS)
    world.stores[1].broken = False
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_one_broken_while_it_catches_up_ends_the_run_with_its_name(world: World) -> None:
    world.stores[1].down = True
    world.run(DOCUMENTS)
    world.stores[1].calm()
    world.stores[1].broken = True
    with pytest.raises(SinkError, match=rf"{world.stores[1].url}: the disk is gone"):
        world.run(DOCUMENTS)


def test_it_is_in_the_ledger_before_an_acknowledgement_of_the_others(world: World) -> None:
    """Killed right after the write in which one fell behind, the next run knows of it."""
    with world.opened() as (fan, ledger):
        ledger.begin_run(SPACE.fingerprint)
        world.stores[1].down = True
        fan.write([_point(1)])
        with Ledger(world.folder / "ledger.db") as other:
            other.open(exclusive=False)
            assert other.members() == {world.stores[0].url: None, world.stores[1].url: 1}


def _point(n: int, version: int = 0) -> Point:
    return point(n, dim=4, version=version)


def _acknowledge(fan: FanOut, ledger: Ledger, points: Sequence[Point], run: int) -> None:
    """As the engine does it."""
    begun = ledger.begin(sorted({p.chunk.uri for p in points}), run)
    rows = [
        Row(begun[p.chunk.uri].document, bytes.fromhex(p.id), p.chunk.ordinal, 7, begun[p.chunk.uri].attempt)
        for p in points
    ]
    ledger.intend(rows)
    for start in range(0, len(points), fan.max_rows):
        fan.write(points[start : start + fan.max_rows])
    fan.flush()
    ledger.acknowledge(rows, run)


# ---------------------------------------------------------------- whatever happens

TEXTS = st.lists(st.sampled_from([f"line {n}" for n in range(12)]), max_size=8, unique=True)
STATES = st.lists(st.dictionaries(st.sampled_from("abcd"), TEXTS, max_size=4), min_size=1, max_size=3)
OUTAGES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 25)), max_size=4
)  # which store, from which call of a run on, for how many
KILLS = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 1), st.integers(2, 40))), min_size=3, max_size=3)


@given(STATES, st.lists(OUTAGES, min_size=3, max_size=3), KILLS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_they_hold_the_same_in_the_end(
    tmp_path_factory: pytest.TempPathFactory,
    states: list[dict[str, list[str]]],
    outages: list[list[tuple[int, int, int]]],
    kills: list[tuple[int, int] | None],
) -> None:
    """Documents change, stores come and go in the middle of anything, the process is killed; after one quiet run both
    stores hold what the source holds, to the bit."""
    world = World(tmp_path_factory.mktemp("world"))
    documents: dict[str, str] = {}
    for state, planned, kill in zip(states, outages, kills, strict=False):
        documents = {f"doc:{name}": "\n".join(texts) for name, texts in state.items()}
        for number, store in enumerate(world.stores):
            store.calm()
            store.calls = 0
            spans = [range(start, start + length) for which, start, length in planned if which == number]
            store.fails = lambda what, call, spans=spans: any(call in span for span in spans)  # type: ignore[misc]
            store.dies = kill[1] if kill and kill[0] == number else None
        with suppress(Exception, Died):
            world.run(documents, max_wait=0.5)
    for store in world.stores:
        store.calm()
    world.run(documents)
    world.all_hold(documents)
    assert world.behind == {}


@pytest.mark.parametrize("which", [0, 1])
def test_killed_at_any_point_of_catching_up(world: World, which: int) -> None:
    """After each call of a store in turn, in a run that has to catch up; the run after it completes it."""
    documents = dict(DOCUMENTS)
    world.run(documents)
    for n in itertools.count():
        b = world.stores[1]
        b.down = True
        documents = {uri: text for uri, text in DOCUMENTS.items() if uri != f"doc:{n % 8}"}
        documents["doc:new"] = f"version {n}\nand {n % 3}"
        world.run(documents)
        assert list(world.behind) == [b.url]
        b.calm()
        killed = world.stores[which]
        killed.dies = killed.calls + n
        died = False
        try:
            world.run(documents)
        except Died:
            died = True
        for store in world.stores:
            store.calm()
        world.run(documents)
        world.all_hold(documents)
        assert world.behind == {}
        if not died:
            break
    assert n >= 5


def test_killed_between_two_notes_of_catching_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each thing that the ledger is told in it."""
    world.run(DOCUMENTS)
    for name, when in itertools.product(("deleted", "caught_up", "fell_behind"), ("before", "after")):
        b = world.stores[1]
        b.down = True
        documents = {uri: f"{text}\n{name} {when}" for uri, text in DOCUMENTS.items() if uri != "doc:2"}
        with monkeypatch.context() as patch:
            if name == "fell_behind":
                _kill(patch, name, when)
            with suppress(Died):
                world.run(documents | {"doc:2": name + when})
        b.down = True
        world.run(documents)
        b.calm()
        with monkeypatch.context() as patch:
            if name != "fell_behind":
                _kill(patch, name, when)
                with pytest.raises(Died):
                    world.run(documents)
        world.run(documents)
        world.all_hold(documents)


def _kill(patch: pytest.MonkeyPatch, name: str, when: str) -> None:
    real = getattr(Ledger, name)

    def killed(self: Ledger, *given: Any) -> None:
        if when == "after":
            real(self, *given)
        raise Died("killed")

    patch.setattr(Ledger, name, killed)


# ---------------------------------------------------------------- deletions


def test_deletions_missed_while_away(world: World) -> None:
    """They are noted and made up for; what was deleted and written again stays."""
    world.run(DOCUMENTS)
    _a, b = world.stores
    b.down = True
    few = {uri: text for uri, text in DOCUMENTS.items() if uri in ("doc:0", "doc:5")}
    world.run(few)
    world.run({**few, "doc:3": DOCUMENTS["doc:3"]})
    assert world.held(b) == expected(DOCUMENTS)
    b.down = False
    world.run({**few, "doc:3": DOCUMENTS["doc:3"]})
    world.all_hold({**few, "doc:3": DOCUMENTS["doc:3"]})


def test_deletions_that_were_not_flushed(world: World) -> None:
    """A deletion that a store took, and lost before its flush."""
    world.run(DOCUMENTS)
    _a, b = world.stores
    b.log.clear()
    b.fails = lambda what, call: what == "flush" and any(name == "delete" for name, _ in b.log)
    world.run({"doc:0": DOCUMENTS["doc:0"]}, after=False)
    assert world.held(b) != expected({"doc:0": DOCUMENTS["doc:0"]})
    b.calm()
    world.run({"doc:0": DOCUMENTS["doc:0"]})
    world.all_hold({"doc:0": DOCUMENTS["doc:0"]})


def test_many_deletions_without_a_flush(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of them is bounded."""
    monkeypatch.setattr(fanout, "UNFLUSHED", 20)
    with world.opened() as (fan, _ledger):
        for n in range(50):
            fan.delete([f"{n:032x}"] * 8)
            assert len(fan._group.unflushed) <= 28


# ---------------------------------------------------------------- added, emptied, taken away


def test_a_member_added_later_gets_everything(world: World) -> None:
    """And loses what is not of this pipeline's ledger, without another's in the same store."""
    a, b = world.stores
    world.run(DOCUMENTS, [a])
    b.real.open(Manifest(single(SPACE)))
    b.real.write([_point(1), _point(2)])
    embedded = len(world.embedder.texts)
    theirs = _point(2).id
    world.run(DOCUMENTS, mine=lambda id: id != theirs)
    assert everything(b.real).keys() - everything(a.real).keys() == {theirs}
    b.real.delete([theirs])
    world.all_hold(DOCUMENTS)
    assert len(world.embedder.texts) == embedded
    assert b.real.manifest() == a.real.manifest()


def test_a_member_added_to_a_pipeline_of_one_sink(world: World) -> None:
    """Whose ledger knows of no members: the one that it filled is right."""
    a, b = world.stores
    world.run(DOCUMENTS, [a])
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        ledger._open().execute("DELETE FROM members")
    b.down = True
    world.run(DOCUMENTS, [b, a])  # away when it is added
    b.down = False
    world.run(DOCUMENTS, [b, a])
    world.all_hold(DOCUMENTS)


def test_the_one_sink_of_before_is_away_when_a_member_is_added(world: World) -> None:
    """Nobody can be brought up to date, and nothing is forgotten."""
    a, _b = world.stores
    world.run(DOCUMENTS, [a])
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        ledger._open().execute("DELETE FROM members")
    a.down = True
    with pytest.raises(Transient):
        world.run(DOCUMENTS)
    a.down = False
    embedded = len(world.embedder.texts)
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)
    assert len(world.embedder.texts) == embedded


@pytest.mark.parametrize("emptied", [0, 1])
def test_a_member_that_was_emptied_gets_everything(world: World, emptied: int) -> None:
    """Though the ledger has it for complete, or for behind since lately."""
    world.run(DOCUMENTS)
    store = world.stores[emptied]
    store.down = True
    world.run({**DOCUMENTS, "doc:new": "new"})
    store.calm()
    store.real.drop()
    embedded = len(world.embedder.texts)
    world.run({**DOCUMENTS, "doc:new": "new"})
    world.all_hold({**DOCUMENTS, "doc:new": "new"})
    world.stores[1 - emptied].real.drop()
    world.run({**DOCUMENTS, "doc:new": "newer"})
    world.all_hold({**DOCUMENTS, "doc:new": "newer"})
    assert len(world.embedder.texts) == embedded + 1


def test_a_member_that_is_left_out_for_a_while(world: World) -> None:
    """A run without it is one that it misses."""
    a, _b = world.stores
    world.run(DOCUMENTS)
    other = {**DOCUMENTS, "doc:1": "other"}
    world.run(other, [a])
    world.run(other)
    world.all_hold(other)


def test_the_one_that_was_up_is_gone_for_good(world: World) -> None:
    """What only it held is embedded again, and no more than that."""
    _a, b = world.stores
    world.run(DOCUMENTS)
    b.down = True
    changed = {**DOCUMENTS, "doc:1": "other", "doc:2": DOCUMENTS["doc:2"] + "\nmore"}
    changed.pop("doc:5")
    world.run(changed)
    b.down = False
    embedded = len(world.embedder.texts)
    world.run(changed, [b])
    assert world.held(b) == expected(changed)
    assert world.embedder.texts[embedded:]
    assert set(world.embedder.texts[embedded:]) <= {"other", "more"}
    assert "no store holds 2 points any more" in world.notices[0]


def test_taken_over_from_another_ledger(world: World) -> None:
    """The first is read back by the caller, the second is brought up to date with it."""
    _a, b = world.stores
    world.run(DOCUMENTS)
    b.real.delete([first_id(world)])
    b.real.write([_point(1)])
    (world.folder / "ledger.db").unlink()
    with pytest.raises(OwnershipError, match="was filled by another ledger"):
        world.run(DOCUMENTS)
    with world.opened(adopt=True) as (fan, ledger):
        assert fan.count() == 48
        ledger.reset()
        fan.adopt()
        run = ledger.begin_run(SPACE.fingerprint)
        for page in fan.ids():
            points = fan.fetch(page)
            begun = ledger.begin(sorted({p.chunk.uri for p in points}), run)
            rows = [Row(begun[p.chunk.uri].document, bytes.fromhex(p.id), 1, 1, 1) for p in points]
            ledger.acknowledge(rows, run)
        fan.replace_manifest(Manifest(single(SPACE), {"": ledger.id}))
        fan.catch_up()
        assert b.real.manifest() == Manifest(single(SPACE), {"": ledger.id})
    world.all_hold(DOCUMENTS)


def test_one_of_another_space_or_ledger_is_told_by_name(world: World) -> None:
    _a, b = world.stores
    b.real.open(Manifest(single(VectorSpec("another", 4, "other"))))
    with pytest.raises(SpaceMismatch, match=b.url):
        world.run(DOCUMENTS)
    b.real.drop()
    b.real.open(Manifest(single(SPACE), {"": "another ledger"}))
    with pytest.raises(OwnershipError, match=f"{b.url} was filled by another ledger"):
        world.run(DOCUMENTS)
    b.real.replace_manifest(Manifest(single(SPACE), {"wiki": "another ledger"}))
    with pytest.raises(OwnershipError, match=f"{b.url} was filled by another ledger"):
        world.run(DOCUMENTS)


def test_no_manifest_where_one_cannot_be_asked(world: World) -> None:
    """A new member's "there is no index" is not the answer while the one that has it is away."""
    a, b = world.stores
    a.real.open(Manifest(single(SPACE)))
    a.down = True
    with pytest.raises(Transient):
        FanOut([a, b]).manifest()
    a.down = False
    assert FanOut([b, a]).manifest() == Manifest(single(SPACE))


# ---------------------------------------------------------------- refusals


def test_what_one_refuses_the_others_keep(world: World) -> None:
    """It is a failure that names the member, is not missed in it, and is gone when it is taken after all."""
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.run({})
    a, b = world.stores
    b.refuses = {bad}
    counts = world.run(DOCUMENTS)
    assert counts["written"] == 48
    assert everything(a.real).keys() - everything(b.real).keys() == {bad}
    assert [(f.uri, f.stage, f.cause, f.place) for f in world.failures] == [
        ("doc:3", "write", f"{b.url}: not here", bad)
    ]
    assert f"{b.url} refused 1 points" in world.notices[-1]
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        comparison = ledger.compare(b.real.ids())
        assert [id.hex() for _, id in comparison.missing()] == [bad]
        assert not list(comparison.missing(b.url))
        comparison.close()
    moved = {**DOCUMENTS, "doc:3": DOCUMENTS["doc:3"] + "\nmore"}
    world.run(moved)
    assert world.failures, "a document that is read again without it being taken keeps its failure"
    b.calm()
    world.run({**moved, "doc:3": "in front\n" + moved["doc:3"]})
    assert not world.failures
    world.all_hold({**moved, "doc:3": "in front\n" + moved["doc:3"]})


def test_what_was_refused_and_is_gone_is_forgotten(world: World) -> None:
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.run({})
    world.stores[1].refuses = {bad}
    world.run(DOCUMENTS)
    for gone in ({uri: text for uri, text in DOCUMENTS.items() if uri != "doc:3"}, {}):
        world.run(gone)
        assert not world.failures
        with Ledger(world.folder / "ledger.db") as ledger:
            ledger.open()
            assert ledger.refused(world.stores[1].url) == 0


def test_what_all_refuse_is_refused(world: World) -> None:
    """As by one sink: the chunk is lost to the document, with all the causes."""
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.run({})
    for store in world.stores:
        store.refuses = {bad}
    counts = world.run(DOCUMENTS)
    assert counts["written"] == 47
    assert counts["failed"] == 1
    a, b = world.stores
    assert [f.cause for f in world.failures] == [f"{a.url}: not here; {b.url}: not here"]


def test_refused_while_catching_up(world: World) -> None:
    world.stores[1].down = True
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.stores[1].calm()
    world.stores[1].refuses = {bad}
    world.run(DOCUMENTS)
    assert world.behind == {}
    assert [f.place for f in world.failures] == [bad]
    assert world.stores[1].real.count() == 47


def test_a_batch_too_large_for_one_is_split_for_that_one(tmp_path: Path) -> None:
    """And a single point that is too large for it is refused by it alone."""
    a = MemorySink(f"memory://{tmp_path}/a")
    picky = FaultySink(MemorySink(f"memory://{tmp_path}/b"), Faults(max_rows=3))
    with Ledger(tmp_path / "ledger.db") as ledger, FanOut([a, picky]) as fan:
        ledger.open()
        fan.attach(ledger)
        fan.open(Manifest(single(SPACE)))
        fan.write([_point(n) for n in range(10)])
        holds(fan, [_point(n) for n in range(10)])
        assert picky.real.count() == 10
        picky.faults = Faults(max_rows=0)
        fan.write([_point(11)])
        assert (a.count(), picky.count()) == (11, 10)
        assert [f.cause for f in ledger.failures()] == [f"{picky.url}: 1 points in one batch, 0 at most"]


# ---------------------------------------------------------------- order, memory, capabilities


def test_no_older_version_after_a_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers write new versions of the same ids all the while one catches up, a page of one point at a time."""
    monkeypatch.setattr(joining, "PAGE", 1)
    monkeypatch.setattr(joining, "FIRST", 1)
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        _acknowledge(fan, ledger, [_point(n) for n in range(40)], run)
        b.down = False
        stop = threading.Event()
        versions = [0] * 40

        def write(numbers: range) -> None:
            for version in itertools.count(1):
                for n in numbers:
                    fan.write([_point(n, version)])
                    versions[n] = version
                    if stop.is_set():
                        return

        threads = [threading.Thread(target=write, args=(range(start, 40, 2),)) for start in range(2)]
        for thread in threads:
            thread.start()
        try:
            until = time.monotonic() + 20
            while fan.behind and time.monotonic() < until:
                fan.flush()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not fan.behind
        assert sum(len(ids) for name, ids in b.log if name == "write") > 80, "it joined while it was being written to"
        fan.flush()
        for store in (a, b):
            holds(store.real, [_point(n, version) for n, version in enumerate(versions)])


def test_no_newer_version_between_reading_and_writing_a_page(world: World) -> None:
    """Who writes meanwhile waits until the page is there."""
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        _acknowledge(fan, ledger, [_point(1)], run)
        b.down = False
        fetch = a.fetch
        writer = threading.Thread(target=lambda: fan.write([_point(1, 1)]))

        def slowly(ids: Sequence[str]) -> Sequence[Point]:
            found = fetch(ids)
            writer.start()
            writer.join(0.1)
            return found

        a.fetch = slowly  # type: ignore[method-assign]
        fan.catch_up()
        writer.join()
        fan.flush()
        for store in (a, b):
            holds(store.real, [_point(1, 1)])


@pytest.mark.parametrize("flushed", [False, True], ids=["not flushed", "flushed too early"])
def test_a_newer_version_that_cannot_be_read_yet(world: World, monkeypatch: pytest.MonkeyPatch, flushed: bool) -> None:
    """Written while one catches up: the version that can be read does not come after it. A flush that another thread
    began when the write had begun, and ended before it was there, does not count."""
    monkeypatch.setattr(joining, "FIRST", 1)
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        _acknowledge(fan, ledger, [_point(n) for n in range(5)], run)
        b.down = False
        fan.flush()
        assert fan.behind
        new = [_point(n, 1) for n in range(5)]
        write = a.write

        def late(points: Sequence[Point]) -> None:
            flusher = threading.Thread(target=fan._group.flush)
            flusher.start()
            flusher.join()
            write(points)

        with monkeypatch.context() as patch:
            if flushed:
                patch.setattr(a, "write", late)
            fan.write(new)
        fan.catch_up()
        fan.flush()
        assert not fan.behind
        for store in (a, b):
            holds(store.real, new)


def test_nothing_is_given_up_during_a_run(world: World) -> None:
    """What no other member can give is embedded again, but only the next run can see to that."""
    world.stores[0] = world.store(0, readable=False)
    b = world.stores[1]
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        _acknowledge(fan, ledger, [_point(n) for n in range(5)], run)
        b.down = False
        fan.flush()
        assert fan.behind
        assert ledger.counts()["acknowledged"] == 5
        fan.catch_up()
        assert not fan.behind
        assert ledger.counts()["acknowledged"] == 0
        assert list(ledger.unfinished()) == ["file:///docs/0.md"]


def test_who_has_something_to_catch_up_with(world: World) -> None:
    """Known before anything is opened: one that is behind, and one that is new."""
    a, b = world.stores
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        ledger.enlist({a.url: None})
        for stores, lagging in (([a], False), ([a, b], True)):
            fan = FanOut(stores)
            fan.attach(ledger)
            assert fan.lagging is lagging
        ledger.enlist({a.url: None, b.url: 3})
        assert fan.lagging
        assert fan.behind == {b.url: 3}
        ledger.caught_up(b.url)
        assert not fan.lagging


def test_it_is_copied_in_pages(world: World) -> None:
    """However much there is, no more than a page is read at once."""
    world.stores = [world.store(n, max_rows=4096) for n in range(2)]
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        _acknowledge(fan, ledger, [_point(n) for n in range(3000)], run)
        b.down = False
        fan.catch_up()
        assert b.real.count() == 3000
        assert b.most == joining.PAGE
        assert max(len(ids) for name, ids in a.log if name == "fetch") == joining.PAGE
    small = World(world.folder / "small")
    small.stores = [small.store(n, max_rows=4096) for n in range(2)]
    with small.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        small.stores[1].down = True
        large = [point(n, dim=4, text="x" * (1 << 20)) for n in range(40)]
        _acknowledge(fan, ledger, large, run)
        small.stores[1].down = False
        fan.catch_up()
        fetched = [len(ids) for name, ids in small.stores[0].log if name == "fetch"]
        assert fetched[0] == joining.FIRST
        assert set(fetched[1:]) <= {1, 2, 3, 4}
        assert small.stores[1].real.count() == 40


def test_a_long_way_back_does_not_hold_up_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush does a part of it, and the next one goes on where that ended."""
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    b = world.stores[1]
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        _acknowledge(fan, ledger, [_point(n) for n in range(100)], run)
        b.down = False
        flushes = 0
        while fan.behind:
            fan.flush()
            flushes += 1
        assert 10 < flushes < 40
        assert b.real.count() == 100


def test_it_is_not_tried_all_the_time(world: World) -> None:
    """Away members are asked again after a while, and then more seldom."""
    b = world.stores[1]
    with world.opened(again=0.2) as (fan, ledger):
        ledger.begin_run(SPACE.fingerprint)
        b.down = True
        fan.write([_point(1)])
        calls, until = b.calls, time.monotonic() + 1.0
        while time.monotonic() < until:
            fan.flush()
            time.sleep(0.005)
        assert 1 <= b.calls - calls <= 3


@pytest.mark.parametrize("unreadable", [0, 1])
def test_a_member_that_cannot_be_read(world: World, unreadable: int) -> None:
    """Gets what it missed, and its deletions; and where it was the only one up, what the other lacks is embedded
    again."""
    world.stores[unreadable] = world.store(unreadable, readable=False)
    world.run(DOCUMENTS)
    changed = {**DOCUMENTS, "doc:1": "other", "doc:2": DOCUMENTS["doc:2"] + "\nmore"}
    changed.pop("doc:5")
    world.stores[1].down = True
    world.run(changed)
    world.stores[1].down = False
    embedded = len(world.embedder.texts)
    world.run(changed)
    world.all_hold(changed)
    assert world.behind == {}
    assert len(world.embedder.texts) - embedded == (2 if unreadable == 0 else 0)


def test_restores_what_a_member_lost(world: World) -> None:
    """From the others; what no other has is told."""
    world.run(DOCUMENTS)
    a, b = world.stores
    ids = [p.id for p in everything(a.real).values() if p.chunk.uri == "doc:3"]
    b.real.delete(ids)
    with world.opened() as (fan, _):
        assert fan.restore(b.url, [*ids[:6], "00" * 16]) == ["00" * 16]
        fan.flush()
    world.all_hold(DOCUMENTS)


def test_capabilities_are_the_least_of_all(tmp_path: Path) -> None:
    a, b = MemorySink("memory://a"), MemorySink("memory://b")
    a.accepts, b.accepts = frozenset({Dense, Sparse}), frozenset({Dense, MultiVector})
    a.max_rows, b.max_rows, a.max_bytes, b.max_bytes = 10, 20, 2000, 1000
    b.max_text, a.writers, b.writers, a.readable = 77, 2, 3, False
    fan = FanOut([a, b])
    assert fan.accepts == {Dense}
    assert (fan.max_rows, fan.max_bytes, fan.max_text, fan.writers, fan.readable) == (10, 1000, 77, 2, True)
    assert fan.url == "memory://a + memory://b"
    assert fan.generation(2).url == "memory://a_2 + memory://b_2"
    with pytest.raises(UsageError):
        FanOut([])
    with pytest.raises(UsageError):
        FanOut([MemorySink("memory://a"), MemorySink("memory://a")])


def test_without_a_ledger_nobody_is_left_behind(tmp_path: Path) -> None:
    """What one cannot take, or not now, is an error as of a single sink."""
    a = MemorySink(f"memory://{tmp_path}/a")
    b = FaultySink(MemorySink(f"memory://{tmp_path}/b"), Faults(transient=frozenset({0}), refuses={_point(1).id: "no"}))
    with FanOut([a, b], grace=0) as fan:
        fan.open(Manifest(single(SPACE)))
        with pytest.raises(Transient):
            fan.write([_point(0)])
        with pytest.raises(Rejected) as refused:
            fan.write([_point(0), _point(1)])
        assert refused.value.reasons == {_point(1).id: f"{b.url}: no"}
        assert fan.notices == []
        assert not fan.lagging


def test_members_are_written_to_at_the_same_time(tmp_path: Path) -> None:
    """Two that take half a second each take half a second together."""
    slow = [FaultySink(MemorySink(f"memory://{tmp_path}/{n}"), Faults(seconds=0.5)) for n in range(2)]
    with FanOut(slow) as fan:
        fan.open(Manifest(single(SPACE)))
        began = time.monotonic()
        fan.write([_point(1)])
        assert time.monotonic() - began < 0.9


def test_other_kinds_of_stores_catch_up_too(tmp_path: Path) -> None:
    """LanceDB and SQLite, one of them added, the other away for a while."""
    world = World(tmp_path)
    away = world.store(0, max_rows=1024)
    real: list[Sink] = [SqliteSink(f"sqlite://{tmp_path}/a.db"), away, LanceSink(f"lance://{tmp_path}/b")]
    world.run(DOCUMENTS, real[:2])
    away.down = True
    changed = {**DOCUMENTS, "doc:1": "other"}
    world.run(changed, real[:2])
    away.down = False
    world.run(changed, real)
    with world.opened(real) as (fan, _):
        first, *others = [everything(sink) for sink in fan.sinks]
        assert len(first) == 43
        for other in others:
            assert other.keys() == first.keys()
            for id, found in other.items():
                same(found, first[id])
