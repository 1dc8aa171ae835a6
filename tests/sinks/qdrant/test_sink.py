"""`qdrant://` keeps the promises of a sink: in a folder with the client's own engine, over REST with an emulator."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import SinkError, UsageError
from penstock.core.precision import encoded
from penstock.core.records import VECTOR, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks.lengths import key
from penstock.sinks.qdrant import QdrantIndex, QdrantSink, wire
from penstock.sinks.qdrant import sink as writing
from penstock.sinks.qdrant.index import OVERSAMPLING
from penstock.sinks.qdrant.points import original
from penstock.testing.emulators.qdrant import Emulator
from penstock.testing.sink_suite import (
    DIM,
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
    similarity,
)
from tests.sinks.mixed import keeps_and_finds, mixed, schema
from tests.sinks.overlapping import Overlapping
from tests.sinks.qdrant import DENSE, SECRET, at, dense
from tests.sinks.wordless import without_words

models = pytest.importorskip("qdrant_client").models
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")


class TestFolder(SinkSuite):
    shared = False
    has_words = True
    orders_texts = False

    @pytest.fixture
    def make_sink(self, folder: Path) -> MakeSink:
        return lambda: QdrantSink(f"qdrant://{folder}/in dex/notes")

    @pytest.fixture
    def make_index(self, folder: Path) -> MakeIndex:
        return lambda: QdrantIndex(f"qdrant://{folder}/in dex/notes")

    @pytest.fixture
    def aliased(self, folder: Path) -> Aliased:
        def stands_for(alias: str) -> int:
            kept = json.loads((folder / "in dex/meta.json").read_text())
            return ["notes", "notes_1"].index(kept["aliases"][alias])

        return stands_for


class TestServer(SinkSuite):
    secret = SECRET
    has_words = True
    orders_texts = False

    @pytest.fixture
    def make_sink(self, server: Emulator) -> MakeSink:
        return lambda: QdrantSink(at(server))

    @pytest.fixture
    def make_index(self, server: Emulator) -> MakeIndex:
        return lambda: QdrantIndex(at(server))

    @pytest.fixture
    def aliased(self, server: Emulator) -> Aliased:
        return lambda alias: ["notes", "notes_1"].index(server.aliases[alias])


class TestFolderMultiVector(TestFolder):
    kind = MultiVector


class TestFolderSparse(Overlapping, TestFolder):
    kind = Sparse


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_of_any_length_stay_as_they_are(url: str, metric: str) -> None:
    """To the bit, with the score of the metric: small, huge, denormal, zero and minus zero."""
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(DIM) * 10.0**n for n in (-40, -20, -3, 0, 3, 15)] + [np.zeros(DIM), -np.zeros(DIM)]
    points = [dense(f"point {n}", values) for n, values in enumerate(vectors)] + [point(7)]
    manifest = Manifest(respec(DENSE.schema, metric=metric))
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(manifest)
        sink.write(points)
        holds(sink, points)
        index.open()
        query = Dense(3 * rng.standard_normal(DIM).astype(np.float32))
        hits = index.search(query, k=4, where={"id": ["point 2", "point 3", "point 4", points[-1].id]})
    a = query.values.astype(np.float64)
    wanted = {}
    for p in points:
        b = p.vectors[VECTOR].values.astype(np.float64)
        scores = {"dot": a @ b, "l2": -np.linalg.norm(a - b), "cosine": 0.0}
        if metric == "cosine" and b.any():
            scores["cosine"] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        wanted[p.id] = scores[metric]
    assert [hit.score for hit in hits] == pytest.approx([wanted[hit.chunk.id] for hit in hits], rel=1e-4, abs=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_vector_is_kept_twice_only_if_it_has_another_length(server: Emulator) -> None:
    """One of length 1 is kept as it is; of any other, its bytes are in the payload."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(1), dense("long", np.full(DIM, 2.0))])
    kept = server.collections["notes"].points
    assert original(VECTOR) not in kept[key(point(1).id)][1]
    assert original(VECTOR) in kept[key("long")][1]


@pytest.mark.parametrize("kind", [MultiVector, Sparse])
def test_other_kinds_over_rest(server: Emulator, kind: type[Vector]) -> None:
    """Many vectors a point, and sparse ones: written, replaced, read and found."""
    points = [point(n, kind=kind) for n in range(50)]
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(Manifest(respec(DENSE.schema, kind=kind.__name__)))
        sink.write([point(n, kind=kind, version=1) for n in range(50)])
        sink.write(points)
        holds(sink, points)
        index.open()
        query = point(5, kind=kind, version=2).vectors[VECTOR]
        hits = index.search(query, k=3)
    wanted = sorted((similarity(query, p.vectors[VECTOR]) for p in points), reverse=True)[:3]
    assert [hit.score for hit in hits] == pytest.approx(wanted, abs=1e-5)


