"""Lists of urls: `urls://list.txt?private=1`, `urls://list.csv?url=address&caption=alt`.

A text has a url a line (`#` begins a comment). `.csv`, `.tsv`, `.jsonl` and `.parquet` have columns: one of urls
(`url`, `image_url`, or the one that `?url=` says), a caption, and more that goes into the metadata. The urls may be
those of images or of documents; what the model does not take is skipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from penstock.core.errors import ParseError, SourceError
from penstock.core.options import Option
from penstock.core.records import Item, Unreadable
from penstock.sources.cells import PLAIN, TEXT, ParquetTable, TableRow
from penstock.sources.columns import URLS, Fields
from penstock.sources.rows import Rows, Table
from penstock.support.pages import PageOpener, check_contact, interrupt
from penstock.support.robots import load_parser

FETCHERS = 16
"""Documents that are fetched at once, of all hosts."""
LINE = 64 << 10
"""The longest line."""


class Urls(Rows):
    """The documents at the urls of lists, which are files or all the lists beneath a folder: a state source.

    An item is named by its url, as in Rows; a line that has none is a failure, with its number. What is at a url is
    taken not to change: it is fetched again when its row is another. Two connections at once lead to a host at most,
    none as long as it asks for that, and for a while none after five failures in a row. Nothing there (404, 410), not
    public, too large: that is so until the row changes. All else is tried again by the next run.

    `robots=1` heeds each host's robots.txt, its Crawl-delay too. By default it is not asked: a list says which urls
    are meant, as somebody who opens them in a browser does, and nothing leads from them to others. `contact` is a url
    or `mailto:` of yours that the hosts see with each request.
    """

    scheme = "urls"
    endings = ("txt", "csv", "tsv", "jsonl", "ndjson", "parquet")
    columns = (
        Option("url", str, None, "the column of urls"),
        *Rows.columns[1:],
        Option("robots", bool, False, "heed the robots.txt of each host"),
        Option("contact", str, None, "a url or mailto: of yours, sent with each request", validate=check_contact),
    )
    options = (*(option for option in Rows.options if option not in Rows.columns), *columns)
    unnamed = frozenset({"robots", "contact"})
    takes = (TEXT,)
    leading = URLS
    fetchers = FETCHERS

    def open(self) -> None:
        """As in Rows. Raises MissingExtra where robots.txt is to be heeded, and nothing that parses it is installed."""
        if self._values["robots"]:
            load_parser()
        super().open()

    def stop(self) -> None:
        """Give up the pages that are being fetched, too: also those of other lists in this process."""
        interrupt()

    def _table(self, stream: BinaryIO, file: Item) -> Table:
        begins = stream.read(4)
        stream.seek(0)
        if begins == b"PAR1":
            return ParquetTable(stream)
        ending = file.uri.partition("?")[0].rpartition(".")[2].lower()
        if ending in ("csv", "tsv"):
            return Separated(stream, "\t" if ending == "tsv" else ",")
        return Objects(stream) if ending in ("jsonl", "ndjson") else Lines(stream)

    def _opener(self, url: str) -> PageOpener:
        return PageOpener(url, self._values["private"], self._values["robots"], self._values["contact"] or "")

    def _at_path(self, file: Item, path: str, metadata: dict[str, Any]) -> Item | Unreadable:
        raise SourceError("this is no url")


class Lines:
    """A url a line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.fields: Fields = {"url": TEXT}

    def rows(self) -> Iterator[TableRow]:
        for number, line in _lines(self._stream):
            if line is None:
                yield TableRow(number, None, cause=_TOO_LONG)
            elif (line := line.strip()) and not line.startswith("#"):
                yield TableRow(number, {"url": line})


class Separated:
    """Commas or tabs between the fields, names in the first line."""

    def __init__(self, stream: BinaryIO, between: str) -> None:
        self._consumed = 0
        self._reader = csv.reader(self._bounded_lines(stream), delimiter=between)
        self._names = [name.strip() for name in next(self._reader, [])]
        self.fields: Fields = dict.fromkeys(self._names, TEXT)

    def rows(self) -> Iterator[TableRow]:
        for values in self._reader:
            self._consumed = 0
            if values:
                yield TableRow(self._reader.line_num, dict(zip(self._names, values, strict=False)))

    def _bounded_lines(self, stream: BinaryIO) -> Iterator[str]:
        """A line left out may have had a quote in it, and then all that follows means something else."""
        for number, line in _lines(stream):
            if line is None:
                raise ParseError(f"line {number}: {_TOO_LONG}")
            # The limit of the module itself is one for all who use it.
            self._consumed += len(line)
            if self._consumed > 2 * LINE:
                raise ParseError(f"line {number}: a quote before it is never closed")
            yield line


class Objects:
    """A JSON object a line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        first = next((row.values for row in self.rows() if row.values), {})
        self.fields: Fields = {name: TEXT if isinstance(value, str) else PLAIN for name, value in first.items()}
        stream.seek(0)

    def rows(self) -> Iterator[TableRow]:
        for number, line in _lines(self._stream):
            if line is None:
                yield TableRow(number, None, cause=_TOO_LONG)
            elif line.strip():
                yield _object(number, line)


_TOO_LONG = f"it has more than {LINE:,} bytes"


def _object(number: int, line: str) -> TableRow:
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        if isinstance(value, dict):
            return TableRow(number, {name: own for name, own in value.items() if _single(own)})
    return TableRow(number, None, cause="it is no JSON object")


def _single(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and value - value == 0)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, str | None]]:
    """Lines with their numbers, from 1 on; None for one that is too long."""
    number = 0
    while line := stream.readline(LINE):
        number += 1
        if len(line) < LINE or line.endswith(b"\n"):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LINE)
        yield number, None
