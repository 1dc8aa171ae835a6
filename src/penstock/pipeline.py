"""Pipeline: what the user composes and runs.

Arguments are specs (a path, a url, a model's name, "256 tokens") or components of one's own; a plain function can be a
parser, a chunker or an embedder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.chunkers import ChunkSpec, bind, longest, spec
from penstock.core.contracts import Chunker, Embedder, ModelSpec, MultiEmbedder, OneModel, Parser, Sink, Source
from penstock.core.errors import SourceError, UsageError
from penstock.core.generations import align
from penstock.core.records import Change, Delete, Unreadable, Upsert
from penstock.core.schema import IndexSchema
from penstock.engine.progress import Progress, Report
from penstock.jobs.session import Session
from penstock.ledger import Ledger
from penstock.registry import SINKS, find, scheme
from penstock.sinks.fanout import FanOut, members
from penstock.support.cores import usable_cores

if TYPE_CHECKING:
    from penstock.jobs.plan import Plan
    from penstock.jobs.reindex import Reindexed
    from penstock.jobs.verify import Verification

MINIMUM = 8 << 20
STATE = ".penstock"
EMBEDDED = ("lance", "sqlite", "parquet", "delta")
"""Stores that are a folder or a file. Others are so where their url begins like a path, and end with a collection."""

Paths = str | os.PathLike[str]
Into = str | Sink | Sequence[str | Sink]
SourceSpec = Paths | Sequence[Paths] | Source


@dataclass(frozen=True)
class Settings:
    """The options that can be said in words: on the command line, in penstock.toml, and in the ledger for next time."""

    source: tuple[str, ...]
    into: tuple[str, ...]
    model: str | None = None
    chunk: str | None = None
    memory: str = "512MiB"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    workers: int | None = None
    namespace: str = ""
    state: str | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Settings:
        known = set(cls.__dataclass_fields__)
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"{where}: unknown setting {unknown[0]!r}; there are: {', '.join(sorted(known))}")
        missing = sorted({"source", "into"} - set(values))
        if missing:
            raise UsageError(f"{where}: {' and '.join(missing)} must be given")
        plain = dict(values)
        for name in ("source", "into", "include", "exclude"):
            if name in plain:
                value = plain[name]
                plain[name] = (value,) if isinstance(value, str) else tuple(value)
        for name in ("chunk", "memory"):
            if isinstance(plain.get(name), int):
                plain[name] = str(plain[name])
        for name, value in plain.items():
            kinds: dict[str, type] = {
                "source": tuple,
                "into": tuple,
                "include": tuple,
                "exclude": tuple,
                "hidden": bool,
                "workers": int,
            }
            parts = value if isinstance(value, tuple) else ()
            if value is not None and not (
                isinstance(value, kinds.get(name, str)) and all(isinstance(part, str) for part in parts)
            ):
                raise UsageError(f"{where}: {name} = {value!r} cannot be meant")
        return cls(**plain)

    def pipeline(self) -> Pipeline:
        return Pipeline(
            self.source,
            into=self.into,
            model=self.model,
            chunk=self.chunk,
            memory=self.memory,
            state=self.state,
            include=self.include,
            exclude=self.exclude,
            hidden=self.hidden,
            workers=self.workers,
            namespace=self.namespace,
        )


class Pipeline:
    """Source, parsers, chunker, embedder and sink, with a ledger and a memory budget.

    >>> report = Pipeline("docs/", into="lance://./index", memory="256MiB").run()

    - `source`: a path, several, a url, or a Source.
    - `into`: a sink's url, or a Sink; or several of these, which are filled together.
    - `model`: a sentence-transformers model (hub name or folder), an Embedder, or a function of a list of texts.
    - `chunk`: `"256 tokens"`, `"1000 characters"`, a Chunker, or a function of a text that gives its parts.
    - `memory`: bytes in flight, at most: `"512MiB"`. Model weights and parsers' native heaps come on top.
    - `state`: the ledger's file; by default one a pipeline under `.penstock/`.
    - `parsers`: your own, by media type: `{"text/x-log": my_parser}`.
    - `namespace`: for several pipelines that fill one index, each its own part.
    """

    def __init__(
        self,
        source: SourceSpec,
        *,
        into: Into,
        model: ModelSpec = None,
        chunk: ChunkSpec = None,
        memory: str | int = "512MiB",
        state: Paths | None = None,
        parsers: Mapping[str, Parser] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        hidden: bool = False,
        workers: int | None = None,
        namespace: str = "",
    ) -> None:
        several = [into] if isinstance(into, str | Sink) else list(into)
        if len(several) > 1:  # the ledger knows them by their urls
            several = [_absolute(one) if isinstance(one, str) else one for one in several]
        sinks = [make_sink(one) for one in several]
        self.sink = sinks[0] if len(sinks) == 1 else FanOut(sinks)
        self.source = _source(source, sinks, include, exclude, hidden)
        self.embedder = make_embedder(model)
        self.budget = parse_size(memory)
        if self.budget < MINIMUM:
            raise UsageError(f"memory={memory!r} is too little: at least {MINIMUM >> 20} MiB")
        self.workers = usable_cores() if workers is None else workers
        if self.workers < 1:
            raise UsageError(f"workers={workers}: at least one must read")
        self.namespace = namespace
        self.place = 0
        """Which of the places side by side; 0 is the one that was named."""
        self._parsers = dict(parsers or {})
        self._chunk = chunk
        self.ledger = Ledger(state or default_state(self.source.name, sinks[0].url, namespace))
        self.settings: Settings | None = None
        if (
            all(isinstance(one, str) for one in several)
            and isinstance(model, str | None)
            and isinstance(chunk, str | int | None)
            and not isinstance(source, Source)
        ):
            self.settings = Settings(
                source=tuple(_absolute(path) for path in _listed(source)),
                into=tuple(_absolute(sink.url) for sink in sinks),
                model=model,
                chunk=None if chunk is None else str(chunk),
                memory=str(memory),
                include=tuple(include),
                exclude=tuple(exclude),
                hidden=hidden,
                workers=workers,
                namespace=namespace,
                state=str(self.ledger.path.absolute()),
            )

    @classmethod
    def from_toml(cls, path: Paths) -> Pipeline:
        """What `penstock run penstock.toml` runs. Relative paths are relative to where it is run."""
        import tomllib

        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}") from error
        return Settings.from_mapping(values, str(path)).pipeline()

    @classmethod
    def from_state(cls, path: Paths, **changes: Any) -> Pipeline:
        """The pipeline that a ledger was last filled by; with other settings where some are given."""
        with Ledger(current_ledger(path)) as ledger:
            ledger.open(exclusive=False, create=False)
            settings = ledger.get("settings")
        if settings is None:
            raise UsageError(f"the pipeline of {path} has components of your own: use its Python object")
        return Settings.from_mapping(json.loads(settings) | changes | {"state": str(path)}, str(path)).pipeline()

    # ------------------------------------------------------------ run

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        *,
        allow_mass_delete: bool = False,
        adopt: bool = False,
        max_wait: float = 600.0,
    ) -> Report:
        """Bring the index up to date with the source.

        `adopt`: take over an index that another ledger filled (or this one, before it was lost).
        `max_wait`: for how many seconds a store or model that is away is waited for.
        """
        with ExitStack() as stack:
            pipeline = self.current()
            session = Session(pipeline, stack, adopt=adopt)
            changes = self.source.changes(pipeline.ledger.cursor(self.source.name))
            return session.run(changes, progress, allow_mass_delete=allow_mass_delete, max_wait=max_wait)

    def retry(self, progress: Callable[[Progress], None] | None = None, *, max_wait: float = 600.0) -> Report:
        """Try again whatever is in the ledger as failed or skipped."""
        with ExitStack() as stack:
            session = Session(self.current(), stack)
            return session.run(session.pipeline.unfinished(), progress, force=True, max_wait=max_wait)

    def unfinished(self) -> Iterator[Change]:
        """Whatever failed, was skipped or is half-done, as the source has it now."""
        for uri in self.ledger.unfinished():
            try:
                item = self.source.lookup(uri)
            except SourceError as error:  # one that cannot be looked up is no reason to leave out the others
                yield Unreadable(uri, str(error))
            else:
                yield Upsert(item) if item is not None else Delete(uri)

    # ------------------------------------------------------------ look

    def plan(self) -> Plan:
        """What a run would do: new, changed, unchanged and deleted documents, chunks, tokens, time. Embeds nothing."""
        from penstock.jobs.plan import make_plan

        return make_plan(self.current())

    def verify(
        self,
        *,
        repair: bool = False,
        sample: float = 0.0,
        progress: Callable[[Progress], None] | None = None,
        allow_mass_delete: bool = False,
    ) -> Verification:
        """Hold source, ledger and index against each other, by ids; of a `sample` (a share of the points) the vectors
        too. `repair` mends what differs, with a run."""
        from penstock.jobs.verify import verify

        return verify(self.current(), repair, sample, progress, allow_mass_delete)

    # ------------------------------------------------------------ build anew

    def reindex(
        self,
        progress: Callable[[Progress], None] | None = None,
        *,
        least_recall: float = 0.95,
        incomplete: bool = False,
    ) -> Reindexed:
        """Build what this pipeline describes, with its model and chunks, beside the index as it is, look whether it is
        complete and found in, and make it the current one in one step. Searches and runs of the old one go on.

        `incomplete`: make it the current one though it lacks documents that the old one has, or most of them.
        """
        from penstock.jobs.reindex import reindex

        return reindex(self, progress, least_recall, incomplete)

    def rollback(self) -> str:
        """Make the index before the current one current again, and keep this one. Gives its url."""
        from penstock.jobs.reindex import rollback

        return rollback(self)

    def drop_former(self) -> list[str]:
        """Remove the index before the current one, and what an unfinished `reindex` left. Gives their urls."""
        from penstock.jobs.reindex import drop

        return drop(self)

    def at(self, number: int) -> Pipeline:
        """This pipeline, as it fills the place of that number beside its own, with a ledger for that."""
        if not number:
            return self
        there = copy(self)
        there.place = number
        there.sink, there.ledger = self.sink.generation(number), Ledger(_numbered(self.ledger.path, number))
        return there

    def current(self) -> Pipeline:
        """The same, at the place that is searched now."""
        if len(members(self.sink)) > 1:
            align(members(self.sink))
        held = self.sink.manifest()
        number = held.current if held is not None else 0
        if number:  # a run at the place that was named has the ledger open anyway
            keep_current(self.ledger, number)
        return self.at(number)

    # ------------------------------------------------------------ what runs, plans and verifications share

    def chunker(self) -> Chunker:
        """The chunker, bound to the model's tokenizer; the embedder must be open."""
        return bind(self._chunk, self.embedder.tokenizer)

    def schema(self) -> IndexSchema:
        """What the index must be made of, known before anything is opened."""
        return IndexSchema(self.embedder.describe(), spec(self._chunk, tokens=self.embedder.has_tokenizer))

    def longest(self) -> int | None:
        """The most bytes that a chunk's text may have, where that is known."""
        return longest(self._chunk, tokens=self.embedder.has_tokenizer)

    def parser(self) -> Any:
        from penstock.parsers import Parsers

        return Parsers(self._parsers, images=self.embedder.embeds_images)


