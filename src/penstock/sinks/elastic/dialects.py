"""The two products: the names of their indices, their clients, and their mappings and searches of vectors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.schema import VectorSpec
from penstock.sinks import address

EXAMPLES = {"elastic": "elastic://localhost:9200/notes", "opensearch": "opensearch://localhost:9200/notes"}
TIMEOUT = 60
ANALYZER = "penstock"
_WORDS = {"tokenizer": "standard", "filter": ["cjk_width", "lowercase", "asciifolding", "cjk_bigram"]}
_ANALYSIS = {"analysis": {"analyzer": {ANALYZER: {"type": "custom", **_WORDS}}}}
"""Words of any language: without accents, and of scripts without spaces each two neighbouring characters."""


def scheme_of(url: str) -> str:
    return "opensearch" if url.lower().startswith("opensearch:") else "elastic"


def parse(url: str) -> address.Address:
    """The address. Raises UsageError for a name that no index can have."""
    scheme = scheme_of(url)
    more = {address.QUANTIZATION} if scheme == "elastic" else set()
    at = address.parse(url, scheme, EXAMPLES[scheme], port=9200, options=frozenset({"tls", *more}))
    name = at.names[0] if at.names else ""
    if at.folder or name != name.lower() or re.search(r'^[-_+.]|[\\/*?"<>|\s,#:]', name) or len(name.encode()) > 255:
        raise UsageError(
            f"invalid index name in {url!r}: expected lower case, at most 255 bytes, without spaces or any of"
            rf' \/*?"<>|,#: and not beginning with one of -_+. ; write it like {EXAMPLES[scheme]}'
        )
    return at


class Elastic:
    """Elasticsearch. Driver 9 speaks to servers from 9 on, driver 8 to both 8 and 9."""

    bulk_method = "PUT"
    settings: Mapping[str, Any] = {"index": _ANALYSIS}
    _similarity: Mapping[str, str] = {"cosine": "cosine", "dot": "max_inner_product", "l2": "l2_norm"}
    _scripts: Mapping[str, str] = {
        "cosine": "cosineSimilarity(params.q, '{}') + 1.0",
        "dot": "double d = dotProduct(params.q, '{}'); return d < 0 ? 1 / (1 - d) : d + 1;",
        "l2": "1 / (1 + l2norm(params.q, '{}'))",
    }
    _max_sim = "double d = maxSimDotProduct(params.q, '{}'); return d < 0 ? 1 / (1 - d) : d + 1;"

    def __init__(self) -> None:
        import elastic_transport
        import elasticsearch

        self._client = elasticsearch.Elasticsearch
        self.errors: tuple[type[Exception], ...] = (elastic_transport.TransportError, elastic_transport.ApiError)

    def connect(self, at: address.Address) -> Any:
        key, password = os.environ.get("ELASTIC_API_KEY"), os.environ.get("ELASTIC_PASSWORD", "")
        login: dict[str, Any] = {}
        if at.user:
            login["basic_auth"] = (at.user, password)
        elif key:
            login["api_key"] = key
        return self._client(_base(at), request_timeout=TIMEOUT, max_retries=0, retry_on_timeout=False, **login)

    def send(self, client: Any, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Any:
        headers = {"accept": "application/json", **headers}
        return client.perform_request(method, target, headers=headers, body=body).body

    def mapping(self, space: VectorSpec) -> dict[str, Any]:
        """The mapping of a field of such vectors."""
        if space.kind == "Sparse":
            return {"type": "sparse_vector"}
        if space.kind == "MultiVector":
            return {"type": "rank_vectors", "dims": space.dim}
        graph = {"type": "hnsw"}  # the default quantizes
        shape = {"dims": space.dim, "similarity": self._similarity[space.metric], "index_options": graph}
        return {"type": "dense_vector", "index": True, **shape}

    def exact(self, field: str, query: Any, space: VectorSpec) -> dict[str, Any]:
        """The script that scores each document."""
        source = self._max_sim if space.kind == "MultiVector" else self._scripts[space.metric]
        return {"source": source.format(field), "params": {"q": query}}

    def near(self, field: str, query: Any, k: int, candidates: int, within: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a search that walks the graph."""
        near = {"field": field, "query_vector": query, "k": k, "num_candidates": candidates, "filter": within}
        return {"knn": near}


class OpenSearch:
    """OpenSearch. Its Lucene engine filters while it walks the graph, and has all three metrics."""

    bulk_method = "POST"
    settings: Mapping[str, Any] = {"index": {"knn": True, **_ANALYSIS}}
    _spaces: Mapping[str, str] = {"cosine": "cosinesimil", "dot": "innerproduct", "l2": "l2"}

    def __init__(self) -> None:
        import opensearchpy

        self._client = opensearchpy.OpenSearch
        self._not_found = opensearchpy.exceptions.NotFoundError
        self.errors: tuple[type[Exception], ...] = (opensearchpy.exceptions.OpenSearchException,)

    def connect(self, at: address.Address) -> Any:
        auth = (at.user, os.environ.get("OPENSEARCH_PASSWORD", "")) if at.user else None
        return self._client(_base(at), http_auth=auth, timeout=TIMEOUT, max_retries=0, retry_on_timeout=False)

    def send(self, client: Any, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Any:
        # 404 is not left to the driver, which would log a warning whenever an index is looked for
        answer = client.transport.perform_request(method, target, headers=headers, body=body, ignore=(404,))
        if isinstance(answer, Mapping) and answer.get("status") == 404 and "error" in answer:
            raise self._not_found(404, "", answer)
        return answer

    def mapping(self, space: VectorSpec) -> dict[str, Any]:
        method = {"name": "hnsw", "engine": "lucene", "space_type": self._spaces[space.metric]}
        return {"type": "knn_vector", "dimension": space.dim, "method": method}

    def exact(self, field: str, query: Any, space: VectorSpec) -> dict[str, Any]:
        params = {"field": field, "query_value": query, "space_type": self._spaces[space.metric]}
        return {"lang": "knn", "source": "knn_score", "params": params}

    def near(self, field: str, query: Any, k: int, candidates: int, within: Mapping[str, Any]) -> dict[str, Any]:
        return {"query": {"knn": {field: {"vector": query, "k": candidates, "filter": within}}}}


Dialect = Elastic | OpenSearch
DIALECTS: dict[str, Callable[[], Dialect]] = {"elastic": Elastic, "opensearch": OpenSearch}


def _base(at: address.Address) -> str:
    host = f"[{at.host}]" if ":" in at.host else at.host
    return f"{'https' if at.tls else 'http'}://{host}:{at.port}"
