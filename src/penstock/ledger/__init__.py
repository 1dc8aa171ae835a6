"""The ledger: what is in the index, and how far every document is. SQLite, one file a pipeline.

It is the engine's durable journal. Every id is written down as *intended* before it can reach the sink, and as
*acknowledged* after the sink's flush, so whatever a crash leaves in the index, the ledger knows how to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.ledger.alerts import Alert, Alerts, FoundMatch
from penstock.ledger.chunks import Chunks
from penstock.ledger.comparison import Comparison
from penstock.ledger.documents import Counts, Document, Documents
from penstock.ledger.failures import Failures
from penstock.ledger.members import Members
from penstock.ledger.removals import Removals
from penstock.ledger.runs import Run, Runs

__all__ = ["Alert", "Comparison", "Counts", "Document", "FoundMatch", "Ledger", "Run"]


class Ledger(Documents, Chunks, Failures, Runs, Members, Removals, Alerts):
    """One file, whose tables have a module each."""

    def compare(self, pages: Iterable[Sequence[str]]) -> Comparison:
        """Hold all ids of an index, given in pages, against the acknowledged ones. On disk, in bounded memory."""
        return Comparison(self.path, pages)