# ---------------------------------------------------------------- from words to components


def _source(
    source: SourceSpec, sinks: Sequence[Sink], include: Sequence[str], exclude: Sequence[str], hidden: bool
) -> Source:
    if isinstance(source, Source):
        if include or exclude or hidden:
            raise UsageError("include, exclude and hidden belong to your own source")
        return source
    from penstock.sources import from_url

    # An index inside the folder that it indexes is not a document.
    inside = [place for sink in sinks if (place := _lies_at(sink.url))]
    return from_url(source, include=include, exclude=exclude, hidden=hidden, skip=inside)


def make_sink(into: str | Sink) -> Sink:
    if isinstance(into, Sink):
        return into
    if not scheme(into):
        raise UsageError(f"--into {into!r} is not a url such as lance://./index")
    made: Sink = find(SINKS, scheme(into), "sink")(into)
    return made


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
        from penstock.embedders import from_name

        return from_name(model)
    from penstock.embedders.functions import FunctionEmbedder

    return FunctionEmbedder(model)


def default_state(source: str, sink: str, namespace: str = "") -> Path:
    """One ledger a pair of source and index, with a name that people recognise."""
    place = re.sub(r"[^A-Za-z0-9]+", "-", sink.partition("://")[2]).strip("-")[-40:] or "index"
    parts = [source, _absolute(sink), *([namespace] if namespace else [])]
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()
    return Path(STATE) / f"{place}-{digest}.db"


