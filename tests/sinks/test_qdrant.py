"""`qdrant://` keeps the promises of a sink: in a folder with the client's own engine, over REST with an emulator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.records import VECTOR, Dense, MultiVector, Sparse, Vector
from penstock.sinks.qdrant import QdrantIndex, QdrantSink
from penstock.testing.emulators.qdrant import Emulator
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, similarity

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")

SECRET = "a-key-not-to-be-told"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(SECRET) as server:
        yield server


@pytest.fixture
def server(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    emulator.collections.clear()
    emulator.requests.clear()
    return emulator


def at(server: Emulator, name: str = "notes") -> str:
    return f"qdrant://127.0.0.1:{server.port}/{name}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a file system: the local mode syncs after each point."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as made:
        yield Path(made)


class TestFolder(SinkSuite):
    shared = False

    @pytest.fixture
    def make_sink(self, folder: Path) -> MakeSink:
        return lambda: QdrantSink(f"qdrant://{folder}/in dex/notes")

    @pytest.fixture
    def make_index(self, folder: Path) -> MakeIndex:
        return lambda: QdrantIndex(f"qdrant://{folder}/in dex/notes")


class TestServer(SinkSuite):
    secret = SECRET
    kind: type[Vector] = Dense

    @pytest.fixture
    def make_sink(self, server: Emulator) -> MakeSink:
        return lambda: QdrantSink(at(server))

    @pytest.fixture
    def make_index(self, server: Emulator) -> MakeIndex:
        return lambda: QdrantIndex(at(server))


class TestServerMultiVector(TestServer):
    kind = MultiVector


class TestServerSparse(TestServer):
    kind = Sparse

    def test_search_within(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """As for the others, but that Qdrant finds only what shares an index with the query."""
        points = self.points(*range(200))
        query = points[5].vectors[VECTOR]
        with self.searched(make_sink, make_index, points) as index:
            found = index.search(query, k=200, where={"uri": "file:///docs/1.md"})
        alike = [p for p in points if p.chunk.uri == "file:///docs/1.md" and similarity(query, p.vectors[VECTOR]) > 0]
        assert 0 < len(alike) < 50
        assert {hit.chunk.id for hit in found} == {p.id for p in alike}
