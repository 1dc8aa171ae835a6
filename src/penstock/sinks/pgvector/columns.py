"""The columns that a table or view has, as the server's catalog describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.records import VECTOR
from penstock.sinks import rows
from penstock.sinks.maxsim import POOLED, pooled_column
from penstock.sinks.pgvector.url import identifier

if TYPE_CHECKING:
    import psycopg

COLUMNS = ", ".join(identifier(name) for name in rows.COLUMNS)
JSON = ("headings", "metadata")
SELECTED = ", ".join(f'"{name}"::text' if name in JSON else f'"{name}"' for name in rows.COLUMNS)
"""JSON as text, whether the columns are jsonb or, as in tables of earlier versions, text."""

_COLUMNS = """SELECT attname, typname, format_type(atttypid, atttypmod),
        CASE WHEN attcollation NOT IN (0, typcollation) THEN attcollation::regcollation::text ELSE '' END,
        coalesce(pg_get_expr(adbin, adrelid), ''), attgenerated <> '', attnotnull,
        attidentity <> '' OR pg_get_serial_sequence(attrelid::regclass::text, attname) IS NOT NULL
    FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: str
    """The name of its type alone."""
    type: str
    """With length, precision or dimension."""
    collation: str
    expression: str
    """The default, or what a generated column is made of."""
    generated: bool
    required: bool
    numbered: bool
    """From a sequence that belongs to the column."""
    is_vector: bool
    """Penstock's vectors are in it."""

    @property
    def added(self) -> bool:
        """Whether the user added it."""
        return self.name not in rows.COLUMNS and not self.is_vector

    @property
    def shown(self) -> tuple[str, str, str]:
        """What a view that is replaced has to keep of a column. Without a dimension all vectors are of one type."""
        return self.name, self.kind if self.is_vector else self.type, self.collation

    def definition(self) -> str:
        collation = f" COLLATE {self.collation}" if self.collation else ""
        made = f" GENERATED ALWAYS AS ({self.expression}) STORED" if self.generated else f" DEFAULT {self.expression}"
        required = " NOT NULL" if self.required else ""
        return f"{identifier(self.name)} {self.type}{collation}{made if self.expression else ''}{required}"


def of(cursor: psycopg.Cursor[Any], table: str) -> list[Column]:
    """The columns of a table or view, by its quoted name; none where it does not exist."""
    found = list(cursor.execute(_COLUMNS, (table,)))
    kinds = {name: kind for name, kind, *_ in found}
    return [Column(*(*row, _is_vector(row[0], kinds))) for row in found]


def _is_vector(name: str, kinds: Mapping[str, str]) -> bool:
    """Vectors of many a point are bytes beside a pooled one; bytes or a vector alone that are called so are the
    user's."""
    if f"{name}_".startswith(f"{VECTOR}_"):
        own = name.removeprefix(f"{VECTOR}_")
        return kinds[name] in ("vector", "sparsevec") or (
            kinds[name] == "bytea" and kinds.get(pooled_column(own)) == "vector"
        )
    own = name.removeprefix(f"{POOLED}_")
    return own != name and kinds[name] == "vector" and kinds.get(rows.vector_column(own)) == "bytea"


def kept_by_user(columns: Sequence[Column]) -> list[str]:
    """The names of columns whose values the user keeps: added, and not generated from others."""
    return [column.name for column in columns if column.added and not column.generated]
