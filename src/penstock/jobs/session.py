"""One holding of a ledger and its index, which runs, retries and verifications share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from penstock.chunkers import uncompared
from penstock.core.contracts import Chunker, Sink
from penstock.core.errors import OwnershipError, UsageError
from penstock.core.schema import IndexSchema, Manifest
from penstock.engine.identity import entry_of_stored, id_prefix
from penstock.jobs.components import Components
from penstock.sinks import manifests
from penstock.sinks.fanout import FanOut


class Session:
    """Checks that everything fits, opens what is needed when it is needed, closes it all."""

    def __init__(self, base: Components, stack: ExitStack, *, adopt: bool = False, read_only: bool = False) -> None:
        """`adopt`: take over an index that another ledger fills. `read_only`: change nothing, not even a ledger whose
        index is gone."""
        components, held = base.current()
        self.components = components
        self.read_only = read_only
        self.notices: list[str] = []
        self.schema = components.schema()
        sink, ledger = components.sink, components.ledger
        _check_capabilities(components, self.schema)
        for component in (ledger, sink, components.embedder, components.source):
            stack.callback(component.close)
        components.source.open()  # a source that is not there is no reason to begin a ledger
        if held is not None and not isinstance(sink, FanOut) and not ledger.path.exists():
            self._fits(held, sink, "", adopt)  # nor is an index that it must not fill
        ledger.open()
        if components.generation == 0 and base.generation is None and not read_only:
            ledger.lead_to(0)
        self.fan_out = self._fan_out(adopt)
        if self.fan_out:
            stack.callback(self.fan_out.detach)
            held = self.fan_out.manifest()
        elif held is None and ledger.counts().documents:
            held = sink.manifest()  # a run that had the ledger until now may have made the index
        self.sink: Sink = self.fan_out or sink
        self.owner = {components.namespace: ledger.id}
        self._lock = threading.Lock()
        self._chunker: Chunker | None = None
        self._sink_open = False
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

    def _fan_out(self, adopt: bool) -> FanOut | None:
        """The sinks, where there are several, or were: those that are left out this time miss what it writes."""
        sink, ledger = self.components.sink, self.components.ledger
        several = FanOut([sink]) if ledger.members() and not isinstance(sink, FanOut) else sink
        if not isinstance(several, FanOut):
            return None
        prefix = self.components.id_prefix.hex()
        several.attach(ledger, mine=(lambda id: id.startswith(prefix)) if prefix else None, adopt=adopt)
        return several

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
        if self._fits(held, sink, self.components.ledger.id, adopt):
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
        self._register()

    def _fits(self, held: Manifest, sink: Sink, mine: str, adopt: bool = False) -> bool:
        """Whether the index is already that of `mine`, the ledger's id. Raises where it must not be filled here."""
        path, name = self.components.ledger.path, self.components.namespace
        manifests.check_schema(held.schema, self.schema, sink.url)
        if name and "" in held.owners:
            raise OwnershipError(f"{sink.url} is filled by one pipeline without a namespace: choose another url")
        if not name and held.owners and "" not in held.owners:
            names = ", ".join(sorted(held.owners))
            raise OwnershipError(f"{sink.url} is shared by the namespaces {names}: name this one's with --namespace")
        for other in held.owners.keys() - {name}:
            if id_prefix(other) == id_prefix(name):
                raise UsageError(f"the namespaces {name!r} and {other!r} collide by chance: rename one of them")
        owner = held.owners.get(name)
        if owner is not None and owner != mine and not adopt:
            raise OwnershipError(
                f"{sink.url} was filled by another ledger than {path}. Use that one (--state), also where --include or"
                " --exclude have changed; or take the index over with --adopt: its points are then read back, compared"
                " with the source, and brought up to date"
            )
        return owner == mine

    def _register(self) -> None:
        """Have the manifest name this ledger, beside those of other namespaces."""
        sink = self.sink
        if (held := sink.manifest()) is not None and not self.owner.items() <= held.owners.items():
            sink.replace_manifest(replace(held, owners={**held.owners, **self.owner}))

    def _adopt(self) -> None:
        """Record the points of the index as acknowledged; the run that follows compares them with the source."""
        ledger, sink = self.components.ledger, self.sink
        ledger.reset()
        if self.fan_out:
            self.fan_out.adopt()
        run = ledger.begin_run(fingerprints(self.schema))
        count = 0
        for ids in self.ids(sink):
            for start in range(0, len(ids), sink.max_rows):
                points = sink.fetch(ids[start : start + sink.max_rows])
                begun = ledger.begin(sorted({point.chunk.uri for point in points}), run)
                entries = [entry_of_stored(point.chunk, begun[point.chunk.uri]) for point in points]
                ledger.acknowledge(entries, run)
                count += len(entries)
        ledger.end_run(run, "adopted", {})
        if count or not self.components.namespace:
            self.notices.append(f"adopted {count} points of {sink.url}")

    # ------------------------------------------------------------ sinks

    @property
    def sinks(self) -> Sequence[Sink]:
        """Those that can be held against the ledger: they can be read, and nothing is known to be missing."""
        if self.fan_out is None:
            return (self.sink,)
        behind = self.fan_out.behind
        return [sink for sink in self.fan_out.sinks if sink.readable and sink.url not in behind]

    def ids(self, sink: Sink) -> Iterator[Sequence[str]]:
        """The ids of an index that are this pipeline's."""
        prefix = self.components.id_prefix.hex()
        for page in sink.ids():
            yield [id for id in page if id.startswith(prefix)] if prefix else page

    def open_sink(self) -> None:
        if not self._sink_open:
            self.sink.open(Manifest(self.schema, self.owner))
            self._sink_open = True
            if not self.exists and (held := self.sink.manifest()) is not None:
                self._fits(held, self.sink, self.components.ledger.id)  # two that began at once have made one index
                self._register()

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
        with self._lock:
            if self._chunker is None:
                self.components.embedder.open()
                chunker = self.components.chunker()  # a size that the model refuses leaves no empty index behind
                self.open_sink()
                self._chunker = chunker
            return self._chunker

    def catch_up(self) -> None:
        """Of several sinks, bring those up to date that can be reached again, or are new."""
        if self.fan_out and self.fan_out.lagging:
            self.open_sink()
            self.fan_out.catch_up()


def _check_capabilities(components: Components, schema: IndexSchema) -> None:
    """Raise UsageError where the sink cannot hold what the model and the chunker make."""
    sink = components.sink
    manifests.supported(schema, sink)
    most, longest = sink.max_text, components.longest()
    if most is not None and longest is not None and longest > most:
        raise UsageError(
            f"{sink.url} takes texts of at most {most:,} bytes; a chunk of {schema.chunking} may have {longest:,}:"
            " choose smaller ones (--chunk)"
        )


def fingerprints(schema: IndexSchema) -> str:
    return "+".join(spec.fingerprint for spec in schema.vectors.values())
