"""Full text of the emulated servers, by BM25."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

_K1, _B = 1.2, 0.75
_ACCENTED = re.compile("([a-z])[\u0300-\u036f]+")


@lru_cache(1024)
def tokens(text: str) -> Sequence[str]:
    """Words in lower case and without accents, as Lucene's tokenizer and filters make them: `os.path` is one."""
    folded = _ACCENTED.sub(r"\1", unicodedata.normalize("NFKD", text.lower()))
    return re.findall(r"\w+(?:[.']\w+)*", unicodedata.normalize("NFC", folded).replace("ß", "ss"))


def scores(asked: Sequence[str], texts: Mapping[str, Sequence[str]], passing: Iterable[str]) -> dict[str, float]:
    """The scores of those that pass and have one of the words. How rare a word is, is a matter of all texts."""
    counts = {id: Counter(words) for id, words in texts.items()}
    mean = sum(count.total() for count in counts.values()) / max(len(counts), 1)
    having = Counter(word for count in counts.values() for word in count)
    found: dict[str, float] = {}
    for id in passing:
        rest = _K1 * (1 - _B + _B * counts[id].total() / (mean or 1))
        for word in asked:
            if count := counts[id][word]:
                rarity = math.log(1 + (len(counts) - having[word] + 0.5) / (having[word] + 0.5))
                found[id] = found.get(id, 0.0) + rarity * count * (_K1 + 1) / (count + rest)
    return found
