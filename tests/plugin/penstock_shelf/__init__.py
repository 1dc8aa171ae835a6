"""A component of every kind: a sink with an index, a source with an option, an embedder with two vectors, a parser."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from penstock.core.contracts import MultiEmbedder, Source
from penstock.core.options import Option
from penstock.core.records import Block, Change, Chunk, Dense, Item, ListingEnd, Upsert
from penstock.core.schema import VectorSpec
from penstock.sinks.memory import MemoryIndex, MemorySink, forget


def _store(url: str) -> str:
    return f"memory://shelf/{url.partition('://')[2]}"


class ShelfSink(MemorySink):
    """`shelf://NAME`"""

    def __init__(self, url: str) -> None:
        super().__init__(_store(url))
        self._url = url

    def drop(self) -> None:
        forget(_store(self._url))


class ShelfIndex(MemoryIndex):
    def __init__(self, url: str) -> None:
        super().__init__(_store(url))
        self._url = url
        self._sink = ShelfSink(url)


class VerseSource(Source):
    """`verse://WORDS`: as many documents as `verses` says, each with the words and its number."""

    options = (Option("verses", int, 3, "how many documents", metavar="N", least=1, flag=True),)

    def __init__(self, url: str, *, verses: int = 3) -> None:
        self.url, self.verses = url, verses

    @property
    def name(self) -> str:
        return self.url

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        for number in range(self.verses):
            yield Upsert(self._item(number))
        yield ListingEnd()

    def lookup(self, uri: str) -> Item | None:
        number = int(uri.rpartition("/")[2])
        return self._item(number) if number < self.verses else None

    def _item(self, number: int) -> Item:
        text = f"{self.url.partition('://')[2].replace('-', ' ')}, verse {number}".encode()
        return Item(f"{self.url}/{number}", str(number), lambda: io.BytesIO(text), len(text), "text/plain")


class LettersEmbedder(MultiEmbedder):
    """`letters:N`: how often each of the first N letters is in a text, and in its first word."""

    def __init__(self, name: str) -> None:
        self.name, self.dim = name, int(name.partition(":")[2])

    def describe(self) -> Mapping[str, VectorSpec]:
        return {which: VectorSpec(self.name, self.dim, f"{self.name}|{which}") for which in ("all", "first")}

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Dense]]:
        texts = [chunk.text for chunk in chunks]
        return {which: self.query(texts, which) for which in self.describe()}

    def query(self, texts: Sequence[str], using: str) -> Sequence[Dense]:
        return [self._counts(text if using == "all" else text.split()[0]) for text in texts]

    def _counts(self, text: str) -> Dense:
        letters = [chr(ord("a") + n) for n in range(self.dim)]
        return Dense(np.array([1 + text.lower().count(letter) for letter in letters], np.float32))


def parse_log(stream: BinaryIO, item: Item) -> Iterable[Block]:
    """One block a line, without the time in front."""
    for line in stream:
        yield Block(line.decode().partition(" ")[2])
