"""An index built anew as a generation beside the one that is searched, and made the current one when it is complete.

The new one is filled by ordinary runs, with a ledger of its own: killed, it goes on where it was, and the old one goes
on being filled and searched meanwhile. The switch is one step, a manifest replaced. The one before is kept until it is
dropped, so that the step can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice, takewhile
from typing import TYPE_CHECKING, Any
from zlib import crc32

from penstock.core.contracts import Index, Sink
from penstock.core.errors import MassDeletion, OwnershipError, SinkError, Transient, UsageError
from penstock.core.generations import RECALL, switch
from penstock.core.pieces import PieceSize, piece_bytes
from penstock.core.precision import floats
from penstock.core.records import MultiVector, Point, Vector
from penstock.core.schema import Manifest, VectorSpec
from penstock.embedders.named import Named
from penstock.engine.journal import DONE
from penstock.engine.progress import Report
from penstock.jobs.alerts import take_over
from penstock.jobs.components import Components, point_ledger
from penstock.jobs.remove import copy_removals
from penstock.jobs.requirement import Requirement
from penstock.jobs.reuse import Reusing, reused
from penstock.jobs.run import OnProgress, run
from penstock.jobs.verify import verify
from penstock.ledger import Ledger
from penstock.registry import INDEXES, find, has_index, scheme
from penstock.sinks.fanout import members
from penstock.sinks.memory import scores, similarity

if TYPE_CHECKING:
    from penstock.jobs.evaluate import Evaluation

PASSES = 8
"""Over the source, at most, until one finds nothing new: what changes faster than that is the next run's."""
QUERIES, NEAREST = 50, 10
"""Points whose neighbours are looked for, and how many of these."""
QUESTION = 32
"""Rows of a query of several vectors, as a question has: a page has a thousand."""
NAMED = 20
"""Documents that are named, where more are missing."""


@dataclass(frozen=True, slots=True)
class Reindexed:
    url: str
    """Of the new generation."""
    reports: tuple[Report, ...]
    """Of the runs that filled it: one, and one for each time that the source had changed meanwhile."""
    taken: Mapping[str, int]
    """By the names of vectors, how many were taken from the old index instead of being made anew."""
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
    quality: Evaluation | None = None
    """How well the old and the new one answer the questions that it was held to, if it came to that."""
    worse: tuple[str, ...] = ()
    """Legs by which the new one answers them worse, so that it was not made the current one."""

    def to_json(self) -> dict[str, Any]:
        quality = self.quality.to_json() if self.quality else None
        return asdict(self) | {"reports": [report.to_json() for report in self.reports], "quality": quality}


def reindex(
    base: Components,
    progress: OnProgress = None,
    *,
    least_recall: float = RECALL,
    incomplete: bool = False,
    required: Requirement | None = None,
) -> Reindexed:
    """Build what the components describe as a new generation, check it, and make it the current one in one step.

    `incomplete`: switch though it lacks documents that the old one has, or most of them. `required`: do not switch if
    it answers these questions worse.
    """
    held, old = _current(base)
    if held.former is not None:
        raise UsageError(
            f"the generation before the current one is still kept beside {base.sink.url}: drop it first (reindex"
            " --drop), or go back to it (reindex --rollback)"
        )
    new = next(one for one in _later(base, held) if one.sink.manifest() is None or _is_filled_by(one))
    old_manifest = _manifest(old.sink)
    if new.schema() == old_manifest.schema and not _lacks_words(old.sink):
        raise UsageError(f"{old.sink.url} is made of that already: {old_manifest.schema}")
    if (begun := new.sink.manifest()) is not None and begun.schema != new.schema():
        raise UsageError(
            f"{new.sink.url} was begun with {begun.schema}: go on with these, or remove it (reindex --drop)"
        )
    _check_owner(old, old_manifest)
    if required:
        required.check(old.sink, new.sink)
    copy_removals(old.ledger, new.ledger)
    reports, taken = _fill(new, old, old_manifest, progress)
    found = verify(new, progress=progress)
    lost = tuple(islice(_lost(old.ledger, new.ledger), NAMED))
    missing = found.missing + found.orphans + found.doubled
    recalls = [measured_recall(sink) for sink in members(new.sink)] if found.points else []
    recall = min((one for one in recalls if one is not None), default=None)
    sound = not missing and not found.behind and (recall is None or recall >= least_recall)
    result = Reindexed(
        new.sink.url, reports, taken, found.points, missing, found.complete, lost, recall, switched=False
    )
    if not sound or not found.complete or reports[-1].status != "done" or (lost and not incomplete):
        return result
    if 2 * found.documents < (before := _documents(old.ledger)) and not incomplete:
        raise MassDeletion(
            f"the source has {found.documents:,} documents, and {old.sink.url} has {before:,}: that stays the current"
            " one. If it is right, run again with --incomplete"
        )
    if required:
        quality = required.evaluate(old.sink, new.sink, new.embedder)
        result = replace(result, quality=quality, worse=required.worse(quality))
        if result.worse:
            return result
    assert new.generation is not None
    take_over(old.ledger, new.ledger)
    _switch(base, held, current=new.generation, former=held.current)
    try:
        return replace(result, switched=True, alias=base.sink.alias(new.generation))
    except (SinkError, Transient) as error:
        return replace(result, switched=True, trouble=str(error))


