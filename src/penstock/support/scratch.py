"""Scratch databases: data of the moment for which memory may have no room."""

from __future__ import annotations

import sqlite3


def database(schema: str = "", *, cache: int = 4 << 20) -> sqlite3.Connection:
    """Open an empty SQLite database with these tables, in a temporary file without a name.

    It vanishes with the connection, however the process ends. Up to `cache` bytes stay in memory. Each statement is
    its own transaction unless one is begun; none can be rolled back, as there is no journal. Threads may share the
    connection in turns.
    """
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    try:
        db.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{max(1, cache >> 10)}; {schema}"
        )
    except BaseException:
        db.close()
        raise
    return db
