"""Elasticsearch (from 8.12 on) and OpenSearch (from 2.13 on): one index, a document a chunk.

elastic://host:9200/notes?tls=1       ELASTIC_API_KEY, or ELASTIC_PASSWORD of the url's user
opensearch://host:9200/notes?tls=1    OPENSEARCH_PASSWORD of the url's user
"""

from penstock.sinks.elastic.index import ElasticIndex
from penstock.sinks.elastic.sink import ElasticSink

__all__ = ["ElasticIndex", "ElasticSink"]
