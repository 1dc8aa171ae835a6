"""Ledgers and indexes that earlier versions made open, run and verify with this one."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from penstock.core.records import Change
from penstock.ledger import Ledger, schema

V1 = Path(__file__).parents[1] / "data" / "versions" / "v1"
TEXTS = {
    "fixture://a.md": "# Gates\n\nA gate decides the pressure.\n\nNothing waits behind it.",
    "fixture://b.md": "# Turbines\n\nA turbine turns when water comes.",
    "fixture://broken.pdf": "%PDF-1.4 broken",
}
"""As the source of `scripts/make_v1_index.py` was at last."""


class Fixture(ps.Source):
    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    @property
    def name(self) -> str:
        return "fixture://"

    def lookup(self, uri: str) -> ps.Item | None:
        if (text := self.texts.get(uri)) is None:
            return None
        return ps.Item(uri, str(len(text)) + text[-8:], partial(io.BytesIO, text.encode()), size=len(text))

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        for uri in self.texts:
            item = self.lookup(uri)
            assert item is not None
            yield ps.Upsert(item)
        yield ps.ListingEnd()


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "etaoinsr"] for text in texts], dtype=np.float32) + 0.1


# The space was named after the function where it was made, and a version that was "1" if nothing was said.
letters.__module__ = "__main__"
LETTERS = ps.FunctionEmbedder(letters, version="1")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    shutil.copytree(V1, tmp_path / "v1")
    with Ledger.writer(tmp_path / "v1" / "both.db") as ledger:  # members are known by where they are
        for url in ledger.members():
            here = url.replace(url.partition("://")[2].rpartition("/")[0], str(tmp_path / "v1"))
            ledger._open().execute("UPDATE members SET url = ? WHERE url = ?", (here, url))
    return tmp_path / "v1"


KINDS = {
    "ledger.db": ["lance://{}/index"],
    "sqlite.db": ["sqlite://{}/index.db"],
    "both.db": ["lance://{}/one", "sqlite://{}/other.db"],
}


@pytest.mark.parametrize("state", KINDS)
def test_made_by_version_1(made: Path, state: str) -> None:
    """Nothing is embedded again, what fails is as it was, and a change goes through."""

    def pipeline(texts: Mapping[str, str]) -> ps.Pipeline:
        into = [url.format(made) for url in KINDS[state]]
        return ps.Pipeline(Fixture(texts), into=into, model=LETTERS, chunk="40 characters", state=made / state)

    with Ledger.reader(made / state) as ledger:
        assert ledger.counts().failures == 1
        assert ledger._read("PRAGMA user_version") == [(schema.VERSION,)]
    found = pipeline(TEXTS).verify()
    assert (found.missing, found.orphans, found.outdated, found.failing, found.behind) == (0, 0, 0, 1, 0)
    report = pipeline(TEXTS).run()  # reads all again, for the metadata that version 1 did not have
    assert (report.embedded, report.documents, report.moved, report.failing) == (0, 2, report.written, 1)
    report = pipeline(TEXTS).run()
    assert (report.embedded, report.unchanged, report.parked, report.failing) == (0, 2, 1, 1)
    texts = {**TEXTS, "fixture://b.md": "# Turbines\n\nA turbine rests.", "fixture://broken.pdf": ""}
    assert pipeline({uri: text for uri, text in texts.items() if text}).run().failing == 0
    found = pipeline({uri: text for uri, text in texts.items() if text}).verify(sample=1.0)
    assert found.ok, found
    for url in KINDS[state]:
        with ps.open_index(url.format(made), model=LETTERS) as index:
            assert index.search("A turbine rests.", k=1)[0].chunk.uri == "fixture://b.md"


def test_the_settings_of_version_1_are_understood(made: Path) -> None:
    """With the model and chunks that were the default, and the paths of where it was made."""
    with Ledger.reader(made / "words.db") as ledger:
        assert ledger.runs(1)[0].status == "done"
    assert ps.Pipeline.from_state(made / "words.db").source.name.endswith("/docs")
