"""Runs that begin at once into one index, or change at once whose it is: tests/attack/test_first_runs.py has more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError, SinkInUse, SpaceMismatch, StageError
from penstock.core.generations import amend, switch
from penstock.core.schema import Manifest
from penstock.jobs.copy import copy
from penstock.jobs.session import Session
from penstock.ledger import Ledger
from penstock.sinks.fanout import FanOut
from penstock.sinks.memory import MemorySink
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource
from tests.attack.starts import MODEL, START, Start, pipeline, processes

DOCUMENTS = {f"doc:{n}": f"document {n}".encode() for n in range(5)}


class Overtaken(MemorySink):
    """Has something happen right before it is opened."""

    def __init__(self, url: str, happens: Callable[[], object]) -> None:
        super().__init__(url)
        self.happens: Callable[[], object] | None = happens

    def open(self, manifest: Manifest) -> None:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        super().open(manifest)


class Meanwhile(HashingEmbedder):
    """Has something happen when the model is opened: after the index was looked at, before it is created."""

    def __init__(self, happens: Callable[[], object], dim: int = 8) -> None:
        super().__init__(dim)
        self.happens, self.embedded = happens, 0

    def open(self) -> None:
        self.happens()

    def embed(self, chunks: Any) -> Any:
        self.embedded += len(chunks)
        return super().embed(chunks)


def make(into: Any, state: Path, model: HashingEmbedder | None = None, namespace: str = "") -> ps.Pipeline:
    source = ListSource(DOCUMENTS)
    return ps.Pipeline(source, into=into, model=model or HashingEmbedder(8), state=state, namespace=namespace)


def refused(late: ps.Pipeline, kind: type[Exception], match: str, **options: Any) -> None:
    with pytest.raises((StageError, kind), match=match) as raised:
        late.run(**options)
    assert isinstance(raised.value.__cause__ if isinstance(raised.value, StageError) else raised.value, kind)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "namespaces"])
@pytest.mark.parametrize("store", ["sqlite", "parquet"])
def test_two_processes_begin_at_once(tmp_path: Path, store: str, shared: bool) -> None:
    """One wins and the other embeds nothing; with namespaces both succeed in one run."""
    pytest.importorskip({"sqlite": "sqlite_vec", "parquet": "pyarrow"}[store])
    with processes(2) as two:
        for turn in range(4):
            url = f"{store}://{tmp_path}/{turn}"
            starts = [
                Start(
                    (url,), f"{tmp_path}/{turn}-{n}.db", f"n{n}", f"ns{n}" if shared else "", (START, MODEL)[turn % 2]
                )
                for n in range(2)
            ]
            ends = two.start(starts)
            assert [end.ok for end in ends].count(True) == 1 + shared, ends
            for start, end in zip(starts, ends, strict=True):
                if end.ok:
                    assert pipeline(start).verify().ok
                else:
                    assert (end.error, end.embedded) == ("OwnershipError", 0), end
                    assert "is filled by the ledger" in end.message  # as it looked, or as it was about to create it
                    assert not Path(start.state).exists()


def test_who_comes_second_is_told_before_anything_is_embedded(tmp_path: Path) -> None:
    """Who was first, and what to do; no ledger is left. The same where the other model is another one."""
    url = f"memory://{tmp_path}"
    model = Meanwhile(lambda: make(url, tmp_path / "first.db").run())
    refused(
        make(url, tmp_path / "late.db", model),
        OwnershipError,
        r"another run was first.*filled by the ledger .*first.db",
    )
    assert not model.embedded
    model = Meanwhile(lambda: make(f"{url}/2", tmp_path / "other.db").run(), dim=4)
    refused(make(f"{url}/2", tmp_path / "late.db", model), SpaceMismatch, "holds hashing .8 dim.* this run makes")
    assert not model.embedded
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["first.db", "other.db"]
    assert make(url, tmp_path / "first.db").verify().ok


def test_a_namespace_beside_a_pipeline_without_one(tmp_path: Path) -> None:
    """Whoever is first decides whether the index is shared."""
    for turn, (first, second, why) in enumerate([("", "docs", "without a namespace"), ("docs", "", "--namespace")]):
        url = f"memory://{tmp_path}/{turn}"
        model = Meanwhile(lambda: make(url, tmp_path / "first.db", namespace=first).run())  # noqa: B023
        refused(make(url, tmp_path / "late.db", model, second), Exception, why)
        assert not model.embedded
        assert not (tmp_path / "late.db").exists()
        (tmp_path / "first.db").unlink()


def test_no_namespace_is_lost_that_registers_meanwhile(tmp_path: Path) -> None:
    """A namespace that registers between another one's look at the manifest and its own registration."""
    url = f"memory://{tmp_path}"
    make(url, tmp_path / "a.db", namespace="a").run()

    class Late(MemorySink):
        late = True

        def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
            if self.late:
                self.late = False
                make(url, tmp_path / "b.db", namespace="b").run()
            return super().exchange_manifest(old, new)

    assert make(Late(url), tmp_path / "c.db", namespace="c").run().ok
    kept = MemorySink(url).manifest()
    assert kept is not None
    assert sorted(kept.owners) == ["a", "b", "c"]
    for name in "abc":
        assert make(url, tmp_path / f"{name}.db", namespace=name).verify().ok


