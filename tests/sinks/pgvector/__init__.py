"""Tests of `pgvector://`, and values that they share."""

from __future__ import annotations

from penstock.core.schema import Manifest
from penstock.sinks.pgvector import PgvectorSink
from penstock.testing.sink_suite import SinkSuite, respec

SECRET = "the pass word"
MANIFEST = SinkSuite().manifest
SPARSE = Manifest(respec(MANIFEST.schema, kind="Sparse", metric="dot"))


def opened(url: str, manifest: Manifest = MANIFEST) -> PgvectorSink:
    sink = PgvectorSink(url)
    sink.open(manifest)
    return sink
