"""Make tests/data/versions/v1/parts, with the code of commit e7bcee9: parts of format 1, with random vectors.

    PYTHONPATH=<checkout of e7bcee9>/src python scripts/make_v1_parts.py tests/data/versions/v1/parts

Two shards of seven inputs: two parts each, a duplicate, a failure, a skipped input and a note.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence

import numpy as np
from penstock.parts.folder import Done, Folder, facts_of, piece_of
from penstock.parts.format import DUPLICATE, FAILED, NOTED, SKIPPED, Digest, Draft, Entry, Listed, Row
from penstock.parts.store import at
from penstock.records import Space

SPACE = Space("letters", 8, "0123456789abcdef0123456789abcdef", "whole images")
COUNTS = {"embedded": 4, "duplicate": 1, "failed": 1, "skipped": 1}


def main(out: str) -> None:
    folder = Folder.begin(at(out), SPACE, 2, "file:///pictures")
    rng = np.random.default_rng(1)
    uris = [f"file:///pictures/{number:02}.png" for number in range(40)]
    for piece in (1, 2):
        mine = [uri for uri in uris if piece_of(uri, 2) == piece][:7]
        entries = [
            Entry(mine[4], DUPLICATE, mine[0]),
            Entry(mine[5], FAILED, "its header is torn"),
            Entry(mine[6], SKIPPED, "the caption of an image"),
            Entry(mine[2], NOTED, "its caption cannot be read"),
        ]
        parts = [put(folder, piece, 1, mine[:2], [], rng), put(folder, piece, 2, mine[2:4], entries, rng)]
        digest = Digest()
        for uri in mine:
            digest.add(uri)
        folder.finish(Done(piece, 1, digest.count, str(digest), COUNTS, parts))


def put(
    folder: Folder, piece: int, number: int, uris: Sequence[str], entries: Sequence[Entry], rng: np.random.Generator
) -> Listed:
    draft = Draft(SPACE)
    for uri in uris:
        content = hashlib.sha256(uri.encode()).hexdigest()
        metadata = json.dumps({"licence": "CC0"})
        vector = rng.standard_normal(8).astype(np.float32)
        id = hashlib.blake2b(uri.encode(), digest_size=16).hexdigest()
        draft.add(Row(id, uri, content, 8, 6, f"picture {uri[-6:-4]}", metadata, vector))
    data = draft.finished(entries, facts_of(piece, 1, number, SPACE))
    name = folder.part_name(piece, 1, number)
    folder.store.put(name, data)
    return Listed(name, len(uris), hashlib.sha256(data).hexdigest(), len(entries))


if __name__ == "__main__":
    main(sys.argv[1])
