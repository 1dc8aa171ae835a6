"""Elasticsearch (from 8.12 on) and OpenSearch (from 2.13 on): one index, a document a chunk.

`elastic://host:9200/notes?tls=1` takes ELASTIC_API_KEY, or ELASTIC_PASSWORD for a user in the url;
`opensearch://host:9200/notes?tls=1` takes OPENSEARCH_PASSWORD for a user in the url.
"""

from penstock.sinks.elastic.index import ElasticIndex
from penstock.sinks.elastic.sink import ElasticSink

__all__ = ["ElasticIndex", "ElasticSink"]
