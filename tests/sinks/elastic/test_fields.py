"""Filters by metadata where stores have limits: long texts, odd names, large numbers, indices of earlier versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from penstock.core.errors import Rejected, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Metadata, Point
from penstock.core.schema import Manifest
from penstock.sinks.elastic import ElasticIndex, ElasticSink, terms
from penstock.testing.sink_suite import holds, point
from tests.sinks.counted import equal_counts
from tests.sinks.elastic import MANIFEST, Endpoint, opened

pytest.importorskip("elasticsearch")
pytest.importorskip("opensearchpy")
pytest.importorskip("orjson")

OLD = Manifest(replace(MANIFEST.schema, filterable=False))
LONG = terms.LONGEST_TEXT


@contextmanager
def searched(url: str, metadata: Sequence[Metadata]) -> Iterator[tuple[list[Point], ElasticIndex]]:
    points = [point(n, metadata=one) for n, one in enumerate(metadata)]
    with opened(url) as sink, ElasticIndex(url) as index:
        sink.write(points)
        holds(sink, points)
        index.open()
        yield points, index


def check(points: Sequence[Point], index: ElasticIndex, *filters: Metadata) -> None:
    for where in filters:
        wanted = parse_filter(where)
        assert wanted is not None
        found = {hit.chunk.id for hit in index.search(points[0].vectors[VECTOR], k=100, where=where)}
        assert found == {p.id for p in points if passes(p.chunk, wanted)}, where


def test_an_index_of_an_earlier_version(endpoint: Endpoint) -> None:
    """It is written and read as before; by its metadata and types it is neither filtered nor counted."""
    url, server = endpoint
    points = [point(1, metadata={"department": "hr"}, page=2), point(2, image=b"x", page=3)]
    with ElasticSink(url) as sink, ElasticIndex(url) as index:
        sink.open(OLD)
        assert not {"type", "fields"} & server.indices["notes"].fields.keys()
        server.indices["notes"].meta["penstock"] = _without_filterable(server.indices["notes"].meta["penstock"])
        sink.close()
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        index.open()
        check(points, index, {"page": 2})
        for where in ({"department": "hr"}, {"page": 2, "$not": {"type": "image"}}):
            with pytest.raises(UsageError, match="penstock reindex"):
                index.search(points[0].vectors[VECTOR], where=where)
        for name in ("department", "type"):
            with pytest.raises(UsageError, match="penstock reindex"):
                index.facets([name])


def _without_filterable(manifest: str) -> str:
    kept = json.loads(manifest)
    del kept["schema"]["filterable"]
    return json.dumps(kept)


def test_long_texts(endpoint: Endpoint) -> None:
    """Equality is exact for texts of any length, order and prefixes up to LONG characters; longer ones are refused."""
    head = "ä" * LONG
    texts = [head, head + "a", head + "b" * 40_000, head[:-1], head[:-1] + "z" * 50, "ä", head[:-1] + "\U0010ffff" * 3]
    with searched(endpoint[0], [{"text": text, "both": [text, "x"]} for text in texts]) as (points, index):
        for text in (*texts, head + "c"):
            check(points, index, {"metadata.text": text}, {"both": [text, "y"]}, {"both": {"$ne": text}})
            for sign in ("$lt", "$lte", "$gt", "$gte", "$prefix"):
                if len(text) <= LONG:
                    check(points, index, {"metadata.text": {sign: text}}, {"$not": {"both": {sign: text}}})
                else:
                    with pytest.raises(UsageError, match=r"both is compared with a text of"):
                        index.search(points[0].vectors[VECTOR], where={"both": {sign: text}})
        assert dict(index.facets(["both"])["both"]) == {"x": len(texts)} | dict.fromkeys(texts, 1)
        assert dict(index.facets(["metadata.text"])["metadata.text"]) == dict.fromkeys(texts, 1)


def test_names_of_any_form(endpoint: Endpoint) -> None:
    """No two fields are taken for one, whatever their names, and the mapping does not grow by them."""
    url, server = endpoint
    names = [
        '"a" & <b> ~ @c',
        "a=sx",
        "\\",
        "\\=",
        "#",
        "#" + terms.digest("x" * 300),
        "(*)[a-z]{2}|d?+^$-",
        " ",
        "1",
        "Ω",
    ]
    names += ["x" * 300, "x" * 301, "\U0001f30a" * 256, "=" * 128, "fields", "type", "\x00\n", "naïve 'x'"]
    metadata: list[Metadata] = [{name: name} for name in names]
    metadata += [{"deep": {name: n}} for n, name in enumerate(names)]
    metadata += [
        {"a": "sx"},
        {"a": {"=sx": True}},
        {"a.b": 1},
        {"a": {"b": 1}},
        {"x" * 300: {"y": [None, {}]}},
        {"box": {"list": []}},
    ]
    with searched(url, metadata) as (points, index):
        assert set(server.indices["notes"].fields) > {"fields", "type"}
        before = json.dumps(server.indices["notes"].mapping())
        for n, name in enumerate(names):
            of_chunk = f"metadata.{name}"
            check(points, index, {of_chunk: name}, {of_chunk: {"$exists": True}}, {of_chunk: {"$gte": name[:1]}})
            check(points, index, {f"deep.{name}": n}, {f"deep.{name}": {"$exists": False}})
            assert index.facets([of_chunk])[of_chunk] == [(name, 1)], name
            assert index.facets([f"deep.{name}"]).popitem()[1] == [(n, 1)], name
        asked: list[Metadata] = [{"a": "sx"}, {"a": {"$exists": True}}, {"a.b": 1}, {"deep": {"$exists": True}}]
        check(
            points,
            index,
            {"box": {"$exists": True}},
            {"box.list": {"$exists": True}},
            *asked,
            {"x" * 300: {"$exists": True}},
            {f"{'x' * 300}.y": None},
        )
        assert json.dumps(server.indices["notes"].mapping()) == before


def test_numbers_have_their_order() -> None:
    """Their terms do, integers that no double holds among them, and each is had back from its term."""
    power = 1 << 53
    numbers = [float("-inf"), -1e308, -(1 << 60) - 1, -(1 << 60), -power - 1, -power, -2.5, -1, -5e-324, 0, 5e-324, 0.1]
    numbers += [1, 255, 256, 1 << 52, power, power + 1, power + 2, 1e17, 10**17 + 1, (1 << 62) + 1, 1e300, float("inf")]
    written = [terms.term_of("n", number) for number in numbers]
    assert all(low < high for low, high in pairwise(written))
    assert [terms.value_of(term, "n") for term in written] == numbers
    assert terms.term_of("n", -0.0) == terms.term_of("n", 0) == terms.term_of("n", 0.0)


def test_numbers_that_no_double_holds(endpoint: Endpoint) -> None:
    """They are found by what they are more or less than, equal none of their neighbours, and are counted unrounded."""
    power = 1 << 53
    values: list[Any] = [power, power + 1, -power, -power - 1, float(power), [1, 1.0, True, "1"], 10**18, 1 << 62]
    with searched(endpoint[0], [{"n": value} for value in values]) as (points, index):
        for asked in (power, -power, 1, 1e18, float(1 << 62)):
            check(points, index, *({"n": {sign: asked}} for sign in ("$eq", "$lt", "$lte", "$gt", "$gte")))
        counted = index.facets(["n"])["n"]
        assert {power + 1, -power - 1, 10**18, 1 << 62} < {value for value, _ in counted}
        assert [one for one in counted if str(one[0]) in ("1", "True")] == [(1, 1), ("1", 1), (True, 1)]
    with opened(endpoint[0]) as sink, pytest.raises(Rejected):
        sink.write([point(1, metadata={"n": 10**400})])


def test_many_values(endpoint: Endpoint) -> None:
    """A list of any length is found by each of its values; facets have a limit, which is said."""
    metadata: Metadata = {"many": [f"value {n}" for n in range(12_000)]}
    with searched(endpoint[0], [metadata, {"many": "value 3"}]) as (points, index):
        check(points, index, {"many": "value 11999"}, {"many": ["value 7", "value 3"]}, {"many": {"$lt": "value 1"}})
        assert index.facets(["many"], limit=2)["many"] == [("value 3", 2), ("value 0", 1)]
        assert len(index.facets(["many"], limit=10_000)["many"]) == 10_000
        assert index.facets(["many", "type"], limit=0) == {"many": [], "type": []}
        with pytest.raises(UsageError, match="10,000"):
            index.facets(["many"], limit=10_001)


def test_values_of_equal_counts(endpoint: Endpoint) -> None:
    """Long texts among them, of which the terms have only the beginning."""
    url = endpoint[0]
    with opened(url) as sink, ElasticIndex(url) as index:
        index.open()
        equal_counts(sink, index)
        long = ["x" * LONG + letter for letter in "abc"]
        sink.write([point(9, metadata={"n": [1, *long]})])
        sink.flush()
        assert index.facets(["n"], limit=1) == {"n": [(1, 1)]}
        counts = index.facets(["n"], limit=4)["n"]
        assert counts == [(value, 1) for value in (1, *long)]
