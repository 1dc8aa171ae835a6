"""Words of texts as sparse vectors of their hashes, compared as BM25 does: for stores without full text of their own.

A document's vector has how much each word counts in it; the store weighs each word by how few documents have it. The
mean length of documents is assumed, as it would have to be known before they are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from zlib import crc32

from penstock.sinks.words import SATURATION, SLOPE, words

MEAN = 128
"""Words of a document: about those of a chunk of 256 tokens or of 1,000 characters, which are seldom full."""


def of_document(text: str) -> dict[int, float]:
    """How much each word counts: more if it is there more often, less if the text is long."""
    found = words(text)
    counts = Counter(found)
    rest = SATURATION * (1 - SLOPE + SLOPE * len(found) / MEAN)
    values = {n: round(n * (SATURATION + 1) / (n + rest), 3) for n in set(counts.values())}
    return {_hash(word): values[n] for word, n in counts.items()}


def of_query(asked: Iterable[str]) -> dict[int, float]:
    """The words that are asked for, which count the same."""
    return dict.fromkeys(map(_hash, asked), 1.0)


@lru_cache(1 << 14)
def _hash(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass"))
