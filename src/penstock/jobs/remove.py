"""Takes documents out of the index for good: later runs pass them over.

A removal is written down in the ledger of every generation before anything is deleted, so a run finishes what was
interrupted, and no reindex or rollback brings a document back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import LockedError, OwnershipError, SinkUnavailable, Transient, UsageError
from penstock.core.retry import MAX_WAIT
from penstock.core.schema import Manifest
from penstock.engine.control import Control
from penstock.engine.deletion import Deletion
from penstock.jobs.beside import beside, wait
from penstock.jobs.components import Components, generations
from penstock.jobs.documents import resolve
from penstock.jobs.session import attached
from penstock.ledger import Ledger
from penstock.sources import name_of

PAGE = 2048
"""Documents that are taken out together."""
NAMED = 100
"""Documents that are named."""


@dataclass(frozen=True, slots=True)
class Removed:
    uris: tuple[str, ...]
    """What was removed: documents, and folders with all beneath them. With `undo`: what is let in again."""
    documents: int
    """Documents that the index had of these."""
    chunks: int
    named: tuple[str, ...]
    """The first hundred of the documents."""
    pending: tuple[str, ...] = ()
    """Other generations of the index that a run is filling just now, or that are away: their next run takes the
    documents out there."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def remove(base: Components, names: Sequence[str], *, dry_run: bool = False, max_wait: float = MAX_WAIT) -> Removed:
    """Take the documents at and beneath these paths or uris out for good. `dry_run`: say only what would go. A run that
    follows its source and holds the ledger is asked to."""
    path = base.current()[0].ledger.path

    def removing(asks: bool) -> Removed:
        return _remove(base, names, dry_run=dry_run, max_wait=max_wait, asks=asks)

    return beside(path, lambda: removing(False), lambda: removing(True))


def _remove(base: Components, names: Sequence[str], *, dry_run: bool, max_wait: float, asks: bool) -> Removed:
    one, held = base.current()
    with one.ledger as ledger:
        ledger.open(exclusive=not (dry_run or asks), create=False)
        uris = _outermost([resolve(ledger, name) for name in names])
        removed = _extent(ledger, uris)
        if dry_run:
            return removed
        if held is not None and held.owners.get(one.namespace) != ledger.id:
            raise OwnershipError(f"{one.sink.url} was filled by another ledger than {ledger.path}: use that (--state)")
        others = [other for other in _others(base, one) if _is_filled_by(other)]
        for each in others:  # before anything is deleted, so that no switch of generations brings it back
            with Ledger.reader(each.ledger.path) as its:
                its.add_removals(uris)
        ledger.add_removals(uris)
        try:
            if not asks:
                _take_out(one, max_wait)
            elif not wait(ledger.path, lambda: not ledger.pending_removals(uris), max_wait):
                raise SinkUnavailable("the run that follows the source has not taken them out yet")
        except Transient as error:
            raise SinkUnavailable(f"{error}. The removal is written down: the next run finishes it") from error
    return Removed(removed.uris, removed.documents, removed.chunks, removed.named, tuple(_left(others, max_wait)))


def undo(base: Components, names: Sequence[str], *, dry_run: bool = False) -> Removed:
    """Let the next run bring in again what was removed at or beneath these paths or uris."""
    one, _ = base.current()
    with Ledger.reader(one.ledger.path) as ledger:
        uris = _outermost([resolve(ledger, name) for name in names])
        undone = {each for uri in uris for each in _removals_under(ledger, uri)}
    if not dry_run:
        for each in (one, *(other for other in _others(base, one) if _is_filled_by(other))):
            with Ledger.reader(each.ledger.path) as ledger:
                for uri in uris:
                    ledger.undo_removals(uri)
    return Removed(tuple(sorted(undone)), 0, 0, ())


