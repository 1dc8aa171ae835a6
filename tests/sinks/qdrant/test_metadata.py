"""How `qdrant://` keeps metadata to filter by them: whatever their fields are, and in older collections not at all."""

from __future__ import annotations

import pytest

from penstock.core.errors import UsageError
from penstock.sinks.lengths import key
from penstock.sinks.qdrant import QdrantIndex, QdrantSink
from penstock.sinks.qdrant.fields import NUMBERS
from penstock.sinks.terms import TERMS
from penstock.testing.emulators.qdrant import Emulator
from penstock.testing.sink_suite import point
from tests.sinks.counted import equal_counts, too_many_values
from tests.sinks.qdrant import DENSE, at
from tests.sinks.termed import LONG, an_earlier_version, fields_of_any_name, found, long_texts, numbers_of_any_size

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")


def test_metadata_of_any_kind(url: str) -> None:
    """Fields of any name, texts of any length and numbers of any size are written, and told apart."""
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        index.open()
        fields_of_any_name(sink, index)
        long_texts(sink, index)
        numbers_of_any_size(sink, index)
        assert found(index, {"long": {"$prefix": LONG}}) == [201, 202, 203, 204, 205]
        with pytest.raises(UsageError, match="512 characters"):
            found(index, {"long": {"$prefix": f"{LONG}y"}})
        assert found(index, {"a": {"$prefix": "b"}}) == [100]


def test_a_collection_of_an_earlier_version(url: str, request: pytest.FixtureRequest) -> None:
    """It is written and read as before. Its metadata are not filtered by, its types are."""
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        points = an_earlier_version(sink, index)
    if "127.0.0.1" in url:
        collection = request.getfixturevalue("server").collections["notes"]
        assert collection.indexes.keys() == {"uri", "page", "ordinal"}
        assert not collection.points[key(points[1].id)][1].keys() & {TERMS, NUMBERS}


def test_few_indexes_whatever_the_fields(server: Emulator) -> None:
    """A thousand fields take no more indexes than one, and no request for each."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(n, metadata={f"field {n}": n}) for n in range(1000)])
        before = len(server.requests)
        sink.open(DENSE)
        assert not [request for request in server.requests[before:] if request.startswith("PUT")]
    indexes = server.collections["notes"].indexes
    assert len(indexes) == 7
    assert indexes[TERMS] == {"type": "keyword", "prefix": True}


def test_a_server_that_matches_no_prefixes() -> None:
    """All other filters are answered; the message says what a prefix needs."""
    with Emulator(matches_prefixes=False) as old, QdrantSink(at(old)) as sink, QdrantIndex(at(old)) as index:
        sink.open(DENSE)
        sink.write([point(1, metadata={"a": "b"})])
        assert old.collections["notes"].indexes[TERMS] == {"type": "keyword"}
        index.open()
        assert found(index, {"a": "b"}) == found(index, {"a": {"$prefix": ""}}) == [1]
        for ask in (
            lambda: found(index, {"a": {"$prefix": "b"}}),
            lambda: index.facets(["a"], {"a": {"$prefix": "b"}}),
        ):
            with pytest.raises(UsageError, match="upgrade"):
                ask()


def test_counting_reads_only_the_points_that_have_the_field(server: Emulator) -> None:
    """In pages, without their texts, vectors and images."""
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(n, metadata={"a": n % 2} if n < 600 else {}) for n in range(3000)])
        index.open()
        before = len(server.requests)
        assert index.facets(["a"]) == {"a": [(0, 300), (1, 300)]}
        assert len(server.requests) - before == 2


def test_values_of_equal_counts(url: str) -> None:
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        index.open()
        equal_counts(sink, index)


def test_a_field_of_too_many_values(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        index.open()
        too_many_values(sink, index, monkeypatch)
