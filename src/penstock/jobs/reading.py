"""How documents are read and cut, beside what their files hold: where that changes, they are read again.

Texts that stay what they were have vectors in the index, and what has changed about them is written with those.
"""

from __future__ import annotations

import json
from typing import Any

from penstock.chunkers import cutting
from penstock.jobs.components import Components
from penstock.ledger import Ledger

KEY = "reading"
NEVER = 1 << 62
"""After any run."""


def since(components: Components, ledger: Ledger) -> int:
    """The first run that read documents as these components do. Those that were read before are to be read again."""
    kept = json.loads(ledger.get(KEY) or "{}")
    same = kept.get("how") == components.reading and not _cut_otherwise(components, kept)
    return int(kept["since"]) if same else NEVER


def begin(components: Components, ledger: Ledger, run: int) -> tuple[int, list[str]]:
    """The same for a run that begins; and a notice where it reads again what earlier runs have read in another way."""
    before = since(components, ledger)
    if before != NEVER:
        return before, []
    kept = json.loads(ledger.get(KEY) or "{}")
    ledger.set(KEY, json.dumps({"how": components.reading, "cutting": cutting(components.chunk), "since": run}))
    if not ledger.counts().done:
        return run, []
    if _cut_otherwise(components, kept):
        return run, ["this version cuts text into other chunks: every document is read again, and new chunks embedded"]
    return run, ["other metadata than before: every document is read again, and no text embedded again"]


def _cut_otherwise(components: Components, kept: dict[str, Any]) -> bool:
    """Whether texts have been cut by another version. Images are not cut, and chunkers of the user's own cut by
    themselves."""
    now = None if components.embedder.embeds_images else cutting(components.chunk)
    return now is not None and now != kept.get("cutting", "1")
