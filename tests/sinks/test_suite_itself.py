"""Each of these sinks breaks one promise, and fails the test of the suite that guards it."""

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
from penstock.sinks.memory import MemoryIndex, MemorySink, forget
from penstock.testing.sink_suite import SinkSuite
from tests.sinks.wrong_names import (
    CallsAllVector,
    IgnoresUsing,
    KeepsBeforeItRefuses,
    KeepsOneOfSeveral,
    LooksAtTheFirstSpace,
    MixesNamesUp,
    OneMetricForAll,
    OneVector,
    SearchesTheOther,
    SortsNames,
    TakesOtherNames,
    TakesTheFirst,
    TakesTheFirstName,
    WantsTheirOrder,
)
from tests.sinks.wrong_words import WRONG_WORDS

URL = "memory://wrong"
FAILURES = (AssertionError, PenstockError, KeyError, TypeError, pytest.fail.Exception)


class DropsAPoint(MemorySink):
    """... of each larger batch, without a word."""

    def write(self, points: Sequence[Point]) -> None:
        super().write(points[:-1] if len(points) > 500 else points)


class Duplicates(MemorySink):
    """... what is written again, as a store without a key does."""

    def write(self, points: Sequence[Point]) -> None:
        kept = {p.id for p in self.fetch([p.id for p in points])}
        super().write([replace(p, chunk=replace(p.chunk, id=p.id + "'")) if p.id in kept else p for p in points])


class KeepsTheFirst(MemorySink):
    """... of an id, and ignores what comes later."""

    def write(self, points: Sequence[Point]) -> None:
        kept = {p.id for p in self.fetch([p.id for p in points])}
        super().write([p for p in points if p.id not in kept])


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
    """... of the metadata, as Pinecone requires."""

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
    """... and answers an invalid filter with no hits."""

    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        try:
            return super().search(vector, k, where)  # type: ignore[arg-type]
        except UsageError:
            return []


class TellsDistances(MemoryIndex):
    """... for scores."""

    def search(self, *args: object, **options: object) -> list[Hit]:
        return [replace(hit, score=1 - hit.score) for hit in super().search(*args, **options)]  # type: ignore[arg-type]


class FiltersAfterwards(MemoryIndex):
    """... and so finds too few."""

    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        hits = super().search(vector, k)  # type: ignore[arg-type]
        wanted = dict(where or {})  # type: ignore[call-overload]
        return [hit for hit in hits if all(getattr(hit.chunk, name) == value for name, value in wanted.items())]


class IgnoresFilters(MemoryIndex):
    def search(self, vector: object, k: int = 10, where: object = None) -> list[Hit]:
        return super().search(vector, k)  # type: ignore[arg-type]


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
    *WRONG_WORDS,
]


class Suite(SinkSuite):
    shared = False
    has_words = True
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