def rollback(base: Components) -> str:
    """Make the generation before the current one current again, and keep this one. Gives its url."""
    held, now = _current(base)
    if held.former is None:
        raise UsageError(f"no generation before the current one is kept beside {base.sink.url}")
    former = base.at(held.former)
    _manifest(former.sink)
    take_over(now.ledger, former.ledger)
    _switch(base, held, current=held.former, former=held.current)
    base.sink.alias(held.former)
    return former.sink.url


def drop(base: Components) -> list[str]:
    """Remove the generations beside the current one: the one before it, one that was never finished. Gives their
    urls."""
    held, _ = _current(base)
    if held.former is not None:  # from now on nobody can go back to it
        switch(members(base.sink), held.current, None, since=held)
    earlier = [one for one in map(base.at, range(held.current)) if one.sink.manifest() is not None]
    later = takewhile(lambda one: one.sink.manifest() is not None, _later(base, held))
    dropped = []
    for one in (*earlier, *later):
        if one.generation == held.former or _is_filled_by(one):
            with one.ledger:
                one.ledger.open()  # a run that fills it is not disturbed
                if one.generation:
                    one.sink.drop()
                elif not _emptied(one.sink):
                    continue
                one.ledger.reset()
            if one.generation:
                _remove(one.ledger)
            dropped.append(one.sink.url)
    return dropped


def _later(base: Components, held: Manifest) -> Iterator[Components]:
    """The generations after the current one."""
    return (base.at(number) for number in count(held.current + 1))


def _is_filled_by(one: Components) -> bool:
    """Whether the generation is this pipeline's, and not by chance somebody else's of such a name."""
    if not one.ledger.path.exists():
        return False
    with Ledger.reader(one.ledger.path) as ledger:
        return ledger.id in _manifest(one.sink).owners.values()


def _current(base: Components) -> tuple[Manifest, Components]:
    """The base's manifest and the current generation."""
    held = _manifest(base.sink)
    if not base.sink.readable:
        raise UsageError(f"{base.sink.url} cannot be read back, so nothing built beside it can be checked")
    return held, base.at(held.current)


def _manifest(sink: Sink) -> Manifest:
    if (held := sink.manifest()) is None:
        raise SinkError(f"there is no index at {sink.url}")
    return held


def _check_owner(old: Components, held: Manifest) -> None:
    """Only the pipeline that fills the whole index can build it anew."""
    if others := sorted(held.owners.keys() - {old.namespace}):
        raise OwnershipError(
            f"{old.sink.url} is filled by other pipelines as well ({', '.join(others)}): have each fill a new index,"
            " and search there when all are through"
        )
    with Ledger.reader(old.ledger.path) as ledger:
        if held.owners.get(old.namespace) not in (None, ledger.id):
            raise OwnershipError(f"{old.sink.url} was filled by another ledger than {ledger.path} (--state)")


def _fill(
    new: Components, old: Components, held: Manifest, progress: OnProgress
) -> tuple[tuple[Report, ...], Mapping[str, int]]:
    """Fill the new generation, and take from the old one what is the same there. Gives how many vectors of each name
    were taken."""
    embedder = new.embedder
    names = reused(held.schema, new.schema()) if isinstance(embedder, Named) else {}
    if not names or not isinstance(embedder, Named):
        return _runs(new, progress), {}
    index = members(old.sink)[0]
    with index:
        index.open(held)
        size = PieceSize(held.schema.vectors, index.max_rows, piece_bytes(new.budget))
        reusing = Reusing(embedder, index, names, size)
        return _runs(replace(new, embedder=reusing), progress), reusing.taken


def _runs(new: Components, progress: OnProgress) -> tuple[Report, ...]:
    """Run until nothing is new: what changed while one run went on is brought in by the next."""
    reports = []
    for _ in range(PASSES):
        reports.append(report := run(new, progress))
        if report.status != "done" or new.source.feed or not report.written + report.removed:
            break
    return tuple(reports)


def _lost(old: Ledger, new: Ledger) -> Iterator[str]:
    """Documents that are whole in the old index and, though the source has them, not in the new one."""
    with Ledger.reader(old.path) as before, Ledger.reader(new.path) as after:
        unlisted = (failure.uri for failure in after.failures() if failure.stage == "list")
        failed = chain(after.unfinished(), unlisted)
        while uris := list(islice(failed, 500)):
            yield from (uri for uri, known in before.known(uris).items() if known.state == DONE)


