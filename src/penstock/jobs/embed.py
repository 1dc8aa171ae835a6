"""Vectors of texts and of single files, without an index. Models that were named stay loaded for the next call."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from penstock.chunkers import ChunkSpec, bind
from penstock.core.contracts import MultiEmbedder, Source
from penstock.core.errors import ParseError, SourceError, UsageError
from penstock.core.records import Block, Chunk, Dense, Gap, Item, Point, Unreadable, Upsert, Vector
from penstock.core.retry import Retry
from penstock.embedders.onnx import batches
from penstock.engine.identity import Namer
from penstock.engine.journal import Begun
from penstock.jobs.loaded import LoadedModels
from penstock.parsers import Parsers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

models: LoadedModels[MultiEmbedder] = LoadedModels()
"""Those of this process."""


def query_vectors(embedder: MultiEmbedder, texts: str | Sequence[str]) -> NDArray[np.float32]:
    """One row a text; of one text alone its vector."""
    name = _dense(embedder)
    several = _listed(texts)
    return _array(texts, embedder, embedder.query(several, name) if several else [])


def document_vectors(embedder: MultiEmbedder, texts: str | Sequence[str]) -> NDArray[np.float32]:
    """One row a text; of one text alone its vector. Raises UsageError for a text that the model does not take whole."""
    name = _dense(embedder)
    several = _listed(texts)
    tokenizer = embedder.tokenizer
    tokens = tokenizer.encode(several) if tokenizer is not None and several else [None] * len(several)
    chunks = []
    for number, (text, own) in enumerate(zip(several, tokens, strict=True)):
        if tokenizer is not None and own is not None and len(own) > tokenizer.max_tokens:
            raise UsageError(
                f"text {number} ({text[:40]!r}...) has {len(own):,} tokens, and the model takes"
                f" {tokenizer.max_tokens:,}: divide it, or have embed_file cut a file into chunks"
            )
        chunks.append(Chunk(f"{number:032x}", "text", number, text, (0, len(text)), tokens=own))
    return _array(texts, embedder, [vectors[name] for vectors in embed(embedder, chunks)])


def points_of(source: Source, embedder: MultiEmbedder, chunk: ChunkSpec) -> Iterator[Point]:
    """The chunks of a source's documents with their vectors, in order. What cannot be read raises; a part of a document
    that cannot be read is a warning."""
    chunker = bind(chunk, embedder.tokenizer)
    with source, Parsers(images=embedder.embeds_images) as parsers:
        source.open()
        for change in source.changes():
            if isinstance(change, Unreadable):
                raise SourceError(f"{change.uri}: {change.cause}")
            if isinstance(change, Upsert):
                namer = Namer(change.item, Begun(0, 0, had=False))
                try:
                    with closing(_blocks(parsers, change.item)) as blocks:
                        chunks = (namer.name(piece)[0] for piece in chunker(blocks))
                        for window in _windows(chunks, embedder):
                            yield from map(Point, window, embed(embedder, window))
                except ParseError as error:
                    raise type(error)(f"{change.item.uri}: {error}") from error


def _blocks(parsers: Parsers, item: Item) -> Generator[Block, None, None]:
    with closing(parsers.parse(item).blocks) as blocks:
        for block in blocks:
            if isinstance(block, Gap):
                where = f", page {block.page}" if block.page is not None else ""
                warnings.warn(f"{item.uri}{where} could not be read: {block.cause}", stacklevel=2)
            else:
                yield block


def _windows(chunks: Iterable[Chunk], embedder: MultiEmbedder) -> Iterator[list[Chunk]]:
    """As many chunks at a time as keep the model's workers busy, and no more: a file may be of any size."""
    window: list[Chunk] = []
    tokens = 0
    for chunk in chunks:
        window.append(chunk)
        tokens += chunk.length
        if tokens >= embedder.workers * embedder.batch_tokens or len(window) >= embedder.workers * embedder.batch_rows:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def embed(embedder: MultiEmbedder, chunks: Sequence[Chunk]) -> list[Mapping[str, Vector]]:
    """The named vectors of each chunk, by batches of the size that the model wants, in as many threads as it allows."""
    found: list[Mapping[str, Vector]] = [{}] * len(chunks)
    retry = Retry()

    def run(batch: Sequence[int]) -> None:
        vectors = retry.call("embed", lambda: embedder.embed([chunks[n] for n in batch]))
        for row, n in enumerate(batch):
            found[n] = {name: column[row] for name, column in vectors.items()}

    wanted = [
        batch[start : start + embedder.batch_rows]
        for batch in batches([max(1, chunk.length) for chunk in chunks], embedder.batch_tokens)
        for start in range(0, len(batch), embedder.batch_rows)
    ]
    if len(wanted) == 1 or embedder.workers == 1:
        for batch in wanted:
            run(batch)
    else:
        with ThreadPoolExecutor(embedder.workers, thread_name_prefix="penstock-embed") as pool:
            list(pool.map(run, wanted))
    return found


def _listed(texts: str | Sequence[str]) -> list[str]:
    if not isinstance(texts, Iterable):
        raise UsageError(f"invalid texts: expected a text or a list of texts, not {type(texts).__name__}")
    several = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(several):
        if not isinstance(text, str):
            raise UsageError(f"invalid text {number}: expected a str, not {type(text).__name__}")
    return several


def _array(texts: str | Sequence[str], embedder: MultiEmbedder, vectors: Sequence[Vector]) -> NDArray[np.float32]:
    import numpy as np

    if not vectors:
        (spec,) = embedder.describe().values()
        return np.empty((0, spec.dim), np.float32)
    rows = np.stack([vector.values for vector in vectors])
    return rows[0] if isinstance(texts, str) else rows


def _dense(embedder: MultiEmbedder) -> str:
    """The name of the model's vectors. Raises UsageError where these are no rows of an array."""
    specs = embedder.describe()
    if len(specs) != 1 or any(spec.kind != Dense.__name__ for spec in specs.values()):
        vectors = ", ".join(f"{name} ({spec.kind})" for name, spec in specs.items())
        raise UsageError(f"the model does not make one dense vector a text, but {vectors}: call the embedder itself")
    return next(iter(specs))
