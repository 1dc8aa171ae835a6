"""Pinecone: a namespace of a serverless index, by its clients 8 to 10. The key comes from PINECONE_API_KEY.

    pinecone://my-index/notes?cloud=aws&region=us-east-1

creates the index there if it does not exist; `host=localhost:5080` names another controller than Pinecone's own.
"""

from penstock.sinks.pinecone.index import PineconeIndex
from penstock.sinks.pinecone.sink import PineconeSink

__all__ = ["PineconeIndex", "PineconeSink"]
