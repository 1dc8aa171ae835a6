"""Which column of a table is which: as an option says, or by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.core.errors import UsageError
from penstock.sources.cells import BYTES, PLAIN, TEXT

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "img_bytes", "bytes")
URLS = ("url", "image_url", "img_url")
PATHS = ("path", "image_path", "img_path", "file_path", "filename", "file_name", "uri")
CAPTIONS = ("caption", "text", "alt")
KEYS = ("key", "__key__", "id")

Fields = Mapping[str, str]
"""Columns, and what they hold: BYTES, TEXT or PLAIN."""


class Columns(NamedTuple):
    """The columns of a table that are used."""

    image: str
    kind: str
    caption: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Choice:
    """The rules by which columns are chosen."""

    options: Mapping[str, str]
    """The names of columns by option: `picks`, `caption` and `key`."""
    picks: str
    """The option that names the column of images."""
    takes: Sequence[str]
    """The kinds that this column may have."""
    leading: Sequence[str]
    """Names of columns that lead to images elsewhere."""

    def of(self, fields: Fields) -> Columns:
        """The columns of a table with these fields. Raises UsageError where neither option nor name decides."""
        if not fields and BYTES not in self.takes:
            return Columns("", TEXT)  # an empty list
        image = self._image(fields)
        caption = self._named("caption", fields) or next(iter(among(CAPTIONS, fields, TEXT)), None)
        key = None
        if fields[image] == BYTES and self.options.get("key") != "":
            key = self._named("key", fields) or key_of(fields)
        return Columns(image, fields[image], caption, key)

    def _image(self, fields: Fields) -> str:
        if (named := self._named(self.picks, fields)) is not None:
            if fields[named] not in self.takes:
                raise UsageError(f"the column {shown(named)} holds neither images nor paths or urls of them")
            return named
        found = next(filter(None, self._candidates(fields)), [])
        return found[0] if len(found) == 1 else self._unclear(found, fields)

    def _candidates(self, fields: Fields) -> Iterator[Sequence[str]]:
        """Columns that may be the images, the likeliest kind first."""
        if BYTES in self.takes:
            yield among(IMAGES, fields, BYTES)
        yield among(self.leading, fields, TEXT)
        if BYTES in self.takes:
            yield [name for name, kind in fields.items() if kind == BYTES]

    def _unclear(self, found: Sequence[str], fields: Fields) -> str:
        what = f"several columns fit ({', '.join(map(shown, found))})" if found else "no column fits"
        names = ", ".join(map(shown, fields))
        raise UsageError(f"{what}: name one with ?{self.picks}=NAME. There are: {names}")

    def _named(self, option: str, fields: Fields) -> str | None:
        if not (name := self.options.get(option)):
            return None
        if name not in fields:
            raise UsageError(f"{option}={name}: no such column. There are: {', '.join(map(shown, fields))}")
        return name


def key_of(fields: Fields) -> str | None:
    """The column with the rows' names, by its own name."""
    return next(iter(among(KEYS, fields, TEXT, PLAIN)), None)


def among(names: Sequence[str], fields: Fields, *kinds: str) -> list[str]:
    """The fields with such a name, in the names' order."""
    found = [name for name, kind in fields.items() if kind in kinds and name.lower() in names]
    return sorted(found, key=lambda name: names.index(name.lower()))


def shown(name: str) -> str:
    """A column's name; in a table without a header it may be a url, with what is secret in it."""
    bare = re.sub(r"//[^/@]*@", "//", name).partition("?")[0]
    return repr(bare[:40] + "..." if len(bare) > 40 else bare)
