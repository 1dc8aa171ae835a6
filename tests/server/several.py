"""An index with two vectors a chunk, one of the title and one of the body, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from penstock.compose import open_index
from penstock.core import filters
from penstock.core.contracts import Index
from penstock.core.filter_parser import parse_filter
from penstock.core.records import Chunk, Hit, Point, Vector
from penstock.core.schema import IndexSchema, Manifest
from penstock.embedders.functions import FunctionEmbedder
from penstock.registry import INDEXES
from penstock.sinks.memory import scores
from penstock.testing.embedders import HashingEmbedder
from tests.server.serving import Client, ColourEmbedder, chunk, served, with_settings


def titles(texts: list[str]) -> Any:
    """Vectors of the words before the colon, or of all of them in a query."""
    return np.stack([one.values for one in HashingEmbedder(64).query([text.partition(":")[0] for text in texts])])


def bodies(texts: list[str]) -> Any:
    """Vectors of the words after the colon, or of all of them in a query."""
    texts = [text.partition(":")[2] or text for text in texts]
    return np.stack([one.values for one in HashingEmbedder(32).query(texts)])


def embedders() -> dict[str, FunctionEmbedder]:
    return {"title": FunctionEmbedder(titles), "body": FunctionEmbedder(bodies)}


class SeveralIndex(Index):
    """Points with named vectors, searched exactly; counts the searches of each name."""

    def __init__(self, url: str, points: Sequence[Point], schema: IndexSchema) -> None:
        self._url, self._points = url, {point.id: point for point in points}
        self._manifest = Manifest(schema)
        self.searches: list[str | None] = []

    @property
    def url(self) -> str:
        return self._url

    def open(self) -> None:
        pass

    def manifest(self) -> Manifest:
        return self._manifest

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [self._points[id] for id in ids if id in self._points]

    def count(self) -> int:
        return len(self._points)

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        self.searches.append(using)
        name, wanted = self._manifest.schema.name(using), parse_filter(where)
        points = [
            point
            for point in self._points.values()
            if name in point.vectors and (wanted is None or filters.passes(point.chunk, wanted))
        ]
        if not points:
            return []
        found = scores(vector, [point.vectors[name] for point in points], "cosine")
        best = np.argsort(-found, kind="stable")[:k]
        return [Hit(float(found[n]), points[n].chunk) for n in best]


def points_of(chunks: Sequence[Chunk], models: Mapping[str, Any]) -> list[Point]:
    vectors = {name: model.embed(chunks) for name, model in models.items()}
    return [Point(one, {name: vectors[name][n] for name in models}) for n, one in enumerate(chunks)]


TEXTS = ("otters: rivers", "rivers: otters", "gates: floods", "floods: gates", "water: water", "water: gates and weirs")


def several(url: str, names: Sequence[str] = ("title", "body")) -> SeveralIndex:
    """Six documents; the last has no vector of its title, as where a name was added later."""
    chunks = [chunk(n, text) for n, text in enumerate(TEXTS)]
    models = {name: model for name, model in embedders().items() if name in names}
    *points, last = points_of(chunks, models)
    points.append(Point(last.chunk, {name: vector for name, vector in last.vectors.items() if name != "title"}))
    return SeveralIndex(url, points, IndexSchema({name: model.describe() for name, model in models.items()}))


_indexes: dict[str, SeveralIndex] = {}


def index_at(url: str) -> SeveralIndex:
    return _indexes[url]


@contextmanager
def served_several(index: SeveralIndex, models: Mapping[str, Any] | None = None, **settings: Any) -> Iterator[Client]:
    """A client of a server of this index, which the registry finds by its url as it does a store's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INDEXES, "several", ("tests.server.several:index_at", None))
        patch.setitem(_indexes, index.url, index)
        opener = partial(open_index, index, models or embedders())
        with served(index.url, with_settings(**settings), opener=lambda url: opener()) as client:
            yield client


def look_and_words(url: str) -> tuple[SeveralIndex, dict[str, Any]]:
    """Three colours: their words can be searched by text only, their look by images as well."""
    models: dict[str, Any] = {"words": FunctionEmbedder(bodies), "look": ColourEmbedder()}
    chunks = [chunk(n, colour) for n, colour in enumerate(("red", "green", "blue"))]
    schema = IndexSchema({name: model.describe() for name, model in models.items()})
    return SeveralIndex(url, points_of(chunks, models), schema), models
