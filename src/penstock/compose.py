"""From words to components: paths, urls, names of models, and the options of a pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from penstock.core.contracts import Embedder, Index, Model, ModelSpec, MultiEmbedder, OneModel, Parser, Sink, Source
from penstock.core.deletions import parse_deletions
from penstock.core.errors import UsageError
from penstock.core.metadata import MetadataFunction, pipeline_metadata
from penstock.jobs.places import Paths, absolute, default_state, location_of, models_from
from penstock.registry import INDEXES, SINKS, find, has_index, knows, scheme
from penstock.settings import Settings, check
from penstock.support.cores import usable_cores
from penstock.support.sizes import parse_budget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.chunkers import ChunkSpec
    from penstock.core.records import Point
    from penstock.engine.progress import Progress
    from penstock.jobs.components import Components
    from penstock.jobs.copy import Copied
    from penstock.jobs.search import OpenIndex
    from penstock.jobs.together import OpenIndexes
    from penstock.shards.embed import Embedded, Options
    from penstock.shards.load import Loaded
    from penstock.workers.place import Place, Work
    from penstock.workers.produce import Setup
    from penstock.workers.worker import Terms, Worked

Into = str | Sink | Sequence[str | Sink]
SourceSpec = Paths | Sequence[Paths] | Source
SeveralIndexes = list[str] | list[Index] | list[str | Index] | tuple[str | Index, ...]


def compose(
    *,
    parsers: Mapping[str, Parser] | None = None,
    metadata: MetadataFunction | Mapping[str, Any] | None = None,
    **values: Any,
) -> Components:
    """The components that the options of a pipeline stand for. `values` are those of Settings and of the source; some
    may be components of the user's own."""
    from penstock.jobs.components import Components

    _check_functions("Pipeline", values.get("chunk"), parsers)
    if metadata is not None and not callable(metadata):
        values["metadata"] = metadata
    own = [name for name in ("source", "into", "model", "chunk") if not _in_words(name, values.get(name))]
    chosen = Settings(**check(values, "Pipeline", components=own))  # with those components in their places
    options = dict(chosen.options)
    fields = pipeline_metadata(chosen.metadata or {})
    describe = metadata if callable(metadata) else fields
    sink = make_sink(chosen.into)
    sinks = [*getattr(sink, "sinks", ())] or [sink]
    # An index inside the folder that it indexes is not a document.
    inside = [path for each in sinks if (path := location_of(each.url))]
    if "skip" in options:
        options["skip"] = [*map(os.path.abspath, options["skip"])]
    source = make_source(chosen.source, **options | {"skip": [*options.get("skip", ()), *inside]})
    state = Path(chosen.state or default_state(source.name, sinks[0].url, chosen.namespace))
    remembered = None
    if not own and not parsers and not callable(metadata) and not _secrets(chosen.source, options):
        remembered = replace(
            chosen,
            source=tuple(absolute(each) for each in chosen.source),
            into=tuple(absolute(each.url) for each in sinks),
            model=models_from("", chosen.model),
            metadata=fields.to_mapping() if fields else None,
            state=str(state.absolute()),
            options=options,
        )
    return Components(
        source=source,
        base=sink,
        embedder=make_embedder(chosen.model),
        state=state,
        budget=parse_budget(chosen.memory),
        workers=usable_cores() if chosen.workers is None else chosen.workers,
        chunk=chosen.chunk,
        parsers=dict(parsers or {}),
        metadata=describe,
        namespace=chosen.namespace,
        max_delete=parse_deletions(chosen.max_delete),
        settings=None if remembered is None else remembered.to_json(),
    )


def _in_words(name: str, value: Any) -> bool:
    """Whether an option is written down rather than a component. What is neither, its check refuses."""
    if name == "source":
        return not isinstance(value, Source)
    if name == "into":
        several = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
        return not any(isinstance(one, Sink) for one in several)
    several = value.values() if name == "model" and isinstance(value, Mapping) else [value]
    return all(one is None or isinstance(one, str | os.PathLike | int) for one in several)


def _check_functions(where: str, chunk: object, parsers: object) -> None:
    """Raise UsageError where a chunker or parser of the user's own is none."""
    if not (chunk is None or isinstance(chunk, str | int) or callable(chunk)):
        raise UsageError(f"{where}: invalid chunk {chunk!r}: expected a size such as '256 tokens', or a function")
    if parsers is None:
        return
    if not isinstance(parsers, Mapping):
        raise UsageError(f"{where}: invalid parsers {parsers!r}: expected a mapping of media types to functions")
    for media_type, parser in parsers.items():
        if not callable(parser):
            raise UsageError(f"{where}: invalid parser {parser!r} of {media_type}: expected a function")
    from penstock.parsers import media_types

    media_types.check(parsers)


