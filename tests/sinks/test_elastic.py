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
from penstock.sinks.elastic import ElasticIndex, ElasticSink, dialects, documents, wire
from penstock.sinks.elastic import index as searching
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
Endpoint = tuple[str, ElasticServer]
"""A url, and the server that it leads to."""
FLAVORS = {"elastic": "elasticsearch", "opensearch": "opensearch"}


@pytest.fixture(scope="module", params=FLAVORS)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[str, ElasticServer]]:
    with ElasticServer(FLAVORS[request.param], user="me", password=SECRET, key=SECRET) as server:
        yield request.param, server


@pytest.fixture
def endpoint(servers: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The url of an index that does not exist yet, on a server of each product, and that server."""
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
    """Both products, each by its client."""

    secret = SECRET

    @pytest.fixture
    def make_sink(self, endpoint: Endpoint) -> MakeSink:
        return lambda: ElasticSink(endpoint[0])

    @pytest.fixture
    def make_index(self, endpoint: Endpoint) -> MakeIndex:
        return lambda: ElasticIndex(endpoint[0])

    @pytest.fixture
    def aliased(self, endpoint: Endpoint) -> Aliased:
        return lambda alias: [{"notes"}, {"notes_1"}].index(endpoint[1].aliases[alias])


class TestMultiVector(TestElastic):
    kind = MultiVector

    @pytest.fixture(autouse=True)
    def has_them(self, endpoint: Endpoint) -> None:
        if endpoint[1].flavor == "opensearch":
            pytest.skip("OpenSearch takes dense vectors only")


class TestSparse(Overlapping, TestMultiVector):
    """Sparse vectors: those of Elasticsearch."""


@pytest.fixture
def elasticsearch(endpoint: Endpoint) -> Endpoint:
    if endpoint[1].flavor == "opensearch":
        pytest.skip("OpenSearch takes dense vectors only")
    return endpoint


# ---------------------------------------------------------------- many vectors, and sparse ones


def sparse(n: int, indices: Sequence[int], values: Sequence[float]) -> Point:
    return replace(point(n), vectors={VECTOR: Sparse(np.array(indices, np.int32), np.array(values, np.float32))})


def test_the_nearest_though_weights_are_cut_off(elasticsearch: Endpoint) -> None:
    """3,000 that the store scores as equal, or in the wrong order, are ranked by their exact products."""
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


def test_sparse_vectors_of_any_size(elasticsearch: Endpoint) -> None:
    """No values, zeros, subnormal and very large ones, in any order, at any index, come back unchanged."""
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
def test_invalid_vectors_are_named(elasticsearch: Endpoint, kind: type[Vector]) -> None:
    """A negative value, a repeated index, no rows or NaN are rejected by id, and the rest is written."""
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


def test_many_vectors_of_other_lengths(elasticsearch: Endpoint) -> None:
    """They come back unchanged, zeros too; a cosine is compared at length 1, a product is not."""
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
def test_unsupported_kinds(endpoint: Endpoint, kind: str) -> None:
    """The metric l2, OpenSearch, an old version and a missing licence are refused before anything is created."""
    url, server = endpoint
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


# ---------------------------------------------------------------- named vectors


def test_fields_of_vectors(endpoint: Endpoint) -> None:
    """A vector without a name has the fields that it always had; others have their names in theirs."""
    url, server = endpoint
    opened(url).close()
    assert {"vector", "bits"} < server.indices["notes"].fields.keys()
    with ElasticSink(f"{url}-2") as sink:
        sink.open(SinkSuite().named)
        fields = {"vector_title", "bits_title", "vector_body", "bits_body"}
        assert fields < server.indices["notes-2"].fields.keys()
        assert not {"vector", "bits"} & server.indices["notes-2"].fields.keys()


def test_a_search_reads_one_vector(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of the vectors that are not compared stay in the store; by the graph as well."""
    suite = SinkSuite()
    points = suite.named_points(*range(30))
    read: list[set[str]] = []
    ask = wire.Server.search

    def search(self: Any, body: Any) -> list[Any]:
        hits = ask(self, body)
        read.extend({field for field in hit["_source"] if field.startswith(("vector", "bits"))} for hit in hits)
        return hits

    with ElasticSink(endpoint[0]) as sink, ElasticIndex(endpoint[0]) as index:
        sink.open(suite.named)
        sink.write(points)
        sink.flush()
        index.open()
        monkeypatch.setattr(wire.Server, "search", search)
        for exact in (100, 0):
            monkeypatch.setattr(searching, "EXACT", exact)
            for name in ("title", "body"):
                [hit] = index.search(points[3].vectors[name], k=1, using=name)
                assert hit.chunk == points[3].chunk
                assert read.pop() == {f"bits_{name}"}
                assert not read


def test_a_bad_vector_of_several(endpoint: Endpoint) -> None:
    """A point is rejected for any of its vectors, and the others are written."""
    suite = SinkSuite()
    good, bad, zero = suite.named_points(1, 2, 3)
    bad.vectors["body"].values[0] = np.nan
    zero.vectors["title"].values[:] = 0
    with ElasticSink(endpoint[0]) as sink:
        sink.open(suite.named)
        with pytest.raises(Rejected) as raised:
            sink.write([good, bad, zero])
        assert raised.value.reasons.keys() == {bad.id, zero.id}
        assert "'body'" in raised.value.reasons[bad.id]
        holds(sink, [good])


# ---------------------------------------------------------------- urls and keys


@pytest.mark.parametrize(
    "name", ["Notes", "-notes", "_notes", ".notes", "a*b", "a,b", "a%20b", "a%2Fb", "n" * 256, "a/b", ""]
)
def test_invalid_index_names(name: str) -> None:
    """They are refused before a request is sent: a `*` would mean every index of the server."""
    with pytest.raises(UsageError):
        ElasticSink(f"elastic://localhost/{name}")


def test_invalid_urls() -> None:
    """A password in the url, an unknown option and a folder are refused."""
    for url in (
        "elastic://me:x@localhost/notes",
        "elastic://localhost/notes?ssl=1",
        "elastic:///srv/notes",
        "elastics://h/n",
    ):
        with pytest.raises(UsageError):
            ElasticSink(url)


@pytest.mark.parametrize(("scheme", "driver"), [("elastic", "elasticsearch"), ("opensearch", "opensearchpy")])
def test_a_missing_driver(scheme: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the install line."""
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(MissingExtra, match=r"penstock\[elastic\]"):
        ElasticSink(f"{scheme}://localhost/notes").manifest()


@pytest.mark.parametrize("scheme", FLAVORS)
def test_an_unreachable_server(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is Transient: the engine may wait."""
    for name in ("ELASTIC_PASSWORD", "OPENSEARCH_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    with silent_port() as port:
        url = f"{scheme}://me@127.0.0.1:{port}/notes"
        unreachable(ElasticSink(url), ElasticIndex(url), SECRET)
        with pytest.raises(Transient, match="cannot be reached"):
            ElasticSink(url).manifest()


def test_a_server_that_never_answers(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request has a timeout."""
    url, server = endpoint
    monkeypatch.setattr(dialects, "TIMEOUT", 0.2)
    server.fail(200, "_mapping", after=1.0)
    with pytest.raises(Transient, match="cannot be reached"):
        ElasticSink(url).manifest()


def test_a_wrong_password(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, not its value, and nothing is created."""
    url, server = endpoint
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
    """Each client at the other product's server says which url to use, or what was refused."""
    with ElasticServer(product=False) as server:
        sink = ElasticSink(f"elastic://127.0.0.1:{server.port}/notes")
        with pytest.raises(SinkError, match="is not Elasticsearch"):
            sink.open(MANIFEST)
    with ElasticServer() as server:
        sink = ElasticSink(f"opensearch://127.0.0.1:{server.port}/notes")
        with pytest.raises(SinkError, match="unknown setting"):
            sink.open(MANIFEST)
        assert server.indices == {}


def test_tls_at_a_plain_port(endpoint: Endpoint) -> None:
    """The error says so, and is not Transient."""
    with pytest.raises(SinkError, match="TLS") as raised:
        ElasticSink(f"{endpoint[0]}?tls=1").manifest()
    assert not isinstance(raised.value, Transient)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>It works!</h1>")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.mark.parametrize("scheme", FLAVORS)
def test_another_server_at_the_port(scheme: str) -> None:
    """A web server that answers everything with a page is not taken for a store without an index."""
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


def test_a_client_of_the_users(endpoint: Endpoint) -> None:
    """It is used as it is, and left open."""
    import elasticsearch
    import opensearchpy

    url, server = endpoint
    client_class: Any = elasticsearch.Elasticsearch if url.startswith("elastic") else opensearchpy.OpenSearch
    name = "basic_auth" if url.startswith("elastic") else "http_auth"
    client = client_class(server.base, **{name: ("me", SECRET)})
    for _ in range(2):
        with ElasticSink(url.replace("me@", ""), client) as sink:
            sink.open(MANIFEST)
            sink.write([point(1)])
            holds(sink, [point(1)])
    client.close()


# ---------------------------------------------------------------- existing indices and aliases


def test_a_foreign_index_is_left_alone(endpoint: Endpoint) -> None:
    """It is refused, and nothing is written to it."""
    url, server = endpoint
    server.answer("PUT", "/notes", {}, b'{"mappings": {"properties": {"title": {"type": "text"}}}}')
    before = server.indices["notes"].mapping()
    sink = ElasticSink(url)
    for call in (sink.manifest, lambda: sink.open(MANIFEST), sink.drop, ElasticIndex(url).open):
        with pytest.raises(SinkError, match="not Penstock's"):
            call()
    assert server.indices["notes"].mapping() == before


def test_an_alias_moves_in_one_request(endpoint: Endpoint) -> None:
    """An index of its name is left alone, and no index is removed by the name of an alias."""
    url, server = endpoint
    with ElasticSink(url) as sink, ElasticSink(url).generation(1) as other, ElasticSink(f"{url}_live") as theirs:
        sink.open(MANIFEST)
        other.open(MANIFEST)
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
        other.drop()
        assert not server.aliases
        with pytest.raises(SinkError, match="no such index"):
            sink.alias(1)


def test_a_name_without_room_for_a_generation() -> None:
    """It is refused before anything is created."""
    with pytest.raises(UsageError, match="invalid index name"):
        ElasticSink(f"elastic://localhost/{'n' * 252}").generation(1)


def test_looking_for_an_index_logs_nothing(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    """A missing index is not worth a warning."""
    assert ElasticSink(endpoint[0]).manifest() is None
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_importing_loads_no_driver() -> None:
    """Clients are imported when a store is connected to."""
    code = "import sys, penstock.sinks.elastic; print({'elasticsearch', 'opensearchpy', 'orjson'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_two_that_create_it_at_once(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one takes the manifest of the faster, if the schema is the same."""
    url, _ = endpoint
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


def test_too_many_dimensions(endpoint: Endpoint) -> None:
    """The error has the store's own limit, and there is no index afterwards."""
    url, server = endpoint
    with pytest.raises(SinkError, match="number of dimensions"):
        opened(url, dim=20_000)
    assert server.indices == {}


# ---------------------------------------------------------------- trouble while writing


def test_single_points_refused(endpoint: Endpoint) -> None:
    """They are rejected by id with the store's reason; the others are written."""
    url, _ = endpoint
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
def test_items_that_fail(endpoint: Endpoint, status: int, kind: type[SinkError]) -> None:
    """A full queue is Transient, a blocked index ends the run; neither is taken for a bad point or for success."""
    url, server = endpoint
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
def test_requests_that_fail(endpoint: Endpoint, status: int, kind: type[SinkError]) -> None:
    """The driver retries nothing by itself: one request, one error of the right kind; the next write succeeds."""
    url, server = endpoint
    with opened(url) as sink:
        server.fail(status, "_bulk")
        server.requests.clear()
        with pytest.raises(kind):
            sink.write([point(1)])
        assert len(server.requests) == 1
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_a_server_says_when_to_come_back(endpoint: Endpoint) -> None:
    """The seconds of Retry-After go with the error; the client of OpenSearch keeps no headers."""
    url, server = endpoint
    with opened(url) as sink:
        server.fail(429, "_bulk", retry_after=7)
        with pytest.raises(Transient) as raised:
            sink.write([point(1)])
        assert raised.value.retry_after == (None if server.flavor == "opensearch" else 7)


def test_requests_are_of_a_good_size(endpoint: Endpoint) -> None:
    """Long texts go in several requests, none much larger than BULK; one longer text goes alone."""
    url, server = endpoint
    with opened(url) as sink:
        points = [point(n, text="x" * (3 << 20)) for n in range(6)] + [point(7, text='"' * (6 << 20))]
        sink.write(points)
        assert sorted(size >> 20 for size in server.sizes) == [6, 6, 6, 12]
        holds(sink, points)


def test_nothing_is_seen_before_a_flush(endpoint: Endpoint) -> None:
    """The emulator is as strict as the stores: a sink that forgot to refresh would fail its suite."""
    url, _ = endpoint
    with opened(url) as sink:
        sink.write([point(1)])
        assert sink.count() == 0
        assert list(sink.ids()) == []
        sink.flush()
        assert sink.count() == 1


def test_any_string_is_an_id(endpoint: Endpoint) -> None:
    """Empty, long and odd ids are written, fetched, listed and deleted."""
    url, _ = endpoint
    ids = ["", "x" * 513, "ä" * 300, " ", "a/b?c#d", "\x00", '"', "🌊", "_id", "sha256-x"]
    points = [replace_id(n, id) for n, id in enumerate(ids)]
    with opened(url) as sink:
        sink.write(points)
        holds(sink, points)
        sink.delete([*ids[:5], "\ud800"])
        holds(sink, points[5:])
        assert sink.fetch(["\ud800"]) == []


def replace_id(n: int, id: str) -> Point:
    original = point(n)
    return Point(replace(original.chunk, id=id), original.vectors)


def test_vectors_come_back_to_the_bit(endpoint: Endpoint) -> None:
    """Of any length, though the store keeps unit vectors and lengths: subnormal, large and negative zero."""
    url, _ = endpoint
    odd = np.array([1e-45, -0.0, 3.4e18, 1 / 3, -1e-30, 16777217, 0.1, 2**-149], dtype=np.float32)
    points = [Point(point(1).chunk, {VECTOR: Dense(odd)}), point(2)]
    with opened(url) as sink:
        sink.write(points)
        holds(sink, points)


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("exact", [True, False])
def test_every_metric(endpoint: Endpoint, metric: str, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are those of the vectors themselves, in order, by exact comparison and by the graph."""
    url, server = endpoint
    monkeypatch.setattr(searching, "EXACT", 10_000 if exact else 3)
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


def test_a_graph_that_finds_too_few(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every vector is compared with, so that k hits come back."""
    url, server = endpoint
    monkeypatch.setattr(searching, "EXACT", 3)
    with opened(url) as sink:
        sink.write([point(n) for n in range(50)])
        sink.flush()
    server.recall = 0.1
    with ElasticIndex(url) as index:
        index.open()
        assert len(index.search(point(1).vectors[VECTOR], k=40)) == 40


def test_texts_are_compared_by_digest(endpoint: Endpoint) -> None:
    """Equality, membership and inequality are exact for texts of any length; an order is refused."""
    url, _ = endpoint
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


def test_invalid_searches(endpoint: Endpoint) -> None:
    """A k beyond the limit, a query without direction and a removed index are refused."""
    url, server = endpoint
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


def test_deep_filters(endpoint: Endpoint) -> None:
    """The deepest filter that is allowed passes both products' limits."""
    url, _ = endpoint
    where: dict[str, Any] = {"page": 3}
    for n in range(DEPTH - 3):
        where = {"$not": where} if n % 3 else {"$and": [where]}
    with opened(url) as sink:
        sink.write([point(n, page=n) for n in range(5)])
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        assert [hit.chunk.page for hit in index.search(point(1).vectors[VECTOR], where=where)] == [3]


def test_compares_texts_as_code_points(endpoint: Endpoint) -> None:
    """Ranges of uris order by code points, not by UTF-16."""
    url, _ = endpoint
    points = [point(1, uri="\uffee"), point(2, uri="\U0001f30a"), point(3, uri="a")]
    with opened(url) as sink:
        sink.write(points)
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        found = index.search(point(1).vectors[VECTOR], where={"uri": {"$gt": "\uffee"}})
        assert [hit.chunk.ordinal for hit in found] == [2]
