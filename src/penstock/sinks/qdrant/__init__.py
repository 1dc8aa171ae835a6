"""`qdrant://`: a collection of a Qdrant server or cloud, over REST, or a folder of the client's local mode.

qdrant://host:6333/notes?tls=1      a server, 1.16 or later; its key in QDRANT_API_KEY, if it wants one
qdrant://./stores/notes             `notes` in the folder ./stores: some 20,000 points, one process at a time
"""

from penstock.sinks.qdrant.index import QdrantIndex
from penstock.sinks.qdrant.sink import QdrantSink

__all__ = ["QdrantIndex", "QdrantSink"]
