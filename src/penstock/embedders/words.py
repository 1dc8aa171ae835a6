"""Token ids of text by its words, for tokenizers that mark each word by itself: words come again and again.

A word that is kept costs a twentieth of what a tokenizer takes for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain

Encode = Callable[[Sequence[str]], list[list[int]]]

MOST = 1 << 15
"""Words that are kept: about 8 MB. Beyond that all are dropped, as a text from elsewhere has other words."""
LONGEST = 48
"""Characters of a word that is kept: longer ones hardly come again."""
EDGE = r"[!-\u02ff\u0370-\u0482\u048a-\u058f\u2010-\u2027]"
"""Characters that form no grapheme with white space beside them: some normalizers look at graphemes."""
PLAIN = re.compile(rf"(?!.{{{LONGEST + 1}}}){EDGE}(?:.*{EDGE})?", re.DOTALL)


class Words:
    """Encodes with `encode`, which has to be additive (penstock.core.contracts.Tokenizer)."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._kept: dict[str, Sequence[int]] = {"": ()}

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        kept = self._kept
        of = kept.__getitem__
        rows: list[list[int]] = []
        missed = []
        for i, text in enumerate(texts):
            words = text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")
            try:
                rows.append([*chain.from_iterable(map(of, words))])
            except KeyError:
                rows.append([])
                missed.append((i, words))
        if missed:
            self._learn({word for _, words in missed for word in words if word not in kept})
            kept = self._kept
            strange = []
            for i, words in missed:
                try:
                    rows[i] = [*chain.from_iterable(map(kept.__getitem__, words))]
                except KeyError:
                    strange.append(i)
            for i, row in zip(strange, self._encode([texts[i] for i in strange]) if strange else (), strict=True):
                rows[i] = row
        return rows

    def _learn(self, words: set[str]) -> None:
        plain = [word for word in words if PLAIN.fullmatch(word)][: MOST - 1]
        if not plain:
            return
        new = {word: tuple(row) for word, row in zip(plain, self._encode(plain), strict=True)}
        if len(self._kept) + len(new) > MOST:
            self._kept = {"": ()}
        self._kept.update(new)
