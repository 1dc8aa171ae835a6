"""Words of texts and of questions, and BM25: for full text that Penstock makes itself.

A word is a run of letters, digits and `_`, in lower case and without accents: `ERR_4711` and `foo_bar` are one each. Of
scripts without spaces, each two neighbouring characters are one. Nothing is stemmed, since any language may come.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

LONGEST = 64
"""Characters of a word; of longer ones (an encoded file) these. A SHA-256 has as many."""
MOST_ASKED = 128
"""Words of a question that are looked for: the first ones, each once."""
SATURATION, SLOPE = 1.2, 0.75
"""BM25's k1 and b: how little it counts that a word is there more often, and how much the length of a text does."""
_FREQUENT = """a an and are as at be been but by can did do does for from had has have how i if in into is it its
    me my no not of on or our such that the their then there these they this to was we were what when where which who
    why will with you your"""
STOP_WORDS = frozenset(re.findall("[a-z]+", _FREQUENT))
"""So frequent that a question is answered without them."""

_TOGETHER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3041-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
_TOGETHER += "\U00020000-\U0003ffff"
"""Scripts that put no spaces between words."""
_ASCII = re.compile(r"[a-z0-9_]+")
# The vowel signs of Indic scripts are no letters to `re`, and belong to their word.
_WORD = re.compile(rf"[{_TOGETHER}]+|(?:(?![{_TOGETHER}\u0964\u0965])[\w\u0900-\u0dff])+")
_UNSPACED = re.compile(f"[{_TOGETHER}]")
_ACCENTS = re.compile("[\u0300-\u036f]")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        return [word[:LONGEST] for word in _ASCII.findall(text.lower())]
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFC", plain)):
        if len(word) > 1 and _UNSPACED.match(word):
            found += map("".join, pairwise(word))
        else:
            found.append(word[:LONGEST])
    return found


def asked(question: str) -> list[str]:
    """The words that count of a question, each once."""
    several = dict.fromkeys(word for word in words(question) if word not in STOP_WORDS and word.strip("_"))
    return list(several)[:MOST_ASKED]


def as_written(question: str) -> list[str]:
    """The same words as they are written, for a store that has a tokenizer of its own; nothing where none counts."""
    if not asked(question):
        return []
    composed = unicodedata.normalize("NFC", question)
    several = dict.fromkeys(word for word in _WORD.findall(composed) if word.lower() not in STOP_WORDS)
    return list(several)[:MOST_ASKED]


def bm25(texts: Sequence[str], question: Sequence[str]) -> list[float]:
    """The score of each text for these words: as Lucene counts it, with its k1 and b. 0 where it has none of them."""
    counted = [_counts(text) for text in texts]
    lengths = [counts.total() for counts in counted]
    mean = (sum(lengths) / len(texts) if texts else 0) or 1
    scores = [0.0] * len(texts)
    for word in question:
        holding = [at for at, counts in enumerate(counted) if word in counts]
        rarity = math.log(1 + (len(texts) - len(holding) + 0.5) / (len(holding) + 0.5))
        for at in holding:
            count = counted[at][word]
            scores[at] += rarity * count / (count + SATURATION * (1 - SLOPE + SLOPE * lengths[at] / mean))
    return scores


@lru_cache(1 << 10)
def _counts(text: str) -> Counter[str]:
    return Counter(words(text))
