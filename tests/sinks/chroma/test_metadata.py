"""How `chroma://` keeps metadata to filter by them, and what it asks Chroma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.core.records import VECTOR, Metadata
from penstock.sinks.chroma import ChromaIndex, ChromaSink
from penstock.sinks.chroma.filters import MOST_CONDITIONS
from penstock.sinks.terms import TERMS
from penstock.testing.sink_suite import point
from tests.sinks.chroma import MANIFEST, index_of
from tests.sinks.counted import equal_counts, too_many_values
from tests.sinks.termed import LONG, an_earlier_version, fields_of_any_name, found, long_texts, numbers_of_any_size

chromadb = pytest.importorskip("chromadb")


def test_metadata_of_any_kind(url: str) -> None:
    """Fields of any name, texts of any length and numbers of any size are written, and told apart."""
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        with index_of(url) as index:
            fields_of_any_name(sink, index)
            long_texts(sink, index)
            numbers_of_any_size(sink, index)
            assert found(index, {"long": {"$prefix": f"{LONG}y"}}) == [202]


def test_a_collection_of_an_earlier_version(url: str) -> None:
    """It is written and read as before, without terms. Its metadata are not filtered by, its types are."""
    with ChromaSink(url) as sink, ChromaIndex(url) as index:
        an_earlier_version(sink, index)
        kept = index._opened()[0].get(include=["metadatas"])["metadatas"]
    assert all(metadata.keys() == {"uri", "ordinal", "page", "chunk"} for metadata in kept)


WHERE: tuple[tuple[Metadata, int], ...] = (
    ({"a": 1}, 0),
    ({"a": {"$ne": 1}, "type": "text"}, 0),
    ({"a": {"$exists": True}, "$not": {"b": ["x", "y"]}}, 0),
    ({"a": {"$gt": 1}}, 20),
    ({"a": {"$gt": 1}, "b": "x"}, 10),
    ({"b": {"$prefix": "x"}, "$not": {"a": {"$lt": 5}}}, 20),
    ({"$or": [{"a": {"$gt": 1}}, {"b": "z"}]}, 30),
    ({"$or": [{"a": {"$gt": 1}}, {"text": "text 1"}]}, 50),
    ({"a": list(range(MOST_CONDITIONS + 1))}, 20),
    ({"b": "x", "a": list(range(MOST_CONDITIONS + 1))}, 10),
)
"""Filters, and how many of the points are read to test them: none where Chroma has words for all of it."""


def test_what_chroma_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its index where it has words for the filter, else only the points that can pass."""
    url = f"chroma://{tmp_path}/notes"
    metadata: list[dict[str, Any]] = [{"a": 1}, {"a": 2, "b": "x"}, {"b": "z"}, {}, {}]
    read, get = list[int](), chromadb.Collection.get

    def reading(*args: Any, **options: Any) -> Any:
        answer = get(*args, **options)
        read.append(len(answer["ids"]))
        return answer

    monkeypatch.setattr(chromadb.Collection, "get", reading)
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        sink.write([point(n, metadata=metadata[n % 5]) for n in range(50)])
        with index_of(url) as index:
            for where, tested in WHERE:
                read.clear()
                index.search(point(1).vectors[VECTOR], k=5, where=where)
                assert sum(read) == tested, where
            read.clear()
            assert index.facets(["b"], {"a": 2}) == {"b": [("x", 10)]}
            assert sum(read) == 10


def test_terms_of_an_earlier_version_of_a_point_are_gone(url: str) -> None:
    """An upsert merges metadata: a point without terms has none left."""
    with ChromaSink(url) as sink, ChromaIndex(url) as index:
        sink.open(MANIFEST)
        sink.write([point(1, metadata={"a": 1}), point(2)])
        sink.write([point(1), point(2, metadata={"a": 1})])
        index.open()
        kept = index._opened()[0].get(include=["metadatas"])
    assert {id[-1]: TERMS in metadata for id, metadata in zip(kept["ids"], kept["metadatas"], strict=True)} == {
        "1": False,
        "2": True,
    }


def test_values_of_equal_counts(url: str) -> None:
    with ChromaSink(url) as sink, ChromaIndex(url) as index:
        sink.open(MANIFEST)
        index.open()
        equal_counts(sink, index)


def test_a_field_of_too_many_values(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChromaSink(url) as sink, ChromaIndex(url) as index:
        sink.open(MANIFEST)
        index.open()
        too_many_values(sink, index, monkeypatch)


def test_pages_of_large_points_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are read with their points, whatever is asked: memory does not grow with them."""
    url = f"chroma://{tmp_path}/notes"
    monkeypatch.setattr("penstock.sinks.chroma.sink.FIRST", 4)
    monkeypatch.setattr("penstock.sinks.chroma.sink.PAGE_BYTES", 10_000)
    limits, get = list[int](), chromadb.Collection.get

    def reading(*args: Any, **options: Any) -> Any:
        limits.append(options["limit"])
        return get(*args, **options)

    monkeypatch.setattr(chromadb.Collection, "get", reading)
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        sink.write([point(n, image=b"x" * 3000) for n in range(12)])
        with index_of(url) as index:
            assert index.facets(["type"]) == {"type": [("image", 12)]}
    assert limits[0] == 4
    assert set(limits[1:]) == {2}
