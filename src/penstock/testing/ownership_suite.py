"""Tests of who gets an index that several begin to fill at once: part of `sink_suite.SinkSuite`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TypeVar

from penstock.core.contracts import Sink
from penstock.core.errors import SpaceMismatch, Transient
from penstock.core.generations import amend
from penstock.core.schema import Manifest
from penstock.testing.points import MakeSink, respec
from penstock.testing.suite_base import SinkBase

T = TypeVar("T")
SEVERAL, TURNS = 4, 3


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """What these return, called in threads at the same moment; each again while it raises Transient."""
    barrier = threading.Barrier(len(calls))

    def meet(call: Callable[[], T]) -> T:
        barrier.wait(30)
        deadline = time.monotonic() + 30
        while True:
            try:
                return call()
            except Transient:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    with ThreadPoolExecutor(len(calls)) as threads:
        return [done.result(timeout=60) for done in [threads.submit(meet, call) for call in calls]]


class Ownership(SinkBase):
    """Of several first runs one creates the index; of several changes of a manifest none is lost."""

    def several(self, stack: ExitStack, make_sink: MakeSink) -> list[Sink]:
        sinks = [stack.enter_context(make_sink()) for _ in range(SEVERAL)]
        for sink in sinks:
            sink.settle *= 2  # a store that is asked again leaves a busy machine the time to be slow
        return sinks

    def test_one_of_several_creates_the_index(self, make_sink: MakeSink) -> None:
        """All open it, and all see the manifest of the same one from then on."""
        for turn in range(TURNS):
            with ExitStack() as stack:
                sinks = self.several(stack, make_sink)
                mine = [replace(self.manifest, owners={"": f"ledger {turn} {n}"}) for n in range(SEVERAL)]

                def begin(n: int) -> Manifest | None:
                    sinks[n].open(mine[n])  # noqa: B023
                    return sinks[n].manifest()  # noqa: B023

                seen = at_once([partial(begin, n) for n in range(SEVERAL)])
                if sinks[0].settle:  # the manifest that one has found may be replaced: a run asks again as it registers
                    seen = [sink.manifest() for sink in sinks]
                assert seen[0] in mine
                assert seen == [seen[0]] * SEVERAL, "each run takes the index for its own by this"
                assert make_sink().manifest() == seen[0]
            if not self.generations or sinks[0].settle:  # it cannot be dropped, or takes long
                break
            make_sink().drop()

    def test_another_space_is_refused_though_it_began_at_once(self, make_sink: MakeSink) -> None:
        """The index is of one model, and whoever has another one is told."""
        other = replace(self.manifest, schema=respec(self.manifest.schema, fingerprint="e" * 32), owners={"": "other"})
        wanted = [self.manifest, other]
        with ExitStack() as stack:
            sinks = self.several(stack, make_sink)

            def begin(n: int) -> bool:
                try:
                    sinks[n].open(wanted[n % 2])
                except SpaceMismatch:
                    return False
                return True

            opened = at_once([partial(begin, n) for n in range(SEVERAL)])
            if sinks[0].settle:
                # One may have met a manifest that was replaced a moment later: a run asks again as it registers.
                kept = make_sink().manifest()
                assert any(each and wanted[n % 2] == kept for n, each in enumerate(opened)), opened
                return
            assert opened in ([True, False, True, False], [False, True, False, True]), opened
            assert make_sink().manifest() == wanted[opened.index(True)]

    def test_one_of_several_exchanges_the_manifest(self, make_sink: MakeSink) -> None:
        """They have read the same one; the others are told that it has changed, and change nothing."""
        with ExitStack() as stack:
            self.opened(make_sink).close()
            sinks = self.several(stack, make_sink)
            for sink in sinks:
                sink.open(self.manifest)
            mine = [replace(self.manifest, owners={"": f"ledger {n} more"}) for n in range(SEVERAL)]
            exchanged = at_once([partial(sinks[n].exchange_manifest, self.manifest, mine[n]) for n in range(SEVERAL)])
            assert exchanged.count(True) == 1
            assert make_sink().manifest() == mine[exchanged.index(True)]
            assert not sinks[0].exchange_manifest(self.manifest, mine[0])
            assert make_sink().manifest() == mine[exchanged.index(True)]

    def test_no_registration_is_lost(self, make_sink: MakeSink) -> None:
        """Each adds its namespace, while one switches the generation: in the end all of it is there."""
        names = [f"space {n}" for n in range(SEVERAL)]
        begun = replace(self.manifest, owners={names[0]: "ledger 0"})
        with ExitStack() as stack:
            with make_sink() as sink:
                sink.open(begun)
            sinks = self.several(stack, make_sink)
            for sink in sinks:
                sink.open(begun)

            def switched(kept: Manifest) -> Manifest:
                return replace(kept, current=1, former=0)

            def added(n: int, kept: Manifest) -> Manifest:
                return replace(kept, owners={**kept.owners, names[n]: f"ledger {n}"})

            changes: list[Callable[[Manifest], Manifest]] = [switched, *(partial(added, n) for n in range(1, SEVERAL))]
            at_once([partial(amend, sink, change) for sink, change in zip(sinks, changes, strict=True)])
            kept = make_sink().manifest()
            assert kept is not None
            assert kept.owners == {name: f"ledger {n}" for n, name in enumerate(names)}
            assert (kept.current, kept.former) == (1, 0)
