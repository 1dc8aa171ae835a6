"""Which generation of an index is the current one.

The base is the location that people name. Its manifest says which generation is current; that changes in one step, and
whoever searches or writes asks the base first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from penstock.core.contracts import Location, Sink
from penstock.core.errors import Transient

L = TypeVar("L", bound=Location)


def current(base: L) -> L:
    """The location to search and to write to: the base itself, or the generation that it names."""
    held = base.manifest()
    return base.generation(held.current) if held is not None and held.current else base


def switch(bases: Sequence[Sink], current: int, former: int | None) -> None:
    """Have the manifests name these generations. Of several bases that are filled together the first is asked, so it
    comes last."""
    for base in reversed(bases):
        if (held := base.manifest()) is not None:
            with base:
                base.open(held)
                base.replace_manifest(replace(held, current=current, former=former))


def align(bases: Sequence[Sink]) -> None:
    """Have those that were away when the first switched, or are new, name the same generations."""
    if (first := bases[0].manifest()) is None:
        return
    for base in bases[1:]:
        with suppress(Transient):  # away still: a later run aligns it
            held = base.manifest()
            if held is None and first.current:
                with base:
                    base.open(first)
            elif held is not None and (held.current, held.former) != (first.current, first.former):
                switch([base], first.current, first.former)
