"""Asking an index: the query is embedded by the model that made its vectors, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.core.contracts import Embedder, Index, SeesImages
from penstock.core.errors import SinkError, SpaceMismatch, UsageError
from penstock.core.generations import current
from penstock.core.records import Hit, Manifest, Point, Vector


class OpenIndex:
    """An index together with its model. Needs no ledger; may be searched while a run fills it.

    >>> hits = open_index("lance://./index").search("how do I resume?", k=5)
    """

    def __init__(self, index: Index, embedder: Embedder) -> None:
        self.index, self.embedder = index, embedder
        self._loaded = False

    @property
    def manifest(self) -> Manifest:
        return self.index.manifest()

    def search(self, query: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """The k nearest chunks, nearest first; of one document with `where={"uri": ...}`."""
        if not query.strip():
            raise UsageError("the query is empty")
        return self._nearest(lambda: self.embedder.query([query]), k, where)

    def search_image(self, image: bytes, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """The k nearest to an image, which is any file that can be decoded."""
        embedder = self.embedder
        if not isinstance(embedder, SeesImages):
            raise UsageError(f"the index is of {self.manifest.space.model}, which embeds no images")
        return self._nearest(lambda: embedder.query_images([image]), k, where)

    def _nearest(self, query: Callable[[], Sequence[Vector]], k: int, where: Mapping[str, Any] | None) -> list[Hit]:
        if k < 1:
            raise UsageError(f"k={k}: at least one result must be asked for")
        if not self._loaded:
            self.embedder.open()
            self._loaded = True
        return self.index.search(query()[0], k, where)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self.index.fetch(ids)

    def __len__(self) -> int:
        return self.index.count()

    def close(self) -> None:
        self.index.close()
        self.embedder.close()

    def __enter__(self) -> OpenIndex:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _opened(door: Index) -> Index:
    """The index behind the door. It may be moved, and where it was be emptied, between the two looks: then again."""
    index = current(door)
    try:
        index.open()
    except SinkError:
        if (again := current(door)).url == index.url:
            raise
        index = again
        index.open()
    return index


def open_index(url: str | Index, model: str | Embedder | Callable[[list[str]], Any] | None = None) -> OpenIndex:
    """Open an index for searching. `model` is only needed where it was an object or a function of your own."""
    from penstock.pipeline import make_embedder
    from penstock.registry import INDEXES, find, scheme

    if isinstance(url, str):
        if not scheme(url):
            raise UsageError(f"{url!r} is not a url such as lance://./index")
        index: Index = find(INDEXES, scheme(url), "index")(url)
    else:
        index = url
    index = _opened(index)
    try:
        held = index.manifest().space
        embedder = make_embedder(held.model if model is None else model)
        mine = embedder.describe()
        if mine.fingerprint != held.fingerprint:
            raise SpaceMismatch(
                f"{url} was made with {held.model} (fingerprint {held.fingerprint[:8]}); {mine.model} as it is here"
                f" ({mine.fingerprint[:8]}) is another vector space: its answers would mean nothing"
            )
    except BaseException:
        index.close()
        raise
    return OpenIndex(index, embedder)
