"""Words of texts, and vectors of hashed words that BM25 compares: for stores whose own full text is too little.

A document's vector has for each word how much it counts there, and a query's how often it asks for it. The store weighs
each word by how few documents have it. Their mean length is assumed, as no store keeps it for vectors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from unicodedata import normalize
from zlib import crc32

from penstock.core.records import Sparse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SATURATION, SLOPE = 1.2, 0.75
"""BM25's k1 and b."""
MEAN = 128
"""Words of a document: about those of a chunk of 256 tokens or of 1,000 characters, which are seldom full."""

_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e\u1dc0-\u1dff\u200c\u200d"
_ALONE = "\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_ALONE}]|(?:(?![{_ALONE}])[\\w{_MARKS}])+")
"""Marks belong to the letter before them. Han and Hiragana, which have no spaces, are words of one character."""


def words(text: str) -> list[str]:
    """The words of a text, in order, so that spellings which mean the same are one."""
    if text.isascii():
        return re.findall(r"\w+", text.lower())
    return _WORD.findall(normalize("NFKC", text.casefold()))


def as_written(text: str) -> list[str]:
    """The words of a text, each spelling once."""
    return list(dict.fromkeys(_WORD.findall(text)))


def of_document(text: str) -> Sparse:
    """How much each word counts: more if it is there more often, less if the text is long."""
    import numpy as np

    indices, counts = _counted(text)
    rest = SATURATION * (1 - SLOPE + SLOPE * counts.sum() / MEAN)
    return Sparse(indices, (counts * (SATURATION + 1) / (counts + rest)).astype(np.float32))


def of_query(text: str) -> Sparse:
    """How often each word is asked for."""
    return Sparse(*_counted(text))


def _counted(text: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
    import numpy as np

    found = words(text)
    hashes = np.fromiter((crc32(word.encode("utf-8", "replace")) & 0x7FFFFFFF for word in found), np.int32, len(found))
    indices, counts = np.unique(hashes, return_counts=True)
    return indices, counts.astype(np.float32)
