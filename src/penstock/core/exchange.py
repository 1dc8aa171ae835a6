"""A manifest is replaced if it is still the expected one, by a store that knows no such condition."""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.core.schema import Manifest


def exchange(
    read: Callable[[], Manifest | None],
    replace: Callable[[Manifest], None],
    old: Manifest,
    new: Manifest,
    settle: float,
) -> bool:
    """Replace it, and read it back after so many seconds: of several at once the last one has succeeded. At 0 seconds
    it is not read back."""
    if read() != old:
        return False
    replace(new)
    if not settle:
        return True
    time.sleep(settle)
    return read() == new
