"""`elastic://` and `opensearch://` keep the promises of a sink: the official clients over a strict emulator."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import (
    MissingExtra,
    PenstockError,
    Rejected,
    SinkError,
    SinkUnavailable,
    TooLarge,
    Transient,
    UsageError,
)
from penstock.core.filters import DEPTH, parse, passes
from penstock.core.records import VECTOR, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import Manifest
from penstock.sinks.elastic import ElasticIndex, ElasticSink, dialects, documents
from penstock.sinks.elastic import index as search
from penstock.testing.emulators.elastic import ElasticServer
from penstock.testing.sink_suite import (
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
    silent_port,
    similarity,
    unreachable,
)
from tests.sinks.overlapping import Overlapping

pytest.importorskip("elasticsearch")
pytest.importorskip("opensearchpy")
pytest.importorskip("orjson")

SECRET = "s3cr3t-s3cr3t"
MANIFEST = SinkSuite().manifest
FLAVORS = {"elastic": "elasticsearch", "opensearch": "opensearch"}


@pytest.fixture(scope="module", params=FLAVORS)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[str, ElasticServer]]:
    with ElasticServer(FLAVORS[request.param], user="me", password=SECRET, key=SECRET) as server:
        yield request.param, server


@pytest.fixture
def place(servers: tuple[str, ElasticServer], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ElasticServer]]:
    """A url of each of both, where nothing is yet, and its server."""
    scheme, server = servers
    server.indices.clear()
    server.aliases.clear()
    monkeypatch.setenv("ELASTIC_PASSWORD", SECRET)
    monkeypatch.setenv("OPENSEARCH_PASSWORD", SECRET)
    yield f"{scheme}://me@127.0.0.1:{server.port}/notes", server
    server.refused.clear()
    server.requests.clear()
    server.sizes.clear()
    server.recall, server.largest = 1.0, 100 << 20
    server.number, server.licensed = "", True


def opened(url: str, **space: Any) -> ElasticSink:
    sink = ElasticSink(url)
    sink.open(Manifest(respec(MANIFEST.schema, **space)))
    return sink


class TestElastic(SinkSuite):
    """Both stores, each by its client."""

    secret = SECRET

    @pytest.fixture
    def make_sink(self, place: tuple[str, ElasticServer]) -> MakeSink:
        return lambda: ElasticSink(place[0])

    @pytest.fixture
    def make_index(self, place: tuple[str, ElasticServer]) -> MakeIndex:
        return lambda: ElasticIndex(place[0])

    @pytest.fixture
    def aliased(self, place: tuple[str, ElasticServer]) -> Aliased:
        return lambda alias: [{"notes"}, {"notes_1"}].index(place[1].aliases[alias])


class TestMultiVector(TestElastic):
    kind = MultiVector

    @pytest.fixture(autouse=True)
    def has_them(self, place: tuple[str, ElasticServer]) -> None:
        if place[1].flavor == "opensearch":
            pytest.skip("OpenSearch takes dense vectors only")


class TestSparse(Overlapping, TestMultiVector):
    """Sparse vectors: those of Elasticsearch."""


Place = tuple[str, ElasticServer]


@pytest.fixture
def elasticsearch(place: Place) -> Place:
    if place[1].flavor == "opensearch":
        pytest.skip("OpenSearch takes dense vectors only")
    return place


# ---------------------------------------------------------------- many vectors, and sparse ones


def sparse(n: int, indices: Sequence[int], values: Sequence[float]) -> Point:
    return replace(point(n), vectors={VECTOR: Sparse(np.array(indices, np.int32), np.array(values, np.float32))})


def test_the_nearest_though_weights_are_cut_off(elasticsearch: Place) -> None:
    """3,000 that the store takes for equal, or for the other way round: ranked by what they are."""
    weights = 0.75 + np.arange(3000) * 1e-6
    points = [sparse(n, [1, 2], [w, 0.25 + 1e-5 * (n % 7)]) for n, w in enumerate(weights)]
    query = Sparse(np.array([1, 2], np.int32), np.array([1.0, 0.5], np.float32))
    wanted = sorted(points, key=lambda p: -similarity(query, p.vectors[VECTOR]))[:20]
    with opened(elasticsearch[0], kind="Sparse", metric="dot") as sink, ElasticIndex(elasticsearch[0]) as index:
        for start in range(0, 3000, sink.max_rows):
            sink.write(points[start : start + sink.max_rows])
        sink.flush()
        index.open()
        assert [hit.chunk.id for hit in index.search(query, k=20)] == [p.id for p in wanted]


def test_sparse_vectors_of_any_size(elasticsearch: Place) -> None:
    """None, zero, subnormal and very large values, in any order, at any index: as they were."""
    points = [sparse(1, [], []), sparse(2, [0, 7, 9, 2**31 - 1], [0.0, 1e-45, 0.1, 3e38])]
    with opened(elasticsearch[0], kind="Sparse") as sink, ElasticIndex(elasticsearch[0]) as index:
        sink.write([*points, sparse(3, [8, 3], [0.25, 0.5])])
        holds(sink, [*points, sparse(3, [3, 8], [0.5, 0.25])])
        index.open()
        hits = index.search(Sparse(np.array([8, 5], np.int32), np.array([2, 0], np.float32)))
        assert [(h.chunk.id, h.score) for h in hits] == [(point(3).id, 0.5)]
        assert index.search(Sparse(np.array([8], np.int32), np.zeros(1, np.float32))) == []
        with pytest.raises(SinkError, match="negative"):
            index.search(Sparse(np.array([8], np.int32), -np.ones(1, np.float32)))


@pytest.mark.parametrize("kind", [Sparse, MultiVector])
def test_vectors_that_cannot_be_kept_are_named(elasticsearch: Place, kind: type[Vector]) -> None:
    """A negative value, an index twice; no rows; NaN: by id, and the rest is written."""
    if kind is Sparse:
        bad = [sparse(2, [1, 2], [-1, 1]), sparse(3, [1, 1], [1, 1]), sparse(4, [1], [float("nan")])]
    else:
        shapes = [np.empty((0, 8), np.float32), np.full((2, 8), np.nan, np.float32)]
        bad = [replace(point(n), vectors={VECTOR: MultiVector(v)}) for n, v in enumerate(shapes, 2)]
    good = point(1, kind=kind)
    with opened(elasticsearch[0], kind=kind.__name__) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([*bad, good])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [good])


def test_many_vectors_of_other_lengths(elasticsearch: Place) -> None:
    """They come back as they were, zeros too, and are compared as if their length were 1; products are products."""
    values = np.array([[3, 4], [0, 0], [-2, 0]], np.float32)
    long = [replace(point(1), vectors={VECTOR: MultiVector(values)})]
    query = MultiVector(np.array([[0, 5], [-1, 0]], np.float32))
    for metric, score in (("cosine", 1.8), ("dot", 22.0)):
        with opened(elasticsearch[0], kind="MultiVector", metric=metric, dim=2) as sink:
            sink.write(long)
            holds(sink, long)
            with ElasticIndex(elasticsearch[0]) as index:
                index.open()
                assert [hit.score for hit in index.search(query)] == pytest.approx([score])
                with pytest.raises(SinkError, match="zeros"):
                    index.search(MultiVector(np.empty((0, 2), np.float32)))
            sink.drop()


@pytest.mark.parametrize("kind", ["Sparse", "MultiVector"])
def test_kinds_that_a_server_has_not(place: Place, kind: str) -> None:
    """By distance, in OpenSearch, a version too old, without the licence: one line, before anything is made."""
    url, server = place
    dense_only = server.flavor == "opensearch"
    assert ElasticSink(url).accepts == ({Dense} if dense_only else {Dense, MultiVector, Sparse})
    with pytest.raises(UsageError, match="takes Dense" if dense_only else "not 'l2'"):
        opened(url, kind=kind, metric="l2")
    with pytest.raises(UsageError, match="takes Dense") if dense_only else nullcontext():
        opened(url, kind=kind).drop()
    if not dense_only:
        server.number = "8.14.3"
        with pytest.raises(UsageError, match=r"from 8\.1[58] on; it is 8\.14\.3"):
            opened(url, kind=kind)
        server.number, server.licensed = "", False
        with pytest.raises(SinkError, match="licence") if kind == "MultiVector" else nullcontext():
            opened(url, kind=kind).drop()
    assert server.indices == {}


# ---------------------------------------------------------------- places and keys


@pytest.mark.parametrize(
    "name", ["Notes", "-notes", "_notes", ".notes", "a*b", "a,b", "a%20b", "a%2Fb", "n" * 256, "a/b", ""]
)
def test_names_that_no_index_has(name: str) -> None:
    """Refused before anything is asked: a `*` would mean every index of the server."""
    with pytest.raises(UsageError):
        ElasticSink(f"elastic://localhost/{name}")


def test_urls_that_cannot_be_meant() -> None:
    """A password in the url, an unknown option, a folder."""
    for url in (
        "elastic://me:x@localhost/notes",
        "elastic://localhost/notes?ssl=1",
        "elastic:///srv/notes",
        "elastics://h/n",
    ):
        with pytest.raises(UsageError):
            ElasticSink(url)


@pytest.mark.parametrize(("scheme", "driver"), [("elastic", "elasticsearch"), ("opensearch", "opensearchpy")])
def test_without_its_driver(scheme: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the install line."""
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(MissingExtra, match=r"penstock\[elastic\]"):
        ElasticSink(f"{scheme}://localhost/notes").manifest()


