"""`chroma://` keeps the promises of a sink: in a folder, and on a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import MissingExtra, Rejected, SinkError, SpaceMismatch, Transient, UsageError
from penstock.records import VECTOR, Dense, Manifest, Metadata, Point, Space
from penstock.sinks.chroma import ChromaIndex, ChromaSink
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, holds, point, write_flush_and_die

chromadb = pytest.importorskip("chromadb")

MANIFEST = SinkSuite().manifest
TOKEN = "tok-secret-1234"
_number = count()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server; the url to which a collection's name is added."""
    port, folder = free_port(), tmp_path_factory.mktemp("chroma")
    run = "from chromadb.cli.cli import app; app()"
    command = [sys.executable, "-c", run, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                assert time.monotonic() < deadline, "the server did not answer"
                time.sleep(0.05)
        yield f"chroma://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class TestFolder(SinkSuite):
    shared = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: ChromaSink(f"chroma://{tmp_path}/in dex/notes")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: ChromaIndex(f"chroma://{tmp_path}/in dex/notes")


class TestServer(SinkSuite):
    secret = TOKEN

    @pytest.fixture
    def place(self, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("CHROMA_TOKEN", TOKEN)
        return f"{server}/notes-{next(_number)}"

    @pytest.fixture
    def make_sink(self, place: str) -> MakeSink:
        return lambda: ChromaSink(place)

    @pytest.fixture
    def make_index(self, place: str) -> MakeIndex:
        return lambda: ChromaIndex(place)


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"chroma://{tmp_path}/notes"
    return f"{request.getfixturevalue('server')}/notes-{next(_number)}"
