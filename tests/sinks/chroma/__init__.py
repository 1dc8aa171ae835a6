"""Tests of `chroma://`, and values that they share."""

from __future__ import annotations

from itertools import count

from penstock.sinks.chroma import ChromaIndex
from penstock.testing.sink_suite import SinkSuite

MANIFEST = SinkSuite().manifest
TOKEN = "tok-secret-1234"
numbers = count()
"""For names of collections: all tests share a server."""


def index_of(url: str) -> ChromaIndex:
    index = ChromaIndex(url)
    index.open()
    return index
