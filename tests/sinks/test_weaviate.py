"""`weaviate://` keeps the promises of a sink: over REST and gRPC with an emulator and the official client."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import MissingExtra, Rejected, SinkError, SpaceMismatch, TooLarge, Transient, UsageError
from penstock.core.filters import parse, passes
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
    silent_port,
    unreachable,
)

pytest.importorskip("weaviate")

import grpc

from penstock.sinks.lengths import key
from penstock.sinks.weaviate import WeaviateIndex, WeaviateSink, wire
from penstock.testing.emulators.weaviate import Emulator
from penstock.testing.emulators.weaviate_objects import Collection
from penstock.testing.emulators.weaviate_schema import Refusal, completed

SECRET = "a-key-not-to-be-told"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(SECRET) as server:
        yield server


@pytest.fixture
def server(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("WEAVIATE_API_KEY", SECRET)
    emulator.collections.clear()
    emulator.aliases.clear()
    emulator.requests.clear()
    emulator.refused.clear()
    return emulator


def at(server: Emulator, name: str = "notes") -> str:
    return f"weaviate://127.0.0.1:{server.port}/{name}?grpc={server.grpc_port}"


class TestServer(SinkSuite):
    secret = SECRET

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


DENSE = TestServer().manifest


def given(id: str, values: object) -> Point:
    made = point(1)
    return Point(replace(made.chunk, id=id), {VECTOR: Dense(np.array(values, np.float32))})


# ---------------------------------------------------------------- what comes back


def test_many_vectors_of_other_lengths(server: Emulator) -> None:
    """They come back as they were, zeros too, and are compared as if their length were 1; products are products."""
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


@pytest.mark.parametrize("other", [{"kind": "Sparse"}, {"kind": "MultiVector", "metric": "l2"}])
def test_kinds_that_it_has_not(server: Emulator, other: dict[str, str]) -> None:
    """Sparse vectors, and many by distance: told before anything is asked."""
    with WeaviateSink(at(server)) as sink, pytest.raises(UsageError):
        sink.open(Manifest(respec(DENSE.schema, **other)))
    assert server.requests == []


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_of_any_length_stay_as_they_are(server: Emulator, metric: str) -> None:
    """To the bit, with the score of the metric: small, huge, denormal, zero and minus zero."""
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(DIM) * 10.0**n for n in (-40, -20, -3, 0, 3, 15)] + [np.zeros(DIM), -np.zeros(DIM)]
    points = [given(f"point {n}", values) for n, values in enumerate(vectors)] + [point(7)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(Manifest(respec(DENSE.schema, metric=metric)))
        sink.write(points)
        holds(sink, points)
        index.open()
        hit = index.search(vectors_of(points[-1]), k=20, where={"id": points[-1].id})[0]
    assert hit.score == pytest.approx({"cosine": 1, "dot": 1, "l2": 0}[metric], abs=1e-5)


def vectors_of(given: Point) -> Dense:
    found = given.vectors[VECTOR]
    assert isinstance(found, Dense)
    return found


IDS = ["", "a", "A" * 32, "{" + "a" * 32 + "}", "a" * 32, "0" * 31, "x" * 3000, "🌊 it's", "../..", "7"]


def test_any_id_will_do(server: Emulator) -> None:
    """Ids that are no UUIDs, or look like one, are ids apart."""
    points = [given(id, vectors_of(point(n)).values) for n, id in enumerate(IDS)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        for id in IDS:
            assert [hit.chunk.id for hit in index.search(vectors_of(points[0]), where={"id": id})] == [id]
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
            wanted = parse(where)
            assert wanted is not None
            found = index.search(vectors_of(points[0]), k=100, where=where)
            assert {h.chunk.id for h in found} == {p.id for p in points if passes(p.chunk, wanted)}, where


def test_filters_that_weaviate_has_no_words_for(server: Emulator) -> None:
    """The order of texts, numbers past 2^53 and more than 10,000 results are refused."""
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(1)])
        index.open()
        query = vectors_of(point(1))
        assert index.search(query, k=0) == []
        for where in ({"uri": {"$lt": "x"}}, {"ordinal": {"$lt": 2**60}}):
            with pytest.raises(UsageError):
                index.search(query, where=where)
        with pytest.raises(UsageError, match="10,000"):
            index.search(query, k=10_001)


def test_answers_too_large_are_asked_for_in_parts(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together the texts are more than a message holds; each of them is not."""
    points = [point(n, text=str(n) * (1 << 20)) for n in range(10, 16)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        assert {hit.chunk.id for hit in index.search(vectors_of(points[0]), k=6)} == {p.id for p in points}


# ---------------------------------------------------------------- refusals


def test_one_bad_point_does_not_stop_the_others(server: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """A point that Weaviate refuses is named; so is one whose numbers it does not keep; the rest is there. The log
    has no text of it."""
    points = [point(n, text="not for the log") for n in range(9)]
    points[5] = replace(points[5], chunk=replace(points[5].chunk, span=(2**60, 2**60 + 1)))
    server.refused[key(points[4].id)] = "simulated per-object error"
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        with pytest.raises(Rejected) as raised:
            sink.write(points)
        assert raised.value.reasons.keys() == {points[4].id, points[5].id}
        holds(sink, points[:4] + points[6:])
        assert "Failed to send 1 objects" in caplog.text
        assert "not for the log" not in caplog.text
        with pytest.raises(Rejected, match="simulated"):
            sink.write(points[4:5])


def test_a_batch_that_is_refused_altogether_ends_the_run(server: Emulator) -> None:
    """If every point is refused it is not the points."""
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        server.collections["Notes"].schema["properties"].clear()
        with pytest.raises(SinkError, match="no such prop") as raised:
            sink.write([point(1), point(2)])
        assert not isinstance(raised.value, Rejected)


def test_a_point_that_may_pass_later_is_transient(server: Emulator) -> None:
    """A server short of memory, or of replicas, says so of each object."""
    server.refused[key(point(1).id)] = "broadcast: cannot reach consistency level QUORUM"
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        for batch in ([point(1)], [point(1), point(2)]):
            with pytest.raises(Transient):
                sink.write(batch)
        server.refused.clear()
        sink.write([point(1)])
        holds(sink, [point(1), point(2)])


@pytest.mark.parametrize(
    "wrong",
    [
        "weaviate://",
        "weaviate://host",
        "weaviate://./folder/notes",
        "weaviate://host/a/b",
        "weaviate://host:port/notes",
        "weaviate://host/notes?speed=1",
        "weaviate://host/notes?grpc=none",
        "weaviate://host/notes?grpc=0",
        "weaviate://host/notes?grpc=8080",
        "weaviate://user@host/notes",
        "weaviate://user:secret@host/notes",
        "weaviate://host/my-notes",
        "weaviate://host/1notes",
        "weaviate://host/ßnotes",
        f"weaviate://host/{'x' * 256}",
    ],
)
def test_urls_that_cannot_be_meant(wrong: str) -> None:
    """They are refused at once, without the password."""
    for make in (WeaviateSink, WeaviateIndex):
        with pytest.raises(UsageError) as raised:
            make(wrong)
        assert "secret" not in str(raised.value)


def test_what_a_url_says() -> None:
    """Names get a capital; gRPC may have a port or a host of its own."""
    assert (named := wire.parse("weaviate://h/notes_1")).name == "Notes_1"
    assert named.grpc == ("h", 50051)
    assert wire.parse("weaviate://h/Notes?grpc=7").grpc == ("h", 7)
    assert wire.parse("weaviate://h/Notes?tls=1&grpc=grpc-h:443").grpc == ("grpc-h", 443)
    assert wire.parse("weaviate://[::1]/Notes?grpc=[::2]:443").grpc == ("::2", 443)


def test_small_and_capital_are_one_collection(server: Emulator) -> None:
    """`notes` and `Notes`."""
    with WeaviateSink(at(server, "notes")) as sink:
        sink.open(DENSE)
    assert WeaviateSink(at(server, "Notes")).manifest() == DENSE
    assert server.collections.keys() == {"Notes"}


def test_a_missing_driver_unreachable(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "weaviate", None)
    with pytest.raises(MissingExtra, match=r"penstock\[weaviate\]"):
        WeaviateSink(at(server)).open(DENSE)


def test_no_server_unreachable(server: Emulator) -> None:
    """Where nothing listens a later try may do; where gRPC does not, nothing is made."""
    with silent_port() as port:
        url = f"weaviate://127.0.0.1:{port}/notes"
        unreachable(WeaviateSink(url), WeaviateIndex(url), SECRET)
        with pytest.raises(Transient, match="cannot be reached"):
            WeaviateSink(url).manifest()
        with pytest.raises(Transient, match="gRPC"):
            WeaviateSink(f"weaviate://127.0.0.1:{server.port}/notes?grpc={port}").open(DENSE)
    assert not server.collections


def test_a_server_that_does_not_answer_is_transient(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call ends in time."""
    monkeypatch.setattr(wire, "TIMEOUT", 1)
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        server.stall(3)
        with pytest.raises(Transient, match="DEADLINE"):
            sink.write([point(1)])


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"])
def test_a_busy_server_is_transient(server: Emulator, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The same call succeeds later, whichever it was."""
    monkeypatch.setattr("weaviate.retry.time", SimpleNamespace(sleep=lambda seconds: None))
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        calls: list[Callable[[], object]] = [
            lambda: sink.write([point(1)]),
            lambda: sink.delete(["x"]),
            sink.count,
            lambda: list(sink.ids()),
            lambda: sink.fetch(["x"]),
        ]
        for call in calls:
            server.fail(grpc.StatusCode[code], times=10)
            with pytest.raises(Transient):
                call()
            server._faults.clear()
            call()
        for status in (429, 503):
            for call in (sink.manifest, lambda: sink.replace_manifest(DENSE)):
                server.fail(status)
                with pytest.raises(Transient):
                    call()
                call()
        holds(sink, [point(1)])


def test_too_large_a_point_is_told_apart(server: Emulator) -> None:
    """No message holds it; batches are cut to what one does."""
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        with pytest.raises(TooLarge):
            sink.write([point(1, text="x" * (11 << 20))])
        points = [point(n, text="x" * (3 << 20)) for n in range(5)]
        sink.write(points)
        holds(sink, points)


@pytest.mark.parametrize(("secret", "error"), [("wrong-key", SinkError), ("", SinkError), ("a\nb-key", UsageError)])
def test_a_wrong_key_is_not_told(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, secret: str, error: type[Exception]
) -> None:
    """One line says where the key belongs, and not what it is; nothing is made."""
    monkeypatch.setenv("WEAVIATE_API_KEY", secret)
    for call in (WeaviateSink(at(server)).manifest, lambda: WeaviateSink(at(server)).open(DENSE)):
        with pytest.raises(error, match="WEAVIATE_API_KEY") as raised:
            call()
        assert not isinstance(raised.value, Transient)
        assert "-key" not in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not server.collections


@pytest.mark.parametrize("description", [None, "their notes", '{"theirs": 1}', "[1]"])
def test_another_collection_is_left_alone(server: Emulator, description: str | None) -> None:
    """One that is not Penstock's is refused, and stays as it was."""
    theirs = completed({"class": "Notes", "vectorConfig": {}} | ({"description": description} if description else {}))
    server.collections["Notes"] = Collection(dict(theirs))
    for call in (
        WeaviateSink(at(server)).manifest,
        lambda: WeaviateSink(at(server)).open(DENSE),
        WeaviateSink(at(server)).drop,
        WeaviateIndex(at(server)).open,
    ):
        with pytest.raises(SinkError, match="not Penstock's"):
            call()
    assert server.collections["Notes"].schema == theirs


def test_the_alias_gives_way_to_nothing_and_goes_with_its_place(server: Emulator) -> None:
    """A collection of its name is left alone; and what the alias stands for takes the alias along."""
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
    """Places lie beside each other there as well."""
    monkeypatch.setenv("WEAVIATE_API_KEY", SECRET)
    with Emulator(SECRET, version="1.31.9") as old, WeaviateSink(at(old)) as sink:
        sink.open(DENSE)
        assert sink.alias(0) == ""
        sink.drop()
        assert not old.collections


def test_a_name_without_room_for_another() -> None:
    """That is told before anything is made."""
    with pytest.raises(UsageError, match="a collection of Weaviate is named"):
        WeaviateSink(f"weaviate://localhost/{'n' * 252}").generation(1)


def test_the_first_to_make_it_made_it(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that create the collection at once share the first one's, if they are of one space."""
    with WeaviateSink(at(server)) as first:
        first.open(DENSE)
        look = wire.Server.manifest
        for other, error in ((DENSE.schema, None), (respec(DENSE.schema, dim=9), SpaceMismatch)):
            looked: list[int] = []
            monkeypatch.setattr(
                wire.Server,
                "manifest",
                lambda self, looked=looked: look(self) if looked else looked.append(1),  # not there yet
            )
            with WeaviateSink(at(server)) as second:
                if error is None:
                    second.open(Manifest(other, owners={"": "ledger 2"}))
                    assert second.manifest() == DENSE
                else:
                    with pytest.raises(error):
                        second.open(Manifest(other))


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(type(self).body)

    body = b"<html>hello</html>"

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]", b'{"version": "1.20.0"}'])
def test_what_is_not_weaviate_unreachable(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Another server at that address, one too old, and one without TLS."""
    monkeypatch.delenv("WEAVIATE_API_KEY", raising=False)
    monkeypatch.setattr(_Other, "body", body)
    with HTTPServer(("127.0.0.1", 0), _Other) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            for name in ("notes", "notes?tls=1"):
                with pytest.raises(SinkError) as raised:
                    WeaviateSink(f"weaviate://127.0.0.1:{other.server_port}/{name}").manifest()
                assert not isinstance(raised.value, Transient), name
                assert "\n" not in str(raised.value)
        finally:
            other.shutdown()


# ---------------------------------------------------------------- the client and the wire


def test_a_given_client_is_used_and_left_open(server: Emulator) -> None:
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


def test_only_the_server_is_asked(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not look for a newer version of itself, nor for who lets users in."""
    monkeypatch.setattr("weaviate.connect.v4.PYPI_PACKAGE_URL", f"http://127.0.0.1:{server.port}/newer")
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        index.open()
        sink.write([point(1)])
        index.search(vectors_of(point(1)))
    asked = {"GET /v1/meta", "GET /v1/schema/Notes", "POST /v1/schema", "BatchObjects", "Search"}
    assert set(server.requests) == asked


def test_the_emulator_is_strict(server: Emulator) -> None:
    """It refuses what Weaviate does: reserved names, ids that are no UUIDs, filters without an index, empty blobs."""
    import weaviate as driver
    from weaviate.classes.init import Auth
    from weaviate.classes.query import Filter
    from weaviate.exceptions import WeaviateBaseError

    for wrong in (
        {"class": "no-name"},
        {"class": "A", "shards": 1},
        {"class": "A", "properties": [{"name": "id", "dataType": ["text"]}]},
        {"class": "A", "properties": [{"name": "a", "dataType": ["int"], "tokenization": "field"}]},
        {"class": "A", "vectorConfig": {"dense": {"vectorizer": {"text2vec-openai": {}}}}},
    ):
        with pytest.raises(Refusal):
            completed(wrong)
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(1)])
    client = driver.connect_to_local(
        "127.0.0.1", server.port, server.grpc_port, auth_credentials=Auth.api_key(SECRET), skip_init_checks=True
    )
    with client:
        notes = client.collections.use("Notes")
        calls: list[Callable[[], object]] = [
            lambda: notes.data.insert_many([{"image": ""}]),
            lambda: notes.data.insert_many([{"nothing": 1}]),
            lambda: notes.data.insert_many([{"ordinal": 1.5}]),
            lambda: notes.query.fetch_objects(filters=Filter.by_property("text").equal("x")),
            lambda: notes.query.fetch_objects(filters=Filter.by_property("page").is_none(True)),
            lambda: notes.query.fetch_objects(filters=Filter.not_(Filter.by_property("page").equal(1))),
            lambda: notes.query.fetch_objects(limit=10_001),
            lambda: notes.query.near_vector([1.0], target_vector="dense"),
        ]
        for call in calls:
            with pytest.raises((WeaviateBaseError, ValueError)):  # older clients cannot ask for booleans
                call()
