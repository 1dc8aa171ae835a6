"""Filters and facets by SQLite's own functions of JSON.

A field is found step by step along its path, by names that are parameters: SQLite has no way to quote every name in a
path of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from penstock.core import fields, filters
from penstock.core.fields import Path, Scalar
from penstock.core.filters import Every, Filter, HasValue, Not, Some
from penstock.sinks.sqlite.file import File

Put = Callable[[Scalar], str]

GROUP = 32
"""Terms that are joined as they are."""

_KIND = "CASE {0}.type WHEN 'real' THEN 'number' WHEN 'integer' THEN 'number' WHEN 'text' THEN 'text' ELSE 'flag' END"

_WRITTEN = """CASE {0}.type WHEN 'true' THEN 'True' WHEN 'false' THEN 'False' WHEN 'real'
    THEN iif({0}.value = round({0}.value), printf('%.0f', {0}.value), CAST({0}.value AS TEXT))
    ELSE CAST({0}.value AS TEXT) END"""
"""What values of equal counts are ordered by: see `penstock.sinks.facets.written`."""


def condition(wanted: Filter, values: list[Any]) -> str:
    """The filter as a condition on `chunks`, whose parameters are appended to `values`."""
    put = filters.Parameters("?", values)
    return filters.sql(_grouped(wanted), put, lambda term: _has_value(term, put))


def _grouped(wanted: Filter) -> Filter:
    """The same filter, of which no list of terms is long: in SQLite's tree a chain of them has as many levels, of which
    there may be a thousand."""
    match wanted:
        case Every(terms) | Some(terms):
            kind, grouped = type(wanted), tuple(map(_grouped, terms))
            size = math.isqrt(len(terms)) + 1
            if len(terms) <= GROUP:
                return kind(grouped)
            return kind(tuple(kind(grouped[start : start + size]) for start in range(0, len(grouped), size)))
        case Not(term):
            return Not(_grouped(term))
    return wanted


def _has_value(term: HasValue, put: Put) -> str:
    steps, found = _steps(term.path, put)
    if term.operator == "exists":
        empty = f"{found}.type IN ('array', 'object') AND {found}.value IN ('[]', '{{}}')"
        return f"EXISTS (SELECT 1 FROM {steps} AND {found}.type <> 'null' AND NOT ({empty}))"
    steps, one = _elements(steps, found)
    if isinstance(term.value, tuple):
        test = _among(one, term.value, put)
    else:
        assert term.value is not None
        test = _test(one, term.operator, term.value, put)
    return f"EXISTS (SELECT 1 FROM {steps} AND ({test}))"


def _steps(path: Path, put: Put) -> tuple[str, str]:
    """The tables, with their conditions, of which the last has the value at the path; and the name of that one."""
    tables = ["json_each(metadata) AS step0"]
    for depth in range(1, len(path)):
        before = f"step{depth - 1}"
        tables.append(f"json_each(iif({before}.type = 'object', {before}.value, '{{}}')) AS step{depth}")
    names = " AND ".join(f"step{depth}.key = {put(name)}" for depth, name in enumerate(path))
    return f"{' CROSS JOIN '.join(tables)} WHERE {names}", f"step{len(path) - 1}"


def _elements(steps: str, found: str) -> tuple[str, str]:
    """The same with one more table, of the values: those of a list, or the one that is no list."""
    value = f"""CASE {found}.type WHEN 'array' THEN {found}.value WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
        WHEN 'object' THEN '[]' ELSE json_quote({found}.value) END"""
    tables, _, conditions = steps.partition(" WHERE ")
    return f"{tables} CROSS JOIN json_each({value}) AS one WHERE {conditions}", "one"


def _test(one: str, operator: str, value: Scalar, put: Put) -> str:
    if isinstance(value, bool):
        return f"{one}.type = '{'true' if value else 'false'}'"
    if not isinstance(value, str):
        return f"{one}.type IN ('integer', 'real') AND {one}.value {operator} {put(value)}"
    if operator == "prefix":
        after = filters.successor(value)
        asked = f"{one}.type = 'text' AND {one}.value >= {put(value)}"
        return f"{asked} AND {one}.value < {put(after)}" if after else asked
    return f"{one}.type = 'text' AND {one}.value {operator} {put(value)}"


def _among(one: str, values: Sequence[Scalar], put: Put) -> str:
    tests = [_test(one, "=", value, put) for value in dict.fromkeys(v for v in values if isinstance(v, bool))]
    for types, kind in (("'text'", str), ("'integer', 'real'", float)):
        if same := [value for value in values if fields.kind(value) is kind]:
            tests.append(f"{one}.type IN ({types}) AND {one}.value IN ({', '.join(map(put, same))})")
    return " OR ".join(tests) or "1 = 0"


def facet(file: File, path: Path | None, wanted: Filter | None, limit: int) -> Sequence[tuple[Scalar, int]]:
    """Count the values at a path, or for None the types."""
    values: list[Any] = []
    if path is None:
        tables, one, written, there = "chunks", "iif(image IS NULL, 'text', 'image'), 'text'", "1", "true"
    else:
        steps, found = _steps(path, filters.Parameters("?", values))
        joined, name = _elements(steps, found)
        tables, _, there = f"chunks CROSS JOIN {joined}".partition(" WHERE ")
        one, written = f"{name}.value, {_KIND.format(name)}", _WRITTEN.format(name)
        there += f" AND {name}.type NOT IN ('array', 'object', 'null')"
    # In a query of its own: tables of JSON have columns of the names of ours.
    within = f'chunks."key" IN (SELECT "key" FROM chunks WHERE {condition(wanted, values)})' if wanted else "true"
    sql = f"""SELECT {one}, count(DISTINCT chunks."key") FROM {tables}
        WHERE {there} AND {within} GROUP BY 1, 2 ORDER BY 3 DESC, {written}, 2 LIMIT {limit}"""
    return [(bool(value) if kind == "flag" else value, number) for value, kind, number in file.all(sql, values)]
