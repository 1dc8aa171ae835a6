"""The worker process: `python -m penstock.parsers.worker MEMORY SECONDS`. Requests on stdin, blocks on stdout.

It limits its own memory, writes no files, leaves Ctrl-C to its parent, and ends when stdin does. A parser that loops
for ever after the parent is gone is ended by an alarm, whose default action needs no Python. (PR_SET_PDEATHSIG would
not do: it fires when the *thread* that started the worker ends.)
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from penstock.core.errors import LimitExceeded, ParseError, Unsupported
from penstock.core.records import Block, Gap, Item
from penstock.parsers import failure
from penstock.parsers.blocks import checked
from penstock.parsers.wire import Frame, from_part, packed, unpacked
from penstock.registry import load

_STDERR = 1 << 20


def main() -> None:
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit(memory)
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no reply
    while len(size := requests.read(4)) == 4:
        request = unpacked(requests.read(int.from_bytes(size, "big")))
        try:
            serve(request, partial(reply, replies, seconds))
        except BrokenPipeError:
            return


def reply(replies: BinaryIO, seconds: int, frame: Frame) -> None:
    """The clock stands while the parent is busy with other things."""
    data = memoryview(packed(frame))
    signal.alarm(0)
    while data:
        data = data[replies.write(data) or 0 :]
    signal.alarm(seconds)


def serve(request: Frame, send: Callable[[Frame], None]) -> None:
    path = request["path"]
    try:
        send({"started": True})
        size = os.path.getsize(path)
        item = Item(request["uri"], "", partial(_open, path), size, request["media_type"], path, request["metadata"])
        for part in _parts(request, item):
            block = checked(part, request["target"])
            send({"text": ""} if block is None else from_part(block))
    except BrokenPipeError:
        raise
    except MemoryError:
        answer: Frame = {"error": "LimitExceeded", "cause": "out of memory"}
    except Exception as error:
        wrapped = error if isinstance(error, ParseError) else failure(error)
        # The worker reads a file of this machine: trouble with it is the parser's, not the source's.
        kind = next((k.__name__ for k in (Unsupported, LimitExceeded) if isinstance(wrapped, k)), "ParseError")
        answer = {"error": kind, "cause": str(wrapped)}
    else:
        answer = {"done": held()}
    send(answer)
    signal.alarm(0)


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


def _parts(request: Frame, item: Item) -> Iterator[Block | Gap | str]:
    parse = load(request["target"], request["extra"])
    with item.open() as stream:
        yield from parse(stream, item)


def limit(memory: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _STDERR),
    ):
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS knows RLIMIT_AS and refuses to set it
            continue


def held() -> int:
    """The bytes of memory this process holds now. (Its peak would count what its parent had when it was forked.)"""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: the peak will do, which macOS gives in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
