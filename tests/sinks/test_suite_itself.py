"""The suite is worth something: each of these sinks breaks one promise, and fails the test that guards it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from penstock.core.contracts import Index
from penstock.core.errors import PenstockError, SinkError, UsageError
from penstock.core.records import VECTOR, Dense, Hit, Point
from penstock.core.schema import Manifest
from penstock.sinks.memory import MemoryIndex, MemorySink, forget, scores
from penstock.testing.sink_suite import SinkSuite

URL = "memory://wrong"
FAILURES = (AssertionError, PenstockError, KeyError, TypeError, pytest.fail.Exception)


class DropsAPoint(MemorySink):
    """... of each larger batch, without a word."""

    def write(self, points: Sequence[Point]) -> None:
        super().write(points[:-1] if len(points) > 500 else points)


class Duplicates(MemorySink):
    """... what is written again, as a store without a key does."""

    def write(self, points: Sequence[Point]) -> None:
        there = {p.id for p in self.fetch([p.id for p in points])}
        super().write([replace(p, chunk=replace(p.chunk, id=p.id + "'")) if p.id in there else p for p in points])


class KeepsTheFirst(MemorySink):
    """... of an id, and ignores what comes later."""

    def write(self, points: Sequence[Point]) -> None:
        there = {p.id for p in self.fetch([p.id for p in points])}
        super().write([p for p in points if p.id not in there])


class FirstOfABatch(MemorySink):
    """... wins over the others of that id."""

    def write(self, points: Sequence[Point]) -> None:
        super().write(points[::-1])


class MissesTheAbsent(MemorySink):
    """... and raises when an id to delete is not there."""

    def delete(self, ids: Sequence[str]) -> None:
        if len(self.fetch(ids)) < len(set(ids)):
            raise SinkError("no such id")
        super().delete(ids)


class DeletesNothing(MemorySink):
    def delete(self, ids: Sequence[str]) -> None:
        """... and says it did."""


class MergesMetadata(MemorySink):
    """... so that old keys survive, as Chroma does."""

    def write(self, points: Sequence[Point]) -> None:
        old = {p.id: p.chunk.metadata for p in self.fetch([p.id for p in points])}
        merged = [replace(p.chunk, metadata={**old.get(p.id, {}), **p.chunk.metadata}) for p in points]
        super().write([replace(p, chunk=chunk) for p, chunk in zip(points, merged, strict=True)])


class DropsNulls(MemorySink):
    """... of the metadata, as Pinecone wants it."""

    def write(self, points: Sequence[Point]) -> None:
        kept = [{key: value for key, value in p.chunk.metadata.items() if value is not None} for p in points]
        chunks = [replace(p.chunk, metadata=metadata) for p, metadata in zip(points, kept, strict=True)]
        super().write([replace(p, chunk=chunk) for p, chunk in zip(points, chunks, strict=True)])


class RoundsVectors(MemorySink):
    """... to half precision."""

    def write(self, points: Sequence[Point]) -> None:
        halves = [
            np.float32(np.float16(p.vectors[VECTOR].values)) for p in points if isinstance(p.vectors[VECTOR], Dense)
        ]
        super().write([Point(p.chunk, {VECTOR: Dense(v)}) for p, v in zip(points, halves, strict=True)])


class CutsTexts(MemorySink):
    """... at 65,535 characters."""

    def write(self, points: Sequence[Point]) -> None:
        super().write([replace(p, chunk=replace(p.chunk, text=p.chunk.text[:65535])) for p in points])


class ForgetsHeadings(MemorySink):
    def write(self, points: Sequence[Point]) -> None:
        super().write([replace(p, chunk=replace(p.chunk, headings=())) for p in points])


class ListsTwice(MemorySink):
    """... the last id of a page, as paging by offset does when rows move."""

    def ids(self) -> Iterator[Sequence[str]]:
        last: list[str] = []
        for page in super().ids():
            yield last + list(page)
            last = [page[-1]]


class ListsAllAtOnce(MemorySink):
    def ids(self) -> Iterator[Sequence[str]]:
        yield [id for page in super().ids() for id in page]


class FetchRaises(MemorySink):
    """... when an id is not there."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        if len(found := super().fetch(ids)) < len(set(ids)):
            raise SinkError("no such id")
        return found


