"""Parsers that misbehave, for the tests of isolation: worker processes import them from here."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

from penstock.core.records import Block, Gap, Item


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap | str]:
    """Does what the document says, a word a line."""
    for line in stream.read().decode().splitlines():
        word, _, rest = line.partition(" ")
        if word == "hang":
            while True:
                time.sleep(1)
        elif word == "spin":
            while True:
                pass
        elif word == "sleep":
            time.sleep(float(rest))
        elif word == "die":
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), int(rest))
        elif word == "exit":
            os._exit(3)
        elif word == "eat":
            yield Block(str(len(bytearray(int(rest)))))
        elif word == "raise":
            raise RuntimeError(rest)
        elif word == "print":
            print("\0\0\0\xffnot a frame", flush=True)
        elif word == "many":
            for n in range(int(rest)):
                yield f"{n} " + "x" * 1000
        elif word == "pid":
            yield str(os.getpid())
        elif word == "gap":
            yield Gap(rest, page=7)
        elif word == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif word == "image":
            yield Block(image=b"\0\xff", headings=("a", "b"), page=3, metadata={"n": [1, {"x": None}]})
        else:
            yield rest


parse.isolated = True  # type: ignore[attr-defined]
