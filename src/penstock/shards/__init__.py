"""Vectors in parts: made by any number of machines that come and go, proved complete, loaded into any store.

    parts/
      _penstock.json                       what is in here: the space, the source, how many pieces
      part-0003-000002-000017.parquet      of piece 3, by the holder of its second lease, the 17th
      _done/0003-000002.json               piece 3 is finished: which parts count, and what became of its inputs
      _leases/0003-000002.json             who works at piece 3

A piece is what a hash of the uri assigns to it, so every machine that lists the source knows its share. A part is one
file, put there at once: its rows, and in its footer the account of the inputs that gave no row (duplicates, failures,
what was passed over). There is no other record: what a killed worker leaves behind is read by the one that takes over.
"""

from penstock.shards.embed import Embedded, embed
from penstock.shards.foreign import Imported, import_foreign
from penstock.shards.load import Loaded, load
from penstock.shards.proof import Verified, verify

__all__ = ["Embedded", "Imported", "Loaded", "Verified", "embed", "import_foreign", "load", "verify"]
