"""A shard as a file: some documents, and what the index has of each.

The documents are JSON; the chunks that are known are records of fixed size, as a document may have millions of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.core.errors import SourceError
from penstock.engine.journal import ChunkEntry
from penstock.shards.folder import SENSELESS

FORMAT = 1
KNOWN = [("document", "<u4"), ("id", "V16"), ("digest", "<i8")]


@dataclass(frozen=True, slots=True)
class Listed:
    """A document of a shard."""

    uri: str
    fingerprint: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    number: int
    documents: Sequence[Listed]
    afresh: bool = False
    """None of its chunks may be taken for one that the index has under another name: one of them was not there."""
    known: bytes = b""
    """Records of KNOWN: of which document the index has which chunk, and its digest."""

    def chunks(self, size: int = 4096) -> Iterator[list[tuple[int, bytes, int]]]:
        """The chunks that are known, in pages: number of the document, id, digest."""
        import numpy as np

        records = np.frombuffer(self.known, np.dtype(KNOWN))
        for start in range(0, len(records), size):
            page = records[start : start + size]
            ids = (id.tobytes() for id in page["id"])
            yield list(zip(page["document"].tolist(), ids, page["digest"].tolist(), strict=True))


def encode(number: int, documents: Sequence[Listed], *, afresh: bool = False) -> bytes:
    rows = [[one.uri, one.fingerprint, one.revision] for one in documents]
    return json.dumps({"penstock_shard": FORMAT, "shard": number, "afresh": afresh, "documents": rows}).encode()


def encode_known(document: int, pages: Iterable[Sequence[ChunkEntry]]) -> bytes:
    import numpy as np

    known = bytearray()
    for page in pages:
        records = np.empty(len(page), np.dtype(KNOWN))
        records["document"] = document
        records["id"] = np.frombuffer(b"".join(entry.id for entry in page), "V16")
        records["digest"] = [entry.digest for entry in page]
        known += records.tobytes()
    return bytes(known)


def decode(number: int, documents: bytes, known: bytes) -> Shard:
    """Raises SourceError for what is no shard."""
    try:
        facts: Mapping[str, Any] = json.loads(documents)
        if (version := facts["penstock_shard"]) != FORMAT or facts["shard"] != number:
            raise ValueError(f"it is shard {facts['shard']} in format {version}")
        listed = [Listed(*row) for row in facts["documents"]]
        for one in listed:
            if {type(one.uri), type(one.fingerprint), type(one.revision)} != {str}:
                raise ValueError("a document of other types than expected")
        shard = Shard(number, listed, facts["afresh"] is True, known)
        for page in shard.chunks():
            if any(document >= len(listed) for document, _, _ in page):
                raise ValueError("chunks of a document that is not in it")
    except SENSELESS as error:
        raise SourceError(f"shard {number} cannot be read: {type(error).__name__}: {error!s:.300}") from error
    return shard
