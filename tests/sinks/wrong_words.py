"""Indexes whose full text breaks one promise each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.core.errors import SinkError
from penstock.core.records import Hit
from penstock.sinks import words
from penstock.sinks.memory import MemoryIndex

Where = Mapping[str, Any] | None


class HidesItsWords(MemoryIndex):
    @property
    def finds_words(self) -> bool:
        return False


class WantsAllWords(MemoryIndex):
    """... where any suffices."""

    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        asked = set(words.asked(text))
        return [hit for hit in super().search_words(text, k, where) if asked <= set(words.words(hit.chunk.text))]


class FindsPartsOfWords(MemoryIndex):
    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        chunks = [point.chunk for point in self._passing(where)]
        return [Hit(1.0, chunk) for chunk in chunks if any(w in chunk.text.lower() for w in words.asked(text))][:k]


class RanksByLength(MemoryIndex):
    """... and knows no rare words."""

    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        hits = super().search_words(text, 10_000, where)
        return [Hit(-n, hit.chunk) for n, hit in enumerate(sorted(hits, key=lambda hit: len(hit.chunk.text)))][:k]


class PartsIdentifiers(MemoryIndex):
    """... and drops what is no letter."""

    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        return super().search_words("".join(c if c.isalpha() else " " for c in text), k, where)


class FiltersTheBest(MemoryIndex):
    """... and so finds too few."""

    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        passing = {point.id for point in self._passing(where)}
        return [hit for hit in super().search_words(text, k) if hit.chunk.id in passing]


class FindsAllForNothing(MemoryIndex):
    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        found = super().search_words(text, k, where)
        return found or [Hit(0.0, point.chunk) for point in self._passing(where)][:k]


class HasSyntax(MemoryIndex):
    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        if text.count('"') % 2:
            raise SinkError("unbalanced quotes")
        return super().search_words(text, k, where)


class EndsAtNul(MemoryIndex):
    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        asked = set(words.asked(text))
        found = super().search_words(text, k, where)
        return [hit for hit in found if asked & set(words.words(hit.chunk.text.partition("\0")[0]))]


class KnowsOldWords(MemoryIndex):
    """... alone: those of when it was asked first."""

    def search_words(self, text: str, k: int = 10, where: Where = None) -> list[Hit]:
        kept = self.__dict__.setdefault("kept", {})
        for point in self._passing(None):
            kept.setdefault(point.id, point.chunk.text)
        asked = set(words.asked(text))
        found = super().search_words(text, k, where)
        return [hit for hit in found if asked & set(words.words(kept[hit.chunk.id]))]


class SearchesTheBase(MemoryIndex):
    def generation(self, number: int) -> SearchesTheBase:
        return self


WRONG_WORDS: list[tuple[type[MemoryIndex], str]] = [
    (HidesItsWords, "test_an_index_tells_whether_it_has_full_text"),
    (WantsAllWords, "test_any_word_suffices"),
    (FindsPartsOfWords, "test_any_word_suffices"),
    (RanksByLength, "test_the_order_is_like_that_of_bm25"),
    (PartsIdentifiers, "test_rare_words_are_found"),
    (FiltersTheBest, "test_words_within"),
    (FindsAllForNothing, "test_no_word_that_counts"),
    (HasSyntax, "test_a_question_is_plain_words"),
    (EndsAtNul, "test_odd_texts_are_found"),
    (KnowsOldWords, "test_words_of_what_is_written_now"),
    (SearchesTheBase, "test_words_of_a_generation"),
]
