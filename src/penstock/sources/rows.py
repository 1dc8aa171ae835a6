"""Images in tables: `parquet://photos/?image=img&caption=alt&key=id`.

A row is an item. Its image is in a column of bytes, or of `{bytes, path}` as Hugging Face's data sets have it; or a
path leads to it, beneath the table's folder; or a url, which is fetched by the rules of `penstock.support.fetching`.
The column is found by its name, or named with `?image=`. The caption and other plain values of the row are the item's
metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar, Protocol
from urllib.parse import parse_qsl, quote, urldefrag, urlencode

from penstock.core.contracts import Source
from penstock.core.errors import PenstockError, SourceError, UsageError
from penstock.core.options import Option, chosen, unknown
from penstock.core.records import Change, Item, ListingEnd, Unreadable, Upsert
from penstock.sources.cells import BYTES, TEXT, Cell, ParquetTable, TableRow, close_files, opened
from penstock.sources.columns import PATHS, URLS, Choice, Columns, Fields, shown
from penstock.sources.files import Files
from penstock.sources.files.address import Address
from penstock.sources.files.remote import UNKNOWN
from penstock.sources.listing import ListingLog, digest_of
from penstock.support.fetching import Fetched, good

_PARQUET = re.compile(r"\.(?=parq(?:uet)?(?:/|$))", re.IGNORECASE)
METADATA = 16 << 10
"""Characters that the fields of a row may have, all together: items wait in thousands."""


class Table(Protocol):
    """A file whose rows are read. Not for two readers at once."""

    @property
    def fields(self) -> Fields:
        """Columns and what they hold: BYTES, TEXT or PLAIN. Raises what the format's reader raises."""

    def rows(self) -> Iterator[TableRow]: ...


_COLUMNS = (
    Option("caption", str, None, "the column of captions"),
    Option("key", str, None, "the column of the rows' names; empty: rows are named by their numbers"),
    Option("private", bool, False, "urls may lead into one's own network"),
)


