"""Filters and facets on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.cli.conditions import parse_conditions, typed
from penstock.core.errors import UsageError
from tests.cli.conftest import SENTENCE, Run


@pytest.mark.parametrize(
    ("texts", "where"),
    [
        ([], None),
        ([""], None),
        (["{}"], None),
        (["department=hr"], {"department": "hr"}),
        (["department = hr"], {"department": "hr"}),
        (["department!=hr"], {"department": {"$ne": "hr"}}),
        (["year>=2023"], {"year": {"$gte": 2023}}),
        (["year <= 2023"], {"year": {"$lte": 2023}}),
        (["year>2023"], {"year": {"$gt": 2023}}),
        (["signed<2024-05-01"], {"signed": {"$lt": "2024-05-01"}}),
        (["name^=report"], {"name": {"$prefix": "report"}}),
        (["code^=3"], {"code": {"$prefix": "3"}}),
        (['code^="3"'], {"code": {"$prefix": "3"}}),
        (['code="3"'], {"code": "3"}),
        (["draft=true"], {"draft": True}),
        (["page=null"], {"page": None}),
        (['tags=["a", "b"]'], {"tags": ["a", "b"]}),
        (['tags!=["a", "b"]'], {"tags": {"$nin": ["a", "b"]}}),
        (['year={"$gte": 1}'], {"year": {"$gte": 1}}),
        (["uri=12"], {"uri": "12"}),
        (["id=12345678901234567890123456789012"], {"id": "12345678901234567890123456789012"}),
        (["name=NaN"], {"name": "NaN"}),
        (["sum=a=b>c"], {"sum": "a=b>c"}),
        (["wow!=", "the field=x\ny"], {"$and": [{"wow": {"$ne": ""}}, {"the field": "x\ny"}]}),
        (['{"page": 3}', "department=hr"], {"$and": [{"page": 3}, {"department": "hr"}]}),
    ],
)
def test_conditions(texts: list[str], where: dict[str, Any] | None) -> None:
    assert parse_conditions(texts) == where


@pytest.mark.parametrize("text", ["department", "=hr", " =hr", "^=hr", "{page: 3}", '{"page": 3', "~"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(UsageError, match=r"invalid --where.*expected"):
        parse_conditions([text])


@pytest.mark.parametrize("text", ["a==b", "a=>2", "a=<2", "a<>b", "a = = b", "a!==b", "a>>2", "uri==b", "a^==b"])
def test_a_comparison_that_there_is_not(text: str) -> None:
    """It would stand for an odd text: such values are written in JSON, as the message has them."""
    with pytest.raises(UsageError, match=r"unknown comparison.*expected NAME=VALUE") as raised:
        parse_conditions([text])
    assert parse_conditions([str(raised.value).partition("in JSON: ")[2]])


@pytest.mark.parametrize(
    "value", ["a", "3", "=b", "<b>", ">", 3, 1.5, True, "true", " x ", "", "null", '"q"', "[", "ä", "NaN"]
)
def test_a_value_is_shown_as_it_is_typed(value: Any) -> None:
    where = parse_conditions([f"a={typed(value)}"])
    assert where is not None
    assert (type(where["a"]), where["a"]) == (type(value), value)


def test_a_search_is_narrowed_by_metadata(ingest: Run, run: Run, index: str) -> None:
    ingest("-q", "--metadata", "department=hr", "--metadata", "year=2023")

    def found(*where: str) -> list[str]:
        options = [word for one in where for word in ("--where", one)]
        hits = run("search", SENTENCE, "--in", index, "--json", *options).lines
        return sorted(hit["metadata"]["name"] for hit in hits)

    both = ["gates.md", "two words.txt"]
    assert found("department=hr", "year>=2023") == both
    assert found("department=hr", "extension=md") == ["gates.md"]
    assert found("name^=two", '{"year": {"$lt": 2024}}') == ["two words.txt"]
    assert found("department!=hr") == found("year=2024") == found('year="2023"') == []
    assert found("type=text", 'extension=["md", "txt"]') == both
    ran = run("search", SENTENCE, "--in", index, "--where", "department")
    assert (ran.status, ran.out) == (2, "")
    assert "NAME>=VALUE" in ran.err


def test_a_field_that_no_chunk_has_is_named(ingest: Run, run: Run, index: str) -> None:
    """On stderr, also beside JSON; it is no error."""
    ingest("-q", "--metadata", "department=hr")
    hint = "penstock: no chunk has the field 'departmnt'; did you mean 'department'?\n"
    ran = run("search", SENTENCE, "--in", index, "--where", "departmnt=hr")
    assert (ran.status, ran.out, ran.err) == (0, "", f"penstock: nothing found\n{hint}")
    ran = run("search", SENTENCE, "--in", index, "--where", "departmnt=hr", "--json")
    assert (ran.status, ran.out, ran.err) == (0, "", hint)
    ran = run("search", SENTENCE, "--in", index, "--where", "department=it", "--all")
    assert (ran.status, ran.out, ran.err) == (0, "", "penstock: nothing found\n")


def test_facets(ingest: Run, run: Run, index: str) -> None:
    """Below the results, or alone; as a line of JSON after the hits."""
    ingest("-q", "--metadata", 'code="3"', "--metadata", 'tags=["a", "b"]')
    ran = run("search", "--in", index, "--facets", "extension, code", "--facets", "tags,none")
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "extension", "   1  md", "   1  txt",
        "code", '   2  "3"',
        "tags", "   2  a", "   2  b",
        "none", "   no values",
    ]  # fmt: skip
    ran = run("search", SENTENCE, "--in", index, "-k", "1", "--facets", "extension", "--where", "extension=md")
    assert ran.out.startswith("1  ")
    assert ran.out.endswith("extension\n   1  md\n")
    *hits, last = run("search", SENTENCE, "--in", index, "--json", "--facets", "extension,type").lines
    assert [set(hit) >= {"score", "text"} for hit in hits] == [True, True]
    assert last == {
        "facets": {
            "extension": [{"value": "md", "count": 1}, {"value": "txt", "count": 1}],
            "type": [{"value": "text", "count": 2}],
        }
    }
    (last,) = run("search", "--in", index, "--json", "--facets", "extension", "--document", "docs/gates.md").lines
    assert last == {"facets": {"extension": [{"value": "md", "count": 1}]}}
    (last,) = run("search", "--in", index, "--json", "--facets", "extension", "--type", "image").lines
    assert last == {"facets": {"extension": []}}
    for words in (["--facets", "uri"], ["--facets", ","], [], ["x", "--image", "y", "--facets", "extension"]):
        assert run("search", "--in", index, *words).status == 2


def test_facets_need_no_model(ingest: Run, run: Run, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest("-q")
    monkeypatch.setattr("penstock.embedders.names.from_name", None)
    assert run("search", "--in", index, "--facets", "extension").status == 0
