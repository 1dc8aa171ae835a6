"""Headers that every response has; and what responses do not say of the server's files."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.datastructures import MutableHeaders

from penstock.core.errors import ParseError, Unsupported
from penstock.server.app import Api
from penstock.server.generations import ServedIndex
from penstock.server.headers import HSTS, SECURITY, secure
from penstock.server.metrics import Metrics
from penstock.server.page_files import POLICY, PageFiles
from penstock.server.settings import Settings
from penstock.sinks.memory import forget
from penstock.sources.files.local import uri_of
from penstock.support import images
from tests.server.serving import chunk, either, fill, picture, served, with_settings

URL = "memory://serve-headers"
ORIGIN = "https://a.example"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(1, "line"), chunk(2, image=picture("red"))])
    yield
    forget(URL)


def paths() -> list[tuple[str, str]]:
    """Every route with each of its methods, one that it has not, and paths without a route."""
    settings = Settings()
    api = Api(ServedIndex("memory://none", either(), settings, Metrics()), settings, Metrics())
    pairs = [
        (method, route.path.replace("{id}", f"{2:032x}").replace("{name}", "app.js"))  # type: ignore[attr-defined]
        for route in api.routes()
        for method in (*route.methods, "DELETE", "OPTIONS")  # type: ignore[attr-defined]
    ]
    return [*pairs, ("GET", "/nothing"), ("GET", "/nothing/at/all"), ("GET", "/v1/points/none")]


def check(headers: Any, path: str = "") -> None:
    for name, value in SECURITY.items():
        if name == "Cache-Control":
            assert headers[name]
        elif name == "Content-Security-Policy" and (path == "/" or path in PageFiles().paths):
            assert headers[name] in (value, POLICY)
        else:
            assert headers[name] == value, (path, name)
        assert len(headers.get_list(name)) == 1, (path, name)
    assert "server" not in headers
    assert headers["x-request-id"]


def test_every_response_has_every_header() -> None:
    """Of each route, with and without a key, and of errors."""
    with served(URL, with_settings(keys=("sesame",))) as client:
        for key in ({}, {"X-API-Key": "sesame"}, {"X-API-Key": "wrong"}):
            for method, path in paths():
                answer = client.request(method, path, headers=key)
                check(answer.headers, path)
                if answer.headers.get("content-type", "").startswith("text/html"):
                    assert answer.headers["content-security-policy"] == POLICY
        for kind in ("text/plain", "application/json", "multipart/form-data"):
            check(client.post("/v1/search", content=b"{", headers={"Content-Type": kind}).headers)
        check(client.get("/app.js", headers={"If-None-Match": "*"}).headers, "/app.js")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * (200 << 10),
    ],
)
def test_refused_connections_have_the_headers_too(sent: bytes) -> None:
    """Which no layer of the application sees."""
    with (
        served(URL) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line,
    ):
        line.settimeout(10)
        answer = b""
        with suppress(OSError):  # it is refused before all was sent
            line.sendall(sent)
        with suppress(ConnectionResetError):
            while more := line.recv(4096):
                answer += more
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 4"), answer
    for name, value in SECURITY.items():
        assert f"{name}: {value}".lower().encode() in head, name


def test_pages_of_listed_origins_may_show_thumbnails() -> None:
    """An <img> of theirs asks without an Origin, so all pages may then. Nothing else is for the pages of others, and
    without --origin no thumbnail is either."""
    thumb, point = f"/v1/thumbs/{2:032x}", f"/v1/points/{2:032x}"
    policy = "cross-origin-resource-policy"
    with served(URL) as client:
        assert client.get(thumb).headers[policy] == "same-origin"
    with served(URL, with_settings(origins=(ORIGIN,))) as client:
        answer = client.get(thumb)
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers[policy] == "cross-origin"
        assert client.get(thumb, headers={"If-None-Match": answer.headers["etag"]}).headers[policy] == "cross-origin"
        assert client.get(point).headers[policy] == "same-origin"
        asked = client.get(point, headers={"Origin": ORIGIN})
        assert asked.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in asked.headers["access-control-expose-headers"]
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
        before = client.options(point, headers={**preflight, "Access-Control-Request-Headers": "x-request-id"})
        assert before.status_code == 200
        check(before.headers)
        foreign = client.options(point, headers={**preflight, "Origin": "https://b.example"})
        assert foreign.status_code == 400
        check(foreign.headers)


def test_https_is_kept_to_once_it_was_used() -> None:
    """Strict-Transport-Security over TLS alone: a browser that saw it over http would be right to pass it over."""
    for https in (True, False):
        headers = MutableHeaders()
        secure(headers, "/", https=https, foreign_pages=False)
        assert headers.get("Strict-Transport-Security") == (HSTS if https else None)


SECRET = b"TOPSECRET"


def _png_chunk() -> bytes:
    """A PNG whose second chunk has a name that is no name: Pillow quotes it."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    content = out.getvalue()
    return content[:33] + b"\0\0\0\x04" + b"\x01SEC" + b"1234" + b"\0\0\0\0" + content[33:]


@pytest.mark.parametrize("content", [SECRET + b" of the day", b"%PDF-" + SECRET, b"PK\3\4" + SECRET, _png_chunk()])
def test_no_error_quotes_a_file(content: bytes, tmp_path: Path) -> None:
    """Thumbnails are of files that those who search need not be allowed to read, and so are fetched images."""
    with pytest.raises(ParseError) as caught:
        images.decode(content)
    assert "SEC" not in str(caught.value)
    (tmp_path / "a.png").write_bytes(content)
    fill(URL, [chunk(3, uri=uri_of(str(tmp_path / "a.png")), text="")])
    with served(URL, with_settings(roots=(tmp_path,))) as client:
        for answer in (
            client.get(f"/v1/thumbs/{3:032x}"),
            client.post("/v1/search", files={"image": ("a.png", content)}),
        ):
            assert answer.status_code in (400, 415), answer.text
            assert "SEC" not in answer.text
            assert "%PDF" not in answer.text


def test_what_an_unknown_file_is_stays_known() -> None:
    """As far as a word says it: to whoever has to find out why a document failed."""
    for content, kind in ((b"%PDF-1.7", "a PDF"), (b"PK\3\4..", "a zip archive"), (b"hello", "an unknown format")):
        with pytest.raises(Unsupported, match=kind):
            images.decode(content)


def test_logs_have_no_escapes_of_terminals(caplog: pytest.LogCaptureFixture) -> None:
    """What a store says may come from those who write to it, and the server's log is read in a terminal."""
    from penstock.core.errors import SinkError
    from penstock.server.problems import problem_of

    problem = problem_of(SinkError("\x1b[2Jgone\nforged line psk_" + "a" * 43))
    assert problem is not None
    assert problem.message.startswith("the index is unavailable")
    [record] = caplog.records
    assert record.getMessage().isprintable()
    assert "aaaa" not in record.getMessage()
