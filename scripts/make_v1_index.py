"""Make tests/data/versions/v1, with the code of commit e7bcee9: ledger schema 1, manifest format 1.

    PYTHONPATH=<checkout of e7bcee9>/src python scripts/make_v1_index.py tests/data/versions/v1

The source is a class with fixed uris, as chunk ids are made of them. It runs twice, so that the ledger has contents of
an earlier run, a retracted chunk, a failure and two members.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

import penstock as ps

TEXTS = {
    "fixture://a.md": "# Gates\n\nA gate decides the pressure.\n\nWater waits behind it.",
    "fixture://b.md": "# Turbines\n\nA turbine turns when water comes.",
    "fixture://broken.pdf": "%PDF-1.4 broken",
}
CHANGED = {"fixture://a.md": "# Gates\n\nA gate decides the pressure.\n\nNothing waits behind it."}


class Fixture(ps.Source):
    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    @property
    def name(self) -> str:
        return "fixture://"

    def lookup(self, uri: str) -> ps.Item | None:
        text = self.texts.get(uri)
        if text is None:
            return None
        return ps.Item(uri, str(len(text)) + text[-8:], partial(io.BytesIO, text.encode()), size=len(text))

    def changes(self, cursor: str | None = None):
        for uri in self.texts:
            yield ps.Upsert(self.lookup(uri))
        yield ps.Mark()


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "etaoinsr"] for text in texts], dtype=np.float32) + 0.1


def main(folder: str) -> None:
    os.makedirs(folder)
    os.chdir(folder)
    chunk = "40 characters"
    for texts in (TEXTS, TEXTS | CHANGED):
        for into, state in (("lance://./index", "ledger.db"), ("sqlite://./index.db", "sqlite.db")):
            ps.Pipeline(Fixture(texts), into=into, model=letters, chunk=chunk, state=state).run()
        both = ["lance://./one", "sqlite://./other.db"]
        ps.Pipeline(Fixture(texts), into=both, model=letters, chunk=chunk, state="both.db").run()
    Path("docs").mkdir()
    Path("docs/a.md").write_text(TEXTS["fixture://a.md"])
    options = ["--into", "lance://./words", "--state", "words.db", "-q"]
    subprocess.run([sys.executable, "-m", "penstock", "ingest", "docs", *options], check=True)
    for lock in Path(".").rglob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
