"""Full text of a table of PostgreSQL: a GIN index of its texts, ranked by how rare and how frequent words are.

The server's parser would take `foo_bar.baz` for a host and part `ERR_4711`, so that punctuation is made spaces first,
and `_` a letter. Its own ranks know no rare words: see `search`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.sinks import words
from penstock.sinks.pgvector.connection import scalar

if TYPE_CHECKING:
    import psycopg

_SPACES = "./@-+&<\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
"""What the parser joins words by, and what is a letter to it in the locale C. Each costs time at every letter."""
_CUT = "translate({}, '_" + _SPACES + "', '\u01c0" + " " * len(_SPACES) + "')"
VECTOR = f"to_tsvector('simple', {_CUT.format('left(text, 100000)')})"
"""Of more characters, there may be more words than a tsvector takes."""
_QUERY = f"plainto_tsquery('simple', {_CUT.format('word')})"
INDEX = "coalesce(strpos(pg_get_expr(indexprs, indrelid), '(text, 100000)'), 0) > 0"
"""Whether a row of pg_index is of the index of words."""
_EXISTS = f"SELECT true FROM pg_index WHERE indrelid = to_regclass(%s) AND indisvalid AND {INDEX}"

COUNTED = 10_000
"""Rows that have a word are counted up to so many."""
CANDIDATES = 2000
"""So many rows that have one of the rarest words are ranked; further words of the question count, but find no more,
unless there are fewer than are asked for."""
RANKED = 10_000
"""Rows that are ranked at most, where all words are frequent: it takes some 0.1 ms a row."""


def exists(cursor: psycopg.Cursor[Any], table: str) -> bool:
    """Whether the table has full text: one of an earlier version gets it by `maintain`."""
    return bool(scalar(cursor, _EXISTS, (table,)))


def create(cursor: psycopg.Cursor[Any], table: str) -> None:
    """Have an index of the words, unless the database cannot hold all characters."""
    if scalar(cursor, "SELECT current_setting('server_encoding') = 'UTF8'") and not exists(cursor, table):
        cursor.execute(f"CREATE INDEX ON {table} USING gin ({VECTOR})".encode())


def queries(cursor: psycopg.Cursor[Any], table: str, question: str) -> list[tuple[str, int]]:
    """The words of a question as queries of the server's, and how many rows have each, up to COUNTED: rarest first."""
    # Of queries that it does not know yet, the planner expects so much that it would read the table for each.
    cursor.execute("SELECT set_config('enable_seqscan', 'off', true)")
    sql = f"""SELECT query::text, (SELECT count(*) FROM (
            SELECT FROM {table} WHERE {VECTOR} @@ query LIMIT {COUNTED}) AS several) AS number
        FROM (SELECT DISTINCT {_QUERY} AS query FROM unnest(%s::text[]) AS word) AS asked
        WHERE numnode(query) > 0 ORDER BY number"""
    return [row for row in cursor.execute(sql.encode(), (words.as_written(question),)).fetchall() if row[1]]


def ranked(table: str, columns: str, passing: str, k: int) -> str:
    """The statement that finds the k best. Its values: what finds rows, those of `passing`, queries, their weights.

    The score is like that of BM25: ts_rank of one word grows less and less with how often it is there, up to 1.
    """
    return f"""SELECT {columns}, ranks.score
        FROM (SELECT * FROM {table} WHERE {VECTOR} @@ %s::tsquery AND {passing} LIMIT {RANKED}) AS found,
        LATERAL (SELECT {VECTOR} AS words OFFSET 0) AS cut,
        LATERAL (SELECT sum(asked.weight * ts_rank('{{1,1,1,1}}', cut.words, asked.query, 1)) AS score
            FROM unnest(%s::tsquery[], %s::float8[]) AS asked (query, weight) WHERE cut.words @@ asked.query) AS ranks
        ORDER BY ranks.score DESC, id LIMIT {k}"""


def weights(counts: Sequence[int], rows: int) -> list[float]:
    """How much each word counts, by how many of the rows have it."""
    return [math.log(1 + (max(rows, count) - count + 0.5) / (count + 0.5)) for count in counts]


def rarest(asked: Sequence[tuple[str, int]]) -> int:
    """How many of the words, the rarest of which is first, are looked for at first."""
    total = 0
    for position, (_, count) in enumerate(asked):
        total += count
        if position and total > CANDIDATES:
            return position
    return len(asked)
