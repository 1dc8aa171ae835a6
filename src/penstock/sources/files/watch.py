"""Hears what changes in local folders while they are followed.

What is heard are hints: each names a path that is then looked at. Where something may have been missed (the system
could not keep up, a folder cannot be watched, the root was replaced), the hint is to list everything again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from penstock.core.contracts import Hints, Watch
from penstock.core.errors import SourceError
from penstock.sources.files.canary import Canary
from penstock.sources.files.local import uri_of
from penstock.sources.files.writing import OpenFiles
from penstock.support.images import CAPTIONS, ENDINGS
from penstock.support.inotify import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    DELETE_SELF,
    IGNORED,
    ISDIR,
    MODIFY,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    UNMOUNT,
    Event,
    Inotify,
)

RETURN = 1.0
"""Seconds between two looks whether a root that went away is back."""
CHECKED = 5000
"""Folders that are looked at with each proof that it hears: whether what is there is what is watched."""


class LocalWatch(Watch):
    """Watches folders with all beneath them. `leaves`: whether a listing leaves a folder of that path alone."""

    def __init__(self, roots: Iterable[str], leaves: Callable[[str], bool]) -> None:
        self._roots, self._leaves = tuple(roots), leaves
        self._inotify = Inotify()
        self._paths: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._open = OpenFiles()
        self._away: set[str] = set()
        self._look = 0.0
        self._trouble = ""
        self._hints: set[str] = set()
        self._doubt = False
        self._canary = Canary(self._inotify)
        self._unchecked: list[str] = []
        for root in self._roots:
            self._begin(root)
        self._hints.clear()  # the first listing names all that is there

    @property
    def trouble(self) -> str:
        return self._trouble

    def wait(self, seconds: float) -> Hints:
        end = time.monotonic() + seconds
        while True:
            self._settle()
            if self._hints or self._doubt:
                hints = Hints(frozenset(self._hints), self._doubt)
                self._hints, self._doubt = set(), False
                return hints
            left = min([end, *self._due()]) - time.monotonic()
            if self._inotify.wait(max(0.0, left)):
                for event in self._inotify.read():
                    self._hear(event)
                continue
            self._prove()
            if time.monotonic() >= end and not self._doubt:
                return Hints(frozenset(), False)

    def close(self) -> None:
        self._canary.close()
        self._inotify.close()

    # ------------------------------------------------------------ what is heard

    def _hear(self, event: Event) -> None:
        if event.mask & OVERFLOW:
            self._doubt = True
            self._open.clear()
            self._canary.heard()
            return
        if event.folder == self._canary.number:
            self._canary.heard()
            return
        folder = self._paths.get(event.folder)
        if folder is None:
            return
        if event.mask & (DELETE_SELF | MOVE_SELF | UNMOUNT | IGNORED):
            if folder in self._roots:
                self._away.add(folder)
                self._doubt = True
            if event.mask & (IGNORED | UNMOUNT):
                self._forget(folder)
                if folder not in self._roots and os.path.isdir(folder):  # what it was mounted over
                    self._begin(folder)
                    self._doubt = True
            return
        if not event.name:  # of the folder itself, which the one above it tells as well
            return
        path = os.path.join(folder, os.fsdecode(event.name))
        if event.mask & ISDIR:
            if event.mask & (MOVED_FROM | DELETE):
                self._forget_beneath(path)
                self._hint(path)
            elif event.mask & (CREATE | MOVED_TO | ATTRIB):  # with other permissions it may be open to us now
                self._begin(path)
        elif event.mask & (CLOSE_WRITE | MOVED_TO | MOVED_FROM | DELETE):
            self._open.forget(path)
            self._changed(path)
        elif event.mask & (MODIFY | CREATE):
            self._open.wrote(path, made=not event.mask & MODIFY)
        elif path not in self._open:  # its permissions, or its times
            self._changed(path)

    def _changed(self, path: str) -> None:
        self._hint(path)
        # The fingerprint of an image has its captions in it.
        stem, ending = os.path.splitext(path)
        if ending in CAPTIONS:
            for image in ENDINGS:
                if os.path.lexists(stem + image):
                    self._hint(stem + image)

    def _hint(self, path: str) -> None:
        if self._within(path):
            self._hints.add(uri_of(path))

    def _within(self, path: str) -> bool:
        return any(path == root or path.startswith(os.path.join(root, "")) for root in self._roots)

    def _settle(self) -> None:
        """Look at what is still open, where it is time to, and for roots that are away."""
        for path in self._open.take():
            self._changed(path)
        now = time.monotonic()
        if self._away and now >= self._look:
            self._look = now + RETURN
            for root in [root for root in self._away if os.path.exists(root)]:
                self._away.discard(root)
                self._forget_beneath(root)
                self._begin(root)
                self._doubt = True

    def _due(self) -> list[float]:
        due = [self._canary.next()]
        if (written := self._open.next()) is not None:
            due.append(written)
        return [*due, self._look] if self._away else due

    def _prove(self) -> None:
        """Now and then, when all was read that the system has told. Raises OSError where it tells no more."""
        if not self._canary.prove():
            return
        self._unchecked = self._unchecked or list(self._numbers)
        for folder in self._unchecked[:CHECKED]:
            number = self._numbers.get(folder)
            try:
                if number is None or self._inotify.add(os.fsencode(folder)) == number:
                    continue
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    continue
            # Another folder is there, as when something is mounted over it, of which nobody tells.
            self._forget_beneath(folder)
            self._begin(folder)
            self._doubt = True
        del self._unchecked[:CHECKED]

    # ------------------------------------------------------------ folders

    def _begin(self, top: str) -> None:
        """Watch a folder and all beneath it, and hint at the files in it: they may be older than the watch."""
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            if not self._within(folder) or (folder not in self._roots and self._leaves(folder)):
                continue
            try:
                if file := stat.S_ISREG(os.stat(folder).st_mode):  # a root may be a file: its folder tells
                    folder = os.path.dirname(folder)
                number = self._inotify.add(os.fsencode(folder))
                self._paths[number], self._numbers[folder] = folder, number
                if file:
                    continue
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir():
                            waiting.append(entry.path)
                        elif folder not in self._roots:
                            self._hint(entry.path)
            except OSError as error:
                self._lacks(folder, error)

    def _lacks(self, folder: str, error: OSError) -> None:
        self._doubt = True
        if folder in self._roots:
            self._away.add(folder)
        if error.errno == errno.ENOSPC:
            limit = Path("/proc/sys/fs/inotify/max_user_watches").read_text().strip()
            self._trouble = (
                f"the system watches at most {limit} folders for a user: changes in others are seen by the next listing"
                " (raise fs.inotify.max_user_watches)"
            )

    def _forget(self, folder: str) -> None:
        if (number := self._numbers.pop(folder, None)) is not None:
            self._paths.pop(number, None)

    def _forget_beneath(self, folder: str) -> None:
        beneath = os.path.join(folder, "")
        self._open.forget_beneath(folder)
        for path in [path for path in self._numbers if path == folder or path.startswith(beneath)]:
            self._inotify.remove(self._numbers[path])
            self._forget(path)


def watch(roots: Iterable[str], leaves: Callable[[str], bool]) -> LocalWatch | None:
    """A watch of these folders; None where the system has nothing for it, and they are only listed."""
    try:
        return LocalWatch(roots, leaves)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise SourceError(
                f"the system gives no more watches to this user: {error.strerror} (raise fs.inotify.max_user_instances)"
            ) from error
        return None