def current_ledger(path: Paths) -> Path:
    """The ledger of the index that is searched now; of the one at that path, as long as it was not built anew."""
    with Ledger(path) as ledger:
        ledger.open(exclusive=False, create=False)
        number = ledger.current
    return _numbered(Path(path), number) if number else Path(path)


def keep_current(ledger: Ledger, number: int) -> None:
    """For commands that ask the ledger alone."""
    with ledger:
        ledger.open(exclusive=False)
        ledger.lead_to(number)


def _numbered(path: Path, number: int) -> Path:
    """`notes.1.db` beside `notes.db`."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def _listed(source: Any) -> list[str]:
    return [os.fspath(source)] if isinstance(source, str | os.PathLike) else [os.fspath(one) for one in source]


def _absolute(path: str) -> str:
    """The same place from any working directory: relative paths and `lance://./index` made absolute."""
    kind, mark, rest = path.partition("://")
    if not mark:
        return os.path.abspath(path)
    if kind in (*EMBEDDED, "urls") or (kind in SINKS and rest.startswith((".", "~"))):
        return f"{kind}://{os.path.abspath(os.path.expanduser(rest))}"
    return path


def _lies_at(url: str) -> str:
    """The folder or file of this machine that a store keeps; nothing where it is on a server."""
    kind, _, rest = _absolute(url).partition("?")[0].partition("://")
    if kind in EMBEDDED:
        return rest
    return os.path.dirname(rest) if rest.startswith("/") else ""  # `chroma:///folder/collection`


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(size: str | int) -> int:
    """Bytes: 268435456, "256MiB", "1.5 GB"."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*([\d.]+)\s*([kmg]i?)?b?\s*", size.lower())
    try:
        return int(float(match[1]) * _UNITS[match[2] or ""]) if match else _bad_size(size)
    except ValueError:
        return _bad_size(size)


def _bad_size(size: str) -> int:
    raise UsageError(f"memory={size!r} is no size such as 512MiB")
