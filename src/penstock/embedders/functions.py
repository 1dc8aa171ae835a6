"""A function as an embedder, plain or async: `list[str] -> array of shape (n, dim)`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, UsageError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.support.asynchronous import Calls, is_async
from penstock.support.code_fingerprint import CodeFingerprint, code_fingerprint, qualified_name

CONCURRENCY = 8
"""Calls of an async function that are awaited at once, where nothing else is said: it waits for a service."""


class FunctionEmbedder(Embedder):
    """Calls a function, or awaits an async one.

    A plain function is called by one thread at a time, unless `concurrency` says that it may be called from more. An
    `async def` runs on an event loop in a thread of its own, the same one in every call, with `concurrency` calls in
    flight (8); a run that stops cancels them.

    The space is that of the function's name and code, so that a changed function makes another; with a `version` that
    counts instead of the code. `dim` is asked of the function itself, with one word, where it is not set.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Any],
        *,
        dim: int | None = None,
        version: str | None = None,
        query: Callable[[list[str]], Any] | None = None,
        concurrency: int | None = None,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise UsageError(f"invalid concurrency {concurrency}: expected at least 1")
        self.function = function
        self.dim = dim
        self.version = version
        self.query_function = query
        self.workers = concurrency or (CONCURRENCY if is_async(function) else 1)
        self._calls = Calls()

    def __repr__(self) -> str:
        version = "" if self.version is None else f", version={self.version!r}"
        return f"FunctionEmbedder({qualified_name(self.function)}{version})"

    def describe(self) -> VectorSpec:
        if self.dim is None:
            self.dim = self._call(self.function, ["penstock"]).shape[1]
        name = qualified_name(self.function)
        query = "" if self.query_function is None else qualified_name(self.query_function)
        version = "+".join(code.digest for code in self._codes) if self.version is None else self.version
        traits = f"{name}|{query}|{version}|{self.dim}"
        return VectorSpec(model=name, dim=self.dim, fingerprint=hashlib.sha256(traits.encode()).hexdigest()[:32])

    @property
    def uncompared(self) -> Sequence[str]:
        return [one for code in self._codes for one in code.uncompared] if self.version is None else ()

    @property
    def _codes(self) -> list[CodeFingerprint]:
        return [code_fingerprint(one) for one in (self.function, self.query_function) if one is not None]

    def interrupt(self) -> None:
        self._calls.cancel()

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        return [Dense(row) for row in self._call(self.function, [chunk.text for chunk in chunks])]

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [Dense(row) for row in self._call(self.query_function or self.function, list(texts))]

    def _call(self, function: Callable[[list[str]], Any], texts: list[str]) -> Any:
        import numpy as np

        name, wanted = qualified_name(function), self.dim if self.dim is not None else "dim"
        result = self._calls.call(function, texts)
        try:
            vectors = np.asarray(result, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EmbedError(f"{name} did not give an array of shape ({len(texts)}, {wanted}): {error}") from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or (self.dim is not None and vectors.shape[1] != self.dim):
            raise EmbedError(f"{name} gave an array of shape {vectors.shape}, not ({len(texts)}, {wanted})")
        if not np.isfinite(vectors).all():
            raise EmbedError(f"{name} gave values that are not finite")
        return vectors
