"""Deletions of a run that goes on, which wait for somebody to approve them: noted in the ledger."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from penstock.ledger import Ledger

HELD, APPROVED = "held", "approved"


@dataclass(frozen=True, slots=True)
class Held:
    """What a listing lacks, and is not deleted."""

    documents: int
    chunks: int
    of: int
    since: float

    @classmethod
    def read(cls, ledger: Ledger) -> Held | None:
        noted = ledger.get(HELD)
        return cls(**json.loads(noted)) if noted else None

    def keep(self, ledger: Ledger) -> None:
        ledger.set(HELD, json.dumps(asdict(self)))

    def forget(self, ledger: Ledger) -> None:
        ledger.set(HELD, "")

    def approved(self, ledger: Ledger) -> bool:
        return ledger.get(APPROVED) == str(self.since)

    def approve(self, ledger: Ledger) -> None:
        ledger.set(APPROVED, str(self.since))