def test_two_that_adopt_the_same_index(tmp_path: Path) -> None:
    """Both have agreed to take the place of the same ledger: the second one is told of the first."""
    url = f"memory://{tmp_path}"
    make(url, tmp_path / "old.db").run()

    class Late(MemorySink):
        late = True

        def ids(self) -> Any:
            if self.late:
                self.late = False
                make(url, tmp_path / "first.db").run(adopt=True)
            return super().ids()

    refused(make(Late(url), tmp_path / "late.db"), OwnershipError, "another run was first.*first.db", adopt=True)
    assert not (tmp_path / "late.db").exists()
    assert make(url, tmp_path / "first.db").verify().ok


def test_an_index_that_is_taken_over_while_its_owner_begins_a_run(tmp_path: Path) -> None:
    """The owner has looked at the manifest already. Its ledger is kept."""
    url = f"memory://{tmp_path}"
    make(url, tmp_path / "old.db").run()
    model = Meanwhile(lambda: make(url, tmp_path / "new.db").run(adopt=True))
    source = ListSource({**DOCUMENTS, "doc:more": b"one more"})
    late = ps.Pipeline(source, into=url, model=model, state=tmp_path / "old.db")
    refused(late, OwnershipError, "another run was first.*new.db")
    assert not model.embedded
    assert (tmp_path / "old.db").exists()
    assert make(url, tmp_path / "new.db").verify().ok


def test_a_store_that_is_in_use_leaves_no_ledger(tmp_path: Path) -> None:
    """Nothing was begun, and the next try is a first run as well."""

    class Busy(MemorySink):
        def open(self, manifest: Manifest) -> None:
            raise SinkInUse(f"{self.url} is in use by another process")

    refused(make(Busy(f"memory://{tmp_path}"), tmp_path / "late.db"), SinkInUse, "in use by another process")
    assert not (tmp_path / "late.db").exists()


