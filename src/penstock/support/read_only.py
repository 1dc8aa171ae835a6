"""How SQLite files are opened that cannot be written to.

SQLite reads a file in WAL mode only with the index of its log (`-shm`), which it makes beside it where there is none.
"""

from __future__ import annotations

import os
from pathlib import Path


def writable(path: Path) -> bool:
    """Whether the file and its folder can be written to, or can be made."""
    return all(os.access(each, os.W_OK) for each in (path, path.parent) if each.exists())


def has_log(path: Path) -> bool:
    """Whether the write-ahead log has something that the file may lack."""
    try:
        return os.stat(beside(path, "-wal")).st_size > 0
    except OSError:
        return False


def read_only_options(path: Path) -> str:
    """The options of a url that open the file for reading: in a folder where nothing can be made, as one that nobody
    changes, unless somebody does. Raises PermissionError where a log cannot be read."""
    if writable(path) or beside(path, "-shm").exists():
        return "mode=ro"
    if has_log(path):
        raise PermissionError(
            f"it has changes in {path.name}-wal, and its folder cannot be written to, which reading them takes: copy"
            " both files to a folder of yours, and use the copy"
        )
    return "mode=ro&immutable=1"


def beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")
