"""Which of the places side by side is the index now.

A door is the place that people name. Its manifest says which place is `current`; what is behind it changes in one step,
and whoever searches or writes asks the door first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from penstock.core.contracts import Place, Sink
from penstock.core.errors import Transient

P = TypeVar("P", bound=Place)


def current(door: P) -> P:
    """The place to search and to write to: the door itself, or the one beside it that it names."""
    held = door.manifest()
    return door.beside(held.current) if held is not None and held.current else door


def point(doors: Sequence[Sink], current: int, former: int | None) -> None:
    """Have the manifests name these. Of several doors that are filled together the first is asked, so it comes last."""
    for door in reversed(doors):
        if (held := door.manifest()) is not None:
            with door:
                door.open(held)
                door.replace_manifest(replace(held, current=current, former=former))


def settle(doors: Sequence[Sink]) -> None:
    """Have those that were away when the first changed, or are new, lead to the same place as it."""
    if (first := doors[0].manifest()) is None:
        return
    for door in doors[1:]:
        with suppress(Transient):  # away still: a later run settles it
            held = door.manifest()
            if held is None and first.current:
                with door:
                    door.open(first)
            elif held is not None and (held.current, held.former) != (first.current, first.former):
                point([door], first.current, first.former)
