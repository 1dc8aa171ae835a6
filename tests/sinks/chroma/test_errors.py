"""Refusals, faults and foreign servers, as `chroma://` reports them."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, Transient, UsageError
from penstock.sinks.chroma import ChromaIndex, ChromaSink
from penstock.testing.sink_suite import point, silent_port, unreachable
from tests.sinks.chroma import MANIFEST, TOKEN, numbers

chromadb = pytest.importorskip("chromadb")


@pytest.mark.parametrize(
    "url",
    [
        "chroma://",
        "chroma://host",
        "chroma://host/a/b",
        "chroma://./x/no",
        "chroma://h/-bad-",
        "chroma://u:pw@h/notes",
        "chroma://h/notes?key=1",
        "chroma://host:x/notes",
    ],
)
def test_invalid_urls(url: str) -> None:
    """Refused by the constructor, without the password."""
    with pytest.raises(UsageError) as raised:
        ChromaSink(url)
    assert "pw" not in str(raised.value)


def test_a_missing_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The install line, before a folder is created."""
    monkeypatch.setitem(sys.modules, "chromadb", None)
    with pytest.raises(MissingExtra, match=r"penstock\[chroma\]"):
        ChromaSink(f"chroma://{tmp_path}/in/notes").open(MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens: a later try may succeed."""
    monkeypatch.setenv("CHROMA_TOKEN", TOKEN)
    with silent_port() as port:
        url = f"chroma://127.0.0.1:{port}/notes"
        unreachable(ChromaSink(url), ChromaIndex(url), TOKEN)
        with pytest.raises(Transient):
            ChromaSink(url).manifest()


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts the connection and never answers: an error, not a wait for ever."""
    monkeypatch.setattr("penstock.sinks.chroma.wire.TIMEOUT", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(Transient):
            ChromaSink(f"chroma://127.0.0.1:{listener.getsockname()[1]}/notes").manifest()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, SinkError),
        (401, SinkError),
        (404, SinkError),
        (413, TooLarge),
        (429, SinkUnavailable),
        (503, SinkUnavailable),
    ],
)
def test_answers_of_others(status: int, kind: type[SinkError], monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a proxy or another web server becomes one line, without the token."""
    monkeypatch.setenv("CHROMA_TOKEN", TOKEN)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["x-chroma-token"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>\n no \n</html>")

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    seen: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Page) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(SinkError) as raised:
                ChromaSink(f"chroma://127.0.0.1:{other.server_port}/notes").manifest()
        finally:
            other.shutdown()
            thread.join()
    assert type(raised.value) is kind
    assert seen == [TOKEN]
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert status != 401 or "CHROMA_TOKEN" in str(raised.value)


def test_a_request_too_large(server: str) -> None:
    """Larger than the server's limit: smaller batches may pass."""
    with ChromaSink(f"{server}/notes-{next(numbers)}") as sink:
        sink.open(MANIFEST)
        with pytest.raises(TooLarge):
            sink.write([point(1, text="x" * (45 << 20))])


def test_no_such_database(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHROMA_DATABASE names one that does not exist."""
    monkeypatch.setenv("CHROMA_DATABASE", "nowhere")
    with ChromaSink(f"{server}/notes-{next(numbers)}") as sink, pytest.raises(SinkError):
        sink.open(MANIFEST)


def test_a_garbled_folder(tmp_path: Path) -> None:
    """A file in the place of Chroma's database that is no database."""
    (tmp_path / "chroma.sqlite3").write_bytes(b"hello" * 1000)
    with pytest.raises(SinkError, match="not a database"):
        ChromaSink(f"chroma://{tmp_path}/notes").manifest()


def test_a_foreign_collection(tmp_path: Path) -> None:
    """Someone else's collection is refused and left as it was; a user's client is not closed."""
    client = chromadb.PersistentClient(str(tmp_path), settings=chromadb.config.Settings(anonymized_telemetry=False))
    client.create_collection("notes", metadata={"mine": 1}, embedding_function=None)
    url = f"chroma://{tmp_path}/notes"
    for sink in (ChromaSink(url, client), ChromaSink(url)):
        with sink:
            for call in (lambda sink=sink: sink.open(MANIFEST), sink.drop):
                with pytest.raises(SinkError, match="not Penstock's"):
                    call()
    assert client.get_collection("notes", embedding_function=None).metadata == {"mine": 1}
    with ChromaSink(f"chroma://{tmp_path}/others", client) as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
    assert client.get_collection("others", embedding_function=None).count() == 1
    client.close()
