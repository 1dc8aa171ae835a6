"""Tests of a sink from `open` to `close`: part of `sink_suite.SinkSuite`.

Manifests, generations, visibility, maintenance, several writers and other processes.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import Transient
from penstock.core.records import VECTOR, Dense, Point
from penstock.core.schema import Manifest
from penstock.testing.points import MakeIndex, MakeSink, holds, point, respec
from penstock.testing.suite_base import Aliased, SinkBase

_CHILD = """
import pickle, sys
sink, manifest, task = pickle.load(sys.stdin.buffer)
sink.open(manifest)
task(sink)
"""


def patiently(call: Callable[[], None]) -> None:
    """Call again what raises Transient, as the engine does."""
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


def print_counts(sink: Sink) -> None:
    print(sink.count(), sum(len(page) for page in sink.ids()) if sink.readable else -1)


class Lifecycle(SinkBase):
    """Manifests and generations, opening and closing, what readers and other processes see."""

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

    def test_the_manifest_keeps_owners_and_generations(self, make_sink: MakeSink) -> None:
        """Owners by namespace, the current generation and the former one come back as they were kept."""
        moved = replace(self.manifest, owners={"docs": "ledger 1", "wiki": "ledger 2"}, current=2, former=0)
        with self.opened(make_sink) as sink:
            sink.replace_manifest(moved)
        assert make_sink().manifest() == moved

    def test_generations_are_indexes_of_their_own(self, make_sink: MakeSink) -> None:
        """Another generation holds its own points and manifest, and is dropped without the base."""
        if not self.generations:
            pytest.skip("this sink has no generations")
        schema = replace(respec(self.manifest.schema, fingerprint="e" * 32), chunking="64 tokens")
        manifest = replace(self.manifest, schema=schema)
        with self.opened(make_sink) as sink:
            sink.write(self.points(1, 2))
            sink.flush()
            with make_sink().generation(1) as other:
                assert other.url != sink.url
                assert other.manifest() is None
                other.drop()  # absent, so nothing happens
                other.open(manifest)
                other.write(self.points(2, 3, version=1))
                holds(other, self.points(2, 3, version=1))
                holds(sink, self.points(1, 2))
            again = make_sink().generation(1)
            assert again.manifest() == manifest
            again.drop()
            again.drop()
            assert make_sink().generation(1).manifest() is None
            holds(sink, self.points(1, 2))
            with make_sink().generation(1) as other:
                other.open(self.manifest)
                holds(other, [])
                other.drop()

    def test_another_generation_is_searched(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """The index of a generation finds the points that the sink of that generation wrote."""
        if not self.generations:
            pytest.skip("this sink has no generations")
        with self.opened(make_sink) as sink, make_sink().generation(2) as other:
            sink.write(self.points(1))
            sink.flush()
            other.open(self.manifest)
            other.write(self.points(2))
            other.flush()
            with make_index().generation(2) as index:
                assert index.url == other.url
                index.open()
                assert [hit.chunk.id for hit in index.search(self.points(1)[0].vectors[VECTOR], 5)] == [point(2).id]
        make_sink().generation(2).drop()

    def test_the_alias_stands_for_the_latest_generation_given(self, make_sink: MakeSink, aliased: Aliased) -> None:
        """It has one name, whatever it stands for; a store without aliases returns no name."""
        if not self.generations:
            pytest.skip("this sink has no generations")
        with self.opened(make_sink), make_sink().generation(1) as other:
            other.open(self.manifest)
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

    def test_shows_no_secret(self, make_sink: MakeSink) -> None:
        """Neither the url nor the repr holds a password or a key."""
        sink = make_sink()
        assert "://" in sink.url
        if self.secret is not None:
            assert self.secret not in sink.url + repr(sink)

    def test_what_was_flushed_is_seen(self, make_sink: MakeSink) -> None:
        """After a flush a second instance, and one that has been open meanwhile, see all of it."""
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
        """After `maintain` the points are as before, and so they are when written to."""
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
        """Two sinks of one index write their own ids, or some of them both: each point is kept once, as written."""
        if common and not self.same_ids:
            pytest.skip("two writers of the same ids are not supported")
        if not self.several_writers:
            pytest.skip("several writers are not supported")
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
            done = self.in_another_process(make_sink(), print_counts)
            assert done.stdout.split() == [b"30", b"30"], done.stderr.decode()
            sink.write(self.points(30))
            holds(sink, self.points(*range(31)))

    def test_a_kill_after_a_flush_loses_nothing(self, make_sink: MakeSink) -> None:
        """The process is killed right after `flush` returned; all that it wrote is kept."""
        if self.kind is not Dense:
            pytest.skip("tested once, with dense vectors")
        done = self.in_another_process(make_sink(), write_flush_and_die)
        assert done.returncode == -9, done.stderr.decode()
        with self.opened(make_sink) as sink:
            holds(sink, self.points(*range(100)))
            sink.write(self.points(*range(90, 110)))
            holds(sink, self.points(*range(110)))
