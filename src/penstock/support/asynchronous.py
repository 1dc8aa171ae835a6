"""The two ways between threads and event loops: coroutines called from threads, and blocking work awaited by a loop."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop] | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process for coroutines that are called from threads; it runs in a thread of its own.

    There is one, and it never ends: a client that keeps connections (of HTTP, say) belongs to the loop it first ran on.
    """
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():  # a fork has no thread that would run its parent's
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="event-loop", daemon=True).start()
            _running = os.getpid(), loop
        return _running[1]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it is an `async def`, or an object whose call is one."""
    called = function if hasattr(function, "__qualname__") else type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


class Calls:
    """Calls from threads of functions that may be async; those that go on can be cancelled together."""

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Calls, ()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result; of one that is async, once it was awaited on the background loop."""
        if not is_async(function):
            return function(*arguments)
        with self._lock:  # a call that has begun is among those that can be cancelled
            future = asyncio.run_coroutine_threadsafe(_called(function, arguments), background_loop())
            self._futures.add(future)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C that ends the wait ends the call
            raise
        finally:
            with self._lock:
                self._futures.discard(future)

    def cancel(self) -> None:
        """Cancel the calls that are being awaited: each raises CancelledError in its thread."""
        with self._lock:
            futures = list(self._futures)
        for future in futures:
            future.cancel()


async def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return await function(*arguments)


async def in_thread(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Do blocking work in a thread of its own, without blocking the event loop.

    A cancellation calls `stop`, each time; it is raised once the work has come to its end.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_end, ended)

    # A daemon: a loop that is torn down without cancelling its tasks leaves a process that can end.
    threading.Thread(target=copy_context().run, args=(run,), name="penstock-run", daemon=True).start()
    cancelled = False
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            cancelled = True
            stop()
    if cancelled:
        raise asyncio.CancelledError from outcome.exception()
    return outcome.result()


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def on_loop(function: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> Callable[..., None]:
    """The function, called on the event loop by whichever thread, which waits for it to return."""

    async def call(*arguments: Any) -> None:
        result = function(*arguments)
        if inspect.isawaitable(result):
            await result

    return lambda *arguments: asyncio.run_coroutine_threadsafe(call(*arguments), loop).result()