class ForgetsTheManifest(MemorySink):
    """... when closed."""

    def close(self) -> None:
        self._store.manifest = None


class TakesAnyOwner(MemorySink):
    """... that opens it."""

    def open(self, manifest: Manifest) -> None:
        super().open(manifest)
        self.replace_manifest(manifest)


class TakesAnySpace(MemorySink):
    def open(self, manifest: Manifest) -> None:
        if self.manifest() is None:
            super().open(manifest)


class TakesAnyDimension(MemorySink):
    def write(self, points: Sequence[Point]) -> None:
        super().write([Point(p.chunk, {VECTOR: Dense(np.resize(p.vectors[VECTOR].values, 8))}) for p in points])


class ClosesOnce(MemorySink):
    def close(self) -> None:
        if not self.__dict__.pop("once", True):
            raise SinkError("closed already")
        self.__dict__["once"] = False


class HoldsALock(MemorySink):
    """... from its constructor on, and so does not pickle."""

    def __init__(self) -> None:
        import threading

        super().__init__(URL)
        self.lock = threading.Lock()


class TellsItsPassword(MemorySink):
    def __repr__(self) -> str:
        return "TellsItsPassword(password='hunter2')"


class LosesOnMaintenance(MemorySink):
    def maintain(self) -> None:
        for page in list(self.ids()):
            self.delete(page[:1])


class WritesOverOthers(MemorySink):
    """... what they wrote since it looked: all is read, changed and put back."""

    def write(self, points: Sequence[Point]) -> None:
        before = dict(self._store.points)
        time.sleep(0.01)
        super().write(points)
        self._store.points = before | {p.id: self._store.points[p.id] for p in points}


class ThinksInThrees(MemoryIndex):
    """... as SQL does: what is absent passes no negation."""

    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        hits = super().search(vector, k, where)  # type: ignore[arg-type]
        return [hit for hit in hits if hit.chunk.page is not None or "$n" not in str(where)]


class UnderstandsEverything(MemoryIndex):
    """... and answers what it cannot mean with nothing."""

    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        try:
            return super().search(vector, k, where)  # type: ignore[arg-type]
        except UsageError:
            return []


class TellsDistances(MemoryIndex):
    """... for scores."""

    def search(self, *given: object, **options: object) -> list[Hit]:
        return [replace(hit, score=1 - hit.score) for hit in super().search(*given, **options)]  # type: ignore[arg-type]


class FiltersAfterwards(MemoryIndex):
    """... and so finds too few."""

    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        hits = super().search(vector, k)  # type: ignore[arg-type]
        wanted = dict(where or {})  # type: ignore[call-overload]
        return [hit for hit in hits if all(getattr(hit.chunk, name) == value for name, value in wanted.items())]


class IgnoresFilters(MemoryIndex):
    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        return super().search(vector, k)  # type: ignore[arg-type]


class MixesNamesUp(MemorySink):
    """... and gives each vector back under another name."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [
            Point(p.chunk, dict(zip(p.vectors, reversed(list(p.vectors.values())), strict=True)))
            for p in super().fetch(ids)
        ]


class KeepsOneOfSeveral(MemorySink):
    """... and drops the others without a word."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [Point(p.chunk, dict(list(p.vectors.items())[:1])) for p in super().fetch(ids)]


class TakesOtherNames(MemorySink):
    """... of points than those of its schema."""

    def write(self, points: Sequence[Point]) -> None:
        missing = [(p, self._manifest.schema.vectors.keys() - p.vectors.keys()) for p in points]
        super().write([p for p, names in missing if not names and len(p.vectors) == 2])


