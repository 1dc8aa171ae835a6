"""What a run would do, without embedding or writing anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from penstock.core.contracts import Chunker
from penstock.core.deletions import NOTHING_MISSING, Missing
from penstock.core.errors import LedgerError
from penstock.core.records import Block, Gap, Item, ListingEnd, Unreadable, Upsert
from penstock.engine.classify import classify
from penstock.engine.identity import Namer
from penstock.engine.journal import Begun, Known
from penstock.engine.scan import PAGE
from penstock.jobs import reading
from penstock.jobs.components import Components
from penstock.jobs.ownership import check_capabilities, owns
from penstock.ledger import Ledger
from penstock.parsers import Parsers
from penstock.support.bits import Bits

SAMPLE = 64 << 20
"""Bytes of new and changed documents that are read to count their chunks; what lies beyond is estimated from them."""


NAMED = 100
"""Documents that a plan names."""


@dataclass(frozen=True, slots=True)
class Plan:
    new: int
    changed: int
    unchanged: int
    failing: int
    """Documents that failed as they are: a run leaves them alone, `retry` tries them again."""
    deleted: int
    """Documents that a run would take out; 0 where the listing was not complete, as nothing is deleted then."""
    removed: int
    """Their chunks."""
    refused: bool
    """A run would stop, as more would go than `max_delete` allows."""
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


def plan(base: Components, sample: int = SAMPLE) -> Plan:
    with ExitStack() as stack:
        components, held = base.current()
        for component in (components.ledger, components.embedder, components.source):
            stack.callback(component.close)
        schema = components.schema()
        check_capabilities(components, schema)
        ledger = components.ledger if components.ledger.path.exists() else None
        if ledger is not None:
            ledger.open(exclusive=False)
        if held is None:
            ledger = None
        else:
            owns(components, schema, held, ledger.id if ledger else "")
        components.source.open()
        parsers = components.parser()
        stack.callback(parsers.close)
        return _Planner(components, ledger, parsers, sample).plan()


class _NothingKnown:
    def known(self, uris: Sequence[str]) -> dict[str, Known]:
        return {}

    def removed(self, uris: Sequence[str]) -> set[str]:
        return set()


_NOTHING_KNOWN = _NothingKnown()


class _Planner:
    def __init__(self, components: Components, ledger: Ledger | None, parsers: Parsers, sample: int) -> None:
        self._components, self._ledger, self._parsers, self._sample = components, ledger, parsers, sample
        self._contents = ledger if components.sink.readable else None
        """Knows whose vectors a run would read back instead of making them."""
        self._since = reading.since(components, ledger) if ledger else 0
        self._chunker: Chunker | None = None
        self.new = self.changed = self.unchanged = self.failing = self.unreadable = 0
        self.bytes = self.read = self.chunks = self.kept = self.tokens = 0
        self._named: list[tuple[str, str]] = []
        self._found: set[int] = set()
        """Contents of new documents, of the sample."""
        self._present = Bits()
        """Documents of the ledger that the source has, or may have."""

    def plan(self) -> Plan:
        source, ledger = self._components.source, self._ledger
        complete = False
        page: list[Item] = []
        for change in source.changes(ledger.cursor(source.name) if ledger else None):
            match change:
                case Upsert(item):
                    page.append(item)
                    if len(page) == PAGE:
                        self._consider(page)
                        page = []
                case Unreadable(uri) if ledger and ledger.removed([uri]):
                    pass  # as a run passes it over
                case Unreadable(uri):
                    self.unreadable += 1
                    self._present.update(ledger.under(uri) if ledger else ())
                case ListingEnd():
                    complete = True
        self._consider(page)
        missing, removed = self._missing(ledger) if ledger and complete else (NOTHING_MISSING, 0)
        scale = self.bytes / self.read if self.read else 1.0
        chunks, tokens = round(self.chunks * scale), round(self.tokens * scale)
        pace = self._pace()
        return Plan(
            new=self.new,
            changed=self.changed,
            unchanged=self.unchanged,
            failing=self.failing,
            deleted=missing.unseen,
            removed=removed,
            refused=self._components.max_delete.exceeded(missing),
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

    def _missing(self, ledger: Ledger) -> tuple[Missing, int]:
        """What the listing did not name, and how many chunks that are. Of moved documents those are known that are in
        the sample; what the user removed counts against no limit."""
        unseen = documents = lost = chunks = barred = 0
        for uri, contents in ledger.absent(self._present):
            unseen, chunks = unseen + 1, chunks + len(contents)
            self._name("deleted", uri)
            if ledger.removed([uri]):
                barred += len(contents)
            elif left := sum(content not in self._found for content in contents):
                documents, lost = documents + 1, lost + left
        return Missing(unseen, documents, lost, ledger.counts().chunks - barred), chunks

    def _name(self, kind: str, uri: str) -> None:
        if len(self._named) < NAMED:
            self._named.append((kind, uri))

    def _consider(self, items: list[Item]) -> None:
        """Count what is new and changed."""
        journal = self._ledger or _NOTHING_KNOWN
        page = classify(items, journal, parser_code=self._parsers.code, since=self._since)
        self._present.update(page.documents)
        self.unchanged += len(page.unchanged) + len(page.revised)  # of which nothing is read
        self.failing += len(page.failing)
        for item, before in page.work:
            self.new += not before
            self.changed += bool(before)
            self._name("changed" if before else "new", item.uri)
            self.bytes += item.size or 0
            if self.read < self._sample:
                self._count(item, before)
                self.read += item.size or 0

    def _count(self, item: Item, before: Known | None) -> None:
        if self._chunker is None:
            self._components.embedder.open()
            self._chunker = self._components.chunker()
        namer = Namer(item, Begun(0, 0, had=False), self._components.id_prefix)
        try:
            for piece in self._chunker(self._blocks(self._parsers.parse(item).blocks)):
                chunk, entry = namer.name(piece)
                if before is None:
                    self._found.add(entry.content)
                had = before and self._ledger and self._ledger.acknowledged(before.document, entry.id)
                if had or (self._contents and self._contents.same_content([entry.content], reading.NEVER)):
                    self.kept += 1
                else:
                    self.chunks += 1
                    self.tokens += chunk.length
        except LedgerError:
            raise
        except Exception:
            self.unreadable += 1  # a run says why

    def _blocks(self, blocks: Iterable[Block | Gap | str]) -> Iterable[Block]:
        for block in blocks:
            if isinstance(block, Gap):
                self.unreadable += 1
            else:
                yield Block(block) if isinstance(block, str) else block

    def _pace(self) -> float | None:
        """Tokens a second, seen in the last run that embedded something worth measuring."""
        for run in self._ledger.runs() if self._ledger else ():
            report = run.report
            if report.get("seconds", 0) > 1 and report.get("counts", {}).get("tokens", 0) > 1000:
                return float(report["counts"]["tokens"] / report["seconds"])
        return None