def test_a_run_that_was_refused_is_not_let_in_by_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store is free a moment later, the index must not name a ledger that nobody goes on with."""
    two, opens, ready = threading.Semaphore(0), list[str](), Session.ready

    class Busy(MemorySink):
        def open(self, manifest: Manifest) -> None:
            opens.append(self.url)
            if len(opens) == 1:
                assert two.acquire(timeout=20)
                assert two.acquire(timeout=20)
                raise SinkInUse(f"{self.url} is in use by another process")
            super().open(manifest)

    def entered(session: Session) -> Any:
        two.release()
        return ready(session)

    monkeypatch.setattr(Session, "ready", entered)
    url = f"memory://{tmp_path}"
    late = ps.Pipeline(
        ListSource(DOCUMENTS), into=Busy(url), model=HashingEmbedder(8), state=tmp_path / "late.db", workers=2
    )
    refused(late, SinkInUse, "in use by another process")
    assert MemorySink(url).manifest() is None
    assert not (tmp_path / "late.db").exists()


def test_a_fan_out_that_loses_a_member_leaves_nothing_behind(tmp_path: Path) -> None:
    """The members that it had created are removed again."""
    own, shared = f"memory://{tmp_path}/a", f"memory://{tmp_path}/b"
    target = Overtaken(shared, lambda: make(shared, tmp_path / "first.db").run())
    late = make([MemorySink(own), target], tmp_path / "late.db")
    refused(late, OwnershipError, f"{shared} was filled by another ledger")
    assert MemorySink(own).manifest() is None
    assert not (tmp_path / "late.db").exists()
    assert make(shared, tmp_path / "first.db").verify().ok


def test_a_fan_out_registers_its_namespace_with_a_member_that_is_new_to_it(tmp_path: Path) -> None:
    """Another namespace created the member in the same moment."""
    own, shared = f"memory://{tmp_path}/a", f"memory://{tmp_path}/b"
    target = Overtaken(shared, lambda: make(shared, tmp_path / "first.db", namespace="first").run())
    late = make([MemorySink(own), target], tmp_path / "late.db", namespace="late")
    assert late.run().ok
    for url, names in ((own, ["late"]), (shared, ["first", "late"])):
        kept = MemorySink(url).manifest()
        assert kept is not None
        assert sorted(kept.owners) == names
    assert make(shared, tmp_path / "first.db", namespace="first").verify().ok
    assert make([MemorySink(own), MemorySink(shared)], tmp_path / "late.db", namespace="late").verify().ok


def test_a_switch_that_was_decided_before_another_one(tmp_path: Path) -> None:
    """It says what is current now, and changes nothing; one that was not preceded keeps who registered meanwhile."""
    sink = MemorySink(f"memory://{tmp_path}")
    make(sink, tmp_path / "one.db", namespace="one").run()
    held = sink.manifest()
    assert held is not None
    amend(sink, lambda kept: replace(kept, owners={**kept.owners, "two": "another"}))
    switch([sink], 1, 0, since=held)
    now = sink.manifest()
    assert now is not None
    assert (now.current, now.former, sorted(now.owners)) == (1, 0, ["one", "two"])
    with pytest.raises(OwnershipError, match="generation 1 the current one of memory://"):
        switch([sink], 2, 0, since=held)
    assert sink.manifest() == now


class Taking(MemorySink):
    """A ledger takes it over once so many points were written."""

    def __init__(self, url: str, takes: Callable[[], object], writes: int) -> None:
        super().__init__(url)
        self.takes, self.writes = takes, writes

    def open(self, manifest: Manifest) -> None:
        super().open(manifest)
        self._take()

    def write(self, points: Any) -> None:
        super().write(points)
        self._take()

    def _take(self) -> None:
        self.writes -= 1
        if self.writes == -1:
            self.takes()


@pytest.mark.parametrize("writes", [0, 1])
def test_a_copy_into_what_a_ledger_takes_meanwhile(tmp_path: Path, writes: int) -> None:
    """It ends with an error that says so: points that it writes afterwards belong to nobody."""
    old, new = f"memory://{tmp_path}/old", f"memory://{tmp_path}/new"
    make(old, tmp_path / "old.db").run()
    target: Sink = Taking(new, lambda: make(new, tmp_path / "new.db").run(), writes)
    with pytest.raises(OwnershipError, match="taken by a ledger of its own meanwhile"):
        copy(MemorySink(old), target)
    assert make(new, tmp_path / "new.db").verify().ok


def test_a_manifest_that_changes_for_ever_is_given_up() -> None:
    """For now: a later try may succeed."""

    class Busy(MemorySink):
        def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
            return False

    from penstock.core import generations
    from penstock.core.errors import SinkUnavailable
    from penstock.core.schema import VectorSpec, single

    sink = Busy("memory://changing")
    sink.open(Manifest(single(VectorSpec("a", 8, "f" * 32))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generations, "PAUSE", 0.0)
        with pytest.raises(SinkUnavailable, match="change its manifest all the time"):
            amend(sink, lambda kept: replace(kept, current=1))


def test_a_fan_out_exchanges_with_all_its_members(tmp_path: Path) -> None:
    """One that the first member refuses changes no member."""
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        fan = FanOut([MemorySink(f"memory://{tmp_path}/{name}") for name in "ab"])
        fan.attach(ledger)
        from penstock.core.schema import VectorSpec, single

        manifest = Manifest(single(VectorSpec("a", 8, "f" * 32)), {"": ledger.id})
        with fan:
            fan.open(manifest)
            assert fan.exchange_manifest(manifest, replace(manifest, current=1, former=0))
            assert not fan.exchange_manifest(manifest, replace(manifest, current=2, former=0))
            assert {sink.manifest().current for sink in fan.sinks} == {1}  # type: ignore[union-attr]
