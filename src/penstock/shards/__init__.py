"""Vectors in parts: written by any number of machines that come and go, proved complete, loaded into any store.

    parts/
      _penstock.json                       the schema, the source and the number of shards
      part-0003-000002-000017.parquet      the 17th of shard 3 under its second lease
      _done/0003-000002.json               shard 3 is finished: the parts that count, and the states of its inputs
      _leases/0003-000002.json             the worker that has shard 3

A hash of its uri assigns an input to a shard, so every machine that lists the source knows its share. A part is one
file, written at once: rows, and in its footer an entry for each input without a row (duplicates, failures, skipped
ones). There is no other record: the worker that takes a shard over reads the parts of the killed one.
"""

from penstock.shards.embed import Embedded, embed
from penstock.shards.foreign import Imported, import_foreign
from penstock.shards.load import Loaded, load
from penstock.shards.proof import Verified, verify

__all__ = ["Embedded", "Imported", "Loaded", "Verified", "embed", "import_foreign", "load", "verify"]
