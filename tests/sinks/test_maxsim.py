"""MaxSim by ourselves: exact scores, shortlists, and the stores that are searched so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import SinkError, UsageError
from penstock.core.pieces import PIECE
from penstock.core.precision import encoded, floats, to_bytes
from penstock.core.records import VECTOR, MultiVector
from penstock.core.schema import Manifest, single
from penstock.sinks import lance, maxsim
from penstock.sinks.lance import LanceIndex, LanceSink
from penstock.sinks.lance.compact import compact
from penstock.sinks.memory import MemoryIndex, MemorySink, forget
from tests.sinks.late import (
    COUNTS,
    DIM,
    MANIFEST,
    finds_the_best_of_a_shortlist,
    keeps_pages_of_any_length,
    late,
    matrix,
    plain,
    unit,
)


@pytest.mark.parametrize("block", [1 << 20, DIM * 4 * 7, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_scores_are_those_of_the_definition(
    block: int, dtype: Any, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of no, one and 4,097 vectors, wherever blocks end; zeros, and halves too small to be normal."""
    monkeypatch.setattr(maxsim, "BLOCK", block)
    flat = matrix(sum(COUNTS), 1)
    flat[5], flat[6] = 0, 1e-6
    query = matrix(5, 2)
    if dtype in (np.int8, np.uint8):  # their lengths are 1, rounded
        flat, query = unit(flat), unit(query) if metric == "cosine" else query
        kept, wanted = encoded(flat, "int8" if dtype is np.int8 else "bits"), "dot"
    else:
        kept, wanted = flat.astype(dtype), metric
    found = maxsim.Query(MultiVector(query), metric, "x://").scores(kept, COUNTS)
    np.testing.assert_allclose(found, plain(query, floats(kept), wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lengths_are_looked_at_as_vectors_are_written(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are 1, no search computes them; else each does, also where it was not noted yet."""
    query, ones, others = matrix(5, 2), unit(matrix(sum(COUNTS), 1)), matrix(sum(COUNTS), 1)
    ask = maxsim.Query(MultiVector(query), "cosine", "x://", precision)
    others[-4] = 0
    for flat, before in ((ones, False), (others, False), (ones, True)):
        documents = np.split(encoded(flat, precision), np.cumsum(COUNTS)[:-1])
        blobs = [to_bytes(each) if before else maxsim.packed(each) for each in documents]
        for blob, document in zip(blobs, documents, strict=True):
            np.testing.assert_array_equal(maxsim.unpacked(blob, precision, DIM), document)
        best: maxsim.Best[int] = maxsim.Best(ask, 100)
        with monkeypatch.context() as patch:
            if flat is ones and not before:
                patch.setattr(maxsim, "_lengths", lambda _: pytest.fail("lengths"))
            best.add(range(len(blobs)), blobs)
        scores = {key: score for score, key in best.found}
        wanted = {key: score for key, score in enumerate(plain(query, flat, "cosine")) if COUNTS[key]}
        assert scores == pytest.approx(wanted, rel=2e-3 if precision == "fp16" else 1e-5)


@pytest.mark.parametrize("values", [np.empty((0, 4)), np.full((2, 4), np.nan)], ids=["empty", "nan"])
def test_queries_that_nothing_is_near_are_refused(values: Any) -> None:
    with pytest.raises(SinkError, match="query of x://"):
        maxsim.Query(MultiVector(values.astype(np.float32)), "cosine", "x://")


def test_a_pooled_vector_has_a_direction() -> None:
    """That of the mean, or where there is none, any."""
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    for values in (opposite, np.empty((0, 2), np.float32), np.zeros((3, 2), np.float32)):
        assert np.linalg.norm(maxsim.pooled(values)) == pytest.approx(1)
    assert maxsim.pooled(np.array([[2, 0], [0, 1]], np.float32)) == pytest.approx([0.5**0.5, 0.5**0.5])


def test_vectors_are_read_a_few_megabytes_at_a_time() -> None:
    sizes = [("a", 10 << 20), ("b", 6 << 20), ("c", 1), ("d", 40 << 20), ("e", 5)]
    assert list(maxsim.pages(sizes)) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert list(maxsim.pages([])) == []


def test_a_shortlist_is_of_all_where_they_are_few_and_of_a_small_part_where_they_are_many() -> None:
    assert [maxsim.shortlist(count, 10) for count in (0, 7, maxsim.ALL)] == [0, 7, maxsim.ALL]
    assert maxsim.shortlist(10_000, 10) < 4_000
    assert maxsim.shortlist(10_000, 1_000) == 4_000
    assert maxsim.shortlist(10_000_000, 4_096) == maxsim.LONGEST


def test_pages_of_no_one_and_many_vectors(tmp_path: Path) -> None:
    pytest.importorskip("sqlite_vec")
    from penstock.sinks.sqlite import SqliteIndex, SqliteSink

    url = f"sqlite://{tmp_path}/late.db"
    for sink, index in (
        (MemorySink("memory://late"), MemoryIndex("memory://late")),
        (SqliteSink(url), SqliteIndex(url)),
        (LanceSink(f"lance://{tmp_path}"), LanceIndex(f"lance://{tmp_path}")),
    ):
        with sink, index:
            sink.open(MANIFEST)
            index.open()
            keeps_pages_of_any_length(sink, index)
    forget("memory://late")


@pytest.mark.parametrize("store", ["sqlite", "lance"])
def test_the_best_of_a_shortlist_and_of_all(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`?exact` compares all, in another generation as well; a sink does not know it, nor anybody other values."""
    pytest.importorskip("sqlite_vec")
    from penstock.sinks.sqlite import SqliteIndex, SqliteSink

    make_sink, make_index = {"sqlite": (SqliteSink, SqliteIndex), "lance": (LanceSink, LanceIndex)}[store]
    url = f"{store}://{tmp_path}/late"
    sink, index, exact = make_sink(url), make_index(url), make_index(f"{url}?exact")
    with sink.generation(1) as new, index.generation(1) as few, exact.generation(1) as all_:
        new.open(MANIFEST)
        few.open()
        all_.open()
        finds_the_best_of_a_shortlist(new, few, all_, monkeypatch)
    with pytest.raises(UsageError, match="unknown option 'exact'"):
        make_sink(f"{url}?exact")
    with pytest.raises(UsageError, match="exact=perhaps"):
        make_index(f"{url}?exact=perhaps")


def test_a_table_without_pooled_vectors_is_searched_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As LanceDB's were in earlier versions; they are written to as before."""
    url = f"lance://{tmp_path}"
    with monkeypatch.context() as patch, LanceSink(url) as sink:
        patch.setattr(lance.late, "fields", lambda _: [])
        sink.open(MANIFEST)
    with LanceSink(url) as sink, LanceIndex(url) as index:
        sink.open(MANIFEST)
        index.open()
        finds_the_best_of_a_shortlist(sink, index, index, monkeypatch)


def test_many_vectors_are_read_from_lancedb_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of half a megabyte: no more than a piece of them at once, whatever the search."""
    url, pages = f"lance://{tmp_path}", 60
    values, largest = matrix(1030, 1, 128), 0
    add_rows = maxsim.Best.add_rows

    def measured(self: Any, keys: Any, flat: Any, counts: Any) -> None:
        nonlocal largest
        largest = max(largest, flat.nbytes)
        add_rows(self, keys, flat, counts)

    monkeypatch.setattr(maxsim.Best, "add_rows", measured)
    with LanceSink(url) as sink, LanceIndex(url) as index:
        sink.open(Manifest(single(replace(MANIFEST.schema.only, dim=128))))
        for start in range(0, pages, 20):
            sink.write([late(n, values + n) for n in range(start, start + 20)])
        index.open()
        assert len(index.search(MultiVector(values[:4]), k=pages)) == pages
    assert 0 < largest <= PIECE


def test_rows_that_move_during_a_search_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction rewrites LanceDB's table between two pieces, and removes the files of the version that is read."""
    url, points = f"lance://{tmp_path}", [late(n, matrix(3, n)) for n in range(60)]
    add_rows, moved = maxsim.Best.add_rows, []
    with LanceSink(url) as sink, LanceIndex(url) as index:
        sink.open(MANIFEST)
        sink.write(points[:30])
        sink.write(points[30:])
        sink.delete([points[0].id])
        index.open()

        def moving(self: Any, *given: Any, **options: Any) -> None:
            add_rows(self, *given, **options)
            if not moved:
                moved.append(True)
                index.search(MultiVector(matrix(2, 0)), k=1)
                sink.write(points[1:20])
                compact(url, clean=True)
                assert index.count() == 59

        monkeypatch.setattr(maxsim.Best, "add_rows", moving)
        hits = index.search(MultiVector(points[40].vectors[VECTOR].values), k=100)
    assert hits[0].chunk.ordinal == 40
    assert sorted(hit.chunk.ordinal for hit in hits) == list(range(1, 60))
