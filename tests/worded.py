"""An index in memory whose full text can be watched, or taken away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from penstock.core.records import Hit, Vector
from penstock.sinks.memory import MemoryIndex


class WordsIndex(MemoryIndex):
    """A chunk is ranked by how many of its words are in the text, those of equal ones in the order of the store."""

    finds_words = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[tuple[str, int]] = []
        """Legs that were asked, and for how many hits."""

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        self.asked.append((using or "", k))
        return super().search(vector, k, where, using=using)

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        self.asked.append(("words", k))
        wanted = words_in(text)
        found = [Hit(float(len(wanted & words_in(one.text))), one.chunk) for one in self._passing(where)]
        return sorted((hit for hit in found if hit.score), key=lambda hit: -hit.score)[:k]


def words_in(text: str) -> set[str]:
    """The words of a text, but for those that do not count."""
    return {*re.findall(r"[\w-]*\w", text.lower())} - {"the", "of"}
