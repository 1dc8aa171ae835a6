"""Milvus Lite in this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import ClassVar

from penstock.core.errors import SinkError, SinkInUse
from penstock.sinks import manifests
from penstock.sinks.collection import place_of


class Lite:
    """The engine of Milvus Lite on one file, shared by all users of this process; the last one to leave closes it."""

    running: ClassVar[dict[Path, Lite]] = {}
    lock = threading.Lock()

    def __init__(self, path: Path, url: str) -> None:
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.exceptions import DataDirLockedError

        # An empty folder is one that another process is about to make a database of.
        if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "collections").is_dir()):
            raise SinkError(f"{url}: {path} is not a database of Milvus Lite 3; name another file")
        manifests.make_folder(path.parent, url)
        try:
            self.server, self.engine, self.port = start_server_in_thread(str(path), host="127.0.0.1", port=0)
        except DataDirLockedError:
            raise SinkInUse(
                f"{url} is open already, and Milvus Lite lets one in at a time: close it there, pass its client, "
                "or run `milvus-lite server` and name its host"
            ) from None
        except Exception as error:  # anything that a damaged file brings about
            raise SinkError(f"{url} cannot be opened: {type(error).__name__}: {error}") from error
        self.path, self.users, self.place = path, 0, place_of(path)
        """`place` tells this file from another one that takes its place."""
        self.writing = threading.Lock()
        """For its collections, which take one writer at a time and have no lock of their own."""

    @classmethod
    def enter(cls, path: Path, url: str) -> Lite:
        with cls.lock:
            path = path.absolute()
            lite = cls.running.get(path)
            if lite is None or lite.place != place_of(path):
                lite = cls(path, url)
            cls.running[path] = lite
            lite.users += 1
            return lite

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                if self.running.get(self.path) is self:
                    del self.running[self.path]
                self.server.stop(grace=0).wait(5)
                self.engine.close()
