"""What other commands ask of a run that follows its source, by what they write into its ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from penstock.core.contracts import Source
from penstock.core.errors import PenstockError, UsageError
from penstock.core.records import Change, Delete, Unreadable, Upsert
from penstock.jobs import progress_file
from penstock.jobs.beside import is_live
from penstock.jobs.mend import mend
from penstock.jobs.session import Session
from penstock.ledger import Ledger

REPAIR, REPAIRED = "repair", "repaired"
"""Where the ledger has the number of the repair that is asked for; and that of the last one, with why it failed."""
REFRESH = "refresh"
"""What the ledger has where somebody asked that the source be listed."""
PAGE = 256
"""Documents that are asked for together, at most."""


class Removing(Protocol):
    def pending_uris(self, limit: int) -> list[str]:
        """Documents that were removed for good, and are not out yet."""
        ...

    def settle_removals(self) -> None: ...


def removals(memory: Removing) -> Iterator[Change]:
    """Deletions of documents that were removed for good: they are told until the documents are out."""
    try:
        uris = memory.pending_uris(PAGE)
        if not uris:
            memory.settle_removals()
    except PenstockError:  # of the ledger, as on a full disk: they are told later
        return
    yield from map(Delete, uris)


def refresh(ledger: Ledger) -> bool:
    """Have the run list its source that follows it and holds this ledger. False where there is none. Raises UsageError
    where the source is a feed."""
    if not is_live(ledger.path):
        return False
    if ((progress_file.read(ledger.path) or {}).get("live") or {}).get("feed"):
        raise UsageError("the source tells its changes itself, and is not listed: there is nothing to refresh")
    ledger.set(REFRESH, "asked")
    return True


def asked_to_refresh(ledger: Ledger) -> bool:
    """Whether somebody did so since this was asked last."""
    asked = bool(ledger.get(REFRESH))
    if asked:
        ledger.set(REFRESH, "")
    return asked


def looked_up(source: Source, uris: Iterable[str]) -> Iterator[Change]:
    """Documents as the source has them now."""
    for uri in uris:
        try:
            item = source.lookup(uri)
        except Exception as error:  # of any kind: one is no reason to leave out the others
            yield Unreadable(uri, str(error))
        else:
            yield Upsert(item) if item is not None else Delete(uri)


@dataclass(slots=True)
class Repairs:
    """Mends the index between two commits, when that is asked for."""

    session: Session
    read_again: Callable[[], None]
    """Has documents read again that lack points."""
    due: bool = False
    _number: str = field(default="")

    def look(self) -> bool:
        """Whether a repair is asked for."""
        ledger = self.session.components.ledger
        number = ledger.get(REPAIR) or ""
        self.due = bool(number) and _answered(ledger) != number
        self._number = number
        return self.due

    def run(self) -> None:
        """To be called while nothing is written or committed."""
        session, trouble = self.session, ""
        self.due = False
        try:
            session.open_sink()
            for sink in session.sinks:
                mend(session, sink)
        except PenstockError as error:
            trouble = str(error)
        except Exception as error:  # of a store's driver: the run goes on, and who asked is told
            trouble = f"{type(error).__name__}: {error}"
        session.components.ledger.set(REPAIRED, json.dumps([self._number, trouble]))
        self.read_again()


def _answered(ledger: Ledger) -> str:
    return str(json.loads(ledger.get(REPAIRED) or '[""]')[0])


def answer(ledger: Ledger, number: str) -> str | None:
    """Why the repair of that number failed, or nothing; None while it is waited for."""
    answered, *trouble = json.loads(ledger.get(REPAIRED) or '[""]')
    return str(trouble[0]) if answered == number else None
