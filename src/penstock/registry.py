"""Which name stands for which component, and which extra brings its driver. One plain table a kind.

A row is `name: ("module:Class", extra or None)`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from penstock.core.errors import MissingExtra, UsageError

Table = dict[str, tuple[str, str | None]]

SOURCES: Table = {
    "file": ("penstock.sources.files:Files", None),
    "memory": ("penstock.sources.files:Files", None),
    "https": ("penstock.sources.files:Files", None),
    "http": ("penstock.sources.files:Files", None),
    "s3": ("penstock.sources.files:Files", "s3"),
    "gs": ("penstock.sources.files:Files", "gs"),
    "az": ("penstock.sources.files:Files", "az"),
    "parquet": ("penstock.sources.rows:Rows", None),
    "parquet+s3": ("penstock.sources.rows:Rows", "s3"),
    "parquet+gs": ("penstock.sources.rows:Rows", "gs"),
    "parquet+az": ("penstock.sources.rows:Rows", "az"),
    "urls": ("penstock.sources.urls:Urls", None),
    "urls+https": ("penstock.sources.urls:Urls", None),
    "urls+s3": ("penstock.sources.urls:Urls", "s3"),
    "urls+gs": ("penstock.sources.urls:Urls", "gs"),
    "urls+az": ("penstock.sources.urls:Urls", "az"),
}

SINKS: Table = {
    "memory": ("penstock.sinks.memory:MemorySink", None),
    "lance": ("penstock.sinks.lance:LanceSink", None),
    "sqlite": ("penstock.sinks.sqlite:SqliteSink", "sqlite"),
    "parquet": ("penstock.sinks.parquet:ParquetSink", None),
    "qdrant": ("penstock.sinks.qdrant:QdrantSink", "qdrant"),
    "chroma": ("penstock.sinks.chroma:ChromaSink", "chroma"),
    "milvus": ("penstock.sinks.milvus:MilvusSink", "milvus"),
    "pgvector": ("penstock.sinks.pgvector:PgvectorSink", "pgvector"),
    "elastic": ("penstock.sinks.elastic:ElasticSink", "elastic"),
    "opensearch": ("penstock.sinks.elastic:ElasticSink", "elastic"),
    "pinecone": ("penstock.sinks.pinecone:PineconeSink", "pinecone"),
    "weaviate": ("penstock.sinks.weaviate:WeaviateSink", "weaviate"),
    "delta": ("penstock.sinks.delta:DeltaSink", "delta"),
    "delta+s3": ("penstock.sinks.delta:DeltaSink", "delta"),
    "delta+gs": ("penstock.sinks.delta:DeltaSink", "delta"),
    "delta+az": ("penstock.sinks.delta:DeltaSink", "delta"),
}

INDEXES: Table = {
    "memory": ("penstock.sinks.memory:MemoryIndex", None),
    "lance": ("penstock.sinks.lance:LanceIndex", None),
    "sqlite": ("penstock.sinks.sqlite:SqliteIndex", "sqlite"),
    "qdrant": ("penstock.sinks.qdrant:QdrantIndex", "qdrant"),
    "chroma": ("penstock.sinks.chroma:ChromaIndex", "chroma"),
    "milvus": ("penstock.sinks.milvus:MilvusIndex", "milvus"),
    "pgvector": ("penstock.sinks.pgvector:PgvectorIndex", "pgvector"),
    "elastic": ("penstock.sinks.elastic:ElasticIndex", "elastic"),
    "opensearch": ("penstock.sinks.elastic:ElasticIndex", "elastic"),
    "pinecone": ("penstock.sinks.pinecone:PineconeIndex", "pinecone"),
    "weaviate": ("penstock.sinks.weaviate:WeaviateIndex", "weaviate"),
}


def scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def find(table: Table, name: str, what: str) -> Any:
    """The class behind a name. Says what there is when the name is unknown, and the install line when a driver is."""
    try:
        target, extra = table[name]
    except KeyError:
        known = ", ".join(sorted(table))
        raise UsageError(f"unknown {what} {name!r}; there are: {known}") from None
    return load(target, extra)


def load(target: str, extra: str | None = None) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").partition(".")[0] == "penstock":
            raise
        raise MissingExtra(f"{target.partition(':')[2]} ({error.name})", extra) from None