@pytest.mark.parametrize("scheme", FLAVORS)
def test_nobody_there(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable server is for now: the engine may wait."""
    for name in ("ELASTIC_PASSWORD", "OPENSEARCH_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    with silent_port() as port:
        url = f"{scheme}://me@127.0.0.1:{port}/notes"
        unreachable(ElasticSink(url), ElasticIndex(url), SECRET)
        with pytest.raises(Transient, match="cannot be reached"):
            ElasticSink(url).manifest()


def test_a_server_that_never_answers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request has a timeout."""
    url, server = place
    monkeypatch.setattr(dialects, "TIMEOUT", 0.2)
    server.fail(200, "_mapping", after=1.0)
    with pytest.raises(Transient, match="cannot be reached"):
        ElasticSink(url).manifest()


def test_a_wrong_password(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with the variable that is wrong, without its value, before anything is made."""
    url, server = place
    for variable in ("ELASTIC_PASSWORD", "OPENSEARCH_PASSWORD"):
        monkeypatch.setenv(variable, "wr0ng-wr0ng")
    with pytest.raises(SinkError, match=r"_PASSWORD") as raised:
        ElasticSink(url).open(MANIFEST)
    assert "wr0ng" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not isinstance(raised.value, Transient)
    assert server.indices == {}


def test_an_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """ELASTIC_API_KEY is enough, where no user is named."""
    with ElasticServer(key=SECRET) as server:
        sink = ElasticSink(f"elastic://127.0.0.1:{server.port}/notes")
        with pytest.raises(SinkError, match="ELASTIC_API_KEY"):
            sink.manifest()
        monkeypatch.setenv("ELASTIC_API_KEY", SECRET)
        assert sink.manifest() is None
        assert SECRET not in repr(sink)


def test_the_other_product() -> None:
    """Each client told of the other's server says which url is meant, or what was refused."""
    with ElasticServer(product=False) as server:
        sink = ElasticSink(f"elastic://127.0.0.1:{server.port}/notes")
        with pytest.raises(SinkError, match="is not Elasticsearch"):
            sink.open(MANIFEST)
    with ElasticServer() as server:
        sink = ElasticSink(f"opensearch://127.0.0.1:{server.port}/notes")
        with pytest.raises(SinkError, match="unknown setting"):
            sink.open(MANIFEST)
        assert server.indices == {}


def test_tls_where_there_is_none(place: Place) -> None:
    """Asked to speak TLS to a plain port: told as such, and not waited for."""
    with pytest.raises(SinkError, match="TLS") as raised:
        ElasticSink(f"{place[0]}?tls=1").manifest()
    assert not isinstance(raised.value, Transient)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>It works!</h1>")

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.mark.parametrize("scheme", FLAVORS)
def test_something_else_at_the_port(scheme: str) -> None:
    """A web server that answers everything with a page is no store without an index."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            with pytest.raises(SinkError, match=r"is not Elasticsearch|does not answer"):
                ElasticSink(f"{scheme}://127.0.0.1:{server.server_address[1]}/notes").manifest()
        finally:
            server.shutdown()
            thread.join()


def test_a_server_older_than_the_driver() -> None:
    """Driver 9 and server 8 do not speak; the message says what to install."""
    import elasticsearch

    if elasticsearch.__version__[0] < 9:
        pytest.skip("driver 8 speaks to both")
    with ElasticServer(version=8) as server, pytest.raises(SinkError, match="elasticsearch<9"):
        ElasticSink(f"elastic://127.0.0.1:{server.port}/notes").manifest()


def test_a_client_of_the_users(place: Place) -> None:
    """It is used as it is, and left open."""
    import elasticsearch
    import opensearchpy

    url, server = place
    made: Any = elasticsearch.Elasticsearch if url.startswith("elastic") else opensearchpy.OpenSearch
    name = "basic_auth" if url.startswith("elastic") else "http_auth"
    client = made(server.base, **{name: ("me", SECRET)})
    for _ in range(2):
        with ElasticSink(url.replace("me@", ""), client) as sink:
            sink.open(MANIFEST)
            sink.write([point(1)])
            holds(sink, [point(1)])
    client.close()


# ---------------------------------------------------------------- what is there already


def test_an_index_of_others_is_left_alone(place: Place) -> None:
    """Refused, and nothing is written to it."""
    url, server = place
    server.answer("PUT", "/notes", {}, b'{"mappings": {"properties": {"title": {"type": "text"}}}}')
    before = server.indices["notes"].mapping()
    sink = ElasticSink(url)
    for call in (sink.manifest, lambda: sink.open(MANIFEST), sink.drop, ElasticIndex(url).open):
        with pytest.raises(SinkError, match="not Penstock's"):
            call()
    assert server.indices["notes"].mapping() == before


def test_the_alias_is_always_there_and_gives_way_to_nothing(place: Place) -> None:
    """Put elsewhere by one request; an index of its name is left alone, and none is removed by it."""
    url, server = place
    with ElasticSink(url) as sink, ElasticSink(url).generation(1) as beside, ElasticSink(f"{url}_live") as theirs:
        sink.open(MANIFEST)
        beside.open(MANIFEST)
        theirs.open(MANIFEST)
        with pytest.raises(SinkError, match="there is an index 'notes_live'"):
            sink.alias(1)
        theirs.drop()
        sink.alias(0)
        server.requests.clear()
        sink.alias(1)
        assert [method for method, _ in server.requests] == ["GET", "POST"]
        assert server.aliases == {"notes_live": {"notes_1"}}
        assert theirs.manifest() == MANIFEST
        with pytest.raises(SinkError, match="matches an alias"):
            theirs.drop()
        beside.drop()
        assert not server.aliases
        with pytest.raises(SinkError, match="no such index"):
            sink.alias(1)


def test_a_name_without_room_for_another() -> None:
    """That is told before anything is made."""
    with pytest.raises(UsageError, match="invalid index name"):
        ElasticSink(f"elastic://localhost/{'n' * 252}").generation(1)


def test_looking_for_an_index_logs_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """That there is none yet is no cause for a warning."""
    assert ElasticSink(place[0]).manifest() is None
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_importing_loads_no_driver() -> None:
    """Clients are imported when a store is asked, not before."""
    code = "import sys, penstock.sinks.elastic; print({'elasticsearch', 'opensearchpy', 'orjson'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_two_that_create_it_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one takes the manifest of the faster, if it is of the same space."""
    url, _ = place
    real = documents.Documents.create

    def late(self: Any, manifest: Manifest) -> Manifest:
        monkeypatch.setattr(documents.Documents, "create", real)
        opened(url, dim=dim).close()
        return real(self, manifest)

    dim = MANIFEST.schema.only.dim
    monkeypatch.setattr(documents.Documents, "create", late)
    with opened(url) as sink:
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_too_many_dimensions(place: Place) -> None:
    """The store's own limit is told in one line, and there is no index afterwards."""
    url, server = place
    with pytest.raises(SinkError, match="number of dimensions"):
        opened(url, dim=20_000)
    assert server.indices == {}


# ---------------------------------------------------------------- trouble while writing


def test_single_points_refused(place: Place) -> None:
    """They are named with the store's reason; the others are written."""
    url, _ = place
    zero = Point(point(2).chunk, {VECTOR: Dense(np.zeros(8, np.float32))})
    wide = point(3, uri="u" * 40_000)
    huge = point(4, page=2**70)
    with opened(url) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([point(1), zero, wide, huge, point(5)])
        assert set(raised.value.reasons) == {zero.id, wide.id, huge.id}
        assert "zero magnitude" in raised.value.reasons[zero.id]
        assert "immense term" in raised.value.reasons[wide.id]
        holds(sink, [point(1), point(5)])


@pytest.mark.parametrize(
    ("status", "kind"), [(429, SinkUnavailable), (503, SinkUnavailable), (403, SinkError), (404, SinkError)]
)
def test_items_that_fail(place: Place, status: int, kind: type[SinkError]) -> None:
    """A full queue is for now; a blocked index ends the run; neither is taken for a bad point, or for success."""
    url, server = place
    with opened(url) as sink:
        server.refused[point(2).id] = status
        with pytest.raises(SinkError) as raised:
            sink.write([point(1), point(2), point(3)])
        assert type(raised.value) is kind
        with pytest.raises(SinkError):
            sink.delete([point(2).id])
        server.refused.clear()
        sink.write([point(1), point(2), point(3)])
        holds(sink, [point(1), point(2), point(3)])


@pytest.mark.parametrize(
    ("status", "kind"), [(429, Transient), (503, Transient), (502, Transient), (0, Transient), (413, TooLarge)]
)
def test_requests_that_fail(place: Place, status: int, kind: type[SinkError]) -> None:
    """The driver tries nothing again by itself: one request, one error of the right kind; later all is well."""
    url, server = place
    with opened(url) as sink:
        server.fail(status, "_bulk")
        server.requests.clear()
        with pytest.raises(kind):
            sink.write([point(1)])
        assert len(server.requests) == 1
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_requests_are_of_a_good_size(place: Place) -> None:
    """A batch of long texts goes in several requests, none much larger than BULK; one longer text goes alone."""
    url, server = place
    with opened(url) as sink:
        points = [point(n, text="x" * (3 << 20)) for n in range(6)] + [point(7, text='"' * (6 << 20))]
        sink.write(points)
        assert sorted(size >> 20 for size in server.sizes) == [6, 6, 6, 12]
        holds(sink, points)


def test_nothing_is_seen_before_a_flush(place: Place) -> None:
    """The emulator is as strict as the stores: a sink that forgot to refresh would fail its suite."""
    url, _ = place
    with opened(url) as sink:
        sink.write([point(1)])
        assert sink.count() == 0
        assert list(sink.ids()) == []
        sink.flush()
        assert sink.count() == 1


def test_any_string_is_an_id(place: Place) -> None:
    """Empty, long and odd ones: written, found, listed, deleted."""
    url, _ = place
    ids = ["", "x" * 513, "ä" * 300, " ", "a/b?c#d", "\x00", '"', "🌊", "_id", "sha256-x"]
    points = [replace_id(n, id) for n, id in enumerate(ids)]
    with opened(url) as sink:
        sink.write(points)
        holds(sink, points)
        sink.delete([*ids[:5], "\ud800"])
        holds(sink, points[5:])
        assert sink.fetch(["\ud800"]) == []


def replace_id(n: int, id: str) -> Point:
    made = point(n)
    return Point(replace(made.chunk, id=id), made.vectors)


def test_vectors_come_back_to_the_bit(place: Place) -> None:
    """Of any length, though the store keeps unit vectors and lengths: denormal, large and negative zero."""
    url, _ = place
    odd = np.array([1e-45, -0.0, 3.4e18, 1 / 3, -1e-30, 16777217, 0.1, 2**-149], dtype=np.float32)
    points = [Point(point(1).chunk, {VECTOR: Dense(odd)}), point(2)]
    with opened(url) as sink:
        sink.write(points)
        holds(sink, points)


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("exact", [True, False])
def test_every_metric(place: Place, metric: str, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are those of the vectors themselves, in order, by comparing with all and by the graph."""
    url, server = place
    monkeypatch.setattr(search, "EXACT", 10_000 if exact else 3)
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((60, 8)).astype(np.float32) * 3
    query = rng.standard_normal(8).astype(np.float32)
    with opened(url, metric=metric) as sink:
        sink.write([Point(point(n, page=n % 5).chunk, {VECTOR: Dense(row)}) for n, row in enumerate(matrix)])
        sink.flush()
    meant = matrix.astype(np.float64) @ query
    if metric == "cosine":
        meant /= np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
    elif metric == "l2":
        meant = -((matrix.astype(np.float64) - query) ** 2).sum(axis=1)
    with ElasticIndex(url) as index:
        index.open()
        for where in (None, {"page": {"$lt": 3}}):
            left = [n for n in range(60) if where is None or n % 5 < 3]
            hits = index.search(Dense(query), k=7, where=where)
            nearest = sorted(left, key=lambda n: -meant[n])[:7]
            assert [hit.chunk.ordinal for hit in hits] == nearest
            assert [hit.score for hit in hits] == pytest.approx([meant[n] for n in nearest], abs=1e-5)
    scripted = sum("_search" in path for _, path in server.requests)
    assert scripted == 2


def test_a_graph_that_finds_too_few(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are compared with, so that as many come back as are asked for."""
    url, server = place
    monkeypatch.setattr(search, "EXACT", 3)
    with opened(url) as sink:
        sink.write([point(n) for n in range(50)])
        sink.flush()
    server.recall = 0.1
    with ElasticIndex(url) as index:
        index.open()
        assert len(index.search(point(1).vectors[VECTOR], k=40)) == 40


def test_texts_are_compared_by_digest(place: Place) -> None:
    """Equal, one of and not equal are exact however long the text; before and after is refused."""
    url, _ = place
    points = [point(1, text="x" * 100_000), point(2, text="x" * 100_000 + "y"), point(3, text="")]
    with opened(url) as sink:
        sink.write(points)
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        for where in ({"text": "x" * 100_000}, {"text": {"$ne": ""}}, {"text": ["", "z"]}, {"text": None}):
            wanted = parse(where)
            assert wanted is not None
            found = index.search(point(1).vectors[VECTOR], where=where)
            assert {h.chunk.id for h in found} == {p.id for p in points if passes(p.chunk, wanted)}
        with pytest.raises(UsageError, match="equal one"):
            index.search(point(1).vectors[VECTOR], where={"text": {"$lt": "x"}})


def test_searches_that_cannot_be(place: Place) -> None:
    """More than the store finds; a vector that nothing is near; an index that is gone."""
    url, server = place
    opened(url).close()
    with ElasticIndex(url) as index:
        index.open()
        query = point(1).vectors[VECTOR]
        assert index.search(query, k=0) == []
        assert index.search(query) == []
        with pytest.raises(UsageError, match="10,000"):
            index.search(query, k=10_001)
        for values in (np.zeros(8, np.float32), np.full(8, np.nan, np.float32)):
            with pytest.raises(SinkError, match="nothing is near"):
                index.search(Dense(values))
        server.indices.clear()
        with pytest.raises(PenstockError, match="no such index"):
            index.search(query)


def test_deep_filters(place: Place) -> None:
    """As deep as a filter may be."""
    url, _ = place
    where: dict[str, Any] = {"page": 3}
    for n in range(DEPTH - 3):
        where = {"$not": where} if n % 3 else {"$and": [where]}
    with opened(url) as sink:
        sink.write([point(n, page=n) for n in range(5)])
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        assert [hit.chunk.page for hit in index.search(point(1).vectors[VECTOR], where=where)] == [3]


def test_compares_texts_as_code_points(place: Place) -> None:
    """Ranges of uris order by code points, as everywhere, not by UTF-16."""
    url, _ = place
    points = [point(1, uri="\uffee"), point(2, uri="\U0001f30a"), point(3, uri="a")]
    with opened(url) as sink:
        sink.write(points)
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        found = index.search(point(1).vectors[VECTOR], where={"uri": {"$gt": "\uffee"}})
        assert [hit.chunk.ordinal for hit in found] == [2]