class Rows(Source):
    """The rows of Parquet files, beneath folders or named: a state source.

    - `parquet://` goes before a local path, `parquet+s3://` (gs, az) before a bucket. Options follow `?`: `image`,
      `caption` and `key` name columns, `private=1` lets urls lead into one's own network.
    - An image in the table is named by its file and its key: the column `key`, `__key__` or `id`, or the one that
      `key=` says. Without one, or with `key=` and nothing after it, it is the row's number, from 0 on: where rows are
      inserted or taken out, those behind it change their names, and are read again (but not embedded again, where the
      index can be read). A key that an earlier row of the file has is listed as a failure.
    - When the file has changed in any way, all its rows have: they are read, and what is as before is not embedded.
    - An image elsewhere is named by its url or file. Rows that name one again are counted as duplicates in
      `passed_over`. Files have their own fingerprints; what is at a url is taken not to change while its row does not.
    - In a bucket every path costs two requests to look the file up.
    """

    scheme: ClassVar[str] = "parquet"
    endings: ClassVar[tuple[str, ...]] = ("parquet", "parq")
    columns: ClassVar[tuple[Option, ...]] = (
        Option("image", str, None, "the column of images, or of the paths and urls that lead to them"),
        *_COLUMNS,
    )
    """Options that a url may have after `?`; the first names the column of images."""
    unnamed: ClassVar[frozenset[str]] = frozenset()
    """Those of them that change nothing of what is listed: they are no part of the source's name."""
    options = (*(option for option in Files.options if option.name != "follow_links"), *columns)
    takes: ClassVar[tuple[str, ...]] = (BYTES, TEXT)
    leading: ClassVar[tuple[str, ...]] = URLS + PATHS

    def __init__(
        self,
        *urls: str | os.PathLike[str],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        hidden: bool = False,
        skip: Sequence[str | os.PathLike[str]] = (),
        storage: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        """`columns`: the options that a url may have as well: `Rows("photos/", image="img", private=True)`."""
        named = chosen(self.columns, columns, f"{self.scheme}://")
        self._options = {
            name: str(int(value)) if isinstance(value, bool) else value
            for name, value in named.items()
            if value is not None and value is not False
        }
        self._choice = Choice(self._options, self.columns[0].name, self.takes, self.leading)
        roots = [self._root(os.fspath(url)) for url in urls]
        self._storage = dict(storage or {})
        wanted = include or [f"*.{form}" for ending in self.endings for form in (ending, ending.upper())]
        self._files = Files(*roots, include=wanted, exclude=exclude, hidden=hidden, skip=skip, storage=self._storage)
        query = [("include", glob) for glob in sorted(include)] + [("exclude", glob) for glob in sorted(exclude)]
        query += [("hidden", "1")] * hidden
        query += sorted((name, value) for name, value in self._options.items() if name not in self.unnamed)
        self._name = f"{self.scheme}+{Files(*roots).name}" + (f"?{urlencode(query)}" if query else "")
        self._values = {
            each.name: each.parse(self._options[each.name]) if each.name in self._options else each.default
            for each in self.columns
        }
        self._passed_over: Counter[str] = Counter()
        self._elsewhere: bool | None = None
        """Known once it is open. True where items are not named by the file that lists them: which ones a broken file
        listed cannot be known then."""
        self._beside: tuple[str, Files] | None = None
        self._known: tuple[bytes, ListingLog] | None = None

    def _root(self, url: str) -> str:
        """The file or folder, without the options."""
        known = [option.name for option in self.columns]
        kind, _, rest = url.partition("://")
        outer, _, inner = kind.partition("+")
        if outer != self.scheme or not rest:
            return url
        root, _, query = rest.rpartition("?") if "?" in rest else (rest, "", "")
        kept = []
        for part in filter(None, query.split("&")):
            ((name, value),) = parse_qsl(part, keep_blank_values=True) or [("", "")]
            if name in known:
                if self._options.setdefault(name, value) != value:
                    raise UsageError(f"{name} is given twice: {self._options[name]!r} and {value!r}")
            elif inner in ("http", "https"):
                kept.append(part)  # the server's
            else:
                raise UsageError(unknown(name, known, f"{kind}://{root}"))
        if not root:
            raise UsageError(f"{kind}:// names no file or folder; write it like {self.scheme}://photos/")
        if inner:
            return f"{inner}://{root}" + (f"?{'&'.join(kept)}" if kept else "")
        return os.path.expanduser(root)

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @property
    def passed_over(self) -> Counter[str]:
        """Entries of Files, `duplicate` rows, and `long field`s that were left out of metadata."""
        return self._files.passed_over + self._passed_over

    def open(self) -> None:
        """Raises UsageError where the first file that can be read has no column of images, or several."""
        self._files.open()
        self._elsewhere = True
        for change in self._listed():
            if isinstance(change, Upsert):
                try:
                    with opened(change.item.opener) as stream:
                        self._elsewhere = self._choice.of(self._table(stream, change.item).fields).kind != BYTES
                        return
                except UsageError as error:
                    raise UsageError(f"{change.item.uri}: {error}") from None
                except Exception:
                    continue  # the listing reports it

    def close(self) -> None:
        self._files.close()
        self._forget()
        self._elsewhere = None
        close_files()

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        complete = True
        with closing(ListingLog()) as log:
            for change in self._walk(log):
                complete &= isinstance(change, Upsert) or not change.listing
                yield change
        if complete:
            yield ListingEnd()

    def lookup(self, uri: str) -> Item | None:
        """The item as it is now. The first of many takes as long as a listing."""
        state = self._state()
        if self._known is None or self._known[0] != state:
            self._forget()
            self._known = state, ListingLog()
            for change in self._walk(self._known[1]):
                self._known[1].add(change)
        known = self._known[1].get(uri)
        if isinstance(known, Upsert):
            return known.item
        if known is None and self._known[1].complete:
            return None
        cause = known.cause if known is not None else f"{self.name} cannot be listed whole"
        raise SourceError(f"cannot read {uri}: {cause}")

    def _state(self) -> bytes:
        """A hash that changes if any file does."""
        hashed = hashlib.blake2b(digest_size=16)
        for change in self._listed():
            state = (change.item.uri, change.item.fingerprint) if isinstance(change, Upsert) else repr(change)
            hashed.update(repr(state).encode(errors="replace"))
        return hashed.digest()

    def _forget(self) -> None:
        if self._known is not None:
            self._known[1].close()
            self._known = None

    # ------------------------------------------------------------ files

    def _listed(self, select: Callable[[str], bool] | None = None) -> Iterator[Change]:
        self._files.select_container = select
        return self._files.changes()

    def _walk(self, log: ListingLog) -> Iterator[Upsert | Unreadable]:
        if self._elsewhere is None:
            self.open()
        self._passed_over.clear()
        # Images elsewhere are shared out by their own names, wherever the list of them lies.
        select = None if self._elsewhere else self.select_container
        for change in self._listed(select):
            if isinstance(change, Upsert):
                if select is None or select(change.item.uri):
                    yield from self._rows(change.item, log)
            elif isinstance(change, Unreadable):
                log.complete = False
                yield replace(change, listing=change.listing or bool(self._elsewhere))

    def _rows(self, file: Item, log: ListingLog) -> Iterator[Upsert | Unreadable]:
        stream = None
        elsewhere = bool(self._elsewhere)
        try:
            stream = opened(file.opener)
            table = self._table(stream, file)
            columns = self._choice.of(table.fields)
            elsewhere = columns.kind != BYTES
            if elsewhere != self._elsewhere:
                raise UsageError("a source reads images in tables, or tables that say where images are, not both")
            for row in table.rows():
                if (change := self._change(file, columns, row, log)) is not None:
                    yield change
            self._still(file)
        except Exception as error:  # pyarrow and csv raise what they like
            # What could not be fetched or read may be as it was; a broken file names none of its rows.
            trouble = error if stream is None else stream.raw.trouble
            log.complete = False
            listing = trouble is not None or elsewhere
            yield Unreadable(file.uri, cause_of(trouble or error), listing=listing)
        finally:
            if stream is not None:
                stream.close()

    def _still(self, file: Item) -> None:
        """Raise SourceError if the file has changed: one that is being written names only some of its items."""
        now = self._files.lookup(file.uri)
        if now is None or (now.fingerprint != file.fingerprint and not file.fingerprint.startswith(UNKNOWN)):
            raise SourceError("it was rewritten while it was read")

    def _table(self, stream: BinaryIO, file: Item) -> Table:
        return ParquetTable(stream)

    # ------------------------------------------------------------ rows

    def _change(self, file: Item, columns: Columns, row: TableRow, log: ListingLog) -> Upsert | Unreadable | None:
        here = f"{file.uri}#{row.number}"
        if row.values is None:
            return Unreadable(here, f"row {row.number}: {row.cause}")
        try:
            if columns.kind == BYTES:
                return Upsert(self._held(file, columns, row, row.values, log))
            pointed = self._pointed(file, columns, row.values, log)
        except SourceError as error:
            return Unreadable(here, f"row {row.number}: {error}")
        return Upsert(pointed) if isinstance(pointed, Item) else pointed

    def _held(self, file: Item, columns: Columns, row: TableRow, values: Mapping[str, Any], log: ListingLog) -> Item:
        """The image is in the table."""
        uri = f"{file.uri}/{row.number}"
        if columns.key is not None:
            key = values.get(columns.key)
            if key is None or key == "":
                raise SourceError(f"it has no {shown(columns.key)}")
            uri = f"{file.uri}/{quoted(str(key))}"
            if log.earlier(uri) is not None:
                raise SourceError(f"an earlier row has its {shown(columns.key)}; ?key= names another column")
        opener = Cell(file.opener, file.fingerprint, columns.image, row.group, row.offset)
        fingerprint = f"{file.fingerprint}-{row.number}"
        return Item(uri, fingerprint, opener, media_type="image/*", metadata=self._metadata(columns, values))

    def _pointed(
        self, file: Item, columns: Columns, values: Mapping[str, Any], log: ListingLog
    ) -> Item | Unreadable | None:
        """The image is elsewhere. None if an earlier row led there."""
        value = values.get(columns.image)
        if not isinstance(value, str) or not (value := value.strip()):
            raise SourceError("it names no image")
        metadata = self._metadata(columns, values)
        if web := value.lower().startswith(("http://", "https://")):
            value = urldefrag(value).url
        item = self._at_url(value, metadata) if web else self._at_path(file, value, metadata)
        if isinstance(item, Unreadable):
            return item
        digest = digest_of(value)
        if (earlier := log.earlier(item.uri, digest)) is None:
            return item
        if earlier != digest and web:
            raise SourceError("an earlier url differs only in what is secret, which is not kept in names")
        self._passed_over["duplicate"] += 1
        return None

    def _at_url(self, url: str, metadata: dict[str, Any]) -> Item:
        if not good(url):
            raise SourceError("this is no url to fetch, or one with a user in it, or not quoted as urls are")
        fingerprint = digest_of(json.dumps([url, metadata], sort_keys=True)).hex()
        return Item(Address(url, {}).uri, fingerprint, self._opener(url), metadata=metadata)

    def _opener(self, url: str) -> Callable[[], BinaryIO]:
        return Fetched(url, self._values["private"])

    def _at_path(self, file: Item, path: str, metadata: dict[str, Any]) -> Item | Unreadable:
        folder, local = file.uri.rpartition("/")[0], file.uri.startswith("file://")
        if folder.startswith(("http://", "https://")):
            raise SourceError("it names a file, and the table lies at a url")
        if self._beside is None or self._beside[0] != folder:
            self._beside = folder, Files(folder, hidden=True, storage=self._storage)
        name = quote(path, errors="replace") if local else path
        uri = f"file://{name}" if local and path.startswith("/") else f"{folder}/{name}"
        if ".." in path.split("/") or "\0" in path or not uri.startswith(f"{folder}/"):
            raise SourceError("the file it names lies elsewhere")
        try:
            item = self._beside[1].lookup(uri)
        except SourceError as error:
            return Unreadable(uri, cause_of(error))  # by its own name: what is in the index of it stays there
        if item is None:
            raise SourceError("the file it names does not exist, or is a link")
        return replace(item, metadata=metadata)

    def _metadata(self, columns: Columns, values: Mapping[str, Any]) -> dict[str, Any]:
        own = (columns.image, columns.key, columns.caption)
        fields = [("caption", values.get(columns.caption or ""))]
        fields += [(name, value) for name, value in values.items() if name not in own]
        metadata: dict[str, Any] = {}
        left = METADATA
        for name, value in fields:
            if value is None or value == "" or name in metadata:
                continue
            left -= (size := len(name) + (len(value) if isinstance(value, str) else 20))
            if left < 0:
                left += size
                self._passed_over["long field"] += 1
            else:
                metadata[name] = value
        return metadata


def cause_of(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, PenstockError) else f"{type(error).__name__}: {text}"


def quoted(key: str) -> str:
    """A key as the end of a uri: it stays beneath, and does not read like another Parquet file."""
    folders = key.split("/")
    name = quote(key, safe="" if {"", ".", ".."} & {*folders} else "/", errors="replace")
    return _PARQUET.sub("%2E", name)
