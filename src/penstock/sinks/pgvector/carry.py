"""What the table of a re-index takes over from the one before: columns, indexes and comments of the user, and grants.

What no new table can take over (a view of the user's, a trigger, a policy) keeps a re-index from beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import UsageError
from penstock.sinks.pgvector import columns, full_text
from penstock.sinks.pgvector.url import identifier
from penstock.sinks.store import line

if TYPE_CHECKING:
    import psycopg

GIN = "gin (metadata jsonb_path_ops)"
"""The index of metadata, as the server describes it; `maintain` builds it."""

_OBSTACLES = """
    SELECT DISTINCT CASE v.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || v.oid::regclass
        FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = %(of)s::regclass AND v.oid <> d.refobjid
            AND obj_description(v.oid, 'pg_class') LIKE 'penstock%%' IS NOT TRUE
    UNION SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = %(of)s::regclass AND NOT tgisinternal
    UNION SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = %(of)s::regclass AND rulename <> '_RETURN'
    UNION SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = %(of)s::regclass
    UNION SELECT 'row level security' FROM pg_class WHERE oid = %(of)s::regclass AND relrowsecurity
    UNION SELECT 'constraint ' || conname FROM pg_constraint
        WHERE conrelid = %(of)s::regclass AND contype IN ('c', 'f', 'u', 'x')
    UNION SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass FROM pg_constraint
        WHERE confrelid = %(of)s::regclass
    UNION SELECT 'table ' || inhrelid::regclass FROM pg_inherits WHERE inhparent = %(of)s::regclass
    UNION SELECT 'publication ' || pubname FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
        WHERE prrelid = %(of)s::regclass
    ORDER BY 1"""
_RIGHTS = """
    SELECT format('GRANT %%s ON %%s TO %%s%%s', privilege_type, %(to)s::text, role, CASE WHEN is_grantable
            THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM (SELECT *, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
            FROM pg_class, aclexplode(relacl) WHERE oid = to_regclass(%(of)s) AND grantee <> relowner) g
    UNION ALL SELECT format('GRANT %%s (%%I) ON %%s TO %%s%%s', privilege_type, attname, %(to)s::text, role,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM (SELECT *, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
            FROM pg_attribute, aclexplode(attacl) WHERE attrelid = to_regclass(%(of)s)) g
        WHERE attname = ANY(%(columns)s)
    UNION ALL SELECT format('COMMENT ON COLUMN %%s.%%I IS %%L', %(to)s::text, attname,
            col_description(attrelid, attnum)) FROM pg_attribute
        WHERE attrelid = to_regclass(%(of)s) AND attname = ANY(%(columns)s)
            AND col_description(attrelid, attnum) IS NOT NULL
    UNION ALL SELECT format('COMMENT ON %%s %%s IS %%L', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
            %(to)s::text, obj_description(oid, 'pg_class'))
        FROM pg_class WHERE oid = to_regclass(%(of)s) AND obj_description(oid, 'pg_class') IS NOT NULL
    UNION ALL SELECT format('ALTER TABLE %%s SET (%%s)', %(to)s::text, array_to_string(reloptions, ', '))
        FROM pg_class WHERE oid = to_regclass(%(of)s) AND relkind = 'r' AND reloptions IS NOT NULL"""
_INDEXES = f"""SELECT indisunique, substr(definition, strpos(definition, mark) + length(mark)) FROM (
    SELECT indisunique, pg_get_indexdef(indexrelid) AS definition,
        format(' ON %%I.%%I USING ', nspname, c.relname) AS mark
    FROM pg_index JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = relnamespace
        JOIN pg_class i ON i.oid = indexrelid JOIN pg_am a ON a.oid = i.relam
    WHERE indrelid = to_regclass(%s) AND indisvalid AND amname NOT IN ('hnsw', 'ivfflat') AND NOT ({full_text.INDEX})
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)) AS all_indexes"""


def obstacles(cursor: psycopg.Cursor[Any], table: str) -> list[str]:
    """Objects that belong to the table, or depend on it, and that only their owner can put to another."""
    if not columns.of(cursor, table):
        return []
    return [name for (name,) in cursor.execute(_OBSTACLES, {"of": table})]


def check(cursor: psycopg.Cursor[Any], former: str, view: str, url: str) -> None:
    """Raise UsageError where a re-index would leave something behind on the former table."""
    found = obstacles(cursor, former)
    found += [f"column {column.name} with its sequence" for column in columns.of(cursor, former) if column.numbered]
    if found:
        raise UsageError(
            f"{url}: a re-index makes a new table, which cannot take over from {former}: {', '.join(found)}. Have views"
            f" read {view}, which always shows the current table; remove the others, and add them to the new table"
            " afterwards"
        )


def structure(cursor: psycopg.Cursor[Any], former: str, new: str, url: str) -> None:
    """Give the new table the columns and indexes that the user added to the former one."""
    has = {column.name for column in columns.of(cursor, new)}
    for column in columns.of(cursor, former):
        if column.added and column.name not in has:
            adding = f"ALTER TABLE {new} ADD COLUMN {column.definition()}"
            _take_over(cursor, adding, f"the column {column.name} of {former}", url)
    present = {GIN, *(definition for _, definition in cursor.execute(_INDEXES, (new,)))}
    for unique, definition in cursor.execute(_INDEXES, (former,)).fetchall():
        if definition not in present:
            indexing = f"CREATE {'UNIQUE ' if unique else ''}INDEX ON {new} USING {definition}"
            _take_over(cursor, indexing, f"the index of {former} USING {definition}", url)


def _take_over(cursor: psycopg.Cursor[Any], sql: str, what: str, url: str) -> None:
    import psycopg

    try:
        cursor.execute(sql.encode())
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise UsageError(f"{url}: a re-index cannot take over {what}: {line(error)}; remove it first") from error


def rights(cursor: psycopg.Cursor[Any], former: str, new: str, names: Sequence[str]) -> list[str]:
    """Statements that give the new table or view the grants, comments and settings of the former one.

    Of columns, those of these names.
    """
    values = {"of": former, "to": new, "columns": list(names)}
    return [statement for (statement,) in cursor.execute(_RIGHTS, values).fetchall()]


def values(cursor: psycopg.Cursor[Any], statement: str, ids: Sequence[str], names: Sequence[str]) -> Values:
    """Execute `SELECT {} FROM ... WHERE id = ANY(%s)` or the like; return what these columns of the user's hold by id,
    as COPY takes it."""
    listed = ", ".join(map(identifier, ("id", *names)))
    cursor.execute(statement.format(listed).encode(), (ids,), binary=True)
    result = cursor.pgresult
    assert result is not None
    found: Values = {}
    for row in range(result.ntuples):
        id, *cells = (result.get_value(row, column) for column in range(len(names) + 1))
        assert id is not None
        found[id.decode()] = tuple(cells)
    return found


Values = dict[str, tuple[bytes | None, ...]]