def test_halves_are_kept_as_such(server: Emulator) -> None:
    """By the server, once, though their rounding makes their lengths other ones than 1."""
    points = [
        Point(p.chunk, {VECTOR: MultiVector(encoded(p.vectors[VECTOR].values, "fp16"))})
        for p in (point(n, kind=MultiVector) for n in range(20))
    ]
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(Manifest(respec(DENSE.schema, kind="MultiVector", precision="fp16")))
        sink.write(points)
        holds(sink, points)
        index.open()
        query = point(5, kind=MultiVector).vectors[VECTOR]
        (hit,) = index.search(query, k=1)
    assert (hit.chunk.id, hit.score) == (points[5].id, pytest.approx(len(query.values), abs=2e-3))
    collection = server.collections["notes"]
    assert collection.vectors[VECTOR]["datatype"] == "float16"
    assert not any(original(VECTOR) in payload for _, payload in collection.points.values())


@pytest.mark.parametrize(("precision", "kept"), [("int8", "scalar"), ("bits", "binary")])
def test_copies_of_dense_vectors_in_fewer_bits(server: Emulator, precision: str, kept: str) -> None:
    """Off by default. A collection that exists gets them, and whoever opens it without the option leaves them. All
    searches are rescored by the vectors themselves, which come back as they were."""
    points = [point(n) for n in range(20)]
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write(points)
        assert server.collections["notes"].vectors[VECTOR].keys() == {"size", "distance"}
    for url in (f"{at(server)}?quantization={precision}", at(server)):
        with QdrantSink(url) as sink, QdrantIndex(url) as index:
            sink.open(DENSE)
            vectors = server.collections["notes"].vectors[VECTOR]
            assert vectors["quantization_config"].keys() == {kept}
            assert vectors["on_disk"] is True
            holds(sink, points)
            index.open()
            assert index.search(points[3].vectors[VECTOR], k=1)[0].chunk == points[3].chunk
            assert server.searched["quantization"] == {"rescore": True, "oversampling": OVERSAMPLING}
    assert QdrantSink(f"{at(server)}?quantization={precision}").generation(1).url.endswith(f"?quantization={precision}")


def test_quantization_that_cannot_be(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"invalid quantization 'int4'.*expected int8 or bits"):
        QdrantSink("qdrant://localhost/notes?quantization=int4")
    with pytest.raises(UsageError, match="is for servers"):
        QdrantSink(f"qdrant://{folder}/notes?quantization=int8")


def test_vectors_of_several_kinds(url: str) -> None:
    """Dense, sparse and many vectors a point, named and not."""
    keeps_and_finds(QdrantSink(url), QdrantIndex(url), schema(QdrantSink.accepts))


def test_named_vectors_have_their_own_names(server: Emulator) -> None:
    """In the collection, and in the payload of vectors that are scaled; one without a name is `vector`."""
    of = schema({Dense, Sparse})
    with QdrantSink(at(server)) as sink:
        sink.open(Manifest(of))
        sink.write([mixed(1, of), mixed(3, of)])
    collection = server.collections["notes"]
    assert collection.vectors.keys() == {"vector", "dense", "vector_dense"}
    assert collection.sparse.keys() == {"terms", "words"}
    assert "original" in collection.points[key(point(1).id)][1]
    assert "original" not in collection.points[key(point(3).id)][1]


def test_words_are_no_vector_of_the_index(server: Emulator) -> None:
    """They lie in the collection beside the others, are written anew with each text, and are not read back."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(1, text="Größe 4711"), point(2, text="?!")])
        kept = server.collections["notes"].points
        [found], [written] = sink.fetch([point(1).id]), [kept[key(point(1).id)][0]]
        assert found.vectors.keys() == {VECTOR}
        assert written.keys() == {VECTOR, "words"}
        assert kept[key(point(2).id)][0].keys() == {VECTOR}
        sink.write([replace(found, chunk=replace(found.chunk, text="größe"))])
        [index] = kept[key(point(1).id)][0]["words"]
        assert index in written["words"]


def test_a_collection_without_words(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an earlier version, or with a vector of that name."""

    def earlier(*args: Any) -> dict[str, Any]:
        return {"vectors_config": config(*args)["vectors_config"]}

    config = writing._config
    dense = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    named = IndexSchema({"words": DENSE.schema.only})
    assert config(named, models) == {"vectors_config": {"words": dense}, "sparse_vectors_config": {}}
    monkeypatch.setattr(writing, "_config", earlier)
    without_words(QdrantSink(url), QdrantIndex(url), lambda: None)


IDS = ["", "a", "A" * 32, "{" + "a" * 32 + "}", "a" * 32, "0" * 31, "x" * 3000, "🌊 it's", "../..", "7"]


