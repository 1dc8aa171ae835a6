"""How documents are read, beside what their files hold: where that changes, they are read again.

Texts stay what they were, so the index has their vectors, and what has changed about them is written with those.
"""

from __future__ import annotations

import json

from penstock.jobs.components import Components
from penstock.ledger import Ledger

KEY = "reading"
NEVER = 1 << 62
"""After any run."""


def since(components: Components, ledger: Ledger) -> int:
    """The first run that read documents as these components do. Those that were read before are to be read again."""
    kept = json.loads(ledger.get(KEY) or "{}")
    return int(kept["since"]) if kept.get("how") == components.reading else NEVER


def begin(components: Components, ledger: Ledger, run: int) -> tuple[int, bool]:
    """The same for a run that begins; and whether it reads again what earlier runs have read in another way."""
    before = since(components, ledger)
    if before != NEVER:
        return before, False
    ledger.set(KEY, json.dumps({"how": components.reading, "since": run}))
    return run, ledger.counts().done > 0
