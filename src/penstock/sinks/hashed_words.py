"""Words of texts as sparse vectors of their hashes, compared as BM25 does: for stores without full text of their own.

A document's vector has how much each word counts in it; the store, or whoever searches, weighs each word by how few
documents have it. The mean length of documents is assumed, as it would have to be known before they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from penstock.core.records import Sparse
from penstock.sinks.words import words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SATURATION, SLOPE = 1.2, 0.75
"""BM25's k1 and b."""
MEAN = 128
"""Words of a document: about those of a chunk of 256 tokens or of 1,000 characters, which are seldom full."""


def of_document(text: str) -> Sparse:
    """How much each word counts: more if it is there more often, less if the text is long."""
    import numpy as np

    indices, counts = np.unique(_hashes(words(text)), return_counts=True)
    rest = SATURATION * (1 - SLOPE + SLOPE * counts.sum() / MEAN)
    return Sparse(indices, (counts * (SATURATION + 1) / (counts + rest)).astype(np.float32))


def of_query(asked: Sequence[str]) -> Sparse:
    """The words that are asked for, which count the same."""
    import numpy as np

    indices = np.unique(_hashes(asked))
    return Sparse(indices, np.ones(len(indices), np.float32))


def _hashes(several: Sequence[str]) -> NDArray[np.int32]:
    import numpy as np

    hashes = (crc32(word.encode("utf-8", "replace")) & 0x7FFFFFFF for word in several)
    return np.fromiter(hashes, np.int32, len(several))
