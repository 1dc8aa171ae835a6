"""A store that is replaced while it is served: followed, or not ready until it is back, and never half of each."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.compose import open_index
from penstock.core.errors import SinkError
from penstock.sinks.memory import MemoryIndex, forget
from penstock.testing.embedders import OtherEmbedder
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, refused, served, with_settings

EMBEDDED = ["sqlite", "lance", "qdrant", "chroma", "milvus"]
STORES = {
    "sqlite": "sqlite://{}/index.db",
    "lance": "lance://{}/index",
    "qdrant": "qdrant://{}/index/notes",
    "chroma": "chroma://{}/index/notes",
    "milvus": "milvus://{}/index.db/notes",
}


class Place:
    """A store where it is served, and others that take its place."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.url = self.at("served")
        fill(self.url, [chunk(1, "old words")])

    def at(self, name: str) -> str:
        (self.folder / name).mkdir(exist_ok=True)
        return STORES[self.kind].format(self.folder / name)

    def files(self, name: str = "served") -> Path:
        return self.folder / name / ("index.db" if self.kind in ("sqlite", "milvus") else "index")

    def made(self, name: str, chunks: list[Any], embedder: Any = None) -> Path:
        fill(self.at(name), chunks, embedder)
        return self.files(name)

    def removed(self, path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(params=EMBEDDED)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


def within(seconds: float, true: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it is served as it was"
        time.sleep(0.05)


def ready(client: Client) -> bool:
    return client.get("/readyz").status_code == 200


def test_one_that_is_moved_into_its_place_is_served(place: Place) -> None:
    other = place.made("other", [chunk(2, "new words"), chunk(3, "more words")])
    with served(place.url) as client:
        assert client.found(text="words") == ["doc:1"]
        place.files().rename(place.folder / "away")
        other.rename(place.files())
        within(5, lambda: sorted(client.found(text="words")) == ["doc:2", "doc:3"])
        within(5, lambda: ready(client))
        place.files().rename(place.folder / "other back")
        (place.folder / "away").rename(place.files())
        within(5, lambda: client.found(text="words") == ["doc:1"])


def test_one_of_another_model_is_served_with_it(place: Place) -> None:
    """No vector of the one is compared with those of the other."""
    other = place.made("other", [chunk(2, "new words")], OtherEmbedder(64))
    with served(place.url, opener=either(ColourEmbedder(), OtherEmbedder(64))) as client:
        place.files().rename(place.folder / "away")
        other.rename(place.files())
        within(
            5,
            lambda: client.post("/v1/search", json={"text": "words"}).json().get("hits", [{}])[0].get("uri") == "doc:2",
        )
        assert client.get("/v1/status").json()["model"]["model"] == "other"
        assert ready(client)


def test_one_that_is_gone_is_not_ready_until_it_is_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with served(place.url) as client:
        place.files().rename(place.folder / "away")
        within(5, lambda: not ready(client))
        refused(client.get("/v1/search?q=words"), 503, "index is unavailable")
        assert f"there is no index at {place.url}" in caplog.text
        assert client.get("/healthz").status_code == 200
        (place.folder / "away").rename(place.files())
        within(5, lambda: ready(client))
        assert client.found(text="words") == ["doc:1"]


def test_garbage_in_its_place_is_not_ready(place: Place) -> None:
    with served(place.url) as client:
        place.files().rename(place.folder / "away")
        for content in (b"", b"garbage" * 5000):
            place.files().write_bytes(content)
            within(5, lambda: not ready(client))
            refused(client.get("/v1/search?q=words"), 503)
            place.files().unlink()
        place.files().mkdir()
        within(5, lambda: not ready(client))
        shutil.rmtree(place.files())  # a driver may have begun something in it
        (place.folder / "away").rename(place.files())
        within(5, lambda: ready(client) and client.found(text="words") == ["doc:1"])


def test_an_open_index_follows_as_well(place: Place) -> None:
    other = place.made("other", [chunk(2, "new words")])
    with open_index(place.url, ColourEmbedder()) as index:
        assert [hit.chunk.uri for hit in index.search("words")] == ["doc:1"]
        place.files().rename(place.folder / "away")
        with pytest.raises(SinkError, match="there is no index"):
            index.search("words")
        other.rename(place.files())
        assert [hit.chunk.uri for hit in index.search("words")] == ["doc:2"]
        assert len(index) == 1
        assert [point.chunk.uri for point in index.fetch([f"{2:032x}"])] == ["doc:2"]


def test_a_sqlite_file_that_is_written_over(tmp_path: Path) -> None:
    """By another one, by a backup of its own, cut short: the same file for the system, beside a log of before."""
    place = Place("sqlite", tmp_path)
    path = place.files()
    other = place.made("other", [chunk(n, f"new words {n}") for n in range(10, 300)])
    with served(place.url) as client:
        assert client.found(text="words") == ["doc:1"]
        shutil.copyfile(path, tmp_path / "backup")
        fill(place.url, [chunk(n, f"later words {n}") for n in range(300, 500)])
        within(5, lambda: len(client.found(text="later words", k=50)) == 50)
        shutil.copyfile(tmp_path / "backup", path)
        within(5, lambda: client.found(text="words", k=50) == ["doc:1"])
        shutil.copyfile(other, path)
        within(5, lambda: len(client.found(text="words", k=50)) == 50)
        assert {int(uri[4:]) for uri in client.found(text="words", k=50)} <= {*range(10, 300)}
        size = path.stat().st_size
        os.truncate(path, size // 3)
        within(5, lambda: not ready(client))
        os.truncate(path, 0)
        within(5, lambda: not ready(client))
        shutil.copyfile(other, path)
        within(5, lambda: ready(client) and len(client.found(text="words", k=50)) == 50)
        path.unlink()
        shutil.copyfile(tmp_path / "backup", path)
        for ending in ("-wal", "-shm"):
            path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
        within(5, lambda: ready(client) and client.found(text="words") == ["doc:1"])


@pytest.mark.parametrize("by", ["rename", "copy"])
def test_no_answer_is_half_of_each(by: str, tmp_path: Path) -> None:
    """While one store replaces the other again and again, an answer is of one of them, or an error."""
    place = Place("sqlite", tmp_path)
    path = place.files()
    sources = {}
    for name, numbers in (("a", range(100, 300)), ("b", range(300, 600))):
        sources[name] = place.made(name, [chunk(n, f"{name} words {n}") for n in numbers])
    stop, wrong, answered = threading.Event(), list[str](), [0]

    def ask() -> None:
        with Client(str(client.base_url)) as mine:
            while not stop.is_set():
                answer = mine.post("/v1/search", json={"text": "words", "k": 100})
                if answer.status_code == 200:
                    answered[0] += 1
                    kinds = {hit["text"][0] for hit in answer.json()["hits"]}
                    if kinds not in ({"a"}, {"b"}, {"o"}):
                        wrong.append(str(kinds))
                elif answer.status_code != 503:
                    wrong.append(answer.text)

    with served(place.url, with_settings(poll=0.2)) as client:
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            for number in range(24):
                source = sources["ab"[number % 2]]
                if by == "rename":
                    shutil.copyfile(source, tmp_path / "next")
                    os.replace(tmp_path / "next", path)
                else:
                    shutil.copyfile(source, path)
                time.sleep(0.05)
        finally:
            stop.set()
            thread.join()
        within(5, lambda: ready(client))
        assert {hit["text"][0] for hit in client.post("/v1/search", json={"text": "words"}).json()["hits"]} == {"b"}
    assert not wrong, wrong[:3]
    assert answered[0]


def test_an_error_that_a_query_brings_about_reopens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the client's: the index answers others. The model is not loaded anew, whatever comes in."""
    url = "memory://serve-refusing"
    fill(url, [chunk(1, "words")])
    search = MemoryIndex.search

    def refusing(self: Any, vector: Any, k: int = 10, where: Any = None, **options: Any) -> Any:
        if where:
            raise SinkError(f"{url}: the expression is too deep in /secret/path")
        return search(self, vector, k, where, **options)

    monkeypatch.setattr(MemoryIndex, "search", refusing)
    opened: list[str] = []
    opener = either(ColourEmbedder())

    def counting(url: str) -> Any:
        opened.append(url)
        return opener(url)

    monkeypatch.setattr("penstock.server.generations.REOPEN_INTERVAL", 0.0)
    with served(url, opener=counting) as client:
        for _ in range(3):
            answer = client.post("/v1/search", json={"text": "words", "where": {"page": 1}})
            refused(answer, 400, "cannot answer such a query")
            assert "secret" not in answer.text
        assert client.found(text="words") == ["doc:1"]
        assert ready(client)
        assert len(opened) == 1
    forget(url)


def test_499_terms_are_answered(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path)
    with served(place.url) as client:
        for number in (499, 500):
            terms = [{"uri": f"doc:{n}"} for n in range(number)]
            assert client.found(text="words", where={"$or": terms}) == ["doc:1"]
        answer = client.post("/v1/search", json={"text": "words", "where": {"$or": [{"page": n} for n in range(501)]}})
        refused(answer, 400, "at most 500")
