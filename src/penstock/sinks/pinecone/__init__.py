"""Pinecone: a namespace of a serverless index (clients 8 to 10). The key comes from PINECONE_API_KEY.

pinecone://my-index/notes                                   an index that exists
pinecone://my-index/notes?cloud=aws&region=us-east-1        or is created there
pinecone://my-index/notes?host=localhost:5080               of another controller; `tls=1` for TLS on this machine
"""

from penstock.sinks.pinecone.index import PineconeIndex
from penstock.sinks.pinecone.sink import PineconeSink

__all__ = ["PineconeIndex", "PineconeSink"]
