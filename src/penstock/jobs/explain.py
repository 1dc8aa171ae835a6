"""Why a document is in the index as in the source, or is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from penstock.core.contracts import Index
from penstock.core.errors import SourceError, UsageError
from penstock.core.generations import current
from penstock.core.pieces import PieceSize
from penstock.core.records import Item
from penstock.engine.classify import classify
from penstock.engine.journal import FAILED, OPEN, SKIPPED, Failure
from penstock.jobs import reading
from penstock.jobs.components import Components, current_ledger
from penstock.jobs.documents import resolve
from penstock.ledger import Document, Ledger, Run
from penstock.ledger.removals import Removal
from penstock.registry import INDEXES, find, has_index, scheme
from penstock.sinks.fanout import members
from penstock.sources import name_of

PAGE = 500
REASONS = {
    "hidden": "its name, or that of a folder above it, begins with a dot (--hidden takes such)",
    "excluded": "the patterns of --include and --exclude leave it out, or it is part of the index or of another source",
    "link": "it is a symbolic link, or lies behind one (--follow-links follows them)",
    "loop": "a symbolic link leads back to a folder above it",
    "special": "it is no regular file, but a pipe, a socket or a device",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a document is in the index as in the source, or why not."""

    uri: str
    verdict: str
    """`indexed`; or `incomplete`, `changed`, `unfinished`, `failed`, `skipped`, `gone`, `removed`, `passed over`,
    `new`, `missing`, or `unknown` where the source cannot tell."""
    reason: str
    document: Document | None
    """What the ledger has of it."""
    run: Run | None
    """The one that worked on it last."""
    chunks: int
    """In the index."""
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """It is in the index as in the source."""
        return self.verdict == "indexed"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


@dataclass(frozen=True, slots=True)
class IndexedChunk:
    """A chunk of a document, as the index has it."""

    id: str
    page: int | None = None
    text: str | None = None
    """None where the index does not hold it, or cannot be read."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(components: Components, name: str) -> Explanation:
    with Ledger.reader(current_ledger(components.state)) as ledger, components.source:
        uri = resolve(ledger, name)
        document, removal = ledger.document(uri), ledger.removal_of(uri)
        if document is None and removal is None and ledger.uris_under(uri, 1):
            raise UsageError(
                f"{name} is a folder of {ledger.extent(uri)[0]:,} documents, and explain takes one: `penstock"
                f" documents {name}` lists them"
            )
        failures = tuple(ledger.failures(uri))
        verdict, reason = (
            _of_removed(uri, removal) if removal else _verdict(components, ledger, uri, document, failures)
        )
        return Explanation(
            uri=uri,
            verdict=verdict,
            reason=reason,
            document=document,
            run=ledger.run(document.run) if document else None,
            chunks=ledger.indexed([document.id]).get(document.id, 0) if document else 0,
            failures=failures,
        )


def chunks(components: Components, name: str) -> Iterator[IndexedChunk]:
    """The chunks of a document, a page at a time, with what the index has of them, if it can be read."""
    with Ledger.reader(current_ledger(components.state)) as ledger:
        if (document := ledger.document(resolve(ledger, name))) is None:
            return
        url = members(components.base)[0].url
        if not has_index(url):
            yield from (IndexedChunk(id) for page in ledger.ids(document.id) for id in page)
            return
        base: Index = find(INDEXES, scheme(url))(url)
        with current(base) as index:
            index.open()
            size = PieceSize(index.manifest().schema.vectors, PAGE)
            for page in ledger.ids(document.id, PAGE):
                pieces = size.read(index.fetch, page)
                held = {point.id: point.chunk for points in pieces for point in points}
                for id in page:
                    yield IndexedChunk(id, held[id].page, held[id].text) if id in held else IndexedChunk(id)


def _of_removed(uri: str, removal: Removal) -> tuple[str, str]:
    by = "" if removal.uri == uri else f" with {name_of(removal.uri)}"
    return "removed", f"it was taken out for good{by}: `penstock remove --undo` lets it in again"


def _verdict(
    components: Components, ledger: Ledger, uri: str, document: Document | None, failures: tuple[Failure, ...]
) -> tuple[str, str]:
    source = components.source
    try:
        source.open()
        item = source.lookup(uri)
    except SourceError as error:
        return "unknown", str(error)
    if item is not None:
        with components.parser() as parsers:
            since = reading.since(components, ledger)
            page = classify([item], ledger, parser_code=parsers.code, since=since)
        return _of_present(item, document, failures, work=bool(page.work or page.revised))
    if passed_over := source.passes_over(uri):
        return "passed over", f"{passed_over}: {REASONS.get(passed_over, 'the source leaves it alone')}"
    if document is not None:
        return "gone", "the source no longer has it: the next run takes it out"
    if failures:
        return "failed", failures[0].cause
    return "missing", "the source has no such document"


def _of_present(item: Item, document: Document | None, failures: tuple[Failure, ...], *, work: bool) -> tuple[str, str]:
    """Of a document that the source has. `work`: a run would read it."""
    if document is None:
        return "new", "it was not ingested yet: the next run brings it in"
    if document.state == OPEN:
        return "unfinished", failures[0].cause if failures else "a run was interrupted: the next one completes it"
    if document.fingerprint != item.fingerprint:
        return "changed", "it has changed since it was read: the next run brings it up to date"
    if work:
        return "changed", "other metadata, parser or version than when it was read: the next run brings it up to date"
    if document.state in (FAILED, SKIPPED):
        return document.state, failures[0].cause if failures else "`penstock retry` tries again"
    return ("incomplete", failures[0].cause) if failures else ("indexed", "it is in the index as in the source")
