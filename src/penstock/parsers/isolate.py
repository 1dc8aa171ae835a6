"""Worker processes for parsers that hostile input can crash, hang or bloat.

A process a document at a time, reused while it behaves. The parent's clock runs only while it waits for the worker,
so a worker that waits for a slow pipeline is never late.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Generator, Mapping
from contextlib import suppress

from penstock.core.errors import LimitExceeded, ParseError, ParserDied, Unsupported
from penstock.core.records import NOTHING, Block, Gap, Item
from penstock.parsers.wire import CAUSE, LONGEST, Frame, packed, to_part, unpacked

_DOCUMENTS = 1000
"""A worker is replaced after so many, whatever it leaks."""
_STEPS = 10
"""A small document may take this many times the limit of a single step, a large one more (_RATE)."""
_RATE = 1 << 20
"""Bytes that buy one more second."""
_ERRORS: dict[str, type[ParseError]] = {"Unsupported": Unsupported, "LimitExceeded": LimitExceeded}


class Workers:
    """Lends a worker to each document being parsed, and keeps the idle ones. Safe to use from several threads."""

    def __init__(self, timeout: float, memory: int, extras: Mapping[str, str | None] = NOTHING) -> None:
        """`extras`: the extra that a parser needs, by its import path."""
        self._timeout, self._memory, self._extras = timeout, memory, extras
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False
        self._end = weakref.finalize(self, _kill_all, self._idle)

    def parse(self, target: str, path: str, item: Item) -> Generator[Block | Gap, None, None]:
        request: Frame = {
            "target": target,
            "extra": self._extras.get(target),
            "path": path,
            "uri": item.uri,
            "media_type": item.media_type,
            "metadata": dict(item.metadata),
        }
        worker = self._begin(request)
        good = False
        try:
            left = self._timeout * _STEPS + os.path.getsize(path) / _RATE
            while True:
                began = time.monotonic()
                frame = worker.receive(min(self._timeout, left))
                left -= time.monotonic() - began
                if "done" in frame:
                    good = frame["done"] < self._memory // 2  # one that has grown is replaced
                    return
                if "error" in frame:
                    good = frame["error"] != "LimitExceeded"
                    raise _ERRORS.get(frame["error"], ParseError)(str(frame["cause"])[:CAUSE])
                if frame.get("text") == "" and "image" not in frame:
                    continue  # a sign of life
                yield to_part(frame)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ParseError(f"the parser's process sent nonsense: {type(error).__name__}") from error
        finally:
            self._give_back(worker, good)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        _kill_all(self._idle)

    def _begin(self, request: Frame) -> _Worker:
        """A worker that has taken up the request. One that died while idle is no fault of this document."""
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            fresh = worker is None
            worker = worker or _Worker(self._memory, self._timeout)
            try:
                worker.send(request)
                worker.receive(self._timeout)
            except BaseException as error:
                worker.kill()
                if fresh or not isinstance(error, ParseError | OSError):
                    raise
            else:
                return worker

    def _give_back(self, worker: _Worker, good: bool) -> None:
        worker.documents += 1
        with self._lock:
            if good and not self._closed and worker.documents < _DOCUMENTS:
                self._idle.append(worker)
                return
        worker.kill()


class _Worker:
    def __init__(self, memory: int, timeout: float) -> None:
        self.documents = 0
        self._stderr = tempfile.TemporaryFile(prefix="penstock-")  # noqa: SIM115 - closed in kill()
        self._process = subprocess.Popen(
            # -P: a file `json.py` in the current directory is not to be imported; -s: nor the user's site
            [sys.executable, "-P", "-s", "-m", "penstock.parsers.worker", str(memory), str(int(timeout) + 5)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                "PYTHONWARNINGS": "ignore",
            },
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._buffer = bytearray()

    def send(self, request: Frame) -> None:
        data = memoryview(packed(request, surrogates="surrogatepass"))
        while data:
            data = data[self._requests.write(data) or 0 :]

    def receive(self, seconds: float) -> Frame:
        deadline = time.monotonic() + seconds
        self._fill(4, deadline, seconds)
        size = int.from_bytes(self._buffer[:4], "big")
        if size > LONGEST:
            raise ParseError("the parser's process sent nonsense: a frame too long")
        self._fill(4 + size, deadline, seconds)
        frame = unpacked(bytes(memoryview(self._buffer)[4 : 4 + size]))
        del self._buffer[: 4 + size]
        return frame

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for file in (self._requests, self._replies, self._stderr):
            file.close()

    def _fill(self, size: int, deadline: float, seconds: float) -> None:
        while len(self._buffer) < size:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise LimitExceeded(f"the parser took more than {seconds:g} seconds")
            data = os.read(self._replies.fileno(), 1 << 17)
            if not data:
                raise self._obituary()
            self._buffer += data

    def _obituary(self) -> ParseError:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return ParserDied("the parser's process closed its output")
        if code == -signal.SIGALRM:
            return LimitExceeded("the parser took too long")
        how = f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return ParserDied(f"the parser's process died: out of memory or a crash ({how}){self._last_words()}")

    def _last_words(self) -> str:
        end = os.fstat(self._stderr.fileno()).st_size
        # pread: the file's position is shared with the process that writes there
        tail = os.pread(self._stderr.fileno(), 2000, max(0, end - 2000)).decode("utf-8", "replace").strip()
        return f": {tail.splitlines()[-1][:200]}" if tail else ""


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()