def test_any_id_will_do(url: str) -> None:
    """Ids that are no UUIDs, or look like one to the driver, are ids apart."""
    points = [dense(id, point(n).vectors[VECTOR].values) for n, id in enumerate(IDS)]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        for id in IDS:
            assert [hit.chunk.id for hit in index.search(points[0].vectors[VECTOR], where={"id": id})] == [id]
        assert sink.fetch(["\ud800"]) == []
        sink.delete(["\ud800", *IDS[:5]])
        holds(sink, points[5:])


def test_filters_at_the_edge(url: str) -> None:
    """A text without UTF-8 equals nothing; texts have no order in Qdrant."""
    points = [point(n, text=f"text {n % 2}") for n in range(4)]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write(points)
        index.open()
        query = points[0].vectors[VECTOR]
        assert index.search(query, where={"uri": "\ud800"}) == []
        assert index.search(query, where={"uri": ["\ud800"]}) == []
        assert len(index.search(query, where={"uri": {"$ne": "\ud800"}})) == 4
        assert len(index.search(query, where={"text": "text 1"})) == 2
        assert index.search(query, k=0) == []
        for where in ({"uri": {"$lt": "x"}}, {"ordinal": {"$lt": 2**60}}):
            with pytest.raises(UsageError):
                index.search(query, where=where)


def test_too_few_results_are_searched_for_exactly(server: Emulator) -> None:
    """If the first answer has fewer than asked for, the second search is exact."""
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(n) for n in range(5)])
        index.open()
        before = len(server.requests)
        assert len(index.search(point(1).vectors[VECTOR], k=5)) == 5
        assert len(server.requests) - before == 1
        assert len(index.search(point(1).vectors[VECTOR], k=6)) == 5
        assert len(server.requests) - before == 3


def test_an_alias_replaces_no_collection_and_goes_with_its_generation(url: str) -> None:
    """A collection of its name is left alone; removing the generation removes its alias."""
    with QdrantSink(url) as sink, QdrantSink(url).generation(1) as beside, QdrantSink(f"{url}_live") as theirs:
        sink.open(DENSE)
        beside.open(DENSE)
        theirs.open(DENSE)
        with pytest.raises(SinkError, match="already exists"):
            sink.alias(1)
        theirs.drop()
        assert sink.alias(1) == "notes_live"
        if "127.0.0.1" in url:
            assert theirs.manifest() == DENSE
            with pytest.raises(SinkError, match="an alias"):
                theirs.drop()
        beside.drop()
        theirs.open(DENSE)


def test_a_name_too_long_for_generations(folder: Path) -> None:
    """It is refused before anything is created."""
    for name in ("n" * 252, "n" * 254):
        with pytest.raises(UsageError, match="no such name"):
            QdrantSink(f"qdrant://{folder}/{name}").generation(1)
    assert not list(folder.iterdir())


def test_the_first_to_create_the_collection_wins(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that create the collection at once share the first one's."""
    with QdrantSink(at(server)) as first, QdrantSink(at(server)) as second:
        first.open(DENSE)
        look, looked = wire.Collection.info, []
        monkeypatch.setattr(
            wire.Collection,
            "info",
            lambda self: look(self) if looked else looked.append(1),  # does not exist yet
        )
        second.open(Manifest(DENSE.schema, owners={"": "ledger 2"}))
        assert second.manifest() == DENSE


def test_a_users_client_is_used_and_left_open(folder: Path) -> None:
    """It serves sink and index; it is not closed, and does not travel."""
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    url = f"qdrant://{folder}/nowhere/notes"
    with QdrantSink(url, client) as sink, QdrantIndex(url, client) as index:
        sink.open(DENSE)
        sink.write([point(1)])
        index.open()
        assert index.count() == 1
        with pytest.raises(UsageError, match="client"):
            pickle.dumps(sink)
    assert client.count("notes").count == 1
    assert not (folder / "nowhere").exists()
    client.close()


def test_threads_take_turns_in_a_folder(folder: Path) -> None:
    """One writes and deletes while others read and search."""
    url, errors, done = f"qdrant://{folder}/notes", list[BaseException](), threading.Event()
    with QdrantSink(url) as sink:
        sink.open(DENSE)

        def read() -> None:
            try:
                with QdrantIndex(url) as index:
                    index.open()
                    while not done.is_set():
                        index.search(point(1).vectors[VECTOR])
                        list(sink.ids())
            except BaseException as error:
                errors.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(20):
            sink.write([point(n * 10 + m) for m in range(10)])
            sink.delete([point(n * 10).id])
        done.set()
        for reader in readers:
            reader.join()
        assert not errors
        assert sink.count() == 180