class LooksAtTheFirstSpace(MemorySink):
    """... only, when it compares schemas."""

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        name = next(iter(kept.schema.vectors)) if kept else ""
        other = manifest.schema.vectors.get(name)
        if kept is None or other is None or not kept.schema.vectors[name].same_space(other):
            super().open(manifest)


class WantsTheirOrder(MemorySink):
    """... of the names, to be that of the schema."""

    def write(self, points: Sequence[Point]) -> None:
        if any(list(p.vectors) != list(self._manifest.schema.vectors) for p in points):
            raise SinkError("wrong order")
        super().write(points)


class SortsNames(MemorySink):
    """... in the manifest that it keeps."""

    def manifest(self) -> Manifest | None:
        if (kept := super().manifest()) is None:
            return None
        vectors = dict(sorted(kept.schema.vectors.items()))
        return replace(kept, schema=replace(kept.schema, vectors=vectors))


class CallsAllVector(MemorySink):
    """... whatever its name is, where there is one."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [Point(p.chunk, {VECTOR: next(iter(p.vectors.values()))}) for p in super().fetch(ids)]


class OneVector(MemorySink):
    """Right, and of one vector a point."""

    named = False


class TakesTheFirst(MemorySink):
    """... vector of several, though it holds one a point."""

    named = False

    def open(self, manifest: Manifest) -> None:
        spec = next(iter(manifest.schema.vectors.values()))
        super().open(replace(manifest, schema=replace(manifest.schema, vectors={VECTOR: spec})))


class KeepsBeforeItRefuses(MemorySink):
    """... what it is opened with."""

    named = False

    def open(self, manifest: Manifest) -> None:
        if self.manifest() is None:
            self._store.manifest = manifest
        super().open(manifest)


class IgnoresUsing(MemoryIndex):
    """... and searches the first vector that the query fits."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        for name in self.manifest().schema.vectors:
            try:
                return super().search(vector, k, where, using=name)  # type: ignore[arg-type]
            except SinkError:
                continue
        raise SinkError("no such vector")


class TakesTheFirstName(MemoryIndex):
    """... where a search names none."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        using = using or next(iter(self.manifest().schema.vectors))
        return super().search(vector, k, where, using=using)  # type: ignore[arg-type]


class SearchesTheOther(MemoryIndex):
    """... vector of the two, with that of the point that the query is nearest to."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        hits = super().search(vector, k, where, using=using)  # type: ignore[arg-type]
        names = [name for name in self.manifest().schema.vectors if name != using]
        if using is None or not names or not hits:
            return hits
        (nearest,) = self.fetch([hits[0].chunk.id])
        return super().search(nearest.vectors[names[0]], k, where, using=names[0])  # type: ignore[arg-type]


