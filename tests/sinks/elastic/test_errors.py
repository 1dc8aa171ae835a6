"""Refusals, faults and foreign servers, as `elastic://` and `opensearch://` report them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import (
    MissingExtra,
    Rejected,
    SinkError,
    SinkUnavailable,
    TooLarge,
    Transient,
    UsageError,
)
from penstock.core.records import VECTOR, Dense, Point
from penstock.core.schema import Manifest
from penstock.sinks.elastic import ElasticIndex, ElasticSink, dialects, documents
from penstock.testing.emulators.elastic import ElasticServer
from penstock.testing.sink_suite import (
    holds,
    point,
    silent_port,
    unreachable,
)
from tests.sinks.elastic import FLAVORS, MANIFEST, SECRET, Endpoint, opened

pytest.importorskip("elasticsearch")
pytest.importorskip("opensearchpy")
pytest.importorskip("orjson")


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
