"""`penstock search`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from penstock.cli.conditions import parse_conditions
from penstock.cli.output.results import copies_line, facet_text, hit_body, hit_head, hit_json, say
from penstock.cli.output.streams import OK, complain, emit
from penstock.compose import check_distinct, make_index, open_index
from penstock.core.errors import UsageError
from penstock.jobs.following import opened
from penstock.jobs.rerank import AMONG
from penstock.jobs.search import DISTINCT_AMONG, DistinctHit, collapse, distinct_hits, facets_json
from penstock.jobs.searchable import FACET_LIMIT, Facets, Hits, Searchable
from penstock.jobs.since import within
from penstock.jobs.snippets import words_of
from penstock.jobs.together import add_facets, facet_values, of_index
from penstock.sources import uri_of


def search(args: argparse.Namespace) -> int:
    names = list(dict.fromkeys(name for text in args.facets for each in text.split(",") if (name := each.strip())))
    if args.query is not None and args.image is not None:
        raise UsageError("search takes words, or --image FILE, not both")
    if args.query is None and args.image is None:
        if not names:
            raise UsageError("search takes words, --image FILE or --facets NAMES")
        _show_facets(_count(args, names), args.json)
        return OK
    where = _filter(args)
    query: str | Path = args.query if args.image is None else Path(args.image)
    types = [args.type] if args.type else None
    notes: list[str] = []
    sources: dict[str, str] = {}
    with _open(args.indexes) as index:

        def nearest(k: int) -> Hits:
            hits = index.search(
                query,
                k,
                where,
                using=args.using,
                hybrid=args.hybrid,
                threshold=args.threshold,
                distinct=args.distinct,
                types=types,
                since=args.since,
                rerank=args.rerank,
            )
            sources.update({hit.chunk.id: url for hit, url in zip(hits, hits.sources, strict=True)})
            notes[:] = [f"{url} was not searched: {why}" for url, why in hits.skipped.items()]
            notes.extend([hits.hint] if hits.hint else [])
            return hits

        if args.rerank and not (args.all or args.distinct):
            hits = collapse(nearest(max(args.k, AMONG)))[: args.k]  # once: reranking more would cost more
        elif args.all or args.distinct:
            page = nearest(args.k)
            hits = [DistinctHit(hit, stands_for=n) for hit, n in zip(page, page.stands_for, strict=True)]
        else:
            hits = distinct_hits(nearest, args.k)
        facets = index.facets(names, within(_filter(args, args.type), args.since)) if names else {}
    if args.json:
        for distinct in hits:
            emit(hit_json(distinct, sources[distinct.hit.chunk.id]))
    else:
        words = words_of(args.query or "")
        for number, distinct in enumerate(hits, 1):
            say(hit_head(number, distinct.hit, sources[distinct.hit.chunk.id] if len(args.indexes) > 1 else ""))
            say(*hit_body(distinct.hit, words, full=args.full), *copies_line(distinct), indent=3)
        if not hits:
            complain("nothing found")
        elif len(hits) < args.k and len(hits) + sum(len(each.copies) for each in hits) >= DISTINCT_AMONG:
            different = f"the nearest {DISTINCT_AMONG:,} hits have only {len(hits):,} different texts"
            complain(f"{different}; --all shows every hit")
    for note in notes:
        complain(note)
    if names:
        _show_facets(facets, args.json)
    return OK


def _open(urls: list[str]) -> Searchable:
    return open_index(urls) if len(urls) > 1 else open_index(urls[0])


def _filter(args: argparse.Namespace, type: str | None = None) -> dict[str, Any] | None:
    """What all options ask for that narrow a search."""
    terms = [parse_conditions(args.where)]
    if args.document:
        terms.append({"uri": uri_of(args.document)})
    if type:
        terms.append({"type": type})
    asked = [term for term in terms if term]
    return {"$and": asked} if len(asked) > 1 else asked[0] if asked else None


def _count(args: argparse.Namespace, names: list[str]) -> Facets:
    """Count without a query, and so without the model."""
    where = within(_filter(args, args.type), args.since)

    def count(url: str, limit: int) -> Facets:
        with make_index(url) as base, opened(base) as index:
            return index.facets(names, where, limit=limit)

    if len(args.indexes) == 1:
        return count(args.indexes[0], FACET_LIMIT)
    check_distinct(args.indexes)
    counts = []
    for url in args.indexes:
        with of_index(url):
            counts.append(count(url, facet_values(FACET_LIMIT)))
    return add_facets(counts, FACET_LIMIT)


def _show_facets(facets: Facets, json: bool) -> None:
    if json:
        emit({"facets": facets_json(facets)})
    else:
        say(*(facet_text(name, counts) for name, counts in facets.items()))
