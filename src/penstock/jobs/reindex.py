"""An index built anew beside the one that is searched, and put in its place when it is complete.

The new one is filled by ordinary runs, with a ledger of its own: killed, it goes on where it was, and the old one goes
on being filled and searched meanwhile. The change of place is one step, a manifest replaced. The one before is kept
until it is dropped, so that the step can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice, takewhile
from typing import TYPE_CHECKING, Any
from zlib import crc32

from penstock.core.contracts import Index, Sink
from penstock.core.errors import MassDeletion, OwnershipError, SinkError, UsageError
from penstock.core.generations import switch
from penstock.core.records import Point
from penstock.core.schema import Manifest, VectorSpec
from penstock.engine.progress import Progress, Report
from penstock.ledger import DONE, Ledger
from penstock.sinks.fanout import members

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline

PASSES = 8
"""Over the source, at most, until one finds nothing new: what changes faster than that is the next run's."""
QUERIES, NEAREST = 50, 10
"""Points whose neighbours are looked for, and how many of these."""
RECALL = 0.95
NAMED = 20
"""Documents that are named, where more are missing."""


@dataclass(frozen=True, slots=True)
class Reindexed:
    place: str
    """The url of the new index."""
    reports: tuple[Report, ...]
    """Of the runs that filled it: one, and one for each time that the source had changed meanwhile."""
    points: int
    missing: int
    """Points that its ledger says it has, and it has not; or that belong to nobody, or are there twice."""
    complete: bool
    """The source could be listed whole. What could not be listed would be missing."""
    lost: tuple[str, ...]
    """Documents that the old index has and the new one could not be given; NAMED of them at most."""
    recall: float | None
    """How many of the true nearest a search finds. None where there is no search."""
    switched: bool
    alias: str = ""
    """The store's own name for the current index, where it has such."""
    trouble: str = ""
    """Why that could not be put to the new one. The change of place stands."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"reports": [report.to_json() for report in self.reports]}


def reindex(
    pipeline: Pipeline,
    progress: Callable[[Progress], None] | None,
    least_recall: float,
    incomplete: bool,
) -> Reindexed:
    """Build what the pipeline describes beside what there is, look at it, and make it the current one."""
    held, old = _held(pipeline)
    if held.former is not None:
        raise UsageError(
            f"an index before the current one is still kept beside {pipeline.sink.url}: drop it first (reindex --drop),"
            " or go back to it (reindex --rollback)"
        )
    new = next(there for there in _beyond(pipeline, held) if there.sink.manifest() is None or _fills(there))
    if new.schema() == (there := _manifest(old.sink)).schema:
        raise UsageError(f"{old.sink.url} holds just that: {there.schema}")
    if (begun := new.sink.manifest()) is not None and begun.schema != new.schema():
        raise UsageError(
            f"{new.sink.url} was begun with {begun.schema}: go on with these, or remove it (reindex --drop)"
        )
    _own(old, there)
    reports = _fill(new, progress)
    found = new.verify(progress=progress)
    lost = tuple(islice(_lost(old.ledger, new.ledger), NAMED))
    missing = found.missing + found.orphans + found.doubled
    recalls = [measured_recall(sink) for sink in members(new.sink)] if found.points else []
    recall = min((one for one in recalls if one is not None), default=None)
    sound = not missing and not found.behind and (recall is None or recall >= least_recall)
    made = Reindexed(new.sink.url, reports, found.points, missing, found.complete, lost, recall, switched=False)
    if not sound or not found.complete or reports[-1].status != "done" or (lost and not incomplete):
        return made
    if 2 * found.documents < (before := _documents(old.ledger)) and not incomplete:
        raise MassDeletion(
            f"the source has {found.documents:,} documents, and {old.sink.url} has {before:,}: that stays the current"
            " one. If it is right, run again with --incomplete"
        )
    _switch(pipeline, current=new.place, former=held.current)
    try:
        return replace(made, switched=True, alias=pipeline.sink.alias(new.place))
    except SinkError as error:
        return replace(made, switched=True, trouble=str(error))


def rollback(pipeline: Pipeline) -> str:
    """Make the index before the current one the current one, and keep this. Gives its url."""
    held, _ = _held(pipeline)
    if held.former is None:
        raise UsageError(f"no index before the current one is kept beside {pipeline.sink.url}")
    former = pipeline.at(held.former)
    _manifest(former.sink)
    _switch(pipeline, current=held.former, former=held.current)
    pipeline.sink.alias(held.former)
    return former.sink.url


def drop(pipeline: Pipeline) -> list[str]:
    """Remove what lies beside the current index: the one before it, one that was never finished. Gives their urls."""
    held, _ = _held(pipeline)
    if held.former is not None:  # from now on nobody can go back to it
        switch(members(pipeline.sink), held.current, None)
    dropped = []
    kept = [pipeline.at(number) for number in range(held.current) if pipeline.at(number).sink.manifest() is not None]
    for there in (*kept, *takewhile(lambda there: there.sink.manifest() is not None, _beyond(pipeline, held))):
        if there.place == held.former or _fills(there):
            with there.ledger:
                there.ledger.open()  # a run that fills it is not disturbed
                if there.place:
                    there.sink.drop()
                elif not _emptied(there.sink):
                    continue
                there.ledger.reset()
            if there.place:
                _remove(there.ledger)
            dropped.append(there.sink.url)
    return dropped


def _beyond(pipeline: Pipeline, held: Manifest) -> Iterator[Pipeline]:
    """The places after the current one."""
    return (pipeline.at(number) for number in count(held.current + 1))


def _fills(there: Pipeline) -> bool:
    """Whether what lies there is ours, and not by chance somebody else's of such a name."""
    if not there.ledger.path.exists():
        return False
    with there.ledger:
        there.ledger.open(exclusive=False)
        return there.ledger.id in _manifest(there.sink).owners.values()


