"""`lance://`: a LanceDB table in a folder, the embedded default."""

from penstock.sinks.lance.index import LanceIndex
from penstock.sinks.lance.sink import LanceSink

__all__ = ["LanceIndex", "LanceSink"]
