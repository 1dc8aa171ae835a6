"""Models that were named, open, and ready for the next call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from penstock.core.contracts import Model

M = TypeVar("M", bound=Model)
LOADED = 2
"""Models that stay loaded, at most: a second one for images beside one for texts."""


class _Loaded(Generic[M]):
    def __init__(self, model: M) -> None:
        self.model = model
        self.opening = threading.Lock()
        self.users = 0
        self.dropped = False


class LoadedModels(Generic[M]):
    """Open models by name, the last ones used. One that is dropped is closed when its last user has finished."""

    def __init__(self, size: int = LOADED) -> None:
        self._size = size
        self._models: dict[Hashable, _Loaded[M]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def using(self, key: Hashable, make: Callable[[], M]) -> Iterator[M]:
        with self._lock:
            loaded = self._models.pop(key, None) or _Loaded(make())
            self._models[key] = loaded  # the last one is the one used last
            loaded.users += 1
            self._drop(len(self._models) - self._size)
        try:
            with loaded.opening:
                loaded.model.open()
            yield loaded.model
        finally:
            with self._lock:
                loaded.users -= 1
                self._close(loaded)

    def drop(self) -> None:
        with self._lock:
            self._drop(len(self._models))

    def _drop(self, count: int) -> None:
        for key in list(self._models)[: max(0, count)]:
            loaded = self._models.pop(key)
            loaded.dropped = True
            self._close(loaded)

    def _close(self, loaded: _Loaded[M]) -> None:
        if loaded.dropped and not loaded.users:
            loaded.model.close()


def identity_of(name: str | None) -> Hashable:
    """What a model's name stands for now: a folder's files may be replaced."""
    for folder in (name or "", (name or "").partition(":")[2]):  # as it is, and after a prefix
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                files = sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in entries)
            return name, os.path.abspath(folder), tuple(files)
    return name
