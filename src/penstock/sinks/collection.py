"""The sink and the index of a collection that a client reaches: the part that is the same for every such store."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import accumulate
from pathlib import Path as FilePath
from typing import Any, ClassVar, Protocol, TypeVar

from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.fields import Path, Scalar
from penstock.core.filter_parser import facet_path, parse_filter
from penstock.core.filters import Filter
from penstock.core.records import Hit, Vector
from penstock.core.schema import WORDS, IndexSchema, Manifest, VectorSpec
from penstock.sinks import manifests, rows
from penstock.sinks.address import Address
from penstock.sinks.store import Handle, Store
from penstock.sinks.words import asked


class Collection(Handle, Protocol):
    def alias(self, name: str) -> bool:
        """Have `name` stand for this collection. False where the store has no aliases."""
        ...


_following = threading.RLock()
"""Held while a store is opened anew that was replaced."""
H = TypeVar("H", bound=Handle)
C = TypeVar("C", bound=Collection)
Target = tuple[str, VectorSpec]
"""The name of the vectors that a search compares with, and their space."""
LONGEST_QUESTION = 1000
"""Characters: stores refuse questions of more than 1,024 words, as which they may take characters."""


@contextmanager
def closed_on_error(handle: H) -> Iterator[H]:
    """The handle, which is closed if what is done with it fails."""
    try:
        yield handle
    except BaseException:
        handle.close()
        raise


class AddressStore(Store[H]):
    """A store whose url is the address of one collection."""

    @staticmethod
    @abstractmethod
    def _parse(url: str) -> Address:
        """Raises UsageError for a url that is not of this store."""

    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        self._address = self._parse(url)

    @property
    def _name(self) -> str:
        return self._address.names[0]

    @property
    def _file(self) -> str:
        """Of the folder, what a store that takes its place has as well."""
        return ""

    def _place(self) -> tuple[int, ...]:
        folder = self._address.folder
        return () if folder is None or self._client is not None else place_of(folder, folder / self._file)


def place_of(*paths: FilePath) -> tuple[int, ...]:
    """Which files these are; nothing where one of them is missing."""
    try:
        return tuple(number for one in map(os.stat, paths) for number in (one.st_dev, one.st_ino))
    except OSError:
        return ()


class CollectionSink(Store[C], Sink):
    """A sink whose manifest, removal and alias are matters of its collection alone."""

    @property
    @abstractmethod
    def _name(self) -> str:
        """The collection's name, as the store has it."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self._drop()

    def alias(self, number: int) -> str:
        name = self._sibling("live")._name
        with closing((self.generation(number) if number else self)._connect()) as collection:
            return name if collection.alias(name) else ""


class CollectionIndex(Store[H], Index):
    """An index that checks the question before it asks the store."""

    largest_k: ClassVar[int | None] = None
    """The most results of one search, where the store has a limit."""
    keeps_fields: ClassVar[bool] = True
    """Points are written with the fields of their metadata, which those of older indexes lack."""

    _held: tuple[int, ...] = ()
    """The place of the store that is open."""

    def _hold(self, handle: H, schema: IndexSchema) -> None:
        super()._hold(handle, schema)
        self._held = self._place()

    def _opened(self) -> tuple[H, IndexSchema]:
        """The handle and the schema; opened anew where another store has taken the place of the one that was open: what
        a driver keeps in memory is of the old one. Raises SinkError where there is none, or one of another model."""
        if self._held and self._held != self._place():
            with _following:
                if (place := self._place()) != self._held:
                    self._reopen(place)
        return super()._opened()

    def _reopen(self, place: tuple[int, ...]) -> None:
        if not place:
            raise SinkError(f"there is no index at {self._url}")
        before, held = self._schema, self._held
        self.close()  # first: while it is open, others of this process are given the same client
        try:
            self.open()
        except BaseException:
            self.close()
            self._schema, self._held = before, held
            raise
        if before is not None and self._schema != before:
            self.close()
            self._schema, self._held = before, held
            raise SinkError(f"{self._url} was replaced by an index of another model")

    def open(self) -> None:
        kept = self._found()
        self._hold(self._connect(), kept.schema)

    def manifest(self) -> Manifest:
        return self._found()

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        collection, schema = self._opened()
        target = rows.target(vector, schema, using, self._url)
        if k < 1:
            return []
        self._check_number(k)
        return self._nearest(collection, target, vector, k, self._parsed(where))

    def _check_number(self, k: int) -> None:
        if self.largest_k is not None and k > self.largest_k:
            raise UsageError(f"{self._url} finds {self.largest_k:,} at most, not {k:,}")

    def facets(
        self, names: Sequence[str], where: Mapping[str, Any] | None = None, *, limit: int = 20
    ) -> Mapping[str, Sequence[tuple[Scalar, int]]]:
        collection, _ = self._opened()
        paths = {name: facet_path(name) for name in names}
        wanted = self._parsed(where)
        if self.keeps_fields and any(path is not None for path in paths.values()):
            manifests.check_fields(self._opened()[1], self._url)
        return {name: self._facet(collection, path, wanted, limit) for name, path in paths.items()}

    def _parsed(self, where: Mapping[str, Any] | None) -> Filter | None:
        wanted = parse_filter(where)
        if self.keeps_fields:
            manifests.check_filterable(self._opened()[1], wanted, self._url)
        return wanted

    def _facet(
        self, collection: H, path: Path | None, where: Filter | None, limit: int
    ) -> Sequence[tuple[Scalar, int]]:
        """Count the values at a path, or for None the types, of the chunks that pass the filter."""
        raise UsageError(f"{self._url} cannot count the values of a field")

    @abstractmethod
    def _nearest(self, collection: H, target: Target, vector: Vector, k: int, where: Filter | None) -> list[Hit]:
        """Find the k nearest by the vectors of the target, of those that pass the filter."""


class WordsIndex(CollectionIndex[H]):
    """An index of a store with full text of its own, where `finds_words` says that this index has it."""

    @property
    def lacks_words(self) -> bool:
        _, schema = self._opened()
        return not self.finds_words and WORDS not in schema.vectors

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        collection, _ = self._opened()
        if self.lacks_words:
            raise UsageError(
                f"{self._url} has no full text, as an earlier version made it: a re-index with the settings that it has"
                " gives it that, and embeds only what this version cuts otherwise"
            )
        if not self.finds_words:
            return super().search_words(text, k, where)
        wanted, question = self._parsed(where), _counting_parts(text)
        if k < 1 or not question:
            return []
        self._check_number(k)
        return self._with_words(collection, question, k, wanted)

    @abstractmethod
    def _with_words(self, collection: H, question: str, k: int, where: Filter | None) -> list[Hit]:
        """Find the k best by the store's full text, of those that pass the filter."""


def _counting_parts(question: str) -> str:
    """The parts of a question with words that count, as they are written: stores may take `os.path` for one word. Each
    whole, and as many as a store takes."""
    several = list(dict.fromkeys(part for part in question.split() if asked(part)))
    lengths = accumulate(len(part) + 1 for part in several)
    whole = " ".join(part for part, length in zip(several, lengths, strict=True) if length <= LONGEST_QUESTION + 1)
    return (whole or several[0][:LONGEST_QUESTION] if several else "").encode("utf-8", "replace").decode()
