"""Which of the places side by side is the index now.

A door is the place that people name. Its manifest says which place is `current`; what is behind it changes in one step,
and whoever searches or writes asks the door first.
"""

from __future__ import annotations

from typing import TypeVar

from penstock.contracts import Place

P = TypeVar("P", bound=Place)


def current(door: P) -> P:
    """The place to search and to write to: the door itself, or the one beside it that it names."""
    held = door.manifest()
    return door.beside(held.current) if held is not None and held.current else door
