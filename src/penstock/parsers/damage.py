"""What the libraries that read a format raise, as errors that say what could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.core.errors import LimitExceeded, ParseError, PenstockError

_LONGEST = 300


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise ParseError for whatever goes wrong inside: libraries raise whatever hostile bytes make them raise. `what`
    could not be read: "the message". Where memory runs out, that stays what it is."""
    try:
        yield
    except (PenstockError, MemoryError):
        raise
    except RecursionError:
        raise LimitExceeded(f"{what} is nested too deeply") from None
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ParseError(f"{what} cannot be read: {cause[:_LONGEST]}") from error
