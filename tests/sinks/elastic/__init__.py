"""Tests of `elastic://` and `opensearch://`, and values that they share."""

from __future__ import annotations

from typing import Any

from penstock.core.schema import Manifest
from penstock.sinks.elastic import ElasticSink
from penstock.testing.emulators.elastic import ElasticServer
from penstock.testing.sink_suite import SinkSuite, respec

SECRET = "s3cr3t-s3cr3t"
MANIFEST = SinkSuite().manifest
Endpoint = tuple[str, ElasticServer]
"""A url, and the server that it leads to."""
FLAVORS = {"elastic": "elasticsearch", "opensearch": "opensearch"}


def opened(url: str, **space: Any) -> ElasticSink:
    sink = ElasticSink(url)
    sink.open(Manifest(respec(MANIFEST.schema, **space)))
    return sink
