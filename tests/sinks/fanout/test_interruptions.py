"""Whatever is interrupted, all members hold the same points in the end."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.ledger import Ledger
from penstock.testing.sinks import Died
from tests.sinks.fanout.world import DOCUMENTS, World

TEXTS = st.lists(st.sampled_from([f"line {n}" for n in range(12)]), max_size=8, unique=True)
STATES = st.lists(st.dictionaries(st.sampled_from("abcd"), TEXTS, max_size=4), min_size=1, max_size=3)
OUTAGES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 25)), max_size=4
)  # which store, from which call of a run on, for how many
KILLS = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 1), st.integers(2, 40))), min_size=3, max_size=3)


@given(STATES, st.lists(OUTAGES, min_size=3, max_size=3), KILLS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_they_hold_the_same_in_the_end(
    tmp_path_factory: pytest.TempPathFactory,
    states: list[dict[str, list[str]]],
    outages: list[list[tuple[int, int, int]]],
    kills: list[tuple[int, int] | None],
) -> None:
    """Documents change, stores come and go in the middle of anything, the process is killed; after one quiet run both
    stores hold what the source holds, to the bit."""
    world = World(tmp_path_factory.mktemp("world"))
    documents: dict[str, str] = {}
    for state, planned, kill in zip(states, outages, kills, strict=False):
        documents = {f"doc:{name}": "\n".join(texts) for name, texts in state.items()}
        for number, store in enumerate(world.stores):
            store.calm()
            store.calls = 0
            spans = [range(start, start + length) for which, start, length in planned if which == number]
            store.fails = lambda what, call, spans=spans: any(call in span for span in spans)  # type: ignore[misc]
            store.dies = kill[1] if kill and kill[0] == number else None
        with suppress(Exception, Died):
            world.run(documents, max_wait=0.5)
    for store in world.stores:
        store.calm()
    world.run(documents)
    world.all_hold(documents)
    assert world.behind == {}


@pytest.mark.parametrize("which", [0, 1])
def test_killed_at_any_point_of_catching_up(world: World, which: int) -> None:
    """After each call of a store in turn, in a run that has to catch up; the run after it completes it."""
    documents = dict(DOCUMENTS)
    world.run(documents)
    for n in itertools.count():
        b = world.stores[1]
        b.down = True
        documents = {uri: text for uri, text in DOCUMENTS.items() if uri != f"doc:{n % 8}"}
        documents["doc:new"] = f"version {n}\nand {n % 3}"
        world.run(documents)
        assert list(world.behind) == [b.url]
        b.calm()
        killed = world.stores[which]
        killed.dies = killed.calls + n
        died = False
        try:
            world.run(documents)
        except Died:
            died = True
        for store in world.stores:
            store.calm()
        world.run(documents)
        world.all_hold(documents)
        assert world.behind == {}
        if not died:
            break
    assert n >= 5


def test_killed_between_two_notes_of_catching_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each thing that the ledger is told in it."""
    world.run(DOCUMENTS)
    for name, when in itertools.product(("deleted", "caught_up", "fell_behind"), ("before", "after")):
        b = world.stores[1]
        b.down = True
        documents = {uri: f"{text}\n{name} {when}" for uri, text in DOCUMENTS.items() if uri != "doc:2"}
        with monkeypatch.context() as patch:
            if name == "fell_behind":
                _kill(patch, name, when)
            with suppress(Died):
                world.run(documents | {"doc:2": name + when})
        b.down = True
        world.run(documents)
        b.calm()
        with monkeypatch.context() as patch:
            if name != "fell_behind":
                _kill(patch, name, when)
                with pytest.raises(Died):
                    world.run(documents)
        world.run(documents)
        world.all_hold(documents)


def _kill(patch: pytest.MonkeyPatch, name: str, when: str) -> None:
    real = getattr(Ledger, name)

    def killed(self: Ledger, *given: Any) -> None:
        if when == "after":
            real(self, *given)
        raise Died("killed")

    patch.setattr(Ledger, name, killed)
