"""The served index: its current generation, open together with its models, and followed to the next one.

A generation stays open until the last request that uses it has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from penstock.core.contracts import Index, MultiEmbedder, Reranker, Tokenizer
from penstock.core.errors import PenstockError, SinkError, SinkUnavailable, Transient
from penstock.core.generations import current
from penstock.core.records import Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.embedders.named import image_queries
from penstock.jobs.search import OpenIndex
from penstock.registry import INDEXES, find, scheme
from penstock.server.batcher import Batcher, BatchLimit, Embedded, ModelThreads
from penstock.server.fair import FairPool
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem
from penstock.server.settings import Settings
from penstock.support.fair import Neighbours

R = TypeVar("R")
Opener = Callable[[str], OpenIndex]

MAX_IMAGES = 8
"""Images that the model gets at once: they are decoded by the same thread."""
IMAGE_TOKENS, PIXELS_A_TOKEN = 256, 8192
"""Cost of an image in tokens of text: to embed it, and to decode so many of its pixels."""
MAX_THREADS = 4
"""Threads that embed, where the model allows as many."""
MAX_TOKENS = 512
"""Cost of a text at most, for a model that says nothing of its longest."""
MAX_COUNTED = 400
"""Characters of a text up to which its tokens are counted on the event loop; a longer one is taken for the longest."""
CLOSE_TIMEOUT = 5.0
"""Seconds that closing waits for threads: those in native code do not survive the end of the interpreter well."""
REOPEN_INTERVAL = 5.0
"""Seconds between two attempts to open one generation: each loads the model, too."""
PROBE = "ready?"
"""The text that is searched for to see that model and index work."""


@dataclass(frozen=True, slots=True)
class NamedVector:
    """One of the vectors that a chunk has, with the queues for queries of that space."""

    name: str
    spec: VectorSpec
    texts: Batcher[str]
    images: Batcher[bytes] | None
    """None where the model takes no images."""
    tokenizer: Tokenizer | None

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the model's tokenizer, or words where it has none."""
        if (tokenizer := self.tokenizer) is None:
            return [len(text.split()) for text in texts]
        return [len(tokenizer.encode([text])[0]) for text in texts]  # together they would take all cores

    def submit_text(self, text: str, client: str, tokens: int | None = None) -> Future[Embedded]:
        """A text costs its tokens, at most what the model takes: it refuses a longer one."""
        most = self.tokenizer.max_tokens if self.tokenizer else MAX_TOKENS
        if tokens is None:
            tokens = self.tokens([text])[0] if len(text) <= MAX_COUNTED else most
        return self.texts.submit(text, client, 1 + min(tokens, most))

    def submit_image(self, image: bytes, client: str, pixels: int) -> Future[Embedded]:
        assert self.images is not None
        return self.images.submit(image, client, IMAGE_TOKENS + pixels // PIXELS_A_TOKEN)


class ServedGeneration:
    """One generation of the index with its models, from its opening until its last user leaves."""

    def __init__(self, opened: OpenIndex, settings: Settings, metrics: Metrics, neighbours: Neighbours) -> None:
        self.index: Index = opened.index
        self.embedder: MultiEmbedder = opened.embedder
        try:
            self.schema: IndexSchema = opened.manifest.schema
            self.embedder.open()
            self._probes = {name: self._probe(name) for name in self.schema.vectors}
            self.has_words: bool = self.index.finds_words
            """It has full text, as far as is known: `finds_words` asks again where it had none."""
        except BaseException:
            opened.close()
            raise
        self._model = ModelThreads(min(self.embedder.workers, MAX_THREADS), neighbours)
        self.opened_at = time.time()
        self.closed = threading.Event()
        self.vectors: Mapping[str, NamedVector] = {
            name: self._vector(name, spec, settings, metrics) for name, spec in self.schema.vectors.items()
        }
        self._opened = opened
        self._users, self._retired = 0, False
        self._lock = threading.Lock()

    def _probe(self, name: str) -> Vector:
        """A vector by which the index was searched."""
        vector = self.embedder.query([PROBE], name)[0]
        self._search_by(name, vector)
        return vector

    def _search_by(self, name: str, vector: Vector) -> None:
        self.call(lambda index: index.search(vector, 1, using=name))

    def answers(self) -> bool:
        """Whether the index can be searched: then an error of it is a matter of the query that it was given."""
        try:
            for name, vector in self._probes.items():
                self._search_by(name, vector)
        except PenstockError:
            return False
        return True

    def _vector(self, name: str, spec: VectorSpec, settings: Settings, metrics: Metrics) -> NamedVector:
        tokens, images = self.embedder.batch_tokens, None
        limit = BatchLimit(settings.batch, tokens, max(1, tokens // 4))
        texts = Batcher("texts", partial(self.embedder.query, using=name), limit, self._model, metrics)
        if (queries := image_queries(self.embedder, name)) is not None:
            limit = BatchLimit(min(MAX_IMAGES, settings.batch), MAX_IMAGES * IMAGE_TOKENS, IMAGE_TOKENS)
            images = Batcher("images", queries.query_images, limit, self._model, metrics)
        return NamedVector(name, spec, texts, images, self.embedder.tokenizer)

    def vector(self, using: str | None) -> NamedVector:
        """The vector of that name, or the only one. Raises UsageError where it is unknown, or one of several."""
        return self.vectors[self.schema.name(using)]

    def finds_words(self) -> bool:
        """Whether the index has full text by now. Where it had none yet, this reads the index."""
        if not self.has_words:
            self.has_words = self.call(lambda index: index.finds_words)
        return self.has_words

    @property
    def identity(self) -> tuple[str, IndexSchema]:
        return self.index.url, self.schema

    @property
    def depth(self) -> int:
        """Inputs that wait for the models."""
        return self._model.depth

    @property
    def progressed(self) -> float:
        """When its model answered last, on the monotonic clock."""
        return self._model.progressed

    def acquire(self) -> bool:
        """Keep it open until `release`. False where it is closed, or about to be."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def share(self) -> None:
        """Acquire it once more, on behalf of a user who holds it."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            unused = self._retired and self._users == 0
        if unused:
            self._close()

    def retire(self) -> None:
        """Admit no new users, and close once the last has left."""
        with self._lock:
            self._retired = True
            unused = self._users == 0
        if unused:
            self._close()

    def call(self, task: Callable[[Index], R]) -> R:
        """Call the index. Whatever its driver raises becomes a SinkError, so that it is not taken for the model's."""
        try:
            return task(self.index)
        except SinkError:
            raise
        except Transient as error:
            raise SinkUnavailable(str(error), retry_after=error.retry_after) from error
        except PenstockError as error:  # which clients read: where the index is, is not for them
            error.args = (str(error).replace(self.index.url, "the index"),)
            raise
        except Exception as error:  # its text may hold secrets
            raise SinkError(f"{self.index.url} failed: {type(error).__name__}") from error

    def _close(self) -> None:
        # The last user may be a thread of these pools, or the event loop: neither is kept waiting.
        threading.Thread(target=self._closing, name="penstock-retire", daemon=True).start()

    def _closing(self) -> None:
        self._model.close()
        self._opened.close()
        self.closed.set()


class ServedIndex:
    """The index at a url, whichever generation is current. `opener` opens a url together with its models; `reranker`
    is of searches that ask for one."""

    def __init__(
        self, url: str, opener: Opener, settings: Settings, metrics: Metrics, reranker: Reranker | None = None
    ) -> None:
        self.reranker = reranker
        self._url, self._opener, self._settings, self._metrics = url, opener, settings, metrics
        self._generation: ServedGeneration | None = None
        self._base: Index | None = None
        self._following = threading.Lock()
        self._attempted: tuple[str, IndexSchema] | None = None
        self._next_attempt = float("-inf")
        """When the generation that was attempted last may be opened again."""
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self.neighbours = Neighbours()
        self._pools: dict[str, FairPool] = {}
        self.trouble: str | None = None
        """Why the current generation could not be opened, while another one is served."""
        self.followed: Callable[[str], object] = lambda url: None
        """Called with the url of a generation that is served from now on."""

    def open(self) -> None:
        """Raises whatever keeps the index from being served."""
        if self.reranker is not None:
            self.reranker.open()
        self._generation = self._open()
        self._base = find(INDEXES, scheme(self._url))(self._url)
        for name, threads in (("search", self._settings.threads), ("files", 4), ("fetch", 4), ("rerank", 2)):
            self._pools[name] = FairPool(name, threads, neighbours=self.neighbours)
        self._pools["parse"] = FairPool("parse", 1, rest=1.0, neighbours=self.neighbours)
        self._watcher = threading.Thread(target=self._watch, name="penstock-follow", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        for pool in self._pools.values():
            pool.close()
        if self._generation is not None:
            self._generation.retire()
            self._generation.closed.wait(CLOSE_TIMEOUT)
        if self._base is not None:
            self._base.close()
        if self.reranker is not None:
            self.reranker.close()

    @property
    def url(self) -> str:
        """Without secrets."""
        return self._base.url if self._base is not None else ""

    @property
    def depth(self) -> int:
        """Inputs that wait for the models."""
        return self._generation.depth if self._generation is not None else 0

    @contextmanager
    def lease(self) -> Iterator[ServedGeneration]:
        """The present generation; it stays open as long as it is leased."""
        while True:
            assert self._generation is not None, "the index is open before requests come in"
            if (generation := self._generation).acquire():
                break
            if self._stop.is_set():
                raise Problem(503, "draining", "the server is shutting down")
        try:
            yield generation
        finally:
            generation.release()

    def work(
        self, pool: str, client: str, task: Callable[[], R], generation: ServedGeneration | None = None
    ) -> Future[tuple[R, float]]:
        """Run the task in a thread of the pool, when the client's turn has come; gives its result and the seconds it
        waited for the thread.

        `generation` stays open until the thread has ended, even where the result is no longer awaited.
        """
        since = time.perf_counter()

        def run() -> tuple[R, float]:
            waited = time.perf_counter() - since
            return task(), waited

        if generation is None:
            return self._pools[pool].submit(client, run)
        generation.share()
        try:
            future = self._pools[pool].submit(client, run)
        except BaseException:
            generation.release()
            raise
        future.add_done_callback(lambda _: generation.release())
        return future

    def serves(self, generation: ServedGeneration) -> bool:
        return self._generation is generation

    def follow(self, failed: ServedGeneration | None = None) -> bool:
        """Serve the generation that is current now. True if what is served is not `failed` (any more).

        A generation that failed and is still the current one is reopened. Where opening fails, `trouble` says why, the
        open generation stays in service, and opening is tried again after a while: a busy model says after which.
        """
        with self._following:
            try:
                return self._follow(failed)
            # Drivers and models raise errors of any type; the open generation stays in service, and is checked again.
            except Exception as error:
                self.trouble = str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
                return False

    def _follow(self, failed: ServedGeneration | None) -> bool:
        assert self._base is not None
        assert self._generation is not None
        if failed is not None and self._generation is not failed:
            return True
        location = current(self._base)
        manifest = location.manifest()
        target = None if manifest is None else (location.url, manifest.schema)
        if failed is None and target == self._generation.identity:
            self.trouble = None
            return False
        if failed is not None and target == failed.identity and failed.answers():
            return False
        now = time.monotonic()
        if target == self._attempted and now < self._next_attempt:
            return False
        self._attempted, self._next_attempt = target, now + REOPEN_INTERVAL
        try:
            before, self._generation = self._generation, self._open()
        except Transient as error:
            self._next_attempt = now + max(REOPEN_INTERVAL, error.retry_after or 0.0)
            raise
        if target != before.identity:
            self._next_attempt = float("-inf")
        before.retire()
        self.trouble = None
        self.followed(self._generation.index.url)
        return True

    def _open(self) -> ServedGeneration:
        generation = ServedGeneration(self._opener(self._url), self._settings, self._metrics, self.neighbours)
        self._metrics.count("penstock_index_opened_total")
        return generation

    def _watch(self) -> None:
        while not self._stop.wait(self._settings.poll):
            self.follow()
