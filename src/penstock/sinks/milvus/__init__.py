"""`milvus://`: a collection of a Milvus server, of Zilliz Cloud, or of Milvus Lite in a folder of this machine.

milvus://localhost:19530/notes?tls=1&database=docs      a server; key: MILVUS_TOKEN, as user:password or API key
milvus://./stores/notes.db/notes                        Milvus Lite; one process at a time has it open
"""

from penstock.sinks.milvus.index import MilvusIndex
from penstock.sinks.milvus.sink import MilvusSink

__all__ = ["MilvusIndex", "MilvusSink"]
