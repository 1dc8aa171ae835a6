"""Narrowing a search by metadata, counting its values, and hints on fields that no chunk has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.contracts import Index
from penstock.core.errors import PenstockError, SinkError, SinkUnavailable, UsageError
from penstock.core.records import VECTOR, Chunk, Point
from penstock.core.schema import Manifest, single
from penstock.jobs.search import OpenIndex
from penstock.sinks.memory import MemoryIndex, MemorySink
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource

MODEL = HashingEmbedder(32)
METADATA: list[dict[str, Any]] = [
    {"department": "hr", "year": 2023, "tags": ["draft", "new"], "author": {"name": "Ada"}, "page": "cover"},
    {"department": "hr", "year": 2024, "tags": ["new"]},
    {"department": "it", "year": "2024", "signed": "2024-05-01"},
]


class Counting(MemoryIndex):
    """Remembers the filters of its searches."""

    filters: list[Mapping[str, Any] | None]

    def search(self, vector: Any, k: int = 10, where: Mapping[str, Any] | None = None, **options: Any) -> Any:
        self.filters.append(where)
        return super().search(vector, k, where, **options)


@pytest.fixture
def filled(tmp_path: Path) -> Counting:
    url = f"memory://{tmp_path}"
    chunks = [
        Chunk(f"{n:032x}", f"doc:{n}", 0, f"text {n}", (0, 6), metadata=metadata, image=b"" if n == 2 else None)
        for n, metadata in enumerate(METADATA)
    ]
    with MemorySink(url) as sink:
        sink.open(Manifest(single(MODEL.describe())))
        vectors = MODEL.embed(chunks)
        sink.write([Point(one, {VECTOR: vector}) for one, vector in zip(chunks, vectors, strict=True)])
    index = Counting(url)
    index.filters = []
    return index


@pytest.fixture
def index(filled: Counting) -> Iterator[OpenIndex]:
    with ps.open_index(filled, model=MODEL) as index:
        yield index


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ({"departmnt": "hr"}, "no chunk has the field 'departmnt'; did you mean 'department'?"),
        ({"Department": "hr"}, "no chunk has the field 'Department'; did you mean 'department'?"),
        ({"author.nam": "Ada"}, "no chunk has the field 'author.nam'; did you mean 'author.name'?"),
        ({"pages": 3}, "no chunk has the field 'pages'; did you mean 'page'?"),
        ({"metadata.pages": 3}, "no chunk has the field 'pages'; did you mean 'page'?"),
        ({"zzz": 1}, "no chunk has the field 'zzz'"),
        (
            {"$or": [{"departmnt": "hr"}, {"$and": [{"yaer": 1}, {"year": 1}]}]},
            "no chunk has the fields 'departmnt', 'yaer'; did you mean 'department', 'year'?",
        ),
        ({"department": "sales"}, None),
        ({"author": "Ada"}, None),
        ({"department": "hr", "year": 1999}, None),
        ({"uri": "doc:9"}, None),
        ({"tags": []}, None),
        ({"x" * 5000: 1}, f"no chunk has the field {'x' * 100!r}"),
    ],
)
def test_a_field_that_no_chunk_has_is_named(index: OpenIndex, where: dict[str, Any], hint: str | None) -> None:
    """Only where nothing is found; with the nearest name that there is."""
    hits = index.search("text", where=where)
    assert list(hits) == []
    assert hits.hint == hint


def test_a_search_that_finds_something_asks_for_no_more(index: OpenIndex, filled: Counting) -> None:
    for where in (None, {"department": "hr"}, {"$or": [{"departmnt": "hr"}, {"department": "it"}]}):
        filled.filters.clear()
        assert index.search("text", where=where).hint is None
        assert filled.filters == [where]
    assert index.search("text", where={"department": "hr"}, threshold=2.0).hint is None
    filled.filters.clear()
    assert index.search("text", where={"departmnt": "hr", "year": 9}).hint
    assert filled.filters == [
        {"departmnt": "hr", "year": 9},
        None,
        {"metadata.departmnt": {"$exists": True}},
    ], "a field that a sample has is not looked for"


@pytest.mark.parametrize("error", [UsageError("cannot tell"), SinkError("is broken"), SinkUnavailable("timed out")])
@pytest.mark.parametrize("calls", [1, 2])
def test_a_hint_that_fails_fails_no_search(
    index: OpenIndex, monkeypatch: pytest.MonkeyPatch, error: PenstockError, calls: int
) -> None:
    """The search itself, with nothing found, went well."""
    search, done = Counting.search, list[object]()

    def failing(self: Counting, *args: Any, **options: Any) -> Any:
        done.append(args)
        if len(done) > calls:
            raise error
        return search(self, *args, **options)

    monkeypatch.setattr(Counting, "search", failing)
    hits = index.search("text", where={"departmnt": "hr"})
    assert (list(hits), hits.hint) == ([], None)
    assert len(done) == calls + 1


def test_an_empty_index_has_no_hint(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/empty"
    with MemorySink(url) as sink:
        sink.open(Manifest(single(MODEL.describe())))
    with ps.open_index(url, model=MODEL) as index:
        assert index.search("text", where={"departmnt": "hr"}).hint is None


def test_facets(index: OpenIndex) -> None:
    assert index.facets(["department", "tags", "type", "author.name", "none"]) == {
        "department": [("hr", 2), ("it", 1)],
        "tags": [("new", 2), ("draft", 1)],
        "type": [("text", 2), ("image", 1)],
        "author.name": [("Ada", 1)],
        "none": [],
    }
    assert index.facets("year", {"department": "hr"}) == {"year": [(2023, 1), (2024, 1)]}
    assert index.facets("metadata.page") == {"metadata.page": [("cover", 1)]}
    assert index.facets(["department"], limit=1) == {"department": [("hr", 2)]}
    for names, options, words in (
        (["uri"], {}, "not of 'uri'"),
        (["a..b"], {}, "a..b"),
        (["tags"], {"where": {"page": "x"}}, "where: page"),
        (["tags"], {"limit": 0}, "limit"),
    ):
        with pytest.raises(UsageError, match=words):
            index.facets(names, **options)  # type: ignore[arg-type]


def test_facets_of_a_store_that_cannot_count(index: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryIndex, "facets", Index.facets)
    with pytest.raises(UsageError, match="cannot count the values of a field"):
        index.facets("department")


def test_facets_follow_a_re_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.jobs.following.CHECK_INTERVAL", 1e9)
    url = f"memory://{tmp_path}/moved"

    def pipeline(chunk: str) -> ps.Pipeline:
        source = ListSource({"doc:1": b"a text of one document. it has two parts."})
        return ps.Pipeline(
            source, into=url, model=MODEL, chunk=chunk, state=tmp_path / "a.db", metadata={"department": "hr"}
        )

    pipeline("100 characters").run()
    with ps.open_index(url, model=MODEL) as index:
        assert index.facets("department") == {"department": [("hr", 1)]}
        assert pipeline("25 characters").reindex().switched
        pipeline("25 characters").drop_former()
        assert index.facets("department") == {"department": [("hr", 2)]}


def test_dates_prefixes_and_types(index: OpenIndex) -> None:
    def uris(where: dict[str, Any]) -> list[str]:
        return sorted(hit.chunk.uri for hit in index.search("text", where=where))

    assert uris({"signed": {"$gte": date(2024, 1, 1), "$lt": "2025-01-01"}}) == ["doc:2"]
    assert uris({"department": {"$prefix": "h"}, "type": "text"}) == ["doc:0", "doc:1"]
    assert uris({"year": 2024}) == ["doc:1"]
    assert uris({"tags": {"$all": ["new", "draft"]}}) == ["doc:0"]
    assert uris({"type": ["image"]}) == ["doc:2"]
