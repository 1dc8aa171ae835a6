"""One model for several pipelines: loaded once, and called by one after the other in turns.

A pipeline with a backlog of hours waits behind one with a single document: turns go by the tokens that each had.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from penstock.core.contracts import MultiEmbedder, Tokenizer
from penstock.core.records import Chunk, Vector
from penstock.core.schema import VectorSpec
from penstock.support.fair import Places


class SharedModel:
    """Open as long as one of its users has it open."""

    def __init__(self, embedder: MultiEmbedder) -> None:
        self.embedder = embedder
        self.places = Places(embedder.workers)
        """Calls at once, of all users together."""
        self._users: set[ModelUser] = set()
        self._calling: Counter[ModelUser] = Counter()
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        """Held for moments only."""

    def user(self, name: str) -> ModelUser:
        return ModelUser(self, name)

    def open(self, user: ModelUser) -> None:
        with self._loading:
            self.embedder.open()
            self._users.add(user)

    def close(self, user: ModelUser) -> None:
        with self._loading:
            if user in self._users:
                self._users.remove(user)
                if not self._users:
                    self.embedder.close()

    def describe(self) -> Mapping[str, VectorSpec]:
        with self._loading:  # the first time it may read the model's files
            return self.embedder.describe()

    @contextmanager
    def turn(self, user: ModelUser, cost: float) -> Iterator[MultiEmbedder]:
        with self.places.hold(user.name, cost, lambda: user.interrupted):
            with self._lock:
                self._calling[user] += 1
            try:
                yield self.embedder
            finally:
                with self._lock:
                    self._calling[user] -= 1
                    self._calling += Counter()  # without those that make no call any more

    def interrupt(self) -> None:
        """Give up the calls in progress, unless some are of users that go on."""
        with self._lock:
            unwanted = bool(self._calling) and all(user.interrupted for user in self._calling)
        if unwanted:
            self.embedder.interrupt()


class ModelUser(MultiEmbedder):
    """A shared model as one pipeline has it: an embedder like any other."""

    def __init__(self, model: SharedModel, name: str) -> None:
        inner = model.embedder
        self.name = name
        self.interrupted = False
        """What waits for its turn is given up."""
        self.embeds_images = inner.embeds_images
        self.has_tokenizer = inner.has_tokenizer
        self.workers = inner.workers + 1
        """One more than call the model at once: while a batch is embedded the next one waits for its turn, as otherwise
        the turn would be that of the others, however much they had."""
        self.batch_tokens = inner.batch_tokens
        self.batch_rows = inner.batch_rows
        self._model = model

    def __repr__(self) -> str:
        return repr(self._model.embedder)

    def describe(self) -> Mapping[str, VectorSpec]:
        return self._model.describe()

    def open(self) -> None:
        self.interrupted = False
        self._model.open(self)

    def close(self) -> None:
        self._model.close(self)

    def interrupt(self) -> None:
        self.interrupted = True
        self._model.interrupt()

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._model.embedder.tokenizer

    @property
    def uncompared(self) -> Sequence[str]:
        return self._model.embedder.uncompared

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        with self._model.turn(self, sum(chunk.length for chunk in chunks)) as embedder:
            return embedder.embed(chunks)

    def query(self, texts: Sequence[str], using: str) -> Sequence[Vector]:
        with self._model.turn(self, len(texts)) as embedder:
            return embedder.query(texts, using)