def _secrets(source: Sequence[str], options: Mapping[str, Any]) -> bool:
    from penstock.sources import declared

    return any(option.secret and options.get(option.name) for option in declared(source))


def make_source(source: SourceSpec, *, skip: Sequence[str] = (), **options: Any) -> Source:
    """The source of a path, several, or a url, without what lies at the paths of `skip`."""
    if isinstance(source, Source):
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
        sink: Sink = _instance(find(SINKS, scheme(into))(into), Sink, into)
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
    if not has_index(url) and knows(SINKS, scheme(url)):
        raise UsageError(f"{url} cannot be searched: {scheme(url)}:// only takes points")
    index: Index = _instance(find(INDEXES, scheme(url))(url), Index, url)
    return index


def _instance(component: Any, contract: type, name: str) -> Any:
    """The component, which a plug-in may have made."""
    if not isinstance(component, contract):
        made = f"a {type(component).__module__}.{type(component).__qualname__}"
        raise UsageError(f"the plug-in behind {name} is broken: it makes {made}, which is no {contract.__name__}")
    return component


def make_embedder(model: ModelSpec) -> MultiEmbedder:
    from penstock.embedders.named import Named, named

    if isinstance(model, Mapping):
        models = {name: _one_embedder(one) for name, one in model.items()}
        if several := [one for one in models.values() if isinstance(one, MultiEmbedder)]:
            # One that makes all the vectors of an index is remembered under each of their names.
            if len({str(one) for one in model.values()}) == 1 and models.keys() == several[0].describe().keys():
                return several[0]
            raise UsageError(f"{several[0]!r} makes several vectors by itself: give it alone, and not under a name")
        return Named(cast(Mapping[str, Embedder], models))
    return named(_one_embedder(model))


def _one_embedder(model: OneModel | MultiEmbedder | None) -> Embedder | MultiEmbedder:
    if isinstance(model, Embedder | MultiEmbedder):
        return model
    if model is None or isinstance(model, str | os.PathLike):
        from penstock.embedders.names import from_name

        name = None if model is None else os.fspath(model)
        embedder: Embedder | MultiEmbedder = _instance(from_name(name), Model, str(name))
        return embedder
    from penstock.embedders.functions import FunctionEmbedder

    return FunctionEmbedder(model)


# ---------------------------------------------------------------- whole jobs, by words


@overload
def open_index(url: str | Index, model: ModelSpec = None) -> OpenIndex: ...


@overload
def open_index(url: SeveralIndexes, model: Sequence[ModelSpec] | None = None) -> OpenIndexes: ...


def open_index(url: Any, model: Any = None) -> OpenIndex | OpenIndexes:
    """Open an index for searching; a list of several, to search them together. `model` is only needed where it was an
    object or a function of your own; of several indexes it is a list of as many, None for those that need none."""
    from penstock.jobs.search import OpenIndex, models_of

    if not isinstance(url, list | tuple):
        return OpenIndex(make_index(url), lambda schema: make_embedder(models_of(schema) if model is None else model))
    from penstock.jobs.together import OpenIndexes

    check_distinct(url)
    return OpenIndexes(url, model, open_index)


def check_distinct(indexes: Sequence[str | Index]) -> None:
    """Raise UsageError unless there are indexes, each of them once."""
    urls = [one if isinstance(one, str) else one.url for one in indexes]
    if not urls or len({*map(absolute, urls)}) < len(urls):
        raise UsageError(f"invalid indexes {urls}: expected at least one, and each once")


def embed_query(texts: str | Sequence[str], model: ModelSpec = None) -> NDArray[np.float32]:
    """Embed a question, or several: one vector, or an array of one row each.

    A named model is loaded once and stays for later calls (`unload_models` lets go of it); an embedder of your own is
    opened, and is yours to close.
    """
    from penstock.jobs.embed import query_vectors

    with _open_model(model) as embedder:
        return query_vectors(embedder, texts)


def embed_documents(texts: str | Sequence[str], model: ModelSpec = None) -> NDArray[np.float32]:
    """Embed texts as documents, which some models treat otherwise than questions: an array of one row each; of one text
    alone its vector. Nothing is truncated: a text that the model does not take whole is refused."""
    from penstock.jobs.embed import document_vectors

    with _open_model(model) as embedder:
        return document_vectors(embedder, texts)


def embed_file(path: Paths, model: ModelSpec = None, chunk: ChunkSpec = None) -> list[Point]:
    """Parse, chunk and embed one file, here or at a url: its chunks with their vectors, in order.

    With a model that embeds images the file may be one.
    """
    return list(stream_file(path, model, chunk))


