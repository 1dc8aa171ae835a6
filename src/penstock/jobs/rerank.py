"""Reranking: the best hits of a search, whatever kind it is of, in the order of a model that reads question and passage
together."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from penstock.core.contracts import Reranker
from penstock.core.errors import EmbedError, UsageError
from penstock.core.records import Hit
from penstock.jobs.loaded import LoadedModels
from penstock.jobs.pages import Page
from penstock.jobs.queries import Query

AMONG = 50
"""Hits that are reranked, where fewer are asked for."""
rerankers: LoadedModels[Reranker] = LoadedModels(1)
"""That of this process, by its name."""
_opening = threading.Lock()


@contextmanager
def opened(model: str | Reranker) -> Iterator[Reranker]:
    """The reranker, open. One that is named stays so for later searches; one of your own is yours to close."""
    if isinstance(model, Reranker):
        with _opening:  # several may search
            model.open()
        yield model
        return
    if not isinstance(model, str):
        raise UsageError(f"invalid rerank {model!r:.100}: expected the name of a model, or a Reranker")
    from penstock.embedders.names import reranker
    from penstock.jobs.loaded import identity_of

    with rerankers.using(identity_of(model), lambda: reranker(model)) as loaded:
        yield loaded


def candidates(query: Query) -> Query:
    """The query whose hits are reranked. Its least score is one of the reranker's, not of the search."""
    return replace(query, k=max(query.k, AMONG), threshold=None)


def reranked(model: Reranker, query: Query, page: Page) -> Page:
    """The page of the best hits by their texts, each with its rank before."""
    texts = passages(page)
    return ordered(query, page, scored(model, query, texts) if texts else [])


def passages(page: Page) -> list[str]:
    """The texts that are compared with the question. Those of images are only captions."""
    return [hit.chunk.text for hit in page.hits if hit.chunk.image is None]


def scored(model: Reranker, query: Query, texts: Sequence[str]) -> list[float]:
    assert query.text is not None, "a query without a text is refused before it comes here"
    scores = model.score(query.text, texts)
    if len(scores) != len(texts) or not all(map(math.isfinite, scores)):
        raise EmbedError(
            f"{model.describe()} gave {len(scores)} numbers, expected a finite one for each of {len(texts)}"
        )
    return list(map(float, scores))


def ordered(query: Query, page: Page, scores: Sequence[float]) -> Page:
    """The page of the best hits by the scores of its passages, each with its rank before."""
    best = _best(query, page.hits, scores)
    return Page(best, [page.stands_for[hit.rank_before - 1] for hit in best if hit.rank_before], None, page.hint)


def _best(query: Query, hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
    """The best of the hits, the model's best first. Images come behind, in their order and with the
    scores that they have. Where a least score is asked for they are left out."""
    hits = [replace(hit, rank_before=rank) for rank, hit in enumerate(hits, 1)]
    texts = [hit for hit in hits if hit.chunk.image is None]
    found = [replace(hit, score=score) for hit, score in zip(texts, scores, strict=True)]
    found.sort(key=lambda hit: -hit.score)
    if query.threshold is not None:
        return [hit for hit in found if hit.score >= query.threshold][: query.k]
    return [*found, *(hit for hit in hits if hit.chunk.image is not None)][: query.k]
