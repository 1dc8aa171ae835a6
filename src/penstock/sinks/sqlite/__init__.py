"""`sqlite://`: one SQLite file, searched exactly by sqlite-vec, with 46 MB of memory at its peak, whatever its size."""

from penstock.sinks.sqlite.index import SqliteIndex
from penstock.sinks.sqlite.sink import SqliteSink

__all__ = ["SqliteIndex", "SqliteSink"]