def stream_file(path: Paths, model: ModelSpec = None, chunk: ChunkSpec = None) -> Iterator[Point]:
    """`embed_file` a few chunks at a time, in constant memory."""
    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)} is a folder: name a file, or embed the folder with a Pipeline")
    _check_functions("stream_file", chunk, None)
    source = make_source(path)

    def points() -> Iterator[Point]:
        from penstock.jobs.embed import points_of

        with _open_model(model) as embedder:
            yield from points_of(source, embedder, chunk)

    return points()


def unload_models() -> None:
    """Let go of the models that `embed_query` and its like, and searches that rerank, have loaded."""
    from penstock.jobs import embed, rerank

    embed.models.drop()
    rerank.rerankers.drop()


@contextmanager
def _open_model(model: ModelSpec) -> Iterator[MultiEmbedder]:
    from penstock.jobs import embed, loaded

    if model is None or isinstance(model, str | os.PathLike):
        name = None if model is None else os.fspath(model)
        with embed.models.using(loaded.identity_of(name), lambda: make_embedder(name)) as embedder:
            yield embedder
    else:
        embedder = make_embedder(model)
        embedder.open()
        yield embedder


def copy(source: str | Sink, into: str | Sink, progress: Callable[[Copied], None] | bool | None = None) -> Copied:
    """Copy all points of a readable store into another one, of any kind.

    The copy belongs to no ledger: the first `ingest` into it reads it back and takes it over. `progress`: a function
    that is called now and then, or True for a progress bar.
    """
    from penstock.core.generations import current
    from penstock.display.progress import callback, counting
    from penstock.display.text import clean
    from penstock.jobs.copy import copy as copy_points

    update = callback(progress)
    with current(make_sink(source)) as old, make_sink(into) as new:
        if progress is not True:
            return copy_points(old, new, update)
        with counting(clean(f"{old.url} → {new.url}")) as count:
            return copy_points(old, new, lambda done: count(done.written + done.kept, done.total))


def embed(source: SourceSpec, model: ModelSpec, out: Paths, *, options: Options | None = None, **rest: Any) -> Embedded:
    """Embed the images of a source into parts: see `penstock.shards.embed`."""
    from penstock.shards import store as stores
    from penstock.shards.embed import Options, embed

    options = options or Options()
    store = stores.at(out, options.storage)
    skip = [store.url] if isinstance(store, stores.Folder) else []
    return embed(make_source(source, skip=skip), make_embedder(model), out, options=options, **rest)


def place_at(url: str, storage: Mapping[str, Any] | None = None) -> Place:
    """The place where workers meet: `shards:///srv/work`, or `shards+s3://bucket/work`."""
    from penstock.workers.place import Place

    return Place.at(url, storage)


def work(
    place: str,
    progress: Callable[[Progress], None] | None = None,
    *,
    memory: str | int | None = None,
    workers: int | None = None,
    terms: Terms | None = None,
    storage: Mapping[str, Any] | None = None,
) -> Worked:
    """Parse and embed documents for runs `on` this place, until the one that goes on is over: see `penstock.workers`.

    `memory` and `workers` are those of the pipeline, if not given.
    """
    from penstock.workers.worker import Worker

    def setup(work: Work, stack: ExitStack) -> Setup:
        settings = Settings.from_mapping(work.settings, place)
        chosen = replace(settings, memory=str(memory or settings.memory), workers=workers or settings.workers)
        return worker_setup(chosen, chosen.model, stack)

    return Worker(place_at(place, storage), setup, terms, progress).work()


def worker_setup(settings: Settings, model: ModelSpec, stack: ExitStack) -> Setup:
    """The components that documents are worked on with, which the stack closes: all but the index and the ledger."""
    from penstock.chunkers import bind, spec
    from penstock.core.retry import MAX_WAIT
    from penstock.core.schema import new_schema
    from penstock.engine.identity import id_prefix
    from penstock.parsers import Parsers
    from penstock.workers.produce import Setup

    source, embedder = make_source(settings.source, **settings.options), make_embedder(model)
    for component in (source, embedder):
        stack.callback(component.close)
    source.open()
    parsers = Parsers(images=embedder.embeds_images)
    stack.callback(parsers.close)
    return Setup(
        source=source,
        embedder=embedder,
        chunker=lambda: bind(settings.chunk, embedder.tokenizer),
        parse=parsers.parse,
        parser_code=parsers.code,
        metadata=pipeline_metadata(settings.metadata or {}),
        id_prefix=id_prefix(settings.namespace),
        schema=new_schema(embedder.describe(), spec(settings.chunk, tokens=embedder.has_tokenizer)),
        budget=parse_budget(settings.memory),
        workers=settings.workers or usable_cores(),
        max_wait=MAX_WAIT,
    )


def load(parts: Paths, into: str | Sink, progress: Callable[[Loaded], None] | None = None, **options: Any) -> Loaded:
    """Build an index of parts: see `penstock.shards.load`."""
    from penstock.shards.load import load

    return load(parts, make_sink(into), progress, **options)
