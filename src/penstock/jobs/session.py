"""What a run, a retry and a verification share: one holding of the ledger."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from penstock.core.contracts import Chunker, Sink
from penstock.core.errors import OwnershipError, SpaceMismatch, Transient, UsageError
from penstock.core.records import Change
from penstock.core.schema import IndexSchema, Manifest
from penstock.engine.flow import Flow, Setup
from penstock.engine.identity import row_of_stored, tag_of
from penstock.engine.progress import Progress, Report
from penstock.jobs.progress_file import Bulletin
from penstock.ledger import FAILED, OPEN
from penstock.sinks.fanout import FanOut

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline


class Session:
    """One holding of the ledger: checks that everything fits, opens what is needed when it is needed, closes it all."""

    def __init__(self, pipeline: Pipeline, stack: ExitStack, *, adopt: bool = False, look: bool = False) -> None:
        """`look`: nothing is to be changed, not even a ledger whose index is gone."""
        self.pipeline = pipeline
        self.notices: list[str] = []
        self.schema = pipeline.schema()
        sink = pipeline.sink
        kinds = {kind.__name__ for kind in sink.accepts}
        for spec in self.schema.vectors.values():
            if spec.kind not in kinds:
                raise UsageError(f"{sink.url} does not take {spec.kind} vectors, which {spec.model} makes")
        most, longest = sink.max_text, pipeline.longest()
        if most is not None and longest is not None and longest > most:
            raise UsageError(
                f"{sink.url} takes texts of at most {most:,} bytes; a chunk of {self.schema.chunking} may have"
                f" {longest:,}: choose smaller ones (--chunk)"
            )
        ledger = pipeline.ledger
        for component in (ledger, sink, pipeline.embedder, pipeline.source):
            stack.callback(component.close)
        pipeline.source.open()  # a source that is not there is no reason to begin a ledger
        ledger.open()
        if not pipeline.place:
            ledger.lead_to(0)
        self.fan_out = self._fan_out(adopt)
        if self.fan_out:
            stack.callback(self.fan_out.detach)
        self.sink: Sink = self.fan_out or sink
        sink = self.sink
        self.owner = {pipeline.namespace: ledger.id}
        self._lock = threading.Lock()
        self._chunker: Chunker | None = None
        self._sink_open = False
        held = sink.manifest()
        self.there = held is not None
        """Whether there is an index."""
        if held is not None:
            self._agree(held, adopt)
        elif not look:
            self._begin_anew()
        if pipeline.settings is not None:
            ledger.set("settings", json.dumps(asdict(pipeline.settings)))
        self.parsers = pipeline.parser()
        stack.callback(self.parsers.close)

    def _fan_out(self, adopt: bool) -> FanOut | None:
        """The sinks, where there are several, or were: those that are left out this time miss what it writes."""
        sink, ledger = self.pipeline.sink, self.pipeline.ledger
        several = FanOut([sink]) if ledger.members() and not isinstance(sink, FanOut) else sink
        if not isinstance(several, FanOut):
            return None
        tag = tag_of(self.pipeline.namespace).hex()
        several.attach(ledger, mine=(lambda id: id.startswith(tag)) if tag else None, adopt=adopt)
        return several

    def _begin_anew(self) -> None:
        if self.pipeline.ledger.counts()["chunks"]:
            self.notices.append(f"{self.sink.url} is not there any more: everything is indexed again")
        self.pipeline.ledger.reset()

    def _agree(self, held: Manifest, adopt: bool) -> None:
        """The index is the ledger's that its manifest names. One that nobody fills, and part of a shared one that is
        new, is taken over."""
        if not self._fits(held, adopt):
            self.open_sink()
            sink = self.sink
            if self.pipeline.namespace and not held.owners and not adopt and sink.count():
                raise OwnershipError(
                    f"{sink.url} holds points that no pipeline fills. --adopt takes over those of this namespace, and"
                    " leaves the others in there"
                )
            self._adopt()
            self._register()

    def _fits(self, held: Manifest, adopt: bool = False) -> bool:
        """Whether the index is this ledger's already. Raises where it must not be filled from here."""
        pipeline = self.pipeline
        ledger, sink, name = pipeline.ledger, self.sink, pipeline.namespace
        check_schema(held.schema, self.schema, sink.url)
        if name and "" in held.owners:
            raise OwnershipError(f"{sink.url} is one pipeline's alone, which has no namespace: take another place")
        if not name and held.owners and "" not in held.owners:
            names = ", ".join(sorted(held.owners))
            raise OwnershipError(f"{sink.url} is shared by the namespaces {names}: say with --namespace which this is")
        for other in held.owners.keys() - {name}:
            if tag_of(other) == tag_of(name):
                raise UsageError(f"the namespaces {name!r} and {other!r} have one tag by chance: call one otherwise")
        owner = held.owners.get(name)
        if owner is not None and owner != ledger.id and not adopt:
            raise OwnershipError(
                f"{sink.url} was filled by another ledger than {ledger.path}. Use that one (--state), or take the index"
                " over with --adopt: what it holds is then read back, compared with the source, and brought up to date"
            )
        return owner == ledger.id

    def _register(self) -> None:
        """Have the manifest name this ledger, beside those of other namespaces."""
        sink = self.sink
        if (held := sink.manifest()) is not None and not self.owner.items() <= held.owners.items():
            sink.replace_manifest(replace(held, owners={**held.owners, **self.owner}))

    @property
    def sinks(self) -> Sequence[Sink]:
        """Those that can be held against the ledger: they can be read, and nothing is known to be missing."""
        if self.fan_out is None:
            return (self.sink,)
        behind = self.fan_out.behind
        return [sink for sink in self.fan_out.sinks if sink.readable and sink.url not in behind]

    def ids(self, sink: Sink) -> Iterator[Sequence[str]]:
        """Those of an index that are this pipeline's."""
        tag = tag_of(self.pipeline.namespace).hex()
        for page in sink.ids():
            yield [id for id in page if id.startswith(tag)] if tag else page

    def _adopt(self) -> None:
        """Write down what the index holds as acknowledged; the run that follows compares it with the source."""
        ledger, sink = self.pipeline.ledger, self.sink
        ledger.reset()
        if self.fan_out:
            self.fan_out.adopt()
        run = ledger.begin_run(fingerprint(self.schema))
        count = 0
        for ids in self.ids(sink):
            for start in range(0, len(ids), sink.max_rows):
                points = sink.fetch(ids[start : start + sink.max_rows])
                begun = ledger.begin(sorted({point.chunk.uri for point in points}), run)
                rows = [row_of_stored(point.chunk, begun[point.chunk.uri]) for point in points]
                ledger.acknowledge(rows, run)
                count += len(rows)
        ledger.end_run(run, "adopted", {})
        if count or not self.pipeline.namespace:
            self.notices.append(f"adopted {count} points of {sink.url}")

    def open_sink(self) -> None:
        if not self._sink_open:
            self.sink.open(Manifest(self.schema, self.owner))
            self._sink_open = True
            if not self.there and (held := self.sink.manifest()) is not None:
                self._fits(held)  # two that began at once have made one index
                self._register()

    def ready(self) -> Chunker:
        """The chunker, once store and model are open: one after the other, as two threads that import drivers with a
        common library (numpy) can meet it half made."""
        with self._lock:
            if self._chunker is None:
                self.pipeline.embedder.open()
                chunker = self.pipeline.chunker()  # a size that the model refuses leaves no empty index behind
                self.open_sink()
                self._chunker = chunker
            return self._chunker

    def run(
        self,
        changes: Iterable[Change],
        progress: Callable[[Progress], None] | None = None,
        *,
        force: bool = False,
        allow_mass_delete: bool = False,
        max_wait: float = 600.0,
    ) -> Report:
        pipeline, ledger = self.pipeline, self.pipeline.ledger
        began = time.monotonic()
        self.catch_up()
        run = ledger.begin_run(fingerprint(self.schema))
        flow = Flow(
            Setup(
                changes=changes,
                parse=self.parsers.parse,
                embedder=pipeline.embedder,
                sink=self.sink,
                ready=self.ready,
                ledger=ledger,
                run=run,
                source=pipeline.source.name,
                budget=pipeline.budget,
                workers=pipeline.workers,
                tag=tag_of(pipeline.namespace),
                feed=pipeline.source.feed,
                force=force,
                allow_mass_delete=allow_mass_delete,
                max_wait=max_wait,
            )
        )
        status = "failed"
        bulletin = Bulletin(ledger.path, progress)
        try:
            flow.run(bulletin)
            status = "stopped" if flow.interrupted else "done"
            if not flow.interrupted:
                with suppress(Transient):  # what is acknowledged is there; who is behind is told below
                    self.catch_up()
        finally:
            bulletin.end()
            last = flow.progress()
            counts = ledger.counts()
            report = Report(
                run=run,
                status=status,
                seconds=time.monotonic() - began,
                counts=last.counts,
                failing=counts[FAILED] + counts[OPEN],
                complete=flow.committer.complete,
                peak_bytes=last.peak,
                budget=pipeline.budget,
                passed_over=dict(pipeline.source.passed_over),
                notices=(*self.notices, *(self.fan_out.notices if self.fan_out else ())),
                behind=tuple(self.fan_out.behind) if self.fan_out else (),
            )
            ledger.end_run(run, status, report.to_json())
        if self._sink_open and last.counts["written"] + last.counts["removed"]:
            self.sink.maintain()
        return report

    def catch_up(self) -> None:
        """Of several sinks, bring those up to date that can be reached again, or are new."""
        if self.fan_out and self.fan_out.lagging:
            self.open_sink()
            self.fan_out.catch_up()


def check_schema(held: IndexSchema, mine: IndexSchema, url: str) -> None:
    """Raise SpaceMismatch unless one index can hold both."""
    if not held.same_space(mine):
        raise SpaceMismatch(
            f"{url} holds {held}; this run makes {mine}. Index into another url, or have `penstock reindex` build a new"
            " generation beside it"
        )


def fingerprint(schema: IndexSchema) -> str:
    return "+".join(spec.fingerprint for spec in schema.vectors.values())
