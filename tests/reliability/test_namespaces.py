"""Several pipelines that fill one index: each its own part, and none touches another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.compose import default_state
from penstock.core.errors import MassDeletion, OwnershipError, UsageError
from penstock.core.schema import Manifest
from penstock.engine.identity import id_prefix
from penstock.pipeline import Pipeline
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource

pytestmark = pytest.mark.timeout(60)


class Shared:
    """One index; documents, sources and ledgers by namespace."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"memory://shared-{folder}"
        self.sources: dict[str, ListSource] = {}

    def pipeline(self, name: str, documents: dict[str, str] | None = None, state: str = "") -> Pipeline:
        source = self.sources.setdefault(name, ListSource())
        if documents is not None:
            source.entries = {uri: text.encode() for uri, text in documents.items()}
        file = self.folder / f"{state or name or 'alone'}.db"
        return Pipeline(source, into=self.url, model=HashingEmbedder(8), chunk=Lines(), state=file, namespace=name)

    def run(self, name: str, documents: dict[str, str] | None = None, **options: Any) -> Any:
        return self.pipeline(name, documents).run(**options)

    def texts(self) -> list[str]:
        sink = MemorySink(self.url)
        return sorted(point.chunk.text.strip() for page in sink.ids() for point in sink.fetch(page))

    @property
    def manifest(self) -> Manifest:
        manifest = MemorySink(self.url).manifest()
        assert manifest is not None
        return manifest


@pytest.fixture
def shared(tmp_path: Path) -> Any:
    shared = Shared(tmp_path)
    yield shared
    forget(shared.url)


def test_each_has_its_own_points_of_one_document(shared: Shared) -> None:
    """Two that read the same file have a point each, under ids with the prefix of their namespace."""
    assert shared.run("docs", {"doc:1": "one\ntwo"}).ok
    assert shared.run("wiki", {"doc:1": "one\ntwo"}).ok
    assert shared.texts() == ["one", "one", "two", "two"]
    assert set(shared.manifest.owners) == {"docs", "wiki"}
    ids = [id for page in MemorySink(shared.url).ids() for id in page]
    assert len([id for id in ids if id.startswith(id_prefix("docs").hex())]) == 2
    assert len([id for id in ids if id.startswith(id_prefix("wiki").hex())]) == 2
    assert {len(id) for id in ids} == {32}


def test_each_deletes_its_own_points(shared: Shared) -> None:
    """A document gone from one source stays with the other; so does everything when one source is emptied."""
    shared.run("docs", {"doc:1": "one", "doc:2": "two", "doc:3": "three"})
    shared.run("wiki", {"doc:1": "one"})
    shared.run("docs", {"doc:2": "two", "doc:3": "three"})
    assert shared.texts() == ["one", "three", "two"]
    with pytest.raises(MassDeletion):
        shared.run("docs", {})
    assert shared.run("docs", {}, allow_mass_delete=True).ok
    assert shared.texts() == ["one"]
    assert shared.pipeline("wiki").verify().ok


def test_verify_and_repair_see_their_own_points(shared: Shared) -> None:
    """Points of others are neither orphans nor missing; lost ones are restored."""
    shared.run("docs", {"doc:1": "one\ntwo"})
    shared.run("wiki", {"doc:9": "nine\nten"})
    sink = MemorySink(shared.url)
    found = shared.pipeline("docs").verify()
    assert found.ok
    assert found.points == 2
    sink.delete([id for page in sink.ids() for id in page])
    assert shared.pipeline("docs").verify().missing == 2
    assert shared.pipeline("docs").verify(repair=True).ok
    assert shared.texts() == ["one", "two"]
    assert shared.pipeline("wiki").verify(repair=True, sample=1.0).ok
    assert shared.texts() == ["nine", "one", "ten", "two"]


def test_a_lost_ledger_adopts_its_own_part(shared: Shared) -> None:
    """And leaves the other's."""
    shared.run("docs", {"doc:1": "one", "doc:2": "two"})
    shared.run("wiki", {"doc:9": "nine"})
    again = shared.pipeline("docs", {"doc:1": "one"}, state="found again")
    with pytest.raises(OwnershipError, match="--adopt"):
        again.run()
    report = again.run(adopt=True)
    assert "adopted 2 points" in report.notices[0]
    assert report.counts["embedded"] == 0
    assert shared.texts() == ["nine", "one"]
    assert shared.pipeline("wiki").verify().ok


def test_alone_or_shared(shared: Shared) -> None:
    """An index that one pipeline has to itself takes no second one, nor a shared one a pipeline without a namespace."""
    shared.run("", {"doc:1": "one"})
    with pytest.raises(OwnershipError, match="alone"):
        shared.run("docs", {"doc:2": "two"})
    forget(shared.url)
    shared.run("docs", {"doc:2": "two"})
    with pytest.raises(OwnershipError, match="docs"):
        shared.run("", {"doc:1": "one"})
    assert shared.texts() == ["two"]


def test_a_namespace_refuses_an_index_with_points_without_an_owner(shared: Shared) -> None:
    """As in a copy: their ids have no prefix, and no namespace would ever delete them."""
    shared.run("", {"doc:1": "one"})
    sink = MemorySink(shared.url)
    with sink:
        sink.replace_manifest(Manifest(shared.manifest.schema))
    with pytest.raises(OwnershipError, match="no pipeline fills"):
        shared.run("docs", {"doc:1": "one"})
    assert shared.run("docs", adopt=True).ok
    assert shared.texts() == ["one", "one"]


def test_namespaces_whose_prefixes_are_equal(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is refused: their ids could not be distinguished."""
    shared.run("docs", {"doc:1": "one"})
    monkeypatch.setattr("penstock.jobs.ownership.id_prefix", lambda name: b"same")
    with pytest.raises(UsageError, match="collide"):
        shared.run("wiki", {"doc:1": "one"})


def test_each_has_a_ledger() -> None:
    """Of its own, though source and index are the same."""
    assert (
        default_state("a", "memory://b", "x")
        != default_state("a", "memory://b", "y")
        != default_state("a", "memory://b")
    )
