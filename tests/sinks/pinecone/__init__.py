"""Tests of `pinecone://`, and values that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.core.schema import Manifest
from penstock.sinks.pinecone import PineconeSink
from penstock.testing.sink_suite import SinkSuite, respec

if TYPE_CHECKING:
    from penstock.testing.emulators.pinecone import PineconeServer

SECRET = "pcsk_s3cr3t-s3cr3t"
MANIFEST = SinkSuite().manifest
Endpoint = tuple[str, "PineconeServer"]
"""A url, and the server that it leads to."""


def opened(url: str, **space: Any) -> PineconeSink:
    sink = PineconeSink(url)
    sink.open(Manifest(respec(MANIFEST.schema, **space)))
    return sink
