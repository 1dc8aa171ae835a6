"""An open index that is built anew: searched where it is now, or refused; never where it was emptied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import penstock as ps
from penstock.compose import make_index
from penstock.core.contracts import MultiEmbedder
from penstock.core.errors import SinkError, SpaceMismatch
from penstock.core.schema import IndexSchema
from penstock.embedders.named import named
from penstock.jobs import following
from penstock.jobs.search import OpenIndex
from penstock.sinks.memory import MemoryIndex, forget
from penstock.testing.embedders import HashingEmbedder, OtherEmbedder
from penstock.testing.sources import ListSource

DOCUMENTS = {f"doc:{n}": f"document {n} is short. it has few words. it ends here." for n in range(12)}
MODEL = HashingEmbedder(32)


@pytest.fixture(params=["memory", "lance", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}://{tmp_path}/index"


@pytest.fixture
def pipeline(url: str, tmp_path: Path) -> Callable[..., ps.Pipeline]:
    def pipeline(chunk: str, model: ps.Embedder = MODEL) -> ps.Pipeline:
        source = ListSource({uri: text.encode() for uri, text in DOCUMENTS.items()})
        return ps.Pipeline(source, into=url, model=model, chunk=chunk, state=tmp_path / "ledger.db")

    return pipeline


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock makes nobody look: only what a search finds, or does not."""
    monkeypatch.setattr(following, "CHECK_INTERVAL", 1e9)


def test_an_index_that_was_emptied_or_removed_is_followed(url: str, pipeline: Callable[..., ps.Pipeline]) -> None:
    """The base is emptied when it is dropped, and stays; a later generation is removed."""
    pipeline("100 characters").run()
    with ps.open_index(url, model=MODEL) as index:
        assert len(index.search("document 3", k=5)) == 5
        for chunk in ("30 characters", "40 characters"):
            assert pipeline(chunk).reindex().switched
            assert pipeline(chunk).drop_former()
            hits = index.search("document 3 is short", k=200)  # of a file that was removed, all are at hand still
            assert len(hits) > 12
            assert hits[0].chunk.uri == "doc:3"
            assert len(hits[0].chunk.text) < 45
            assert index.manifest.schema.chunking == chunk
        assert pipeline("50 characters").reindex().switched
        pipeline("50 characters").drop_former()
        assert len(index) >= 12
        pipeline("60 characters").reindex()
        pipeline("60 characters").drop_former()
        (point,) = index.fetch([_first_id(url)])
        assert point.chunk.uri.startswith("doc:")


def _first_id(url: str) -> str:
    with ps.open_index(url, model=MODEL) as index:
        return index.search("document 1", k=1)[0].chunk.id


def test_one_that_nobody_dropped_is_followed_after_a_while(
    url: str, pipeline: Callable[..., ps.Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline("100 characters").run()
    with ps.open_index(url, model=MODEL) as index:
        pipeline("30 characters").reindex()
        assert len(index.search("document 3", k=1)[0].chunk.text) > 45
        monkeypatch.setattr(following, "CHECK_INTERVAL", 0.0)
        assert len(index.search("document 3", k=1)[0].chunk.text) < 45


def test_another_model_is_chosen_or_the_search_is_refused(url: str, pipeline: Callable[..., ps.Pipeline]) -> None:
    models = [HashingEmbedder(32), OtherEmbedder(32)]

    def choose(schema: IndexSchema) -> MultiEmbedder:
        return named(next(one for one in models if one.describe().same_space(schema.only)))

    pipeline("100 characters").run()
    with OpenIndex(make_index(url), choose) as index, ps.open_index(url, model=MODEL) as fixed:
        assert index.search("document 3")
        assert fixed.search("document 3")
        pipeline("100 characters", OtherEmbedder(32)).reindex()
        pipeline("100 characters", OtherEmbedder(32)).drop_former()
        best = index.search(DOCUMENTS["doc:3"], k=1)[0]
        assert best.chunk.uri == "doc:3"
        assert best.score > 0.99
        assert index.embedder.describe()["vector"].model == OtherEmbedder(32).describe().model
        for _ in range(2):
            with pytest.raises(SpaceMismatch, match="another vector space"):
                fixed.search("document 3")


def test_searches_while_it_is_built_anew_find_something_always(url: str, pipeline: Callable[..., ps.Pipeline]) -> None:
    """Never nothing, and never an error. It may be of what is left while the old one is emptied: nobody looks by the
    clock here."""
    pipeline("100 characters").run()
    stop, wrong = threading.Event(), list[object]()
    with ps.open_index(url, model=MODEL) as index:

        def ask() -> None:
            while not stop.wait(0.001):  # the re-index has its turns, too
                try:
                    hits = index.search("document 7 is short", k=2)
                except Exception as error:
                    wrong.append(error)
                else:
                    if not hits:
                        wrong.append(hits)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for chunk in ("30 characters", "40 characters"):
                pipeline(chunk).reindex()
                pipeline(chunk).drop_former()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not wrong, wrong[:3]


def test_an_index_that_is_gone_is_an_error(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}"
    ps.Pipeline(ListSource({"doc:1": b"a text"}), into=url, model=MODEL, state=tmp_path / "ledger.db").run()
    with ps.open_index(MemoryIndex(url), model=MODEL) as index:
        assert index.search("text")
        forget(url)
        with pytest.raises(SinkError, match="no index"):
            index.search("text")
