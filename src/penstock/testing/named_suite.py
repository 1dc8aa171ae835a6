"""Tests of named vectors: part of `sink_suite.SinkSuite`.

A sink with `named = True` keeps several vectors a point, each of a space of its own, and its index searches the one
that `using` names. Any other refuses them when it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, SpaceMismatch, UsageError
from penstock.core.records import VECTOR, Dense, Point, Vector
from penstock.core.schema import IndexSchema, Manifest, VectorSpec
from penstock.testing.points import DIM, MakeIndex, MakeSink, holds, point, similarity
from penstock.testing.suite_base import SinkBase

TITLE_DIM = 4
NAMES = (("vector", "chunks", "uri"), ("id", "id_info", "a" * 32))


class NamedVectors(SinkBase):
    """Points with the vectors `title` and `body`."""

    @property
    def named(self) -> Manifest:
        """Of an index with two vectors a point, of other models, dimensions and, where both are dense, metrics."""
        title = VectorSpec("a small model", TITLE_DIM, "a" * 32)
        metric = "l2" if self.kind is Dense else "cosine"
        body = VectorSpec("a large model", DIM, "b" * 32, kind=self.kind.__name__, metric=metric)
        return Manifest(IndexSchema({"title": title, "body": body}, "256 tokens"), owners={"": "ledger 1"})

    def named_points(self, *numbers: int, version: int = 0, **fields: Any) -> list[Point]:
        """The nearest by title are others than the nearest by body, and those by distance others than by angle."""
        points = []
        for n in numbers:
            p = point(n, kind=self.kind, version=version, **fields)
            title, body = point(1000 - n, dim=TITLE_DIM, version=version).vectors[VECTOR], p.vectors[VECTOR]
            if isinstance(body, Dense):
                body = Dense(body.values * np.float32(1 + n % 4))
            points.append(Point(p.chunk, {"title": title, "body": body}))
        return points

    def opened_named(self, make_sink: MakeSink, manifest: Manifest | None = None) -> Sink:
        sink = make_sink()
        if not sink.named:
            pytest.skip("this sink holds one vector a point")
        sink.open(manifest or self.named)
        return sink

    def searched_named(self, make_sink: MakeSink, make_index: MakeIndex, points: Sequence[Point]) -> Index:
        with self.opened_named(make_sink) as sink:
            sink.write(points)
            sink.flush()
        index = make_index()
        index.open()
        return index

    def test_named_vectors_come_back(self, make_sink: MakeSink) -> None:
        """Each under its name, to the bit; a later version of a point replaces all of them; maintenance none."""
        with self.opened_named(make_sink) as sink:
            sink.write(self.named_points(*range(10)))
            sink.flush()
            new = self.named_points(3, 4, version=1)
            sink.write(new)
            sink.delete([p.id for p in self.named_points(5)])
            wanted = self.named_points(0, 1, 2, *range(6, 10)) + new
            holds(sink, wanted)
            sink.maintain()
            holds(sink, wanted)
        with self.opened_named(make_sink) as sink:
            holds(sink, wanted)

    def alike(self, names: tuple[str, ...]) -> tuple[Manifest, list[Point]]:
        """Points with vectors of these names, which are alike but for their models."""
        body = self.named.schema.vectors["body"]
        vectors = {name: replace(body, fingerprint=f"{n:032x}") for n, name in enumerate(names)}
        columns = [self.points(*range(10), version=version) for version in range(len(names))]
        points = [
            Point(same_id[0].chunk, {name: p.vectors[VECTOR] for name, p in zip(names, same_id, strict=True)})
            for same_id in zip(*columns, strict=True)
        ]
        return Manifest(IndexSchema(vectors)), points

    @pytest.mark.parametrize("names", NAMES, ids=str)
    def test_any_name_is_taken(self, make_sink: MakeSink, names: tuple[str, ...]) -> None:
        """Names that are those of columns as well, that begin alike, and the longest."""
        manifest, points = self.alike(names)
        with self.opened_named(make_sink, manifest) as sink:
            sink.write(points)
            sink.delete([points[9].id])
            holds(sink, points[:9])

    @pytest.mark.parametrize("names", NAMES, ids=str)
    def test_any_name_is_searched(self, make_sink: MakeSink, make_index: MakeIndex, names: tuple[str, ...]) -> None:
        """The nearest by each of them, though all are of one dimension."""
        manifest, points = self.alike(names)
        with self.opened_named(make_sink, manifest) as sink:
            sink.write(points)
            sink.flush()
        with make_index() as index:
            index.open()
            for name in names:
                assert index.search(points[4].vectors[name], k=1, using=name)[0].chunk == points[4].chunk

    def test_the_manifest_of_named_vectors_is_kept(self, make_sink: MakeSink) -> None:
        """Names, models, dimensions, metrics and kinds, in their order; replaced as any other."""
        self.opened_named(make_sink).close()
        kept = make_sink().manifest()
        assert kept == self.named
        assert list(kept.schema.vectors) == ["title", "body"]
        with self.opened_named(make_sink) as sink:
            sink.replace_manifest(replace(self.named, current=1))
        assert make_sink().manifest() == replace(self.named, current=1)

    def test_refuses_other_names(self, make_sink: MakeSink) -> None:
        """A vector fewer, one more, another name, another model of one: before anything is written."""
        points = self.named_points(1)
        with self.opened_named(make_sink) as sink:
            sink.write(points)
            sink.flush()
        schema = self.named.schema
        title, body = schema.vectors["title"], schema.vectors["body"]
        for vectors in (
            {"body": body},
            {VECTOR: body},
            {"title": title, "body": body, "summary": title},
            {"headline": title, "body": body},
            {"title": replace(title, fingerprint="e" * 32), "body": body},
            {"title": title, "body": replace(body, model="another model", fingerprint="e" * 32)},
        ):
            with make_sink() as sink, pytest.raises(SpaceMismatch):
                sink.open(Manifest(replace(schema, vectors=vectors)))
        with self.opened_named(make_sink) as sink:
            holds(sink, points)

    def test_the_order_of_names_does_not_matter(self, make_sink: MakeSink) -> None:
        """The same names in another order are the same index, and points may have them in any."""
        points = self.named_points(*range(4))
        self.opened_named(make_sink).close()
        turned = IndexSchema(dict(reversed(list(self.named.schema.vectors.items()))), self.named.schema.chunking)
        with self.opened_named(make_sink, replace(self.named, schema=turned)) as sink:
            sink.write(points[:2])
            sink.write([Point(p.chunk, dict(reversed(list(p.vectors.items())))) for p in points[2:]])
            holds(sink, points)

    def test_refuses_points_with_other_names(self, make_sink: MakeSink) -> None:
        """A point that lacks a vector, or has one too many, is an error, and nothing of its batch is kept."""
        good, bad = self.named_points(1, 2)
        title, body = bad.vectors["title"], bad.vectors["body"]
        with self.opened_named(make_sink) as sink:
            for vectors in (
                {"title": title},
                {VECTOR: body},
                {"title": title, "body": body, VECTOR: body},
                {"title": body, "body": title},
            ):
                with pytest.raises(SinkError):
                    sink.write([good, Point(bad.chunk, vectors)])
            holds(sink, [])

    @property
    def one_name(self) -> IndexSchema:
        return replace(self.named.schema, vectors={"body": self.named.schema.vectors["body"]})

    def one_named(self, *numbers: int) -> list[Point]:
        return [Point(p.chunk, {"body": p.vectors["body"]}) for p in self.named_points(*numbers)]

    def test_one_vector_may_have_a_name(self, make_sink: MakeSink) -> None:
        """It comes back under that name."""
        with self.opened_named(make_sink, Manifest(self.one_name)) as sink:
            sink.write(self.one_named(*range(20)))
            holds(sink, self.one_named(*range(20)))

    def test_a_search_leaves_an_only_name_out(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Where there is one vector, `using` may name it; any other name is refused."""
        points = self.one_named(*range(20))
        with self.opened_named(make_sink, Manifest(self.one_name)) as sink:
            sink.write(points)
            sink.flush()
        with make_index() as index:
            index.open()
            for using in (None, "body"):
                assert index.search(points[7].vectors["body"], k=1, using=using)[0].chunk == points[7].chunk
            with pytest.raises(UsageError):
                index.search(points[7].vectors["body"], using=VECTOR)

    def test_a_search_names_its_vector(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """The nearest by each name are those of its vectors, in its metric; filters hold."""
        points = self.named_points(*range(60))
        with self.searched_named(make_sink, make_index, points) as index:
            assert index.manifest() == self.named
            found: dict[str, list[str]] = {}
            for name, spec in self.named.schema.vectors.items():
                query = self.named_points(7, version=1)[0].vectors[name]
                hits = index.search(query, k=5, using=name)
                wanted = sorted(points, key=lambda p: -nearness(query, p.vectors[name], spec.metric))[:5]
                assert [hit.chunk for hit in hits] == [p.chunk for p in wanted]
                if spec.metric == "cosine":
                    scores = [similarity(query, p.vectors[name]) for p in wanted]
                    assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-4)
                found[name] = [hit.chunk.id for hit in hits]
                where = {"uri": points[55].chunk.uri}
                hits = index.search(points[55].vectors[name], k=1, where=where, using=name)
                assert [hit.chunk.id for hit in hits] == [points[55].id]
            assert found["title"] != found["body"]
            fetched = index.fetch([points[3].id])
            assert [dict(p.vectors).keys() for p in fetched] == [{"title", "body"}]

    def test_a_search_without_a_name_is_refused(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Where there are several vectors; and with a name that none of them has. The error lists the names."""
        points = self.named_points(1)
        with self.searched_named(make_sink, make_index, points) as index:
            for using in (None, "summary", VECTOR):
                with pytest.raises(UsageError, match=r"title.*body"):
                    index.search(points[0].vectors["title"], using=using)
            with pytest.raises(SinkError):
                index.search(points[0].vectors["title"], using="body")

    def test_an_unnamed_vector_is_searched_as_vector(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Where there is one without a name, `using` may be left out or be `vector`; any other is refused."""
        points = [point(n, kind=self.kind) for n in range(10)]
        manifest = replace(self.named, schema=IndexSchema({VECTOR: self.named.schema.vectors["body"]}))
        with make_sink() as sink:
            sink.open(manifest)
            sink.write(points)
            sink.flush()
        query = points[3].vectors[VECTOR]
        with make_index() as index:
            index.open()
            for using in (None, VECTOR):
                assert index.search(query, k=1, using=using)[0].chunk == points[3].chunk
            with pytest.raises(UsageError, match=VECTOR):
                index.search(query, using="title")

    def test_refuses_several_vectors(self, make_sink: MakeSink) -> None:
        """A sink of one vector a point refuses them when it is opened, and leaves nothing behind."""
        if make_sink().named:
            pytest.skip("this sink holds several vectors a point")
        for schema in (self.named.schema, self.one_name):
            with make_sink() as sink:
                with pytest.raises(UsageError) as raised:
                    sink.open(Manifest(schema))
                assert sink.url in str(raised.value)
            assert make_sink().manifest() is None


def nearness(query: Vector, found: Vector, metric: str) -> float:
    """Larger for nearer."""
    if metric == "l2":
        return -float(np.sum((query.values.astype(np.float64) - found.values) ** 2))
    return similarity(query, found)
