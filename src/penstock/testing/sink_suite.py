"""What every sink must do, as tests. Subclass, and say how to reach one:

    class TestLance(SinkSuite):
        @pytest.fixture
        def make_sink(self, tmp_path): return lambda: LanceSink(f"lance://{tmp_path}/index")

        @pytest.fixture
        def make_index(self, tmp_path): return lambda: LanceIndex(f"lance://{tmp_path}/index")

`make_sink()` gives a new sink, not open, of the same place each time, which is empty when a test begins. Leave
`make_index` out where there is no search. `shared = False` says that other processes cannot see the place;
`secret` is the password or key that `make_sink` gives, if there is one. `several_writers = False` says that one process
writes at a time, and `same_ids = False` that two may, but each its own ids. `places = False` is for a sink without
`beside`; the fixture `aliased` tells which number an alias stands for now, where the store has aliases.

For a store that is a server, `unreachable(sink, index, secret)` is one more test, put to a port where nobody listens.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import PenstockError, SinkError, SpaceMismatch, Transient, UsageError
from penstock.core.filters import parse, passes
from penstock.core.records import VECTOR, Dense, Metadata, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.testing.named_suite import NamedVectors
from penstock.testing.points import (
    DIM,
    MakeIndex,
    MakeSink,
    everything,
    holds,
    point,
    respec,
    same,
    similarity,
)

__all__ = [
    "DIM",
    "FILTERS",
    "ODD",
    "URI",
    "MakeIndex",
    "MakeSink",
    "SinkSuite",
    "everything",
    "holds",
    "patiently",
    "point",
    "respec",
    "same",
    "silent_port",
    "similarity",
    "unreachable",
]

Aliased = Callable[[str], int] | None

URI = 'file:///docs/it\'s "quoted" \\ and 100%25 naïve.md'
ODD: Metadata = {
    "nested": {"list": [1, 2.5, None, {"deep": [[], {}]}], "empty": {}},
    "null": None,
    "no": False,
    "date": "2026-11-21T02:00:00+01:00",
    "größe – 🌊": "Δ 漢字 \u202e \x07",
    "quote'\"\\": "'; DROP TABLE chunks; --",
    "large": 2**53 - 1,
    "k" * 300: "v" * 3000,
    "": "",
}

FILTERS: tuple[Metadata, ...] = (
    {"page": 3},
    {"page": None},
    {"page": {"$ne": None}},
    {"page": {"$ne": 3}},
    {"page": [1, 2, 6]},
    {"page": []},
    {"page": {"$nin": [1, 2]}},
    {"page": {"$gt": 2, "$lte": 5}},
    {"$not": {"page": {"$gte": 2}}},
    {"ordinal": {"$lt": 4}},
    {"uri": "doc:1'%_\\"},
    {"uri": {"$in": ["doc:0'%_\\", "doc:2'%_\\", "nowhere"]}, "page": {"$lt": 3}},
    {"$or": [{"page": 1}, {"$and": [{"ordinal": {"$gte": 20}}, {"$not": {"page": [2, 3]}}]}]},
    {"$not": {"$or": [{"page": None}, {"uri": "doc:1'%_\\"}]}},
    {"id": {"$in": [f"{n:032x}" for n in (3, 14, 99)]}},
)
"""Of every form. The pages of the points they are put to are 1 to 6, or absent."""

_CHILD = """
import pickle, sys
sink, manifest, task = pickle.load(sys.stdin.buffer)
sink.open(manifest)
task(sink)
"""


def patiently(call: Callable[[], None]) -> None:
    """As the engine does it: what fails for now is tried again."""
    for pause in (0.01, 0.05, 0.2, 0.5, 1.0):
        try:
            return call()
        except Transient:
            time.sleep(pause)
    call()


def write_and_flush(sink: Sink) -> None:
    sink.write([point(n) for n in range(100)])
    sink.flush()


def write_flush_and_die(sink: Sink) -> None:
    write_and_flush(sink)
    os.kill(os.getpid(), 9)


def print_what_is_there(sink: Sink) -> None:
    print(sink.count(), sum(len(page) for page in sink.ids()) if sink.readable else -1)


class SinkSuite(NamedVectors):
    kind: type[Vector] = Dense
    shared = True
    secret: str | None = None
    several_writers = True
    same_ids = True
    places = True

    @pytest.fixture
    def make_sink(self) -> MakeSink:
        pytest.fail("the suite needs a fixture make_sink")

    @pytest.fixture
    def make_index(self) -> MakeIndex:
        pytest.skip("no search here")

    @pytest.fixture
    def aliased(self) -> Aliased:
        return None

    @property
    def manifest(self) -> Manifest:
        spec = VectorSpec("a model", DIM, "f" * 32, kind=self.kind.__name__)
        return Manifest(single(spec, "256 tokens"), owners={"": "ledger 1"})

    def points(self, *numbers: int, **fields: Any) -> list[Point]:
        return [point(n, kind=self.kind, **fields) for n in numbers]

    def opened(self, make_sink: MakeSink) -> Sink:
        sink = make_sink()
        sink.open(self.manifest)
        return sink

    def readable(self, make_sink: MakeSink) -> Sink:
        sink = self.opened(make_sink)
        if not sink.readable:
            sink.close()
            pytest.skip("this sink only takes points")
        return sink

    # ------------------------------------------------------------ upsert and delete

    def test_writing_again_changes_nothing(self, make_sink: MakeSink) -> None:
        """The same batch twice, and once more through another instance, is the batch once."""
        points = self.points(*range(20))
        with self.opened(make_sink) as sink:
            sink.write(points)
            sink.write(points)
            holds(sink, points)
        with self.opened(make_sink) as sink:
            sink.write(points[5:15])
            holds(sink, points)

    def test_the_newest_of_an_id_counts(self, make_sink: MakeSink) -> None:
        """A write replaces the point of that id: text, vector, metadata and all."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(*range(10), metadata={"old": 1, "both": 1}, page=4, headings=("Old",)))
            sink.flush()
            new = self.points(*range(3, 6), version=1, metadata={"new": 2, "both": 2})
            sink.write(new)
            old = self.points(0, 1, 2, 6, 7, 8, 9, metadata={"old": 1, "both": 1}, page=4, headings=("Old",))
            holds(sink, old + new)

    def test_an_id_twice_in_a_batch(self, make_sink: MakeSink) -> None:
        """The last one counts, whether the id was there before or not."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(1))
            batch = self.points(1, 2, version=1) + self.points(3) + self.points(2, 1, version=2)
            sink.write(batch)
            holds(sink, self.points(1, 2, version=2) + self.points(3))

    def test_deletes_what_is_there(self, make_sink: MakeSink) -> None:
        """Absent ids are no error; the rest goes and stays away; it can be written again."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(*range(10)))
            sink.delete([p.id for p in self.points(2, 3, 99)] + ['not an id, it\'s a "trap"'])
            sink.delete([p.id for p in self.points(2)])
            holds(sink, self.points(0, 1, *range(4, 10)))
        with self.opened(make_sink) as sink:
            sink.write(self.points(2, version=1))
            holds(sink, self.points(0, 1, *range(4, 10)) + self.points(2, version=1))

    def test_empty_batches(self, make_sink: MakeSink) -> None:
        """Nothing written, nothing deleted and nothing fetched is fine, in an empty index too."""
        with self.opened(make_sink) as sink:
            sink.write([])
            sink.delete([])
            sink.delete(["absent"])
            holds(sink, [])
            if sink.readable:
                assert list(sink.fetch([])) == []

    def test_the_largest_batch(self, make_sink: MakeSink) -> None:
        """A batch of `max_rows`, written, overwritten and deleted in one call each."""
        with self.opened(make_sink) as sink:
            numbers = range(sink.max_rows)
            sink.write(self.points(*numbers))
            sink.write(self.points(*numbers, version=1))
            sink.flush()
            assert sink.count() == sink.max_rows
            sink.delete([p.id for p in self.points(*numbers)])
            holds(sink, [])

    # ------------------------------------------------------------ round trips

    def test_metadata_comes_back(self, make_sink: MakeSink) -> None:
        """Nested, null, unicode, hostile and long: equal to what was written; no keys of an older version."""
        with self.readable(make_sink) as sink:
            sink.write(self.points(1, metadata={"older": True}))
            points = self.points(1, metadata=ODD) + self.points(2, metadata={}) + self.points(3, metadata={"": None})
            sink.write(points)
            holds(sink, points)

    def test_every_field_comes_back(self, make_sink: MakeSink) -> None:
        """Uri, page, headings, span and image, absent and present, empty and odd."""
        with self.readable(make_sink) as sink:
            points = [
                *self.points(1, uri=URI, page=0, headings=("A 'heading'", "", "Zwölf – 漢字")),
                *self.points(2, page=None, headings=(), text=""),
                *self.points(3, page=2**31, image=bytes(range(256)), text="\x00 a NUL \r\n\t\u2028 🌊"),
                *self.points(4, image=b""),
            ]
            points.append(replace(points[0], chunk=replace(points[0].chunk, id="f" * 32, span=(2**40, 2**40 + 1))))
            sink.write(points)
            holds(sink, points)

    def test_long_texts(self, make_sink: MakeSink) -> None:
        """Texts up to a megabyte, or to the sink's limit."""
        with self.readable(make_sink) as sink:
            size = min(sink.max_text or 1 << 20, 1 << 20) // 4
            points = self.points(1, text="🌊" * size) + self.points(2, text="x" * (4 * size))
            sink.write(points)
            holds(sink, points)

    def test_tokens_are_not_missed(self, make_sink: MakeSink) -> None:
        """Token ids are for the embedder: a chunk that has them is written all the same."""
        with self.opened(make_sink) as sink:
            points = self.points(1, 2, tokens=(1, 2, 3))
            sink.write(points)
            holds(sink, points)

    def test_pages_of_many(self, make_sink: MakeSink) -> None:
        """5,000 points: counted, listed once each, in more than one page, and fetched."""
        points = self.points(*range(5000))
        with self.readable(make_sink) as sink:
            for start in range(0, len(points), min(sink.max_rows, 1000)):
                sink.write(points[start : start + min(sink.max_rows, 1000)])
            holds(sink, points)
            assert max(len(page) for page in sink.ids()) < 5000

    def test_fetch_leaves_absent_ids_out(self, make_sink: MakeSink) -> None:
        """What is not there is not in the answer; an id asked for twice is there once."""
        with self.readable(make_sink) as sink:
            points = self.points(1, 2)
            sink.write(points)
            sink.flush()
            found = sink.fetch(["absent", points[1].id, "it's", points[1].id])
            assert [p.id for p in found] == [points[1].id]
            same(found[0], points[1])

    # ------------------------------------------------------------ refusals

    def test_refuses_another_dimension(self, make_sink: MakeSink) -> None:
        """A vector of another length is an error, and nothing of it is kept."""
        if self.kind is Sparse:
            pytest.skip("sparse vectors have no fixed length")
        with self.opened(make_sink) as sink:
            with pytest.raises(SinkError):
                sink.write(self.points(1, dim=DIM + 1))
            holds(sink, [])

    def test_refuses_another_space(self, make_sink: MakeSink) -> None:
        """Another model, dimension, metric or chunking is told before anything is written, with both named."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(1))
            sink.flush()
        schema = self.manifest.schema
        others = [
            respec(schema, model="another model", fingerprint="e" * 32),
            respec(schema, dim=DIM * 2),
            respec(schema, metric="dot"),
            replace(schema, chunking="512 tokens"),
        ]
        for other in others:
            with make_sink() as sink, pytest.raises(SpaceMismatch) as raised:
                sink.open(Manifest(other))
            assert schema.only.model in str(raised.value)
            assert other.only.model in str(raised.value)
        with self.opened(make_sink) as sink:
            holds(sink, self.points(1))

    def test_needs_to_be_open(self, make_sink: MakeSink) -> None:
        """Written to before it is open, a sink says so."""
        with make_sink() as sink, pytest.raises(PenstockError):
            sink.write(self.points(1))

    # ------------------------------------------------------------ lifecycle and manifest

    def test_the_manifest_is_kept(self, make_sink: MakeSink) -> None:
        """None before there is an index; afterwards what was opened with, before any `open`, until replaced."""
        assert make_sink().manifest() is None
        self.opened(make_sink).close()
        assert make_sink().manifest() == self.manifest
        with make_sink() as sink:
            sink.open(Manifest(self.manifest.schema, owners={"": "ledger 2"}))
        assert make_sink().manifest() == self.manifest, "only replace_manifest changes the owner"
        with self.opened(make_sink) as sink:
            sink.replace_manifest(Manifest(self.manifest.schema, owners={"": "ledger 2"}))
            assert sink.manifest() == Manifest(self.manifest.schema, owners={"": "ledger 2"})
        assert make_sink().manifest() == Manifest(self.manifest.schema, owners={"": "ledger 2"})

    def test_the_manifest_tells_where_the_index_went(self, make_sink: MakeSink) -> None:
        """Namespaces, the current place and the former one come back as they were kept."""
        moved = replace(self.manifest, owners={"docs": "ledger 1", "wiki": "ledger 2"}, current=2, former=0)
        with self.opened(make_sink) as sink:
            sink.replace_manifest(moved)
        assert make_sink().manifest() == moved

    def test_places_lie_beside_each_other(self, make_sink: MakeSink) -> None:
        """A place of another number holds an index of its own, and goes without taking the other with it."""
        if not self.places:
            pytest.skip("this sink has no places beside it")
        schema = replace(respec(self.manifest.schema, fingerprint="e" * 32), chunking="64 tokens")
        other = replace(self.manifest, schema=schema)
        with self.opened(make_sink) as sink:
            sink.write(self.points(1, 2))
            sink.flush()
            with make_sink().generation(1) as beside:
                assert beside.url != sink.url
                assert beside.manifest() is None
                beside.drop()  # where nothing is, nothing happens
                beside.open(other)
                beside.write(self.points(2, 3, version=1))
                holds(beside, self.points(2, 3, version=1))
                holds(sink, self.points(1, 2))
            again = make_sink().generation(1)
            assert again.manifest() == other
            again.drop()
            again.drop()
            assert make_sink().generation(1).manifest() is None
            holds(sink, self.points(1, 2))
            with make_sink().generation(1) as beside:
                beside.open(self.manifest)
                holds(beside, [])
                beside.drop()

    def test_an_index_beside_is_searched(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """The index of a number finds what the sink of that number wrote."""
        if not self.places:
            pytest.skip("this sink has no places beside it")
        with self.opened(make_sink) as sink, make_sink().generation(2) as beside:
            sink.write(self.points(1))
            sink.flush()
            beside.open(self.manifest)
            beside.write(self.points(2))
            beside.flush()
            with make_index().generation(2) as index:
                assert index.url == beside.url
                index.open()
                assert [hit.chunk.id for hit in index.search(self.points(1)[0].vectors[VECTOR], 5)] == [point(2).id]
        make_sink().generation(2).drop()

    def test_the_alias_is_the_place_it_was_put_to(self, make_sink: MakeSink, aliased: Aliased) -> None:
        """Put to one place and then to another, by its one name; a store without aliases gives no name."""
        if not self.places:
            pytest.skip("this sink has no places beside it")
        with self.opened(make_sink), make_sink().generation(1) as beside:
            beside.open(self.manifest)
            names = {make_sink().alias(number) for number in (0, 1, 1, 0)}
            assert len(names) == 1
            if aliased is None:
                assert names == {""}
            else:
                assert aliased(names.pop()) == 0
                assert aliased(make_sink().alias(1)) == 1
        make_sink().generation(1).drop()

    def test_close_is_idempotent(self, make_sink: MakeSink) -> None:
        """Closed twice, or without having been open; and opened again."""
        sink = make_sink()
        sink.close()
        sink.open(self.manifest)
        sink.write(self.points(1))
        sink.flush()
        sink.close()
        sink.close()
        sink.open(self.manifest)
        holds(sink, self.points(1))
        sink.close()

    def test_pickles_before_open(self, make_sink: MakeSink) -> None:
        """A sink goes to another process as its arguments."""
        with pickle.loads(pickle.dumps(make_sink())) as sink:
            sink.open(self.manifest)
            sink.write(self.points(1))
            holds(sink, self.points(1))
        assert sink.url == make_sink().url

    def test_tells_no_secret(self, make_sink: MakeSink) -> None:
        """The url is one to show, and neither it nor the repr holds a password or a key."""
        sink = make_sink()
        assert "://" in sink.url
        if self.secret is not None:
            assert self.secret not in sink.url + repr(sink)

    def test_what_was_flushed_is_seen(self, make_sink: MakeSink) -> None:
        """After a flush a second instance, and one that was open all along, see all of it."""
        with self.opened(make_sink) as writer:
            writer.write(self.points(1))
            writer.flush()
            with self.readable(make_sink) as reader:
                holds(reader, self.points(1))
                writer.write(self.points(1, 2, version=1))
                writer.delete([p.id for p in self.points(2)])
                writer.flush()
                holds(reader, self.points(1, version=1))

    def test_maintenance_changes_nothing(self, make_sink: MakeSink) -> None:
        """After `maintain` all is as before, and stays so when written to."""
        with self.opened(make_sink) as sink:
            for n in range(12):
                sink.write(self.points(n, n + 1, version=n % 2))
            sink.delete([p.id for p in self.points(0)])
            wanted = [point(n, kind=self.kind, version=n % 2) for n in range(1, 12)]
            wanted += self.points(12, version=1)
            holds(sink, wanted)
            sink.maintain()
            holds(sink, wanted)
            sink.write(self.points(3, version=7))
            holds(sink, [*(p for p in wanted if p.chunk.ordinal != 3), *self.points(3, version=7)])

    @pytest.mark.parametrize("common", [0, 40])
    def test_two_write_at_once(self, make_sink: MakeSink, common: int) -> None:
        """Two of one collection, each its own ids, or some of them both: each point is there once, as written."""
        if common and not self.same_ids:
            pytest.skip("here an id is one writer's, as the ledger's lock sees to")
        if not self.several_writers:
            pytest.skip("here there is one writer at a time")
        points = self.points(*range(120))
        with self.opened(make_sink) as one, self.opened(make_sink) as other, ThreadPoolExecutor(2) as threads:

            def write(sink: Sink, mine: Sequence[Point]) -> None:
                for start in range(0, len(mine), 10):
                    patiently(lambda: sink.write(mine[start : start + 10]))  # noqa: B023
                patiently(sink.flush)

            middle = 60 + common // 2
            shares = [(one, points[:middle]), (other, points[: 120 - middle - 1 : -1])]
            for done in [threads.submit(write, *share) for share in shares]:
                done.result(timeout=60)
            holds(one, points)
        with self.opened(make_sink) as sink:
            holds(sink, points)

    # ------------------------------------------------------------ other processes

    def in_another_process(self, sink: Sink, task: Callable[[Sink], None]) -> subprocess.CompletedProcess[bytes]:
        if not self.shared:
            pytest.skip("other processes cannot see this store")
        path = os.pathsep.join(filter(None, sys.path))
        return subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=pickle.dumps((sink, self.manifest, task)),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            timeout=60,
        )

    def test_a_second_process_reads_meanwhile(self, make_sink: MakeSink) -> None:
        """Another process sees what was flushed while this one has the sink open, and goes on writing."""
        with self.readable(make_sink) as sink:
            sink.write(self.points(*range(30)))
            sink.flush()
            done = self.in_another_process(make_sink(), print_what_is_there)
            assert done.stdout.split() == [b"30", b"30"], done.stderr.decode()
            sink.write(self.points(30))
            holds(sink, self.points(*range(31)))

    def test_a_kill_after_a_flush_loses_nothing(self, make_sink: MakeSink) -> None:
        """The process is gone with SIGKILL right after `flush` returned; all it wrote is there."""
        if self.kind is not Dense:
            pytest.skip("done once, with dense vectors")
        done = self.in_another_process(make_sink(), write_flush_and_die)
        assert done.returncode == -9, done.stderr.decode()
        with self.opened(make_sink) as sink:
            holds(sink, self.points(*range(100)))
            sink.write(self.points(*range(90, 110)))
            holds(sink, self.points(*range(110)))

    # ------------------------------------------------------------ search

    def searched(self, make_sink: MakeSink, make_index: MakeIndex, points: Sequence[Point]) -> Index:
        with self.opened(make_sink) as sink:
            sink.write(points)
            sink.flush()
        index = make_index()
        index.open()
        return index

    def test_search_finds_the_nearest_first(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Scores are cosines (for many vectors their MaxSim), in order; hits carry the whole chunk."""
        points = self.points(*range(200), metadata={"a": [1]}, page=2, headings=("H",))
        with self.searched(make_sink, make_index, points) as index:
            assert index.count() == 200
            assert index.manifest() == self.manifest
            query = point(7, kind=self.kind, version=1).vectors[VECTOR]
            hits = index.search(query, k=10)
            wanted = sorted(points, key=lambda p: -similarity(query, p.vectors[VECTOR]))[:10]
            assert [h.score for h in hits] == pytest.approx(
                [similarity(query, p.vectors[VECTOR]) for p in wanted], abs=1e-4
            )
            assert [h.chunk for h in hits] == [p.chunk for p in wanted]
            assert len(index.search(query, k=1000)) == 200 or self.kind is Sparse
            assert sorted(p.id for p in index.fetch([points[3].id, "absent"])) == [points[3].id]

    def test_search_within(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """`where` narrows before the nearest are chosen; quotes in a uri are no trouble; other fields are refused."""
        odd = self.points(*range(300, 303), uri=URI, page=9)
        with self.searched(make_sink, make_index, self.points(*range(200)) + odd) as index:
            query = self.points(5)[0].vectors[VECTOR]
            assert {h.chunk.id for h in index.search(query, where={"uri": URI})} == {p.id for p in odd}
            assert {h.chunk.id for h in index.search(query, where={"page": 9, "uri": URI})} == {p.id for p in odd}
            assert len(index.search(query, k=200, where={"uri": "file:///docs/1.md"})) == 50
            assert index.search(query, where={"uri": "' OR '1'='1"}) == []
            with pytest.raises(UsageError):
                index.search(query, where={"no such field": 1})

    @pytest.mark.parametrize("where", FILTERS, ids=str)
    def test_filters(self, make_sink: MakeSink, make_index: MakeIndex, where: Metadata) -> None:
        """Every form of filter finds what it means, absent pages included, and nothing else."""
        points = [p for n in range(30) for p in self.points(n, page=n % 7 or None, uri=f"doc:{n // 10}'%_\\")]
        wanted = parse(where)
        assert wanted is not None
        with self.searched(make_sink, make_index, points) as index:
            found = index.search(self.points(5)[0].vectors[VECTOR], k=100, where=where)
        meant = {p.id for p in points if passes(p.chunk, wanted)}
        assert {hit.chunk.id for hit in found} == meant or (self.kind is Sparse and {h.chunk.id for h in found} < meant)

    def test_filters_that_cannot_be_meant(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """They are refused, not answered with nothing."""
        with self.searched(make_sink, make_index, self.points(1)) as index:
            unmeant: tuple[Metadata, ...] = (
                {"page": "3"},
                {"uri": {"$like": "x"}},
                {"$or": []},
                {"page": {}},
                {"ordinal": True},
            )
            for where in unmeant:
                with pytest.raises(UsageError):
                    index.search(self.points(1)[0].vectors[VECTOR], where=where)

    def test_search_sees_what_is_written(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """An open index finds what was written since, and no more what was deleted."""
        with self.searched(make_sink, make_index, self.points(1, 2)) as index, self.opened(make_sink) as sink:
            sink.write(self.points(3))
            sink.delete([p.id for p in self.points(1)])
            sink.flush()
            hits = index.search(self.points(3)[0].vectors[VECTOR])
            assert [h.chunk.ordinal for h in hits] == [3, 2]
            assert index.count() == 2

    def test_search_refuses_another_dimension(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """A query of another model is told, not answered."""
        if self.kind is Sparse:
            pytest.skip("sparse vectors have no fixed length")
        with self.searched(make_sink, make_index, self.points(1)) as index, pytest.raises(SinkError):
            index.search(point(1, kind=self.kind, dim=DIM + 1).vectors[VECTOR])

    def test_no_index_is_told(self, make_index: MakeIndex) -> None:
        """Where there is nothing, opening says so."""
        with make_index() as index, pytest.raises(SinkError):
            index.open()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that nobody listens at, nor will meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def unreachable(sink: Sink, index: Index, secret: str) -> None:
    """It is told soon, in one line that names the place and holds no secret, whatever is asked first."""
    manifest = Manifest(single(VectorSpec("a model", DIM, "f" * 32), "256 tokens"), owners={"": "ledger 1"})
    with sink, index:
        for call in (sink.manifest, lambda: sink.open(manifest), index.manifest, index.open, sink.drop):
            began = time.monotonic()
            with pytest.raises(SinkError) as raised:
                call()
            assert time.monotonic() - began < 10, "it took too long to say so"
            told = str(raised.value)
            assert sink.url in told
            assert "\n" not in told
            assert len(told) < 600
            assert secret not in told
