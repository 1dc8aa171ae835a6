"""How much a listing may take out of an index: an unmounted disk looks like an emptied folder.

What was moved is not lost: its text is in a document of another name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Missing:
    """What a complete listing did not name."""

    unseen: int
    """Documents."""
    documents: int
    """Those that are lost with it: some of their text is in no document that it named."""
    chunks: int
    """Chunks with such a text."""
    of: int
    """Chunks that the index had before."""


NOTHING_MISSING = Missing(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class DeletionLimit:
    """The most that may go at once: a share of the chunks, or a number of documents."""

    share: float = 0.5
    documents: int | None = None

    def exceeded(self, missing: Missing) -> bool:
        if self.documents is not None:
            return missing.documents > self.documents
        return missing.chunks > self.share * missing.of

    def __str__(self) -> str:
        if self.documents is None:
            return f"{100 * self.share:g} % of the chunks"
        return "1 document" if self.documents == 1 else f"{self.documents:,} documents"


HALF = DeletionLimit()


def parse_deletions(text: str) -> DeletionLimit:
    """ "10%": of the chunks; "200": documents."""
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text):
        if (share := float(match[1]) / 100) <= 1:
            return DeletionLimit(share)
    elif text.strip().isdecimal():
        return DeletionLimit(documents=int(text))
    raise UsageError(f"invalid max_delete {text!r}: expected a share such as 10%, or a number of documents")
