"""Streams documents through parse, chunk and embed into a vector database, inside a memory budget.

import penstock as ps
report = ps.Pipeline("docs/", into="lance://./index", memory="512MiB").run()
hits = ps.open_index("lance://./index").search("how do I resume?", k=5)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("Penstock runs on Linux and macOS, not on Windows itself: run it in WSL, or in a container")

if TYPE_CHECKING:
    from penstock.chunkers.text import TextChunker
    from penstock.compose import (
        copy,
        embed_documents,
        embed_file,
        embed_query,
        open_index,
        stream_file,
        unload_models,
    )
    from penstock.core.contracts import (
        Chunker,
        Embedder,
        Index,
        MultiEmbedder,
        Parser,
        Reranker,
        Sink,
        Source,
        Tokenizer,
    )
    from penstock.core.errors import PenstockError
    from penstock.core.options import Option
    from penstock.core.records import (
        Block,
        Checkpoint,
        Chunk,
        Delete,
        Dense,
        Gap,
        Hit,
        Item,
        ListingEnd,
        MultiVector,
        Piece,
        Point,
        Sparse,
        Unreadable,
        Upsert,
    )
    from penstock.core.schema import IndexSchema, VectorSpec
    from penstock.embedders.functions import FunctionEmbedder
    from penstock.embedders.onnx import OnnxEmbedder
    from penstock.engine.progress import Progress, Report
    from penstock.jobs.copy import Copied
    from penstock.jobs.documents import DocumentEntry
    from penstock.jobs.explain import Explanation, IndexedChunk
    from penstock.jobs.plan import Plan
    from penstock.jobs.remove import Removed
    from penstock.jobs.several import Outcome
    from penstock.jobs.verify import Verification
    from penstock.pipeline import Pipeline
    from penstock.pipelines import Pipelines
    from penstock.sinks.functions import FunctionSink
    from penstock.sources.files import Files

# A bare import loads none of these: not even numpy.
_HOMES = {
    "penstock.core.records": (
        "Block Checkpoint Chunk Delete Dense Gap Hit Item ListingEnd MultiVector Piece Point Sparse Unreadable Upsert"
    ),
    "penstock.core.schema": "IndexSchema VectorSpec",
    "penstock.core.contracts": "Chunker Embedder Index MultiEmbedder Parser Reranker Sink Source Tokenizer",
    "penstock.core.options": "Option",
    "penstock.core.errors": "PenstockError",
    "penstock.pipeline": "Pipeline",
    "penstock.pipelines": "Pipelines",
    "penstock.compose": "copy embed_documents embed_file embed_query open_index stream_file unload_models",
    "penstock.jobs.copy": "Copied",
    "penstock.jobs.documents": "DocumentEntry",
    "penstock.jobs.explain": "Explanation IndexedChunk",
    "penstock.jobs.plan": "Plan",
    "penstock.jobs.remove": "Removed",
    "penstock.jobs.several": "Outcome",
    "penstock.jobs.verify": "Verification",
    "penstock.engine.progress": "Progress Report",
    "penstock.sources.files": "Files",
    "penstock.chunkers.text": "TextChunker",
    "penstock.embedders.onnx": "OnnxEmbedder",
    "penstock.embedders.functions": "FunctionEmbedder",
    "penstock.sinks.functions": "FunctionSink",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__version__ = "0.1.0"
"""The only place of the version: pyproject.toml reads it here."""
__all__ = [
    "Block",
    "Checkpoint",
    "Chunk",
    "Chunker",
    "Copied",
    "Delete",
    "Dense",
    "DocumentEntry",
    "Embedder",
    "Explanation",
    "Files",
    "FunctionEmbedder",
    "FunctionSink",
    "Gap",
    "Hit",
    "Index",
    "IndexSchema",
    "IndexedChunk",
    "Item",
    "ListingEnd",
    "MultiEmbedder",
    "MultiVector",
    "OnnxEmbedder",
    "Option",
    "Outcome",
    "Parser",
    "PenstockError",
    "Piece",
    "Pipeline",
    "Pipelines",
    "Plan",
    "Point",
    "Progress",
    "Removed",
    "Report",
    "Reranker",
    "Sink",
    "Source",
    "Sparse",
    "TextChunker",
    "Tokenizer",
    "Unreadable",
    "Upsert",
    "VectorSpec",
    "Verification",
    "copy",
    "embed_documents",
    "embed_file",
    "embed_query",
    "ingest",
    "open_index",
    "stream_file",
    "unload_models",
]


def ingest(source: Any, into: Any, *, progress: Any = None, **options: Any) -> Report:
    """`Pipeline(source, into=into, **options).run(progress)` in one call.

    >>> penstock.ingest("docs/", "lance://./index", memory="256MiB", progress=True)
    """
    from penstock.pipeline import Pipeline

    return Pipeline(source, into=into, **options).run(progress)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
