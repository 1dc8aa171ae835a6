"""Names and the components that they stand for: a table for each kind, and the entry points of plug-ins.

Nothing is imported before it is asked for, and plug-ins are looked up only for a name that is not built in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Row(NamedTuple):
    target: str
    """`module:Class`"""
    extra: str | None = None
    """What brings its driver: `pip install "penstock[extra]"`."""
    isolated: bool = False
    """Of a parser: it runs in a worker process."""


class Table(dict[str, Row]):
    """The built-in names of a kind of component, and the group of entry points by which plug-ins add theirs."""

    def __init__(self, kind: str, group: str, rows: Mapping[str, tuple[Any, ...]]) -> None:
        super().__init__({name: Row(*row) for name, row in rows.items()})
        self.kind, self.group = kind, group


_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."

SOURCES = Table(
    "kind of source",
    "penstock.sources",
    {
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
        "hn": ("penstock.sources.hackernews:HackerNews", None),
        "urls": ("penstock.sources.urls:Urls", None),
        "urls+https": ("penstock.sources.urls:Urls", None),
        "urls+s3": ("penstock.sources.urls:Urls", "s3"),
        "urls+gs": ("penstock.sources.urls:Urls", "gs"),
        "urls+az": ("penstock.sources.urls:Urls", "az"),
    },
)

SINKS = Table(
    "sink",
    "penstock.sinks",
    {
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
    },
)

INDEXES = Table(
    "index",
    "penstock.indexes",
    {
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
    },
)

EMBEDDERS = Table(
    "prefix of a model",
    "penstock.embedders",
    {
        "int8": ("penstock.embedders.names:from_name_in_int8", None),
        "torch": ("penstock.embedders.names:from_name_on_torch", None),
        "splade": ("penstock.embedders.names:from_name_as_splade", None),
        "m3": ("penstock.embedders.m3:from_name", None),
    },
)
"""By what stands before the colon of a model's name; the component gets the whole name."""

RERANKERS = Table(
    "prefix of a reranker", "penstock.rerankers", {"int8": ("penstock.embedders.names:reranker_in_int8", None)}
)
"""As those of a model."""

PARSERS = Table(
    "media type",
    "penstock.parsers",
    {
        "application/x-empty": ("penstock.parsers.text:empty", None),
        "text/*": ("penstock.parsers.text:parse", None),
        "text/markdown": ("penstock.parsers.markdown:parse", None),
        "text/html": ("penstock.parsers.html:parse", None, True),
        "text/csv": ("penstock.parsers.tables:separated", None),
        "text/tab-separated-values": ("penstock.parsers.tables:separated", None),
        "application/x-ndjson": ("penstock.parsers.tables:lines", None),
        "application/json": ("penstock.parsers.json:parse", None),
        "application/xml": ("penstock.parsers.xml:parse", None, True),
        "application/pdf": ("penstock.parsers.pdf:parse", None, True),
        "application/epub+zip": ("penstock.parsers.epub:parse", None, True),
        "message/rfc822": ("penstock.parsers.mail:parse", None, True),
        _OOXML + "wordprocessingml.document": ("penstock.parsers.docx:parse", None, True),
        _OOXML + "presentationml.presentation": ("penstock.parsers.pptx:parse", None, True),
        _OOXML + "spreadsheetml.sheet": ("penstock.parsers.sheets:parse", "office", True),
        _ODF + "text": ("penstock.parsers.odf:parse", None, True),
        _ODF + "presentation": ("penstock.parsers.odf:parse", None, True),
        _ODF + "spreadsheet": ("penstock.parsers.odf:parse", None, True),
        "application/vnd.ms-excel": ("penstock.parsers.sheets:parse", "office", True),
        "application/vnd.ms-outlook": ("penstock.parsers.outlook:parse", "office", True),
        "application/x-encrypted-office": ("penstock.parsers.package:encrypted", None),
        "application/rtf": ("penstock.parsers.rtf:parse", "office", True),
        "image/*": ("penstock.parsers.images:parse", "images"),
    },
)


def scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def knows(table: Table, name: str) -> bool:
    """Whether a name is built in, or a plug-in's."""
    return name in table or name in plugins(table)


def has_index(url: str) -> bool:
    """Whether what is at this url can be searched."""
    return knows(INDEXES, scheme(url))


def find(table: Table, name: str) -> Any:
    """The class behind a name.

    Raises UsageError for an unknown one, with those there are, and for a plug-in that cannot be imported; MissingExtra
    where a driver is not installed.
    """
    if (row := table.get(name)) is not None:
        return load(*row[:2])
    if points := plugins(table).get(name):
        return _load_plugin(table, points)
    raise UsageError(_unknown(table, name))


def load(target: str, extra: str | None = None) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").partition(".")[0] == "penstock":
            raise
        raise MissingExtra(f"{target.partition(':')[2]} ({error.name})", extra) from None


# ---------------------------------------------------------------- plug-ins


def plugins(table: Table) -> dict[str, tuple[EntryPoint, ...]]:
    """The names that plug-ins add, with the entry points of each: one, unless two plug-ins add the same."""
    return {name: points for name, points in _entry_points(table.group, tuple(sys.path)).items() if name not in table}


@lru_cache(maxsize=32)
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    from importlib.metadata import entry_points  # 30 ms that only plug-ins cost

    by_name: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=group):
        by_name[point.name.lower()] = (*by_name.get(point.name.lower(), ()), point)
    return by_name


def _load_plugin(table: Table, points: tuple[EntryPoint, ...]) -> Any:
    point, *others = points
    if others:
        names = " and ".join(sorted(map(_distribution, points)))
        raise UsageError(f"the {table.kind} {point.name!r} is in several plug-ins, {names}: uninstall all but one")
    try:
        return point.load()
    except Exception as error:  # whatever its import raises
        raise UsageError(
            f"the plug-in {_distribution(point)} cannot be loaded: its entry point {point.name} = {point.value} of"
            f" {table.group} raises {type(error).__name__}: {error}"
        ) from error


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "of unknown name"


def _unknown(table: Table, name: str) -> str:
    from penstock.core.options import nearest

    names = sorted({*table, *plugins(table)})
    near = nearest(name, names)
    message = f"unknown {table.kind} {name!r}; there are: {', '.join(names)}"
    shadowed = [
        f"{each} of the plug-in {_distribution(point)}"
        for each, points in _entry_points(table.group, tuple(sys.path)).items()
        if each in table
        for point in points
    ]
    if shadowed:
        message += f" (not used, as the name is built in: {', '.join(shadowed)})"
    return f"{message}. Did you mean {near!r}?" if near else message
