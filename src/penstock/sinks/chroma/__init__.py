"""`chroma://`: a collection of a Chroma server, or of a folder.

chroma://host:8000/notes?tls=1      a server (`chroma run`, 1.5 or later); 8000 if no port is given
chroma://./stores/notes             the collection `notes` of the folder ./stores
"""

from penstock.sinks.chroma.index import ChromaIndex
from penstock.sinks.chroma.sink import ChromaSink

__all__ = ["ChromaIndex", "ChromaSink"]
