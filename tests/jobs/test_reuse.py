"""A re-index that adds, renames or drops a vector makes those anew that are new, and reads the others back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from penstock.compose import open_index
from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, UsageError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.jobs.reindex import Reindexed
from penstock.pipeline import Pipeline
from penstock.sinks.qdrant import sink as qdrant
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource


class Counted(HashingEmbedder):
    """Counts what it embeds, and makes another space than others of another name."""

    def __init__(self, name: str, *, broken: bool = False) -> None:
        super().__init__(16)
        self.name, self.broken, self.texts = name, broken, list[str]()

    def describe(self) -> VectorSpec:
        return VectorSpec(model=self.name, dim=16, fingerprint=self.name)

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        if self.broken:
            raise EmbedError("it is not to be called")
        self.texts += [chunk.text for chunk in chunks]
        return super().embed(chunks)


class Notes:
    def __init__(self, url: str, state: Path) -> None:
        self.url, self.state = url, state
        self.source = ListSource({f"doc:{n}": f"document {n} of 9".encode() for n in range(9)})

    def pipeline(self, models: Mapping[str, Embedder], chunk: str | None = None) -> Pipeline:
        model = models["vector"] if models.keys() == {"vector"} else models
        return Pipeline(self.source, into=self.url, model=model, chunk=chunk, state=self.state)

    def reindex(self, models: Mapping[str, Embedder], chunk: str | None = None) -> Reindexed:
        pipeline = self.pipeline(models, chunk)
        done = pipeline.reindex()
        assert done.switched, done
        assert pipeline.verify().ok
        for name in models:
            with open_index(self.url, models) as index:
                (hit,) = index.search("document 3 of 9", k=1, using=name)
                assert (hit.chunk.uri, hit.score) == ("doc:3", pytest.approx(1.0, abs=1e-4))
        return done


@pytest.fixture(params=["lance://{}/notes", "sqlite://{}/notes.db", "qdrant://{}/store/notes"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> Notes:
    notes = Notes(request.param.format(tmp_path), tmp_path / "ledger.db")
    assert notes.pipeline({"vector": Counted("a")}).run().ok
    return notes


@pytest.mark.filterwarnings("ignore")
def test_a_reindex_with_the_same_settings_gives_an_index_of_before_its_full_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that keeps it from the first write on or not at all; no text is embedded again."""
    config = qdrant._config
    notes = Notes(f"qdrant://{tmp_path}/store/notes", tmp_path / "ledger.db")
    with monkeypatch.context() as patch:
        patch.setattr(qdrant, "_config", lambda *args: {"vectors_config": config(*args)["vectors_config"]})
        assert notes.pipeline({"vector": Counted("a")}).run().ok
    with open_index(notes.url, Counted("a")) as index, pytest.raises(UsageError, match="a re-index with the settings"):
        index.index.search_words("document")
    done = notes.reindex({"vector": Counted("a", broken=True)})
    assert (done.taken, done.points) == ({"vector": 9}, 9)
    with open_index(notes.url, Counted("a")) as index:
        assert len(index.index.search_words("document", 20)) == 9
    notes.pipeline({"vector": Counted("a")}).drop_former()
    with pytest.raises(UsageError, match="is made of that already"):
        notes.reindex({"vector": Counted("a")})


@pytest.mark.filterwarnings("ignore")
def test_a_vector_is_added_and_one_is_dropped(notes: Notes) -> None:
    """Under another name, as an index with one vector calls it `vector`; what has changed meanwhile is made whole."""
    notes.source.entries["doc:9"] = b"a new document"
    first, second = Counted("a"), Counted("b")
    done = notes.reindex({"first": first, "second": second})
    assert (first.texts, len(second.texts)) == (["a new document"], 10)
    assert done.taken == {"first": 9}
    assert done.reports[0].embedded == 10
    notes.pipeline({"first": first, "second": second}).drop_former()

    done = notes.reindex({"second": Counted("b", broken=True)})
    assert done.taken == {"second": 10}
    assert (done.reports[0].embedded, done.reports[0].counts["moved"]) == (0, 10)


def test_other_chunks_are_made_anew(tmp_path: Path) -> None:
    notes = Notes(f"memory://{tmp_path}", tmp_path / "ledger.db")
    assert notes.pipeline({"vector": Counted("a")}).run().ok
    first = Counted("a")
    assert notes.reindex({"first": first, "second": Counted("b")}, chunk="900 characters").taken == {}
    assert len(first.texts) == 9
