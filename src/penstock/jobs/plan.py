"""What a run would do, without embedding or writing anything."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ParseError, SourceError, Unsupported
from penstock.core.records import Block, Gap, Item, ListingEnd, Piece, Unreadable, Upsert
from penstock.engine.identity import Namer, tag_of
from penstock.ledger import Begun, Known, Ledger
from penstock.support.bits import Bits

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline

ANY = 1 << 62
"""After any run."""
SAMPLE = 64 << 20
"""Bytes of new and changed documents that are read to count their chunks; what lies beyond is estimated from them."""


@dataclass(frozen=True, slots=True)
class Plan:
    new: int
    changed: int
    unchanged: int
    deleted: int
    """Documents that a run would take out; 0 where the listing was not complete, as nothing is deleted then."""
    complete: bool
    unreadable: int
    """What could not be listed, parsed or is of no known type, among what was read for the plan."""
    bytes: int
    chunks: int
    """To be embedded."""
    kept: int
    """Chunks whose vectors the index has already: of this document, or of another one with the same text."""
    tokens: int
    seconds: float | None
    """At the pace of the last run that embedded something; None where there was none."""
    exact: bool
    """False where chunks and tokens are estimated from a sample."""
    documents: tuple[tuple[str, str], ...] = ()
    """The first hundred: (`new` | `changed` | `deleted`, uri)."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(pipeline: Pipeline, sample: int = SAMPLE) -> Plan:
    with ExitStack() as stack:
        for component in (pipeline.ledger, pipeline.embedder, pipeline.source):
            stack.callback(component.close)
        schema = pipeline.schema()
        held = pipeline.sink.manifest()
        if held is not None:
            from penstock.jobs.session import check_schema

            check_schema(held.schema, schema, pipeline.sink.url)
        ledger = pipeline.ledger if pipeline.ledger.path.exists() and held is not None else None
        if ledger is not None:
            ledger.open(exclusive=False)
        pipeline.source.open()
        parsers = pipeline.parser()
        stack.callback(parsers.close)
        return _Planner(pipeline, ledger, parsers, sample).plan()


class _Planner:
    def __init__(self, pipeline: Pipeline, ledger: Ledger | None, parsers: Any, sample: int) -> None:
        self._pipeline, self._ledger, self._parsers, self._sample = pipeline, ledger, parsers, sample
        self._moves = ledger if pipeline.sink.readable else None
        """Tells whose vectors a run would read back instead of making them."""
        self._chunker: Any = None
        self.new = self.changed = self.unchanged = self.unreadable = 0
        self.bytes = self.read = self.chunks = self.kept = self.tokens = 0
        self._named: list[tuple[str, str]] = []
        self._present = Bits()
        """Documents of the ledger that the source has, or may have."""

    def plan(self) -> Plan:
        pipeline, ledger = self._pipeline, self._ledger
        complete = False
        page: list[Item] = []
        for change in pipeline.source.changes(ledger.cursor(pipeline.source.name) if ledger else None):
            match change:
                case Upsert(item):
                    page.append(item)
                    if len(page) == 256:
                        self._consider(page)
                        page = []
                case Unreadable(uri):
                    self.unreadable += 1
                    self._present.update(ledger.under(uri) if ledger else ())
                case ListingEnd():
                    complete = not pipeline.source.feed
        self._consider(page)
        known = ledger.counts()["documents"] if ledger else 0
        deleted = known - len(self._present) if complete else 0
        scale = self.bytes / self.read if self.read else 1.0
        chunks, tokens = round(self.chunks * scale), round(self.tokens * scale)
        pace = self._pace()
        return Plan(
            new=self.new,
            changed=self.changed,
            unchanged=self.unchanged,
            deleted=deleted,
            complete=complete,
            unreadable=self.unreadable,
            bytes=self.bytes,
            chunks=chunks,
            kept=round(self.kept * scale),
            tokens=tokens,
            seconds=tokens / pace if pace and tokens else (0.0 if not tokens else None),
            exact=self.read == self.bytes,
            documents=tuple(self._named),
        )

    def _consider(self, items: list[Item]) -> None:
        """Counts what is new and changed."""
        known = self._ledger.known([item.uri for item in items]) if self._ledger else {}
        self._present.update(before.document for before in known.values())
        for item in items:
            before = known.get(item.uri)
            if before and before.settled(item.fingerprint):
                self.unchanged += 1
                continue
            kind = "changed" if before else "new"
            self.new += not before
            self.changed += bool(before)
            if len(self._named) < 100:
                self._named.append((kind, item.uri))
            self.bytes += item.size or 0
            if self.read < self._sample:
                self._count(item, before)
                self.read += item.size or 0

    def _count(self, item: Item, before: Known | None) -> None:
        if self._chunker is None:
            self._pipeline.embedder.open()
            self._chunker = self._pipeline.chunker()
        namer = Namer(item, Begun(0, 0, had=False), tag_of(self._pipeline.namespace))
        try:
            for piece in self._chunker(self._blocks(self._parsers.parse(item).blocks)):
                assert isinstance(piece, Piece)
                chunk, row = namer.name(piece)
                had = before and self._ledger and self._ledger.acknowledged(before.document, row.id)
                if had or (self._moves and self._moves.same_content([row.content], ANY)):
                    self.kept += 1
                else:
                    self.chunks += 1
                    self.tokens += chunk.length
        except (Unsupported, ParseError, SourceError, OSError):
            self.unreadable += 1  # a run tells why

    def _blocks(self, blocks: Iterable[Block | Gap | str]) -> Iterable[Block]:
        for block in blocks:
            if isinstance(block, Gap):
                self.unreadable += 1
            else:
                yield Block(block) if isinstance(block, str) else block

    def _pace(self) -> float | None:
        """Tokens a second, seen in the last run that embedded something worth measuring."""
        for run in self._ledger.runs() if self._ledger else ():
            report = run["report"]
            if report.get("seconds", 0) > 1 and report.get("counts", {}).get("tokens", 0) > 1000:
                return float(report["counts"]["tokens"] / report["seconds"])
        return None