def _documents(ledger: Ledger) -> int:
    with Ledger.reader(ledger.path) as reader:
        return reader.counts().documents


def _switch(base: Components, held: Manifest, *, current: int, former: int) -> None:
    """Switch, unless another process has done so since the manifest was `held`."""
    switch(members(base.sink), current, former, since=held)
    point_ledger(base.at(0).ledger, current)


def _emptied(base: Sink) -> bool:
    """The base stays, as it says where the index is; its points go. False if there were none."""
    held = _manifest(base)
    with base:
        base.open(held)
        if not base.count():
            return False
        while ids := next(iter(base.ids()), ()):
            for start in range(0, len(ids), base.max_rows):
                base.delete(ids[start : start + base.max_rows])
            base.flush()
        base.maintain()
    return True


def _remove(ledger: Ledger) -> None:
    for ending in ("", "-wal", "-shm", ".lock"):
        with suppress(FileNotFoundError):
            ledger.path.with_name(ledger.path.name + ending).unlink()


# ---------------------------------------------------------------- what a search finds of what it should


def _lacks_words(sink: Sink) -> bool:
    """Whether the new index would have full text, and the old one, of an earlier version, has not."""
    for member in members(sink):
        if has_index(member.url):
            index: Index = find(INDEXES, scheme(member.url))(member.url)
            with index:
                index.open()
                if index.lacks_words:
                    return True
    return False


def measured_recall(sink: Sink) -> float | None:
    """Of the true nearest of some of its points, found by comparing with all, the share that a search finds too."""
    if not has_index(sink.url):
        return None
    held = _manifest(sink)
    index: Index = find(INDEXES, scheme(sink.url))(sink.url)
    with sink, index:
        sink.open(held)
        index.open()
        size = PieceSize(held.schema.vectors, sink.max_rows)
        queries = _drawn(sink, size)
        if not queries:
            return None
        return min(
            _share_found(sink, index, size, [query[name] for query in queries], name, spec)
            for name, spec in held.schema.vectors.items()
        )


def _share_found(
    sink: Sink, index: Index, size: PieceSize, queries: Sequence[Vector], name: str, spec: VectorSpec
) -> float:
    shares: list[float] = []
    for query, true in zip(queries, _nearest(sink, size, queries, name, spec), strict=True):
        hits = index.search(query, NEAREST, using=name)
        pieces = size.read(sink.fetch, [hit.chunk.id for hit in hits])
        # As near as the last of the true ones is near enough: which of several equals is found is chance.
        found = [score for points in pieces for score in _scores([query], points, name, spec)[0]]
        good = sum(score >= true[-1] - 1e-4 * max(1.0, abs(true[-1])) for score in found)
        shares.append(min(good, len(true)) / len(true))
    return float(sum(shares) / len(shares))


def _scores(queries: Sequence[Vector], points: Sequence[Point], name: str, spec: VectorSpec) -> list[Any]:
    """For each query the score of each point."""
    import numpy as np

    vectors = [point.vectors[name] for point in points]
    if not vectors:
        return [()] * len(queries)
    if spec.kind != "MultiVector" or spec.metric == "l2":
        return [scores(query, vectors, spec.metric) for query in queries]
    # One product a point for all queries: its own rows are the most.
    together = np.concatenate([query.values for query in queries])
    starts = np.cumsum([0, *(len(query.values) for query in queries[:-1])])
    best = [similarity(floats(vector.values), together, spec.metric).max(axis=0, initial=-np.inf) for vector in vectors]
    return list(np.array([np.add.reduceat(each, starts) for each in best]).T)


def _drawn(sink: Sink, size: PieceSize) -> list[dict[str, Vector]]:
    """The vectors of points whose ids have the lowest checksums: the same ones every time, and from everywhere."""
    lowest: list[tuple[int, str]] = []
    for ids in sink.ids():
        lowest = sorted(lowest + [(crc32(id.encode()), id) for id in ids])[:QUERIES]
    pieces = size.read(sink.fetch, [id for _, id in lowest])
    return [
        {name: _question(one) for name, one in point.vectors.items()}
        for points in pieces
        for point in points
        if all(len(one.values) for one in point.vectors.values())  # there is nothing near no vectors
    ]


def _question(vector: Vector) -> Vector:
    if isinstance(vector, MultiVector):
        return MultiVector(floats(vector.values[:: max(1, -(-len(vector.values) // QUESTION))].copy()))
    return vector


def _nearest(sink: Sink, size: PieceSize, queries: Sequence[Vector], name: str, spec: VectorSpec) -> list[list[float]]:
    """The scores of each query's true nearest, best first."""
    import numpy as np

    best: list[Any] = [np.empty(0)] * len(queries)
    for ids in sink.ids():
        for points in size.read(sink.fetch, ids):
            for n, found in enumerate(_scores(queries, points, name, spec)):
                best[n] = np.sort(np.append(best[n], found))[::-1][:NEAREST]
    return [found.tolist() for found in best]
