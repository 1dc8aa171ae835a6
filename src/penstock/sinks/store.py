"""What the sink and the index of one store have in common, where a client speaks to it."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from contextlib import closing
from typing import Any, Protocol, Self, TypeVar

from penstock.core.errors import SinkError, UsageError
from penstock.core.schema import Manifest
from penstock.sinks import manifests
from penstock.sinks.base import Opened


class Handle(Protocol):
    """A client, and the collection that it is used for."""

    def manifest(self) -> Manifest | None: ...
    def count(self) -> int: ...
    def remove(self) -> None: ...
    def close(self) -> None: ...


H = TypeVar("H", bound=Handle)


class Store(Opened[H]):
    """A sink or index whose store is reached by a client, perhaps one of the user's."""

    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url)
        self._client = client

    def __reduce__(self) -> tuple[Any, ...]:
        if self._client is not None:
            raise UsageError(f"{self._url}: a client cannot go to another process; leave it out, and one is made there")
        return super().__reduce__()

    def generation(self, number: int) -> Self:
        self._sibling("live")  # raises where the alias's name is too long, before there is anything to stand for
        return self._sibling(number)

    def _sibling(self, number: int | str) -> Self:
        url = manifests.numbered(self._url, number)
        return type(self)(url, self._client) if self._client is not None else type(self)(url)

    @abstractmethod
    def _connect(self) -> H: ...

    def _place(self) -> tuple[int, ...]:
        """What tells the files of this machine that hold the store from others that take their place; nothing where a
        server has it."""
        return ()

    def _kept(self) -> Manifest | None:
        """The manifest, by a handle for the moment if none is open."""
        if self._handle is not None:
            return self._handle.manifest()
        with closing(self._connect()) as handle:
            return handle.manifest()

    def _found(self) -> Manifest:
        """The same, where there has to be an index."""
        if (kept := self._kept()) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def _drop(self) -> None:
        """Remove what is there, which raises SinkError where that is not Penstock's."""
        self.close()
        if self._kept() is not None:
            with closing(self._connect()) as handle:
                handle.remove()

    def count(self) -> int:
        return self._opened()[0].count()

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        super().close()


def secret(variable: str, url: str) -> str:
    """The key in an environment variable; nothing where there is none."""
    found = os.environ.get(variable, "").strip()
    if not re.fullmatch("[!-~]*", found):
        raise UsageError(f"{url}: the environment variable {variable} does not hold a key")
    return found


def line(error: object) -> str:
    """What a driver says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
