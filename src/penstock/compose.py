"""From words to components: what a path, a url, a model's name stand for."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.contracts import Embedder, Index, ModelSpec, MultiEmbedder, OneModel, Sink, Source
from penstock.core.errors import UsageError
from penstock.registry import INDEXES, SINKS, find, scheme

if TYPE_CHECKING:
    from penstock.jobs.copy import Copied
    from penstock.jobs.search import OpenIndex
    from penstock.settings import Settings
    from penstock.shards.embed import Embedded, Options
    from penstock.shards.load import Loaded

STATE = ".penstock"
"""The folder of ledgers that are not named."""
EMBEDDED = ("lance", "sqlite", "parquet", "delta")
"""Stores that are a folder or a file. Others are so where their url begins like a path, and end with a collection."""

Paths = str | os.PathLike[str]
Into = str | Sink | Sequence[str | Sink]
SourceSpec = Paths | Sequence[Paths] | Source


def make_source(source: SourceSpec, *, skip: Sequence[str] = (), **options: Any) -> Source:
    """The source of a path, several, or a url, without what lies at the paths of `skip`."""
    if isinstance(source, Source):
        if named := next((name for name, value in options.items() if value), None):
            raise UsageError(f"{named} is an option of paths and urls; give it to your own source instead")
        return source
    from penstock.sources import from_url

    return from_url(source, skip=skip, **options)


def make_sink(into: Into) -> Sink:
    """The sink of a url; of several, one that fills them together."""
    if isinstance(into, Sink):
        return into
    if isinstance(into, str):
        if not scheme(into):
            raise UsageError(f"invalid index {into!r}: expected a url such as lance://./index")
        sink: Sink = find(SINKS, scheme(into), "sink")(into)
        return sink
    if len(into) == 1:
        return make_sink(into[0])
    from penstock.sinks.fanout import FanOut

    # The ledger knows them by their urls.
    return FanOut([make_sink(absolute(one) if isinstance(one, str) else one) for one in into])


def make_index(url: str | Index) -> Index:
    if isinstance(url, Index):
        return url
    if not scheme(url):
        raise UsageError(f"invalid index {url!r}: expected a url such as lance://./index")
    index: Index = find(INDEXES, scheme(url), "index")(url)
    return index


def make_embedder(model: ModelSpec) -> MultiEmbedder:
    from penstock.embedders.named import Named

    if isinstance(model, MultiEmbedder):
        return model
    if isinstance(model, Mapping):
        return Named({name: _one_embedder(one) for name, one in model.items()})
    return Named(_one_embedder(model))


def _one_embedder(model: OneModel | None) -> Embedder:
    if isinstance(model, Embedder):
        return model
    if model is None or isinstance(model, str):
        from penstock.embedders.names import from_name

        return from_name(model)
    from penstock.embedders.functions import FunctionEmbedder

    return FunctionEmbedder(model)


# ---------------------------------------------------------------- whole jobs, by words


def open_index(url: str | Index, model: ModelSpec = None) -> OpenIndex:
    """Open an index for searching. `model` is only needed where it was an object or a function of your own."""
    from penstock.jobs.search import OpenIndex, check_model, models_of, opened

    index = opened(make_index(url))
    try:
        schema = index.manifest().schema
        embedder = make_embedder(models_of(schema) if model is None else model)
        check_model(schema, embedder, index.url)
    except BaseException:
        index.close()
        raise
    return OpenIndex(index, embedder)


def copy(source: str | Sink, into: str | Sink, progress: Any = None) -> Copied:
    """Copy all points of a readable store into another one, of any kind.

    The copy belongs to no ledger: the first `ingest` into it reads it back and takes it over.
    """
    from penstock.core.generations import current
    from penstock.jobs.copy import copy as copy_points

    with current(make_sink(source)) as old, make_sink(into) as new:
        return copy_points(old, new, progress)


def embed(source: SourceSpec, model: ModelSpec, out: Paths, *, options: Options | None = None, **rest: Any) -> Embedded:
    """Embed the images of a source into parts: see `penstock.shards.embed`."""
    from penstock.shards import store as stores
    from penstock.shards.embed import Options, embed

    options = options or Options()
    place = stores.at(out, options.storage)
    skip = [place.url] if isinstance(place, stores.Folder) else []
    return embed(make_source(source, skip=skip), make_embedder(model), out, options=options, **rest)


def load(parts: Paths, into: str | Sink, progress: Callable[[Loaded], None] | None = None, **options: Any) -> Loaded:
    """Build an index of parts: see `penstock.shards.load`."""
    from penstock.shards.load import load

    return load(parts, make_sink(into), progress, **options)


# ---------------------------------------------------------------- where things are


def default_state(source: str, sink: str, namespace: str = "") -> Path:
    """One ledger a pair of source and index, with a name that people recognise."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", sink.partition("://")[2]).strip("-")[-40:] or "index"
    parts = [source, absolute(sink), *([namespace] if namespace else [])]
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()
    return Path(STATE) / f"{name}-{digest}.db"


def absolute(path: str) -> str:
    """The same from any working directory: relative paths and `lance://./index` made absolute."""
    kind, mark, rest = path.partition("://")
    if not mark:
        return os.path.abspath(path)
    if kind in (*EMBEDDED, "urls") or (kind in SINKS and rest.startswith((".", "~"))):
        return f"{kind}://{os.path.abspath(os.path.expanduser(rest))}"
    return path


def location_of(url: str) -> str:
    """The folder or file of this machine that a store keeps; nothing where it is on a server."""
    kind, _, rest = absolute(url).partition("?")[0].partition("://")
    if kind in EMBEDDED:
        return rest
    return os.path.dirname(rest) if rest.startswith("/") else ""  # `chroma:///folder/collection`


def remembered(settings: Settings) -> str:
    """Settings as the ledger keeps them."""
    return json.dumps(asdict(settings))
