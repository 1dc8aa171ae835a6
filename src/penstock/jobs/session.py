"""One holding of a ledger and its index, which runs, retries and verifications share."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from penstock.chunkers import uncompared
from penstock.core.contracts import Chunker, MultiEmbedder, Sink
from penstock.core.errors import ModelError, OwnershipError, SinkInUse, SpaceMismatch, UsageError
from penstock.core.generations import amend
from penstock.core.pieces import PieceSize, piece_bytes
from penstock.core.retry import passing
from penstock.core.schema import IndexSchema, Manifest
from penstock.engine.flow import GRACE
from penstock.engine.identity import entry_of_stored
from penstock.jobs.components import Components
from penstock.jobs.ledgers import prune
from penstock.jobs.ownership import check_capabilities, owns
from penstock.sinks.fanout import FanOut, members

REFUSALS = (UsageError, OwnershipError, SpaceMismatch, ModelError, SinkInUse)
"""Errors of what the user wants, which no second try changes, or before anything was begun."""


class Session:
    """Checks that everything fits, opens what is needed when it is needed, closes it all."""

    def __init__(
        self,
        base: Components,
        stack: ExitStack,
        *,
        adopt: bool = False,
        read_only: bool = False,
        beside: bool = False,
    ) -> None:
        """`adopt`: take over an index that another ledger fills. `read_only`: change nothing, not even a ledger whose
        index is gone. `beside`: a run holds the ledger and goes on."""
        components, held = base.current()
        self.components = components
        self.read_only = read_only
        self.current = base.generation is None
        """It is about the generation that is searched, and not one that is being built."""
        self.notices: list[str] = []
        self.schema = components.schema()
        sink, ledger = components.sink, components.ledger
        check_capabilities(components, self.schema)
        self._sink_open = self._registered = False
        if not ledger.path.exists():
            stack.push(self._discard_refused)
        self._opened = threading.Event()
        """Whether no thread opens model and store any more."""
        self._opened.set()
        stack.callback(ledger.close)
        for component in (sink, components.embedder):
            stack.callback(self._close, component)
        self.source_ended = True
        """Whether no thread is in the source's code any more."""
        stack.callback(lambda: components.source.close() if self.source_ended else None)
        components.source.open()  # a source that is not there is no reason to begin a ledger
        if held is not None and not isinstance(sink, FanOut) and not ledger.path.exists():
            self._owns(held, sink, "", adopt)  # nor is an index that it must not fill
        ledger.open(exclusive=not beside, create=not beside)
        if components.generation == 0 and base.generation is None and not read_only:
            ledger.lead_to(0)
        self.fan_out = None if beside else attached(components, adopt=adopt)
        if self.fan_out:
            stack.callback(self.fan_out.detach)
            held = self.fan_out.manifest()
        elif held is None and ledger.counts().documents:
            held = sink.manifest()  # a run that had the ledger until now may have made the index
        self.sink: Sink = self.fan_out or sink
        self.owner = {components.namespace: ledger.id}
        self._lock = threading.RLock()
        self._chunker: Chunker | None = None
        self._not_ready: Exception | None = None
        self.exists = held is not None
        """Whether there is an index."""
        if held is not None:
            self._agree(held, adopt)
        elif not read_only:
            self._begin_anew()
        if components.settings is not None and not read_only:
            ledger.set("settings", components.settings)
        self.parsers = components.parser()
        stack.callback(self.parsers.close)
        if not read_only:
            self._notice_uncompared()

    def _close(self, component: Sink | MultiEmbedder) -> None:
        """Close it, unless a thread is still in its code: one that opens it and gets no answer."""
        if self._opened.is_set():
            component.close()

    def _discard_refused(self, kind: object, error: BaseException | None, trace: object) -> None:
        """A run that was refused leaves no ledger behind, where it began one and nothing came of it."""
        path = self.components.ledger.path
        refused = any(isinstance(one, REFUSALS) for one in (error, error and error.__cause__))
        if refused and not self._registered and path.exists():
            prune(path)

    def _notice_uncompared(self) -> None:
        """Say once of what the user's own code depends on that its changes go unnoticed."""
        components = self.components
        names = [*uncompared(components.chunk), *components.embedder.uncompared, *self.parsers.uncompared]
        if (listed := ", ".join(dict.fromkeys(names))) == (components.ledger.get("uncompared") or ""):
            return
        components.ledger.set("uncompared", listed)
        if listed:
            self.notices.append(f"a change of {listed} goes unnoticed: raise the `version` of your function with it")

    def _begin_anew(self) -> None:
        if self.components.ledger.counts().chunks:
            self.notices.append(f"{self.sink.url} is gone: everything is indexed again")
        self.components.ledger.reset()

    # ------------------------------------------------------------ whose index it is

    def _agree(self, held: Manifest, adopt: bool) -> None:
        """The index is the ledger's that its manifest names. One that nobody fills, and part of a shared one that is
        new, is taken over."""
        sink = self.sink
        if self._owns(held, sink, self.components.ledger.id, adopt):
            self._registered = True
            return
        if self.read_only:
            raise OwnershipError(
                f"{sink.url} is not filled by the ledger {self.components.ledger.path}: `penstock ingest` takes it over"
            )
        self.open_sink()
        if self.components.namespace and not held.owners and not adopt and sink.count():
            raise OwnershipError(
                f"{sink.url} holds points that no pipeline fills. --adopt takes over those of this namespace, and"
                " leaves the others in there"
            )
        self._adopt()
        self._register(held)

    def _owns(self, held: Manifest, sink: Sink, mine: str, adopt: bool = False) -> bool:
        return owns(self.components, self.schema, held, mine, url=sink.url, adopt=adopt)

    def _register(self, agreed: Manifest | None = None) -> None:
        """Have the manifest name this ledger, beside those of other namespaces. `agreed`: the manifest by which it was
        decided to take the place of another ledger, or of none. Raises where another run came first meanwhile."""
        name, mine = self.components.namespace, self.components.ledger.id

        def add(kept: Manifest) -> Manifest:
            same = agreed is not None and kept.owners.get(name) == agreed.owners.get(name)
            try:
                self._owns(kept, self.sink, mine, adopt=same)
            except (OwnershipError, UsageError, SpaceMismatch) as error:
                raise type(error)(f"another run was first, and nothing was embedded here: {error}") from error
            return replace(kept, owners={**kept.owners, **self.owner})

        amend(self.sink, add)
        self._registered = True

    def _adopt(self) -> None:
        """Record the points of the index as acknowledged; the run that follows compares them with the source."""
        ledger, sink = self.components.ledger, self.sink
        ledger.reset()
        if self.fan_out:
            self.fan_out.adopt()
        count = self.record_points(self.ids(sink))
        if count or not self.components.namespace:
            self.notices.append(f"adopted {count} points of {sink.url}")

    def record_points(self, pages: Iterable[Sequence[str]]) -> int:
        """Record these points of the index as acknowledged, of documents that are still to be read; give their
        number."""
        ledger, sink = self.components.ledger, self.sink
        run = ledger.begin_run(fingerprints(self.schema))
        count = 0
        size = self.piece_size(sink.max_rows)
        for ids in pages:
            for points in size.read(sink.fetch, ids):
                begun = ledger.begin(sorted({point.chunk.uri for point in points}), run)
                entries = [entry_of_stored(point.chunk, begun[point.chunk.uri]) for point in points]
                ledger.acknowledge(entries, run)
                count += len(entries)
        ledger.end_run(run, "adopted", {})
        return count

    # ------------------------------------------------------------ sinks

    @property
    def sinks(self) -> Sequence[Sink]:
        """Those that can be held against the ledger: they can be read, and nothing is known to be missing."""
        if self.fan_out is None and not isinstance(self.sink, FanOut):
            return (self.sink,)
        behind = self.behind
        return [sink for sink in members(self.sink) if sink.readable and sink.url not in behind]

    @property
    def behind(self) -> set[str]:
        """Of several sinks, the urls of those that lack something."""
        known = self.components.ledger.members()
        return {sink.url for sink in members(self.sink) if known.get(sink.url) is not None}

    def ids(self, sink: Sink) -> Iterator[Sequence[str]]:
        """The ids of an index that are this pipeline's."""
        prefix = self.components.id_prefix.hex()
        for page in sink.ids():
            yield [id for id in page if id.startswith(prefix)] if prefix else page

    def piece_size(self, rows: int) -> PieceSize:
        """How many points of the index to read at once: so many at most, in a part of the budget."""
        return PieceSize(self.schema.vectors, rows, piece_bytes(self.components.budget))

    def open_sink(self) -> None:
        """Open the sink. Where there was no index, it is created, or the part of it taken that nobody fills yet; an
        index that was this ledger's may have been taken over meanwhile. Either is decided before anything is embedded.
        """
        with self._lock:
            if self._sink_open:
                return
            self.sink.open(Manifest(self.schema, self.owner))
            if not self.read_only and (not self.exists or self._registered):
                self._register()
            self._sink_open = True
            if not self.exists:
                self.notices += [_write_only(sink) for sink in members(self.sink) if not sink.readable]

    @property
    def chunker(self) -> Chunker | None:
        """The chunker, once it was needed."""
        return self._chunker

    @property
    def sink_is_open(self) -> bool:
        return self._sink_open

    def ready(self) -> Chunker:
        """The chunker, once store and model are open: one after the other, as two threads that import drivers with a
        common library (numpy) can meet it half imported."""
        with self._opening():
            self._chunker = self._chunker or self._open()
            return self._chunker

    def ready_to_write(self) -> None:
        """Open the store alone: the model is on other machines."""
        with self._opening():
            self.open_sink()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        with self._lock:
            if self._not_ready is not None:  # it ends the run: what another thread tries meanwhile must not succeed
                raise self._not_ready
            try:
                yield
            except Exception as error:
                if not passing(error):
                    self._not_ready = error
                raise

    @contextmanager
    def ready_early(self) -> Iterator[None]:
        """Open model and store beside what is done meanwhile, where there is an index. What fails is tried again, and
        reported, once there is work. What does not end soon after that is left alone, and not closed."""

        def open_both() -> None:
            try:
                with self._lock, suppress(Exception):
                    self._chunker = self._chunker or self._open()
            finally:
                self._opened.set()

        if self.exists:
            self._opened.clear()
            threading.Thread(target=open_both, name="penstock-open", daemon=True).start()
        try:
            yield
        finally:
            self._opened.wait(GRACE)

    def _open(self) -> Chunker:
        self.components.embedder.open()
        chunker = self.components.chunker()  # a size that the model refuses leaves no empty index behind
        opened_before = self._sink_open
        self.open_sink()
        if opened_before and not self.read_only:
            self._register()  # to open a model may take minutes, in which another run may take the index over
        return chunker

    def catch_up(self) -> None:
        """Of several sinks, bring those up to date that can be reached again, or are new."""
        if self.fan_out and self.fan_out.lagging:
            self.open_sink()
            self.fan_out.catch_up()


def attached(components: Components, *, adopt: bool = False) -> FanOut | None:
    """The sinks, where there are several, or were, with the ledger, which is open: those that are left out this time
    miss what the others get."""
    sink, ledger = components.sink, components.ledger
    several = FanOut([sink]) if ledger.members() and not isinstance(sink, FanOut) else sink
    if not isinstance(several, FanOut):
        return None
    prefix = components.id_prefix.hex()
    several.attach(ledger, mine=(lambda id: id.startswith(prefix)) if prefix else None, adopt=adopt)
    return several


def _write_only(sink: Sink) -> str:
    return (
        f"{sink.url} cannot be read back: moved documents will be embedded again, and it can be neither verified nor"
        " copied, reindexed or adopted"
    )


def fingerprints(schema: IndexSchema) -> str:
    return "+".join(spec.fingerprint for spec in schema.vectors.values())
