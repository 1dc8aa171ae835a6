"""What sinks and indexes share: a url, and while they are open, a handle of the store and the schema of the vectors."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from penstock.core.errors import SinkError
from penstock.core.schema import IndexSchema
from penstock.sinks import manifests

H = TypeVar("H")


class Located:
    """A component that is its url: by it, it is shown, pickled and has other generations."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url,)

    @property
    def url(self) -> str:
        return self._url

    def generation(self, number: int) -> Self:
        return type(self)(manifests.numbered(self._url, number))


class Opened(Located, Generic[H]):
    """A located component that holds a handle of its store between `open` and `close`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._handle: H | None = None
        self._schema: IndexSchema | None = None

    def _hold(self, handle: H, schema: IndexSchema) -> None:
        """Become open, with this handle; one of before is closed."""
        self.close()
        self._handle, self._schema = handle, schema

    def _opened(self) -> tuple[H, IndexSchema]:
        """The handle and the schema. Raises SinkError where it is not open."""
        if self._handle is None or self._schema is None:
            raise SinkError(f"{self._url} is not open")
        return self._handle, self._schema

    def close(self) -> None:
        self._handle = self._schema = None
