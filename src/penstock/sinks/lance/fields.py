"""Fields of metadata as columns of a LanceDB table, which filters and facets read.

A column has the values of one field and one kind: `text:department`, `number:author/age`, `flag:draft`, and
`texts:tags` for the rows that have several. A row has a value, a null, or both kinds of a field in two columns.
`other:people` says that a row has the field with nothing in it that is compared. Columns are added when a field is met
first, up to MOST_COLUMNS; after that, `more:` has the names of those that a row would need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from penstock.core import fields, filters
from penstock.core.errors import UsageError
from penstock.core.fields import Path, Scalar
from penstock.core.filters import Filter, HasValue
from penstock.core.records import Metadata
from penstock.sinks.facets import MOST_VALUES
from penstock.sinks.terms import double

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 256
"""A table with thousands of columns is slow to open and to write."""
LONGEST_NAME = 64
"""Characters of a field's name; a hash stands for a longer one."""
KINDS = {str: "text", float: "number", bool: "flag"}
SEVERAL = {"text": "texts", "number": "numbers", "flag": "flags"}
INDEXES = {"text": "Bitmap", "texts": "LabelList", "flag": "Bitmap", "flags": "LabelList", "number": "BTree"}
"""LanceDB's index of a column of each kind, where it has one."""
PRESENT = "other"
MORE = "more:"
SEPARATOR = "\1"
"""Between the texts of a list, where a prefix is looked for: no text that is compared has it but by intent."""


def column(kind: str, path: Path) -> str:
    """The name of a column. LanceDB takes no dots in it."""
    return f"{kind}:{'/'.join(map(_name, path))}"


def _name(part: str) -> str:
    if len(part) > LONGEST_NAME:
        return f"*{blake2b(part.encode(), digest_size=16).hexdigest()}"
    return quote(part, safe="").replace(".", "%2E")


def kind_of(column: str) -> str:
    return column.partition(":")[0]


def is_field(column: str) -> bool:
    return ":" in column


def is_list(column: str) -> bool:
    return kind_of(column) in SEVERAL.values()


def arrow_type(column: str) -> pa.DataType:
    import pyarrow as pa

    kind = kind_of(column)
    types = {"text": pa.string(), "number": pa.float64(), "flag": pa.bool_(), PRESENT: pa.bool_()}
    if column == MORE:
        return pa.list_(pa.string())
    return pa.list_(types[kind.removesuffix("s")]) if is_list(column) else types[kind]


def cells(metadata: Metadata) -> dict[str, Any]:
    """The values of a row, by column."""
    found: dict[str, Any] = {}
    for path, held in fields.leaves(metadata):
        before = len(found)
        for kind, name in KINDS.items():
            same = (value for value in held if fields.kind(value) is kind and value == value)
            values = list(dict.fromkeys(map(_kept, same)))
            if len(values) == 1:
                found[column(name, path)] = values[0]
            elif values:
                found[column(SEVERAL[name], path)] = values
        if len(found) == before:  # nothing, or NaN, which equals nothing
            found[column(PRESENT, path)] = True
    return found


def _kept(value: Scalar) -> Scalar:
    return double(value) if isinstance(value, int) and not isinstance(value, bool) else value


class FieldColumns:
    """The columns of a batch."""

    def __init__(self, metadata: Iterable[Metadata]) -> None:
        known: dict[int, dict[str, Any]] = {}  # chunks of a document share their metadata
        self._rows = [known.get(id(one)) or known.setdefault(id(one), cells(one)) for one in metadata]
        self.names = list(dict.fromkeys(name for row in known.values() for name in row))

    def arrays(self, names: Sequence[str]) -> Iterator[pa.Array]:
        """One for each column, nulls where the batch has no value."""
        import pyarrow as pa

        own = set(self.names)
        for name in names:
            if name == MORE:
                left_out = [[other for other in row if other not in names] for row in self._rows]
                yield pa.array([several or None for several in left_out], type=arrow_type(name))
            elif name in own:
                yield pa.array([row.get(name) for row in self._rows], type=arrow_type(name))
            else:
                yield pa.nulls(len(self._rows), arrow_type(name))


