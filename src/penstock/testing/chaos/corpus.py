"""A corpus of documents in lines, and its successors: edited, renamed, swapped, emptied, removed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from penstock.core.records import Block, Piece

Corpus = dict[str, str]


class Lines:
    """A chunker: a line is a chunk, and its page and heading change with its place in the document."""

    spec = "lines"

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        at = number = 0
        for block in blocks:
            for line in block.text.splitlines(keepends=True):
                text = line.rstrip("\n")
                if text.strip():
                    yield Piece(text, (at, at + len(text)), number // 4, (f"part {number // 3}",), {"line": number})
                    number += 1
                at += len(line)


def first_corpus(rng: random.Random, documents: int) -> Corpus:
    return {f"doc:{n}": _text(rng, n) for n in range(documents)}


def next_corpus(corpus: Corpus, rng: random.Random) -> Corpus:
    """Edited, with lines that repeat; some documents added, removed, emptied, renamed or with their names swapped."""
    changed = dict(corpus)
    for uri in rng.sample(sorted(changed), k=len(changed) // 3):
        lines = changed[uri].splitlines()
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(lines))
            match rng.randrange(4):
                case 0:
                    lines.insert(at, f"inserted {rng.randrange(10**6)}")
                case 1 if lines:
                    lines[at - 1] = f"replaced {rng.randrange(10**6)}"
                case 2 if lines:
                    del lines[at - 1]
                case _:
                    lines.insert(at, rng.choice(lines) if lines else "the only line")
        changed[uri] = "\n".join(lines)
    uris = sorted(changed)
    new, gone, empty, old, left, right = rng.sample(uris, 6)
    changed[left], changed[right] = changed[right], changed[left]
    changed[f"{old}-renamed"] = changed.pop(old)
    changed[f"{new}-{rng.randrange(10**4)}"] = _text(rng, rng.randrange(10**6))
    changed[empty] = ""
    del changed[gone]
    return changed


def _text(rng: random.Random, number: int) -> str:
    return "\n".join(f"document {number} says {rng.choice('abcdef')} in line {rng.randrange(9)}" for _ in range(12))