class OneMetricForAll(MemoryIndex):
    """... names, namely the first one's."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        hits = super().search(vector, 1000, where, using=using)  # type: ignore[arg-type]
        found = {p.id: p for p in self.fetch([hit.chunk.id for hit in hits])}
        spec = next(iter(self.manifest().schema.vectors.values()))
        values = [found[hit.chunk.id].vectors[using or VECTOR] for hit in hits]
        ranked = scores(vector, values, spec.metric)  # type: ignore[arg-type]
        return [Hit(float(ranked[i]), hits[i].chunk) for i in np.argsort(-ranked)[:k]]


WRONG: list[tuple[type[MemorySink] | type[MemoryIndex], str]] = [
    (DropsAPoint, "test_pages_of_many"),
    (DropsAPoint, "test_the_largest_batch"),
    (Duplicates, "test_writing_again_changes_nothing"),
    (KeepsTheFirst, "test_the_newest_of_an_id_counts"),
    (FirstOfABatch, "test_an_id_twice_in_a_batch"),
    (MissesTheAbsent, "test_deletions"),
    (MissesTheAbsent, "test_empty_batches"),
    (DeletesNothing, "test_deletions"),
    (MergesMetadata, "test_metadata_comes_back"),
    (DropsNulls, "test_metadata_comes_back"),
    (RoundsVectors, "test_writing_again_changes_nothing"),
    (CutsTexts, "test_long_texts"),
    (ForgetsHeadings, "test_every_field_comes_back"),
    (ListsTwice, "test_pages_of_many"),
    (ListsAllAtOnce, "test_pages_of_many"),
    (FetchRaises, "test_fetch_leaves_absent_ids_out"),
    (ForgetsTheManifest, "test_the_manifest_is_kept"),
    (TakesAnyOwner, "test_the_manifest_is_kept"),
    (TakesAnySpace, "test_refuses_another_space"),
    (TakesAnyDimension, "test_refuses_another_dimension"),
    (ClosesOnce, "test_close_is_idempotent"),
    (HoldsALock, "test_pickles_before_open"),
    (TellsItsPassword, "test_shows_no_secret"),
    (LosesOnMaintenance, "test_maintenance_changes_nothing"),
    (WritesOverOthers, "test_two_write_at_once"),
    (ThinksInThrees, "test_filters"),
    (UnderstandsEverything, "test_invalid_filters"),
    (TellsDistances, "test_search_finds_the_nearest_first"),
    (FiltersAfterwards, "test_search_within"),
    (IgnoresFilters, "test_search_within"),
    (MixesNamesUp, "test_named_vectors_come_back"),
    (KeepsOneOfSeveral, "test_named_vectors_come_back"),
    (TakesOtherNames, "test_refuses_points_with_other_names"),
    (LooksAtTheFirstSpace, "test_refuses_other_names"),
    (TakesAnySpace, "test_refuses_other_names"),
    (WantsTheirOrder, "test_the_order_of_names_does_not_matter"),
    (SortsNames, "test_the_manifest_of_named_vectors_is_kept"),
    (CallsAllVector, "test_one_vector_may_have_a_name"),
    (TakesTheFirst, "test_refuses_several_vectors"),
    (KeepsBeforeItRefuses, "test_refuses_several_vectors"),
    (IgnoresUsing, "test_a_search_without_a_name_is_refused"),
    (IgnoresUsing, "test_an_unnamed_vector_is_searched_as_vector"),
    (IgnoresUsing, "test_a_search_leaves_an_only_name_out"),
    (TakesTheFirstName, "test_a_search_without_a_name_is_refused"),
    (SearchesTheOther, "test_a_search_names_its_vector"),
    (OneMetricForAll, "test_a_search_names_its_vector"),
]


class Suite(SinkSuite):
    shared = False
    secret = "hunter2"


def run(kind: type[MemorySink] | type[MemoryIndex], test: str) -> None:
    """One test of the suite against this sink, or against this index over a right sink."""

    def sink() -> MemorySink:
        if not issubclass(kind, MemorySink):
            return MemorySink(URL)
        return kind() if kind is HoldsALock else kind(URL)

    def index() -> Index:
        return kind(URL) if issubclass(kind, MemoryIndex) else MemoryIndex(URL)

    function = getattr(Suite(), test)
    fixtures = {"make_sink": sink, "make_index": index, "common": 0, "where": {"page": {"$nin": [1, 2]}}}
    try:
        function(**{name: fixtures[name] for name in inspect.signature(function).parameters})
    finally:
        forget(URL)


@pytest.mark.parametrize(("kind", "test"), WRONG, ids=[f"{kind.__name__}-{test}" for kind, test in WRONG])
def test_a_wrong_sink_fails(kind: type[MemorySink] | type[MemoryIndex], test: str) -> None:
    """The wrong sink fails the test; the right one passes the same, run in the same way."""
    with pytest.raises(FAILURES):
        run(kind, test)
    run(OneVector if kind in (TakesTheFirst, KeepsBeforeItRefuses) else MemorySink, test)