class Condition:
    """Filters in the language of the table's engine, by the columns that the table has."""

    def __init__(self, table: Any, url: str) -> None:
        self._table, self._url = table, url
        self._columns = {name for name in table.schema.names if is_field(name)}

    def sql(self, wanted: Filter) -> str:
        return filters.sql(wanted, filters.literal, self._has_value)

    def _has_value(self, term: HasValue) -> str:
        if term.operator == "exists":
            tests = [f"{_quoted(name)} IS NOT NULL" for name in self._beneath(term)]
        else:
            several = term.value if isinstance(term.value, tuple) else (term.value,)
            tests = []
            for kind in dict.fromkeys(fields.kind(value) for value in several if value is not None):
                values = [value for value in several if value is not None and fields.kind(value) is kind]
                tests += self._of_kind(term, KINDS[kind], values)
        return " OR ".join(tests) or "1 = 0"

    def _of_kind(self, term: HasValue, kind: str, values: Sequence[Scalar]) -> Iterator[str]:
        literals = list(map(_literal, values))
        self.check_complete(term.path)
        for name, test in ((column(kind, term.path), _single), (column(SEVERAL[kind], term.path), _list)):
            if name in self._columns:
                yield f"({_quoted(name)} IS NOT NULL AND {test(_quoted(name), term.operator, literals)})"

    def _beneath(self, term: HasValue) -> list[str]:
        """The columns of a field and of those within it."""
        self.check_complete(term.path)
        own = column("", term.path)
        ends = {name: name[name.index(":") :] for name in self._columns}
        return sorted(name for name, end in ends.items() if end == own or end.startswith(f"{own}/"))

    def check_complete(self, path: Path) -> None:
        """Raise UsageError where a row has the field, or one within it, and there is no column for it."""
        if MORE not in self._columns:
            return
        names, own = f"concat(array_to_string({_quoted(MORE)}, '/:'), '/:')", column("", path)
        if self._table.count_rows(f"{_quoted(MORE)} IS NOT NULL AND contains({names}, {filters.literal(own + '/')})"):
            raise UsageError(
                f"{self._url} cannot look into the field {'.'.join(path)}: it has columns for {MOST_COLUMNS} fields,"
                " and this is none of them"
            )


def _quoted(name: str) -> str:
    return f"`{name}`"


def _literal(value: Scalar) -> str:
    return repr(float(value)) if fields.kind(value) is float else filters.literal(value)


def _single(name: str, operator: str, values: Sequence[str]) -> str:
    if operator == "in":
        return f"{name} IN ({', '.join(values)})"
    if operator == "prefix":
        return f"starts_with({name}, {values[0]})"
    return f"{name} {operator} {values[0]}"


def _list(name: str, operator: str, values: Sequence[str]) -> str:
    if operator in ("=", "in"):
        return f"array_has_any({name}, [{', '.join(values)}])"
    if operator == "prefix":
        texts = f"concat('{SEPARATOR}', array_to_string({name}, '{SEPARATOR}'))"
        return f"contains({texts}, concat('{SEPARATOR}', {values[0]}))"
    extreme = "array_max" if operator in (">", ">=") else "array_min"
    return f"{extreme}({name}) {operator} {values[0]}"


def _is_whole(number: float) -> bool:
    """Whether it is shown as an integer, which it most likely was: columns of numbers are of doubles."""
    return number.is_integer() and abs(number) < 1 << 63


def value_columns(columns: Iterable[str], path: Path) -> list[str]:
    """The columns with the values of a field."""
    own = [column(kind, path) for kind in (*SEVERAL, *SEVERAL.values())]
    existing = set(columns)
    return [name for name in own if name in existing]


def counts(batches: Iterable[pa.RecordBatch], names: Sequence[str]) -> Mapping[tuple[type, Scalar], int]:
    """How many rows have each value of these columns."""
    import pyarrow.compute as pc

    kinds = {name: kind for kind, name in KINDS.items()}
    found: dict[tuple[type, Scalar], int] = {}
    for batch in batches:
        for name in names:
            values, kind = batch.column(name), kind_of(name)
            if is_list(name):
                values, kind = pc.list_flatten(values), kind.removesuffix("s")
            counted = pc.value_counts(values.drop_null())
            pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
            for value, number in pairs:
                key = kinds[kind], int(value) if kind == "number" and _is_whole(value) else value
                found[key] = found.get(key, 0) + number
        if len(found) > MOST_VALUES:
            raise UsageError(f"there are more than {MOST_VALUES:,} different values, which is too many to count")
    return found
