"""Indexes that earlier versions made are read, searched and filled on; those of later ones are refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError
from penstock.core.records import VECTOR, Dense
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import manifests
from penstock.sinks.lance import LanceIndex, LanceSink
from penstock.sinks.sqlite import SqliteIndex, SqliteSink
from penstock.testing.points import everything, holds, point, same

V1 = Path(__file__).parents[1] / "data" / "versions" / "v1"
"""Made by `scripts/make_v1_index.py`: manifests of format 1, with one vector space and its chunking."""
SPACE = VectorSpec("__main__.letters", 8, "2e7c2f9e29221ef535e186b0941e834a")

Made = tuple[str, Callable[[str], Sink], Callable[[str], Index], str]
LANCE: Made = ("index", LanceSink, LanceIndex, "7f93001495ba4058ac502c39234894f4")
BOTH: Made = ("one", LanceSink, LanceIndex, "c85c32578b7c4c2b9b615e31c2fe960d")
SQLITE: Made = ("index.db", SqliteSink, SqliteIndex, "3aff91d5297d4357bc51af39a63a6eea")


@pytest.mark.parametrize(("name", "sink", "index", "owner"), [LANCE, BOTH, SQLITE], ids=str)
def test_an_index_of_format_1(
    tmp_path: Path, name: str, sink: Callable[[str], Sink], index: Callable[[str], Index], owner: str
) -> None:
    """Its manifest is that of one vector without a name; it is read, searched, added to, and kept in today's format."""
    (shutil.copytree if (V1 / name).is_dir() else shutil.copy)(V1 / name, tmp_path / name)
    url = f"{'sqlite' if name.endswith('.db') else 'lance'}://{tmp_path / name}"
    if sink is SqliteSink:
        pytest.importorskip("apsw")
    kept = sink(url).manifest()
    assert kept == Manifest(replace(single(SPACE, "40 characters"), filterable=False), {"": owner})
    with sink(url) as opened:
        opened.open(kept)
        before = everything(opened)
        assert len(before) == opened.count() > 0
        assert all(isinstance(p.vectors[VECTOR], Dense) for p in before.values())
        opened.write([point(1)])
        holds(opened, [*before.values(), point(1)])
        opened.replace_manifest(replace(kept, current=1))
    with index(url) as searched:
        searched.open()
        assert searched.manifest() == replace(kept, current=1)
        some = next(iter(before.values()))
        for using in (None, VECTOR):
            hits = searched.search(some.vectors[VECTOR], k=len(before) + 1, using=using)
            assert hits[0].score == pytest.approx(1, abs=1e-5)
            assert {hit.chunk.id for hit in hits} == {*before, point(1).id}
        same(searched.fetch([some.id])[0], some)


def test_the_first_owner_is_that_of_no_namespace() -> None:
    """As the first manifests of format 1 had it, before there were namespaces."""
    space = {"model": "m", "dim": 8, "fingerprint": "f", "chunking": "9 words", "metric": "dot", "kind": "Dense"}
    kept = manifests.from_json(json.dumps({"penstock": 1, "space": space, "owner": "ledger 1"}), "lance://x")
    schema = replace(single(VectorSpec("m", 8, "f", metric="dot"), "9 words"), filterable=False)
    assert kept == Manifest(schema, {"": "ledger 1"})


@pytest.mark.parametrize("name", ["index", "index.db"])
def test_a_newer_format_is_refused(tmp_path: Path, name: str) -> None:
    """With the line that upgrades, by sink and index alike, and nothing is changed."""
    if name == "index":
        shutil.copytree(V1 / name, tmp_path / name)
        sidecar = tmp_path / name / "chunks.penstock.json"
        sidecar.write_text(sidecar.read_text().replace('"penstock": 1', '"penstock": 9'))
        sink, index = LanceSink(f"lance://{tmp_path / name}"), LanceIndex(f"lance://{tmp_path / name}")
    else:
        shutil.copy(V1 / name, tmp_path / name)
        with closing(sqlite3.connect(tmp_path / name)) as file, file:
            file.execute("""UPDATE meta SET manifest = replace(manifest, '"penstock": 1', '"penstock": 9')""")
        sink, index = SqliteSink(f"sqlite://{tmp_path / name}"), SqliteIndex(f"sqlite://{tmp_path / name}")
    manifest = Manifest(single(SPACE, "40 characters"))
    for call in (sink.manifest, lambda: sink.open(manifest), index.open, index.manifest):
        with pytest.raises(SinkError, match=r"newer Penstock \(format 9.*pip install --upgrade penstock"):
            call()
