"""Files that are being written, and when each is looked at: a text soon and again, anything else at its end."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

QUIET, LATEST = 0.2, 2.0
"""Seconds without another write after which a file that is still open is looked at, and seconds after the first one
by which it is."""
END = 30.0
"""Seconds without another write after which a file that needs its end is looked at, although nobody closed it."""
RATE, LONGEST = 200_000, 60.0
"""Bytes a second of a file that is looked at again and again, as each time all of it is read; and the most seconds from
one look to the next."""
_HEAD = 512


@dataclass(slots=True)
class _Open:
    first: float
    """When it was written first since it was looked at last."""
    last: float
    written: bool
    """More than made: a link is complete at once."""
    due: float | None
    earliest: float = 0.0


class OpenFiles:
    """Their paths, until they are closed, or nothing was written for long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._files: dict[str, _Open] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def wrote(self, path: str, *, made: bool = False) -> None:
        """Something was written to the file, or it was only `made`."""
        now = self._clock()
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = _Open(now, now, not made, None)
        elif file.due is None:
            file.first = now
        file.last, file.written = now, file.written or not made
        file.due = max(min(now + QUIET, file.first + LATEST), file.earliest)

    def forget(self, path: str) -> None:
        self._files.pop(path, None)

    def forget_beneath(self, folder: str) -> None:
        beneath = os.path.join(folder, "")
        for path in [path for path in self._files if path.startswith(beneath)]:
            del self._files[path]

    def clear(self) -> None:
        self._files.clear()

    def next(self) -> float | None:
        """When the next one is to be looked at."""
        return min((file.due for file in self._files.values() if file.due is not None), default=None)

    def take(self) -> list[str]:
        """Those that are to be looked at now."""
        now = self._clock()
        taken = []
        for path, file in list(self._files.items()):
            if file.due is None:
                if now - file.last > LONGEST:  # it was never closed, as a link
                    del self._files[path]
            elif now >= file.due:
                size, text = _begins(path)
                if not text and (file.written or not size) and now < file.last + END:
                    file.due = file.last + END
                else:
                    file.due, file.earliest = None, now + min(size / RATE, LONGEST)
                    taken.append(path)
        return taken


def _begins(path: str) -> tuple[int, bool]:
    """The size of a file, and whether it begins as a text, of which a part can be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0, True  # it is for whoever looks at it to say so
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return 0, True
        head = os.read(handle, _HEAD)
    except OSError:
        return 0, True
    finally:
        os.close(handle)
    return status.st_size, bool(head) and b"\0" not in head and not head.startswith(b"%PDF")
