"""A model and an index of one vector space, opened and let go together; followed when the index is built anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from penstock.core.contracts import Index, MultiEmbedder
from penstock.core.errors import PenstockError, SinkError
from penstock.core.generations import current
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.embedders.named import image_queries
from penstock.jobs.search import OpenIndex
from penstock.registry import INDEXES, find, scheme
from penstock.server.batcher import Batcher
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem
from penstock.server.settings import Settings

R = TypeVar("R")
Opener = Callable[[str], OpenIndex]

IMAGES = 8
"""Images that the model gets at once, at most: they are decoded by the same thread."""
PATIENCE = 5.0
"""Seconds that the end waits for what is still at work: threads in native code do not survive the interpreter well."""
AGAIN = 5.0
"""Seconds before an index that failed is opened anew once more: that loads the model, too."""


class Generation:
    """An index and its model, from one opening of the door to the next. Closed when the last who uses it is done."""

    def __init__(self, opened: OpenIndex, settings: Settings, metrics: Metrics) -> None:
        self.index: Index = opened.index
        self.embedder: MultiEmbedder = opened.embedder
        try:
            self.schema: IndexSchema = opened.manifest.schema
            self.name = next(iter(self.schema.vectors))
            self.embedder.open()
            self.index.search(self.embedder.query(["ready?"], self.name)[0], 1, using=self.name)
        except BaseException:
            opened.close()
            raise
        self.opened_at = time.time()
        self._opened = opened
        self._users, self._retired = 0, False
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self.texts: Batcher[str] = Batcher(
            "texts", partial(self.embedder.query, using=self.name), settings.batch, metrics
        )
        self.images: Batcher[bytes] | None = None
        if (images := image_queries(self.embedder, self.name)) is not None:
            self.images = Batcher("images", images.query_images, min(IMAGES, settings.batch), metrics)

    @property
    def space(self) -> VectorSpec:
        return self.schema.vectors[self.name]

    @property
    def where(self) -> tuple[str, IndexSchema]:
        return self.index.url, self.schema

    @property
    def depth(self) -> int:
        return self.texts.depth + (self.images.depth if self.images else 0)

    def take(self) -> bool:
        """False where it is closed, or about to be."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def keep(self) -> None:
        """For work on behalf of one who has taken it."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            over = self._retired and self._users == 0
        if over:
            self._close()

    def retire(self) -> None:
        with self._lock:
            self._retired = True
            over = self._users == 0
        if over:
            self._close()

    def ask(self, task: Callable[[Index], R]) -> R:
        """Of the index. Whatever its driver raises is a trouble of the store's, and may pass when it is followed."""
        try:
            return task(self.index)
        except PenstockError:
            raise
        except Exception as error:
            raise SinkError(f"{self.index.url} cannot be asked now ({type(error).__name__})") from error

    def _close(self) -> None:
        # The last to leave may be a thread of its own pools, or the event loop: neither is kept waiting.
        threading.Thread(target=self._end, name="penstock-retire", daemon=True).start()

    def _end(self) -> None:
        self.texts.close()
        if self.images:
            self.images.close()
        self._opened.close()
        self.closed.set()


class Engine:
    """What is served now. `opener` opens a url with its model."""

    def __init__(self, url: str, opener: Opener, settings: Settings, metrics: Metrics) -> None:
        self._url, self._opener, self._settings, self._metrics = url, opener, settings, metrics
        self._now: Generation | None = None
        self._door: Index | None = None
        self._turn = threading.Lock()
        self._forced = float("-inf")
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.trouble: str | None = None
        """Why the index could not be followed where it moved to."""

    def open(self) -> None:
        """Raises what stands in the way."""
        self._now = self._made()
        self._door = find(INDEXES, scheme(self._url), "index")(self._url)
        for name, threads in (("search", self._settings.threads), ("files", 4), ("fetch", 4)):
            self._pools[name] = ThreadPoolExecutor(threads, thread_name_prefix=f"penstock-{name}")
        self._watcher = threading.Thread(target=self._watch, name="penstock-follow", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        if self._now is not None:
            self._now.retire()
            self._now.closed.wait(PATIENCE)
        if self._door is not None:
            self._door.close()

    @property
    def url(self) -> str:
        """Without secrets."""
        return self._door.url if self._door is not None else ""

    @property
    def depth(self) -> int:
        """What waits for the model."""
        return self._now.depth if self._now is not None else 0

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """The present generation; it stays open as long as it is leased."""
        while True:
            assert self._now is not None, "the engine is open before requests come in"
            if (generation := self._now).take():
                break
            if self._stop.is_set():
                raise Problem(503, "draining", "the server is about to end")
        try:
            yield generation
        finally:
            generation.leave()

    def work(self, pool: str, task: Callable[[], R], generation: Generation | None = None) -> Future[tuple[R, float]]:
        """Have a thread do it; gives the result and the seconds it waited for a thread. `generation` stays open until
        the thread has ended, even if nobody waits for it any more."""
        since = time.perf_counter()

        def run() -> tuple[R, float]:
            waited = time.perf_counter() - since
            return task(), waited

        if generation is None:
            return self._pools[pool].submit(run)
        generation.keep()
        try:
            future = self._pools[pool].submit(run)
        except BaseException:
            generation.leave()
            raise
        future.add_done_callback(lambda _: generation.leave())
        return future

    def follow(self, failed: Generation | None = None) -> bool:
        """Look where the index is now, and go there. True if what is served now is not `failed` (any more).

        A generation that failed where the door says it should be is opened anew, though not all the time.
        """
        with self._turn:
            assert self._door is not None
            assert self._now is not None
            if failed is not None and self._now is not failed:
                return True
            place = current(self._door)
            held = place.manifest()
            if held is not None and (place.url, held.schema) == self._now.where:
                if failed is None or time.monotonic() - self._forced < AGAIN:
                    return False
                self._forced = time.monotonic()
            before, self._now = self._now, self._made()
            before.retire()
            return True

    def _made(self) -> Generation:
        made = Generation(self._opener(self._url), self._settings, self._metrics)
        self._metrics.count("penstock_index_opened_total")
        return made

    def _watch(self) -> None:
        while not self._stop.wait(self._settings.look):
            try:
                self.follow()
                self.trouble = None
            except PenstockError as error:
                self.trouble = str(error)
            # Drivers and models raise what they like. What is open is served on, and the next look may do better.
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}"

    def recovered(self, failed: Generation) -> bool:
        """Whether there is another generation to ask, after this one failed."""
        try:
            return self.follow(failed)
        except PenstockError as error:
            self.trouble = str(error)
            return False
