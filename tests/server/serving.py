"""An index of words and coloured squares, and a real server on a free port."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
from PIL import Image

from penstock.compose import open_index
from penstock.core.contracts import Embedder
from penstock.core.errors import SpaceMismatch
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.jobs.search import OpenIndex
from penstock.registry import SINKS, find, scheme
from penstock.server.server import Server, serve
from penstock.server.settings import Settings
from penstock.support.images import decode
from penstock.testing.embedders import HashingEmbedder

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
FAST = Settings(port=0, drain=0.0, poll=0.1)


class ColourEmbedder(HashingEmbedder):
    """Texts by their words, images by the word for their colour: two kinds of input in one space."""

    def describe(self) -> VectorSpec:
        return VectorSpec(model="colours", dim=self.dim, fingerprint=f"colours-{self.dim}")

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        return [self.query_images([c.image])[0] if c.image else self.query([c.text])[0] for c in chunks]

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        return self.query([self._colour(picture) for picture in pictures])

    def _colour(self, picture: bytes) -> str:
        pixel: Any = decode(picture).resize((1, 1)).getpixel((0, 0))
        return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))


def picture(colour: str, size: tuple[int, int] = (64, 48), kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(out, kind, **options)
    return out.getvalue()


def chunk(number: int, text: str = "", **more: Any) -> Chunk:
    more = {"uri": f"doc:{number}", "span": (0, len(text)), **more}
    return Chunk(id=f"{number:032x}", ordinal=0, text=text, **more)


def fill(url: str, chunks: Sequence[Chunk], embedder: Embedder | None = None) -> None:
    embedder = embedder or ColourEmbedder()
    with find(SINKS, scheme(url))(url) as sink, embedder:
        embedder.open()
        sink.open(Manifest(single(embedder.describe())))
        vectors = embedder.embed(chunks)
        sink.write([Point(c, {VECTOR: v}) for c, v in zip(chunks, vectors, strict=True)])
        sink.flush()


def either(*embedders: Embedder) -> Any:
    """Opens an index with the one of these embedders that filled it."""

    def opener(url: str) -> OpenIndex:
        for embedder in embedders[:-1]:
            try:
                return open_index(url, embedder)
            except SpaceMismatch:
                continue
        return open_index(url, embedders[-1])

    return opener


class Client(httpx.Client):
    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(base_url=url, trust_env=False, timeout=20, **options)

    def found(self, **query: Any) -> list[str]:
        answer = self.post("/v1/search", json=query)
        assert answer.status_code == 200, answer.text
        return [hit["uri"] for hit in answer.json()["hits"]]


@contextmanager
def served(url: str, settings: Settings = FAST, **options: Any) -> Iterator[Client]:
    """A client of a server in a thread."""
    options.setdefault("opener", either(ColourEmbedder()))
    ready = threading.Event()
    running: list[Any] = []
    errors: list[BaseException] = []

    def started(server: Server, at: str) -> None:
        running.extend((server, at))
        ready.set()

    def run() -> None:
        try:
            serve(url, settings, started=started, out=io.StringIO(), **options)
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(30)
    if errors:
        raise errors[0]
    with Client(running[1]) as client:
        try:
            yield client
        finally:
            client.close()
            running[0].should_exit = True
            thread.join(30)
    if errors:
        raise errors[0]


def with_settings(**changes: Any) -> Settings:
    return replace(FAST, **changes)


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    """A clear error: JSON of one shape, which names the fault and reveals nothing of the inside."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"type", "message"}
    for word in words:
        assert word in error["message"]
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
