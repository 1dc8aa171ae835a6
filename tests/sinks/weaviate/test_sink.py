"""`weaviate://` keeps the promises of a sink: over REST and gRPC with an emulator and the official client."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import Rejected, SinkError, SpaceMismatch, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Dense, MultiVector, Point
from penstock.core.schema import Manifest
from penstock.testing.sink_suite import (
    DIM,
    FILTERS,
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
)
from tests.sinks.mixed import keeps_and_finds, schema
from tests.sinks.weaviate import DENSE, SECRET, at, vector_of
from tests.sinks.wordless import without_words

pytest.importorskip("weaviate")
from penstock.sinks.weaviate import WeaviateIndex, WeaviateSink, wire
from penstock.testing.emulators.weaviate import Emulator


class TestServer(SinkSuite):
    secret = SECRET
    has_words = True
    orders_texts = False
    finds_prefixes = False

    @pytest.fixture
    def make_sink(self, server: Emulator) -> MakeSink:
        return lambda: WeaviateSink(at(server))

    @pytest.fixture
    def make_index(self, server: Emulator) -> MakeIndex:
        return lambda: WeaviateIndex(at(server))

    @pytest.fixture
    def aliased(self, server: Emulator) -> Aliased:
        return lambda alias: ["Notes", "Notes_1"].index(server.aliases[alias])


@pytest.mark.heavy
class TestMultiVector(TestServer):
    kind = MultiVector


def dense(id: str, values: object) -> Point:
    return Point(replace(point(1).chunk, id=id), {VECTOR: Dense(np.array(values, np.float32))})


def test_many_vectors_of_other_lengths(server: Emulator) -> None:
    """They come back as they were, zeros too; cosines are of length 1, products of the lengths that they have."""
    values = np.array([[3, 4], [0, 0], [-2, 0]], np.float32)
    long = [replace(point(1), vectors={VECTOR: MultiVector(values)})]
    query = MultiVector(np.array([[0, 5], [-1, 0]], np.float32))
    for metric, score in (("cosine", 1.8), ("dot", 22.0)):
        with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
            sink.open(Manifest(respec(DENSE.schema, kind="MultiVector", metric=metric, dim=2)))
            sink.write(long)
            holds(sink, long)
            index.open()
            assert [hit.score for hit in index.search(query)] == pytest.approx([score])
            with pytest.raises(SinkError, match="no rows"):
                index.search(MultiVector(np.empty((0, 2), np.float32)))
            sink.drop()


def test_many_vectors_that_are_none(server: Emulator) -> None:
    """No rows, or NaN in them: by id, and the rest is written."""
    shapes = [np.empty((0, DIM), np.float32), np.full((2, DIM), np.nan, np.float32)]
    bad = [replace(point(n), vectors={VECTOR: MultiVector(v)}) for n, v in enumerate(shapes, 2)]
    good = point(1, kind=MultiVector)
    with WeaviateSink(at(server)) as sink:
        sink.open(Manifest(respec(DENSE.schema, kind="MultiVector")))
        with pytest.raises(Rejected) as raised:
            sink.write([*bad, good])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [good])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_of_any_length_stay_as_they_are(server: Emulator, metric: str) -> None:
    """To the bit, with the score of the metric: small, huge, denormal, zero and minus zero."""
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(DIM) * 10.0**n for n in (-40, -20, -3, 0, 3, 15)] + [np.zeros(DIM), -np.zeros(DIM)]
    points = [dense(f"point {n}", values) for n, values in enumerate(vectors)] + [point(7)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(Manifest(respec(DENSE.schema, metric=metric)))
        sink.write(points)
        holds(sink, points)
        index.open()
        hit = index.search(vector_of(points[-1]), k=20, where={"id": points[-1].id})[0]
    assert hit.score == pytest.approx({"cosine": 1, "dot": 1, "l2": 0}[metric], abs=1e-5)


def test_vectors_of_several_kinds(server: Emulator) -> None:
    """Dense and many vectors a point, named and not, each under a name of its own; one without a name is `dense`."""
    keeps_and_finds(WeaviateSink(at(server)), WeaviateIndex(at(server)), schema(WeaviateSink.accepts))
    kept = server.collections["Notes"].schema
    assert kept["vectorConfig"].keys() == {"dense", "vector_dense", "vector_vector_dense", "vector_pages"}
    names = {one["name"] for one in kept["properties"] if one["name"].startswith("original")}
    assert names == {"original", "original_dense", "original_vector_dense", "original_pages"}


IDS = ["", "a", "A" * 32, "{" + "a" * 32 + "}", "a" * 32, "0" * 31, "x" * 3000, "🌊 it's", "../..", "7"]


def test_any_id_will_do(server: Emulator) -> None:
    """Ids that are no UUIDs, or look like one, are ids apart."""
    points = [dense(id, vector_of(point(n)).values) for n, id in enumerate(IDS)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        for id in IDS:
            assert [hit.chunk.id for hit in index.search(vector_of(points[0]), where={"id": id})] == [id]
        assert sink.fetch(["\ud800"]) == []
        sink.delete(["\ud800", *IDS[:5]])
        holds(sink, points[5:])


@pytest.mark.parametrize("unequal", [True, False])
def test_filters_mean_the_same_in_old_servers_and_new(monkeypatch: pytest.MonkeyPatch, unequal: bool) -> None:
    """Whatever NotEqual makes of what is absent, and without Not; spaces around a text count."""
    monkeypatch.delenv("WEAVIATE_API_KEY", raising=False)
    points = [point(n, page=n % 7 or None, uri=f" {n // 10} "[n % 2 :]) for n in range(30)]
    more: tuple[dict[str, Any], ...] = (
        {"uri": " 1 "},
        {"uri": {"$ne": "1 "}},
        {"uri": {"$nin": ["1 ", "the"]}},
        {"id": {"$ne": points[3].id}},
        {"id": {"$nin": [points[3].id, points[4].id]}},
        {"text": points[5].chunk.text},
        {"$not": {"page": {"$lt": 3}}},
        {"$not": {"ordinal": [1, 2]}},
        {"$not": {"$and": [{"page": 3}, {"$not": {"page": None}}]}},
        {"uri": None},
        {"uri": {"$ne": None}},
        {"page": {"$ne": 2**60}},
        {"page": 2**60},
        {"uri": ["\ud800"]},
        {"page": {"$nin": []}},
    )
    with (
        Emulator(version="1.33.0", absent_is_unequal=unequal) as old,
        WeaviateSink(at(old)) as sink,
        WeaviateIndex(at(old)) as index,
    ):
        sink.open(DENSE)
        sink.write(points)
        index.open()
        for where in [*FILTERS, *more]:
            wanted = parse_filter(where)
            assert wanted is not None
            found = index.search(vector_of(points[0]), k=100, where=where)
            assert {h.chunk.id for h in found} == {p.id for p in points if passes(p.chunk, wanted)}, where


def test_filters_without_a_translation(server: Emulator) -> None:
    """The order of texts, numbers past 2^53 and more than 10,000 results are refused."""
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(1)])
        index.open()
        query = vector_of(point(1))
        assert index.search(query, k=0) == []
        for where in ({"uri": {"$lt": "x"}}, {"ordinal": {"$lt": 2**60}}):
            with pytest.raises(UsageError):
                index.search(query, where=where)
        with pytest.raises(UsageError, match="10,000"):
            index.search(query, k=10_001)


def test_answers_too_large_are_asked_for_in_parts(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts together exceed a message, each alone does not."""
    points = [point(n, text=f"alpha {n}" + str(n) * (1 << 20)) for n in range(10, 16)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        for hits in (index.search(vector_of(points[0]), k=6), index.search_words("alpha", k=6)):
            assert {hit.chunk.id for hit in hits} == {p.id for p in points}


def test_small_and_capital_are_one_collection(server: Emulator) -> None:
    """`notes` and `Notes`."""
    with WeaviateSink(at(server, "notes")) as sink:
        sink.open(DENSE)
    assert WeaviateSink(at(server, "Notes")).manifest() == DENSE
    assert server.collections.keys() == {"Notes"}


def test_an_alias_replaces_no_collection_and_goes_with_its_generation(server: Emulator) -> None:
    """A collection of its name is left alone; removing the generation removes its alias."""
    sink, theirs = WeaviateSink(at(server)), WeaviateSink(at(server, "notes_live"))
    with sink, sink.generation(1) as beside, theirs:
        sink.open(DENSE)
        beside.open(DENSE)
        theirs.open(DENSE)
        with pytest.raises(SinkError, match="already exists"):
            sink.alias(1)
        theirs.drop()
        assert sink.alias(1) == "Notes_live"
        with pytest.raises(SinkError, match="already exists as an alias"):
            theirs.open(DENSE)
        beside.drop()
        assert not server.aliases
        with pytest.raises(SinkError, match="does not exist"):
            sink.alias(1)


def test_servers_before_aliases_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations work there as well."""
    monkeypatch.setenv("WEAVIATE_API_KEY", SECRET)
    with Emulator(SECRET, version="1.31.9") as old, WeaviateSink(at(old)) as sink:
        sink.open(DENSE)
        assert sink.alias(0) == ""
        sink.drop()
        assert not old.collections


def test_a_name_too_long_for_generations() -> None:
    """It is refused before anything is created."""
    with pytest.raises(UsageError, match="a collection of Weaviate is named"):
        WeaviateSink(f"weaviate://localhost/{'n' * 252}").generation(1)


def test_the_first_to_create_the_collection_wins(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that create the collection at once share the first one's, if they are of one space."""
    with WeaviateSink(at(server)) as first:
        first.open(DENSE)
        look = wire.Server.manifest
        for other, error in ((DENSE.schema, None), (respec(DENSE.schema, dim=9), SpaceMismatch)):
            looked: list[int] = []
            monkeypatch.setattr(
                wire.Server,
                "manifest",
                lambda self, looked=looked: look(self) if looked else looked.append(1),  # does not exist yet
            )
            with WeaviateSink(at(server)) as second:
                if error is None:
                    second.open(Manifest(other, owners={"": "ledger 2"}))
                    assert second.manifest() == DENSE
                else:
                    with pytest.raises(error):
                        second.open(Manifest(other))


def test_a_users_client_is_used_and_left_open(server: Emulator) -> None:
    """It serves sink and index; it is not closed, and does not travel."""
    import weaviate as driver
    from weaviate.classes.init import Auth

    client = driver.connect_to_local(
        "127.0.0.1", server.port, server.grpc_port, auth_credentials=Auth.api_key(SECRET), skip_init_checks=True
    )
    with client:
        url = "weaviate://nowhere/notes"
        with WeaviateSink(url, client) as sink, WeaviateIndex(url, client) as index:
            sink.open(DENSE)
            sink.write([point(1)])
            index.open()
            assert index.count() == 1
            with pytest.raises(UsageError, match="client"):
                pickle.dumps(sink)
        assert client.collections.exists("Notes")


def test_a_collection_without_words(server: Emulator) -> None:
    """One of an earlier version."""

    def age() -> None:
        server.collections["Notes"].properties["text"]["indexSearchable"] = False

    without_words(WeaviateSink(at(server)), WeaviateIndex(at(server)), age)
