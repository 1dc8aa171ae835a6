"""`weaviate://`: a collection of a Weaviate server or cloud, 1.29 or later, over REST and gRPC.

weaviate://host:8080/Notes?grpc=50051               its key in WEAVIATE_API_KEY, if it wants one
weaviate://host:443/Notes?tls=1&grpc=grpc-host:443  where gRPC has a host of its own
"""

from penstock.sinks.weaviate.index import WeaviateIndex
from penstock.sinks.weaviate.sink import WeaviateSink

__all__ = ["WeaviateIndex", "WeaviateSink"]
