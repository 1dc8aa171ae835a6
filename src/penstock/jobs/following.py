"""The current generation of an index, open with its model, and followed when a re-index switches to another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from penstock.core.contracts import Index, MultiEmbedder
from penstock.core.errors import SinkError, SpaceMismatch, UsageError
from penstock.core.generations import current
from penstock.core.schema import IndexSchema

R = TypeVar("R")
CHECK_INTERVAL = 5.0
"""Seconds after which a search asks which generation is current, if nothing made one ask before."""


class Generation:
    """One generation of an index, open until its last user has left."""

    def __init__(self, index: Index, schema: IndexSchema, embedder: MultiEmbedder) -> None:
        self.index, self.schema, self.embedder = index, schema, embedder
        self.users, self.retired = 0, False

    @property
    def identity(self) -> tuple[str, IndexSchema]:
        return self.index.url, self.schema


class Following:
    """The index at a base, whichever generation is current. `choose` makes the embedder for a schema, or raises."""

    def __init__(self, base: Index, choose: Callable[[IndexSchema], MultiEmbedder]) -> None:
        self._base, self._choose = base, choose
        self._lock = threading.Lock()
        """Held for moments only."""
        self._moving = threading.Lock()
        try:
            self._generation = self._open(None)
        except BaseException:
            base.close()
            raise
        self._checked = time.monotonic()

    @property
    def url(self) -> str:
        return self._base.url

    @property
    def generation(self) -> Generation:
        return self._generation

    def call(self, task: Callable[[Generation], R], complete: Callable[[R], bool]) -> R:
        """The task's result, of the generation that is current. One that fails, or is not `complete`, may come from a
        generation that was emptied or removed: if another one is current by then, the task is done again there."""
        if time.monotonic() - self._checked >= CHECK_INTERVAL:
            self._follow(self._generation)
        while True:
            with self._lease() as generation:
                try:
                    result = task(generation)
                except UsageError:
                    raise
                except Exception:  # a driver may raise anything where its table is gone
                    if not self._follow(generation):
                        raise
                    continue
            if complete(result) or not self._follow(generation):
                return result

    def close(self) -> None:
        self._retire(self._generation)
        self._generation.embedder.close()
        self._base.close()

    @contextmanager
    def _lease(self) -> Iterator[Generation]:
        with self._lock:
            generation = self._generation
            generation.users += 1
        try:
            yield generation
        finally:
            with self._lock:
                generation.users -= 1
            self._close_unused(generation)

    def _follow(self, seen: Generation) -> bool:
        """Open the generation that is current, where it is not the one that was seen. True if another one is open."""
        with self._moving:
            if self._generation is not seen:
                return True
            self._checked = time.monotonic()
            location = current(self._base)
            manifest = location.manifest()
            if manifest is None or (location.url, manifest.schema) == seen.identity:
                return False
            following = self._open(seen)
            with self._lock:
                self._generation = following
            self._retire(seen)
            if following.embedder is not seen.embedder:
                seen.embedder.close()
            return True

    def _open(self, before: Generation | None) -> Generation:
        index = opened(self._base)
        try:
            schema = index.manifest().schema
            embedder = self._embedder(schema, index.url, before)
        except BaseException:
            if index is not self._base:
                index.close()
            raise
        return Generation(index, schema, embedder)

    def _embedder(self, schema: IndexSchema, url: str, before: Generation | None) -> MultiEmbedder:
        """That of the generation before, if it serves; it is loaded."""
        if before is not None:
            try:
                check_model(schema, before.embedder, url)
            except SpaceMismatch:
                pass
            else:
                return before.embedder
        embedder = self._choose(schema)
        check_model(schema, embedder, url)
        return embedder

    def _retire(self, generation: Generation) -> None:
        with self._lock:
            generation.retired = True
        self._close_unused(generation)

    def _close_unused(self, generation: Generation) -> None:
        """Close its index; the base is needed to see which generation is current."""
        if generation.retired and not generation.users and generation.index is not self._base:
            generation.index.close()


def opened(base: Index) -> Index:
    """The current generation of an index, open. It may be switched, and emptied, between two looks at the base: then
    again."""
    index = current(base)
    try:
        index.open()
    except SinkError:
        if (again := current(base)).url == index.url:
            raise
        index = again
        index.open()
    return index


def check_model(schema: IndexSchema, embedder: MultiEmbedder, url: str) -> None:
    """Raise SpaceMismatch unless the model made the vectors of the index."""
    mine = embedder.describe()
    for name, held in schema.vectors.items():
        if name not in mine:
            raise SpaceMismatch(f"{url} has vectors named {name!r}, for which no model was given")
        if mine[name].fingerprint != held.fingerprint:
            raise SpaceMismatch(
                f"{url} was made with {held.model} (fingerprint {held.fingerprint[:8]}); {mine[name].model} as it is"
                f" here ({mine[name].fingerprint[:8]}) is another vector space: its answers would mean nothing"
            )
