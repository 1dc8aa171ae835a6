"""Crashes at a named moment, followed by what makes them dangerous: the source moves on before the run is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing.faults import LEDGER_MOMENTS, SINK_MOMENTS, Crash, Fuse, wire

from .world import World, undisturbed

FIRST = {
    "doc:a": "one\ntwo\nthree\nfour\nfive",
    "doc:b": "six\nseven\nsix\neight",
    "doc:c": "nine\nten",
    "doc:e": "\n".join(f"stays {i}" for i in range(10)),
}
"""`five` and `six` change their names or places below, `doc:c` goes, `doc:d` comes."""
SECOND = {
    "doc:a": "zero\none\nthree\nfour\nfive and a half",
    "doc:b": "seven\nsix\nsix\neight",
    "doc:d": "nine\neleven",
    "doc:e": FIRST["doc:e"],
}
THIRD = {**SECOND, "doc:a": "five\nfour\nthree", "doc:c": "ten\nnine"}

MOMENTS = [
    f"{when} {what}"
    for what in [*(f"sink.{name}" for name in SINK_MOMENTS), *(f"ledger.{name}" for name in LEDGER_MOMENTS)]
    for when in ("before", "half", "after")
    if when != "half" or what in ("sink.write", "sink.delete")
]


def crashed(world: World, moment: str | None, nth: int) -> bool:
    """A run that ends at the moment, if it comes to it."""
    pipeline = world.pipeline()
    fuse = Fuse(moment, nth)
    wire(pipeline.sink, fuse, SINK_MOMENTS, "sink")
    wire(pipeline.ledger, fuse, LEDGER_MOMENTS, "ledger")
    try:
        pipeline.run()
    except BaseException as error:
        while error.__cause__ is not None:
            error = error.__cause__
        if not isinstance(error, Crash):
            raise
    return fuse.blown


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("between", "then"),
    [(SECOND, SECOND), (SECOND, FIRST), (SECOND, THIRD)],
    ids=["then again", "then everything taken back", "then on"],
)
def test_a_crash_at_any_moment_leaves_what_the_next_run_makes_whole(
    tmp_path: Path, moment: str, between: dict[str, str], then: dict[str, str]
) -> None:
    want = undisturbed(then, tmp_path)
    for nth in (1, 2, 3):
        (tmp_path / str(nth)).mkdir()
        world = World(tmp_path / str(nth), FIRST)
        world.run()
        world.tell(between)
        met = crashed(world, moment, nth)
        world.tell(then)
        assert world.run().ok
        assert world.held() == want, f"after a crash {moment}, call {nth}"
        assert world.pipeline().verify().ok
        world.forget()
        if not met:
            break