def _held(pipeline: Pipeline) -> tuple[Manifest, Pipeline]:
    held = _manifest(pipeline.sink)
    if not pipeline.sink.readable:
        raise UsageError(f"{pipeline.sink.url} cannot be read back, so nothing built beside it can be checked")
    return held, pipeline.at(held.current)


def _manifest(sink: Sink) -> Manifest:
    if (held := sink.manifest()) is None:
        raise SinkError(f"there is no index at {sink.url}")
    return held


def _own(old: Pipeline, held: Manifest) -> None:
    """Only who fills the whole index can build it anew."""
    if others := sorted(held.owners.keys() - {old.namespace}):
        raise OwnershipError(
            f"{old.sink.url} is filled by other pipelines as well ({', '.join(others)}): have each fill a new place,"
            " and search there when all are through"
        )
    with old.ledger:
        old.ledger.open(exclusive=False, create=False)
        if held.owners.get(old.namespace) not in (None, old.ledger.id):
            raise OwnershipError(f"{old.sink.url} was filled by another ledger than {old.ledger.path} (--state)")


def _fill(new: Pipeline, progress: Callable[[Progress], None] | None) -> tuple[Report, ...]:
    """Run until nothing is new: what changed while one run went on is brought in by the next."""
    reports = []
    for _ in range(PASSES):
        reports.append(report := new.run(progress))
        if report.status != "done" or new.source.feed or not report.counts["written"] + report.counts["removed"]:
            break
    return tuple(reports)


def _lost(old: Ledger, new: Ledger) -> Iterator[str]:
    """Documents that are whole in the old index and, though the source has them, not in the new one."""
    with old, new:
        old.open(exclusive=False, create=False)
        new.open(exclusive=False, create=False)
        unlisted = (failure.uri for failure in new.failures() if failure.stage == "list")
        failed = chain(new.unfinished(), unlisted)
        while uris := list(islice(failed, 500)):
            yield from (uri for uri, known in old.known(uris).items() if known.state == DONE)


def _documents(ledger: Ledger) -> int:
    with ledger:
        ledger.open(exclusive=False, create=False)
        return ledger.counts()["documents"]


def _switch(pipeline: Pipeline, *, current: int, former: int) -> None:
    from penstock.pipeline import keep_current

    switch(members(pipeline.sink), current, former)
    keep_current(pipeline.ledger, current)


def _emptied(door: Sink) -> bool:
    """The door stays, as it says where the index is; its points go. False if there were none."""
    held = _manifest(door)
    with door:
        door.open(held)
        if not door.count():
            return False
        while ids := next(iter(door.ids()), ()):
            for start in range(0, len(ids), door.max_rows):
                door.delete(ids[start : start + door.max_rows])
            door.flush()
        door.maintain()
    return True


def _remove(ledger: Ledger) -> None:
    for ending in ("", "-wal", "-shm", ".lock"):
        with suppress(FileNotFoundError):
            ledger.path.with_name(ledger.path.name + ending).unlink()


# ---------------------------------------------------------------- what a search finds of what it should


def measured_recall(sink: Sink) -> float | None:
    """Of the true nearest of some of its points, found by comparing with all, the share that a search finds too."""
    from penstock.registry import INDEXES, find, scheme

    if scheme(sink.url) not in INDEXES:
        return None
    held = _manifest(sink)
    index: Index = find(INDEXES, scheme(sink.url), "index")(sink.url)
    with sink, index:
        sink.open(held)
        index.open()
        queries = _drawn(sink)
        if not queries:
            return None
        return min(_share_found(sink, index, queries, name, spec) for name, spec in held.schema.vectors.items())


def _share_found(sink: Sink, index: Index, queries: Sequence[Point], name: str, spec: VectorSpec) -> float:
    from penstock.sinks.memory import scores

    shares: list[float] = []
    for query, true in zip(queries, _nearest(sink, queries, name, spec), strict=True):
        hits = index.search(query.vectors[name], NEAREST, using=name)
        vectors = [point.vectors[name] for point in sink.fetch([hit.chunk.id for hit in hits])]
        # As near as the last of the true ones is near enough: which of several equals is found is chance.
        found = scores(query.vectors[name], vectors, spec.metric) if vectors else ()
        good = sum(score >= true[-1] - 1e-4 * max(1.0, abs(true[-1])) for score in found)
        shares.append(min(good, len(true)) / len(true))
    return float(sum(shares) / len(shares))


def _drawn(sink: Sink) -> list[Point]:
    """Points whose ids have the lowest checksums: the same ones every time, and from everywhere."""
    lowest: list[tuple[int, str]] = []
    for ids in sink.ids():
        lowest = sorted(lowest + [(crc32(id.encode()), id) for id in ids])[:QUERIES]
    return list(sink.fetch([id for _, id in lowest]))


def _nearest(sink: Sink, queries: Sequence[Point], name: str, spec: VectorSpec) -> list[list[float]]:
    """The scores of each query's true nearest, best first."""
    import numpy as np

    from penstock.sinks.memory import scores

    best: list[Any] = [np.empty(0)] * len(queries)
    for ids in sink.ids():
        for start in range(0, len(ids), sink.max_rows):
            vectors = [point.vectors[name] for point in sink.fetch(ids[start : start + sink.max_rows])]
            if vectors:
                for n, query in enumerate(queries):
                    joined = np.append(best[n], scores(query.vectors[name], vectors, spec.metric))
                    best[n] = np.sort(joined)[::-1][:NEAREST]
    return [found.tolist() for found in best]
