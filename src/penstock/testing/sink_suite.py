"""Tests that every sink has to pass. Subclass `SinkSuite` with the fixtures and attributes of `suite_base.SinkBase`:

class TestLance(SinkSuite):
    @pytest.fixture
    def make_sink(self, tmp_path): return lambda: LanceSink(f"lance://{tmp_path}/index")

    @pytest.fixture
    def make_index(self, tmp_path): return lambda: LanceIndex(f"lance://{tmp_path}/index")
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import PenstockError, SinkError, SpaceMismatch
from penstock.core.records import Metadata, Sparse
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.testing.filter_suite import Filtering
from penstock.testing.lifecycle_suite import Lifecycle, patiently, write_and_flush
from penstock.testing.named_suite import NamedVectors
from penstock.testing.ownership_suite import Ownership
from penstock.testing.points import (
    DIM,
    URI,
    MakeIndex,
    MakeSink,
    everything,
    holds,
    point,
    respec,
    same,
    similarity,
)
from penstock.testing.precision_suite import Precisions
from penstock.testing.search_suite import FILTERS
from penstock.testing.suite_base import Aliased
from penstock.testing.words_suite import Words

__all__ = [
    "DIM",
    "FILTERS",
    "ODD",
    "URI",
    "Aliased",
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
    "write_and_flush",
]

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


class SinkSuite(Lifecycle, Ownership, Filtering, NamedVectors, Precisions, Words):
    """All of them. For a store that is a server, `unreachable` is one more test."""

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
        """A write replaces the whole point of that id: text, vector and metadata."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(*range(10), metadata={"old": 1, "both": 1}, page=4, headings=("Old",)))
            sink.flush()
            new = self.points(*range(3, 6), version=1, metadata={"new": 2, "both": 2})
            sink.write(new)
            old = self.points(0, 1, 2, 6, 7, 8, 9, metadata={"old": 1, "both": 1}, page=4, headings=("Old",))
            holds(sink, old + new)

    def test_an_id_twice_in_a_batch(self, make_sink: MakeSink) -> None:
        """The last one counts, for new ids and for others."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(1))
            batch = self.points(1, 2, version=1) + self.points(3) + self.points(2, 1, version=2)
            sink.write(batch)
            holds(sink, self.points(1, 2, version=2) + self.points(3))

    def test_deletions(self, make_sink: MakeSink) -> None:
        """Absent ids are no error; deleted points stay away until they are written again."""
        with self.opened(make_sink) as sink:
            sink.write(self.points(*range(10)))
            sink.delete([p.id for p in self.points(2, 3, 99)] + ['not an id, it\'s a "trap"'])
            sink.delete([p.id for p in self.points(2)])
            holds(sink, self.points(0, 1, *range(4, 10)))
        with self.opened(make_sink) as sink:
            sink.write(self.points(2, version=1))
            holds(sink, self.points(0, 1, *range(4, 10)) + self.points(2, version=1))

    def test_empty_batches(self, make_sink: MakeSink) -> None:
        """Writing, deleting and fetching nothing are no errors, in an empty index either."""
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

    def test_tokens_are_not_kept(self, make_sink: MakeSink) -> None:
        """Token ids are for the embedder: a chunk with them is written and comes back without."""
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
        """Absent ids are no error, and an id asked for twice is returned once."""
        with self.readable(make_sink) as sink:
            points = self.points(1, 2)
            sink.write(points)
            sink.flush()
            found = sink.fetch(["absent", points[1].id, "it's", points[1].id])
            assert [p.id for p in found] == [points[1].id]
            same(found[0], points[1])

    # ------------------------------------------------------------ refusals

    def test_refuses_another_dimension(self, make_sink: MakeSink) -> None:
        """A vector of another length is an error, and its point is not kept."""
        if self.kind is Sparse:
            pytest.skip("sparse vectors have no fixed length")
        with self.opened(make_sink) as sink:
            with pytest.raises(SinkError):
                sink.write(self.points(1, dim=DIM + 1))
            holds(sink, [])

    def test_refuses_another_space(self, make_sink: MakeSink) -> None:
        """Another model, dimension, metric or chunking raises before anything is written, and the error names both."""
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
        """Writing to a sink that is not open is an error."""
        with make_sink() as sink, pytest.raises(PenstockError):
            sink.write(self.points(1))


@contextmanager
def silent_port() -> Iterator[int]:
    """A port at which nobody listens, nor will meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def unreachable(sink: Sink, index: Index, secret: str) -> None:
    """Every call fails soon, with one line that names the url and holds no secret."""
    manifest = Manifest(single(VectorSpec("a model", DIM, "f" * 32), "256 tokens"), owners={"": "ledger 1"})
    with sink, index:
        for call in (sink.manifest, lambda: sink.open(manifest), index.manifest, index.open, sink.drop):
            began = time.monotonic()
            with pytest.raises(SinkError) as raised:
                call()
            assert time.monotonic() - began < 10, "it took too long to say so"
            message = str(raised.value)
            assert sink.url in message
            assert "\n" not in message
            assert len(message) < 600
            assert secret not in message