def _removals_under(ledger: Ledger, uri: str) -> list[str]:
    """What was removed at or beneath a uri. UsageError where nothing was."""
    if removals := ledger.removals_under(uri):
        return removals
    if above := ledger.removal_of(uri):
        raise UsageError(f"{name_of(uri)} was removed with {name_of(above.uri)}: undo that")
    raise UsageError(f"{name_of(uri)} was not removed: `penstock documents --removed` lists what was")


def finish(ledger: Ledger, sink: Sink, ready: Callable[[], object], max_wait: float) -> int:
    """Delete the documents of removals that are pending. Gives how many they were. `ready` opens the sink."""
    control = Control(max_wait)
    deletion = Deletion(ledger, sink, ready, nullcontext(), control)
    while documents := ledger.pending_documents(PAGE):
        deletion.delete(documents)
    ledger.settle_removals()
    return control.counters.values()["deleted"]


def copy_removals(old: Ledger, new: Ledger) -> None:
    """Have a new generation pass over what was removed from the old one."""
    with Ledger.reader(old.path) as before:
        removals = list(before.removals())
    if not (removals or new.path.exists()):
        return
    with new:
        new.open(exclusive=False)
        for uri in {uri for uri, _ in new.removals()} - {uri for uri, _ in removals}:
            new.undo_removals(uri)
        for uri, since in removals:
            new.add_removals([uri], since)


def _extent(ledger: Ledger, uris: Sequence[str]) -> Removed:
    """What the ledger has of these. UsageError where it has nothing of one."""
    documents = chunks = 0
    named: list[str] = []
    for uri in uris:
        beneath, their_chunks = ledger.extent(uri)
        if not (beneath or ledger.failed_under(uri) or ledger.removal_of(uri)):
            raise UsageError(
                f"the ledger {ledger.path} has no document at or beneath {name_of(uri)}: expected a path or uri as"
                " `penstock documents` lists them"
            )
        documents, chunks = documents + beneath, chunks + their_chunks
        named += ledger.uris_under(uri, NAMED - len(named))
    return Removed(tuple(uris), documents, chunks, tuple(named))


def _outermost(uris: Sequence[str]) -> list[str]:
    """These, each once, without those that lie beneath another."""
    if not uris:
        raise UsageError("nothing is named: expected a path or uri of a document, or of a folder of them")
    kept: list[str] = []
    for uri in sorted(set(uris), key=lambda uri: uri.split("/")):  # a folder comes right before what is beneath it
        if not kept or not _is_beneath(uri, kept[-1]):
            kept.append(uri)
    return kept


def _is_beneath(uri: str, folder: str) -> bool:
    return uri.startswith(f"{folder}/")


def _others(base: Components, one: Components) -> Iterator[Components]:
    return (base.at(number) for number in generations(base.state) if number != one.generation)


def _is_filled_by(one: Components) -> bool:
    held = one.sink.manifest()
    if held is None:
        return False
    with Ledger.reader(one.ledger.path) as ledger:
        return held.owners.get(one.namespace) == ledger.id


def _left(others: Sequence[Components], max_wait: float) -> Iterator[str]:
    """Take out of the other generations what is pending. Gives those where that cannot be done just now."""
    for other in others:
        try:
            with other.ledger as ledger:
                ledger.open(create=False)
                _take_out(other, max_wait)
        except (LockedError, Transient):
            yield other.sink.url


def _take_out(one: Components, max_wait: float) -> None:
    """Finish the removals of one generation, whose ledger is open for writing."""
    with ExitStack() as stack:
        if fan_out := attached(one):
            stack.callback(fan_out.detach)
        sink: Sink = fan_out or one.sink
        held = sink.manifest()
        if held is None:  # its next run begins anew
            return
        if one.ledger.pending_documents(1):
            stack.callback(sink.close)
            sink.open(Manifest(held.schema, {one.namespace: one.ledger.id}))
        if finish(one.ledger, sink, lambda: None, max_wait):
            sink.maintain()
