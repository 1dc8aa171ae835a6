"""Which items of a source are to be worked on: the one rule of runs, plans and verifications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.core.records import Item
from penstock.engine.journal import DONE, FAILED, SKIPPED, Known


class KnowsDocuments(Protocol):
    def known(self, uris: Sequence[str]) -> dict[str, Known]: ...

    def removed(self, uris: Sequence[str]) -> set[str]: ...


@dataclass(slots=True)
class Classified:
    """A page of items, by what the journal knows of them."""

    unchanged: list[Known] = field(default_factory=list)
    """In the index as they are, or of a type that nothing reads."""
    failing: list[Known] = field(default_factory=list)
    """They failed as they are, and would again."""
    work: list[tuple[Item, Known | None]] = field(default_factory=list)
    """New (nothing is known of them), changed, or half-done."""
    revised: list[tuple[Item, Known]] = field(default_factory=list)
    """Only their metadata has changed."""

    removed: int = 0
    """Items that were taken out for good: they are passed over."""

    @property
    def documents(self) -> list[int]:
        """The numbers of all that are known, but for what was removed."""
        changed = [known for _, known in (*self.work, *self.revised) if known is not None]
        return [known.document for known in (*self.unchanged, *self.failing, *changed)]


ParserCode = Callable[[Item, str | None], str | None]
"""The fingerprint of the user's own parser that reads an item of that media type, if one does. For None, as nothing has
read the item, what changes when something may."""


def built_in(item: Item, media_type: str | None) -> None:
    """The ParserCode where there are no parsers of the user's own."""
    return None


def classify(
    items: Sequence[Item],
    journal: KnowsDocuments,
    *,
    parser_code: ParserCode,
    force: bool = False,
    since: int = 0,
) -> Classified:
    """`force`: every item is work. So is one that another parser reads now, however it ended, and `since` that run what
    was last read by one before it."""
    uris = [item.uri for item in items]
    removed = journal.removed(uris)
    known = journal.known(uris)
    classified = Classified(removed=len(removed))
    for item in items:
        if item.uri in removed:
            continue
        before = known.get(item.uri)
        if before is None or force or before.run < since or _differs(before, item, parser_code):
            classified.work.append((item, before))
        elif before.state == FAILED:
            classified.failing.append(before)
        elif before.state == DONE and before.revision != item.revision:
            classified.revised.append((item, before))
        elif before.state in (DONE, SKIPPED):
            classified.unchanged.append(before)
        else:
            classified.work.append((item, before))
    return classified


def _differs(before: Known, item: Item, parser_code: ParserCode) -> bool:
    return before.fingerprint != item.fingerprint or before.parser_code != parser_code(item, before.media_type)
