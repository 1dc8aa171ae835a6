"""Fields out of the path of a document, by a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from penstock.core.errors import UsageError
from penstock.core.records import NOTHING, Item


def path_of(uri: str) -> str:
    """A uri as people write it: a path, or a url without its query. Keys of a bucket are written as they are."""
    if not uri.startswith(("file:", "http:", "https:")):
        return uri
    return unquote(re.split(r"[?#]", uri, maxsplit=1)[0], errors="replace").removeprefix("file://")


FROM_PATH = "from_path"
_TOKEN = re.compile(r"\{(\w+)(?::(\w+))?\}|\*|[^{*]+|.")
_KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "int": (re.compile(r"[0-9]{1,18}"), int),
    "date": (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), str),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the pattern between two slashes: a literal text, or a wildcard, which may be a named field."""

    literal: str = ""
    field: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class PathFields:
    """Fields out of a path: `docs/{department}/{year:int}/*`. It matches the end of a path; `**` is any number of
    folders. Documents whose path does not match have none of the fields.

    A field ends where the text that follows it in the pattern occurs first. So nothing is tried twice, and no name,
    however hostile, takes long.
    """

    pattern: str

    def __post_init__(self) -> None:
        names = [part.field for segment in self._segments() for part in segment or () if part.field]
        if not names or len(set(names)) < len(names):
            raise self._invalid(self.pattern)

    def __call__(self, item: Item) -> Mapping[str, Any]:
        segments, folders = self._segments(), path_of(item.uri).strip("/").split("/")
        if None not in segments:
            return _fields(segments, folders[-len(segments) :]) or NOTHING
        # One `**`: what is before it matches somewhere, what comes after it the end.
        cut = segments.index(None)
        head, tail = segments[:cut], segments[cut + 1 :]
        last = _fields(tail, folders[len(folders) - len(tail) :])
        for start in range(len(folders) - len(tail) - len(head) + 1) if last is not None else ():
            if (first := _fields(head, folders[start : start + len(head)])) is not None:
                return {**first, **(last or {})}
        return NOTHING

    def _segments(self) -> list[tuple[_Part, ...] | None]:
        """The pattern between its slashes; None for `**`."""
        segments = [None if text == "**" else self._segment(text) for text in self.pattern.strip("/").split("/")]
        if segments.count(None) > 1:
            raise self._invalid("**")
        return segments

    def _segment(self, text: str) -> tuple[_Part, ...]:
        parts: list[_Part] = []
        for token in _TOKEN.finditer(text):
            wild = token[1] or token[0] == "*"
            if wild and not token[2] and parts and not parts[-1].literal and not parts[-1].kind:
                raise self._invalid(token[0])  # nothing says where the one ends and the other begins
            if (token[2] and token[2] not in _KINDS) or (not wild and ("{" in token[0] or "*" in token[0])):
                raise self._invalid(token[0])
            parts.append(_Part(field=token[1] or "", kind=token[2] or "") if wild else _Part(token[0]))
        return tuple(parts)

    def _invalid(self, part: str) -> UsageError:
        return UsageError(
            f"invalid {FROM_PATH} {self.pattern!r}, at {part!r}: expected a path such as docs/{{team}}/{{year:int}}/*"
            f" with each name once, in braces, of the kinds {', '.join(_KINDS)} or none, and ** once at most"
        )


def _fields(segments: Sequence[tuple[_Part, ...] | None], folders: Sequence[str]) -> dict[str, Any] | None:
    """The fields of folders that match the segments one by one; None where one does not."""
    if len(segments) != len(folders):
        return None
    found: dict[str, Any] = {}
    for segment, folder in zip(segments, folders, strict=True):
        fields = _in_folder(segment or (), folder)
        if fields is None:
            return None
        found |= fields
    return found


def _in_folder(parts: Sequence[_Part], text: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    at = 0
    for number, part in enumerate(parts):
        if part.literal:
            if not text.startswith(part.literal, at):
                return None
            at += len(part.literal)
        elif part.kind:
            expression, make = _KINDS[part.kind]
            if (match := expression.match(text, at)) is None:
                return None
            found[part.field], at = make(match[0]), match.end()
        else:
            end = _end(parts[number + 1 :], text, at + bool(part.field))
            if end < 0:
                return None
            if part.field:
                found[part.field] = text[at:end]
            at = end
    return found if at == len(text) else None


def _end(rest: Sequence[_Part], text: str, least: int) -> int:
    """Where a wildcard ends that may end at `least` or later; -1 for nowhere."""
    if not rest:
        return len(text) if least <= len(text) else -1
    if not rest[0].literal:
        match = _KINDS[rest[0].kind][0].search(text, least)
        return match.start() if match else -1
    if len(rest) > 1:
        return text.find(rest[0].literal, least)
    end = len(text) - len(rest[0].literal)
    return end if end >= least else -1
