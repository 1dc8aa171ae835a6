"""What a target is, and what it counts as a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SEEDS = Path(__file__).parents[2] / "data" / "fuzz"
LONGEST = 10_000
"""The most characters of an error's message."""


class Fault(AssertionError):
    """A reader that did something else than its contract says, without raising by itself."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    run: Callable[[bytes], None]
    """Raises for a fault."""
    shape: str = "bytes"
    """The structure that mutations know: see `mutate`."""
    watched: tuple[str, ...] = ("penstock",)
    """Packages whose coverage guides."""
    seconds: float = 8.0
    """Of the processor's time, for one input."""
    memory: int = 2 << 30
    """Bytes of address space."""
    largest: int = 1 << 16
    """Bytes of an input."""

    @property
    def seeds(self) -> list[Path]:
        return sorted((SEEDS / self.name).glob("*"))


@contextmanager
def allowed(*errors: type[BaseException]) -> Iterator[None]:
    """Let the errors pass that a contract names, if their messages are of a size to be read."""
    try:
        yield
    except errors as error:
        if len(text := str(error)) > LONGEST:
            raise Fault(f"a message of {len(text):,} characters: {type(error).__name__}: {text[:200]}") from None


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)
