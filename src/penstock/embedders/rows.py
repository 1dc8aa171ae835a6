"""Token ids of passages and questions as a model takes them: special tokens, prompt, text; never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.core.errors import EmbedError, QueryMismatch
from penstock.core.records import Chunk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.tokenize import HFTokenizer


def passages(tokenizer: HFTokenizer, name: str, prompt: str, chunks: Sequence[Chunk]) -> list[Sequence[int]]:
    # Ids cut from a document can be joined to those of a prompt only where white space parts them.
    joins = not prompt or (tokenizer.additive and prompt[-1] in " \t\r\n")
    head = tokenizer.encode([prompt])[0] if prompt and joins else []
    ids: list[Sequence[int]] = [chunk.tokens if joins and chunk.tokens is not None else () for chunk in chunks]
    bare = [i for i, chunk in enumerate(chunks) if not joins or chunk.tokens is None]
    texts = [chunks[i].text if joins else prompt + chunks[i].text for i in bare]
    for i, encoded in zip(bare, tokenizer.encode(texts) if texts else (), strict=True):
        ids[i] = encoded
    for chunk, own in zip(chunks, ids, strict=True):
        if chunk.image is not None:
            raise EmbedError(f"chunk {chunk.id} of {chunk.uri} is an image; {name} takes text")
        if len(head) + len(own) > tokenizer.room:
            raise EmbedError(
                f"chunk {chunk.id} of {chunk.uri} has {len(own)} tokens; {name} takes {tokenizer.max_tokens}"
            )
    if not (tokenizer.prefix or head or tokenizer.suffix):
        return ids
    return [[*tokenizer.prefix, *head, *own, *tokenizer.suffix] for own in ids]


def questions(
    tokenizer: HFTokenizer, name: str, prompt: str, texts: Sequence[str], room: int | None = None
) -> list[list[int]]:
    """`room`: the tokens that prompt and text may have, if not as many as those of a passage."""
    most = tokenizer.room if room is None else room
    encoded = tokenizer.encode([prompt + text for text in texts])
    for text, own in zip(texts, encoded, strict=True):
        if len(own) > most:
            raise QueryMismatch(f"the query {text[:40]!r}... has {len(own)} tokens; {name} takes {most}")
    return [[*tokenizer.prefix, *own, *tokenizer.suffix] for own in encoded]


def padded(ids: Sequence[Sequence[int]], pad: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows as long as the longest one, and how long each was."""
    import numpy as np

    lengths = np.array([len(row) for row in ids], np.int32)
    filled = np.full((len(ids), int(lengths.max())), pad, np.int32)
    for i, row in enumerate(ids):
        filled[i, : len(row)] = row
    return filled, lengths
