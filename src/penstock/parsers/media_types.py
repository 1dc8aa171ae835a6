"""Media types of a user's own parsers: which files have them, and which no file ever has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from penstock.core.errors import UsageError
from penstock.parsers.detect import EXTENSIONS, SYNONYMS, TYPES, bare

VAGUE = {None, "text/plain", "application/zip", "application/x-ole-storage", "application/gzip"}
"""Detected where the content says no more than that it is text, a container or something unknown."""
_KINDS = {kind.partition("/")[0] for kind in TYPES} | {"font", "model"}
_ALIASES = SYNONYMS | {
    "image/jpg": "image/jpeg",
    "image/tif": "image/tiff",
    "image/svg+xml": "application/xml",
    "application/yaml": "text/x-yaml",
}


def registered(detected: str | None, extension: str, hint: str | None, own: Collection[str]) -> str | None:
    """The media type that a parser of the user's is registered for, where detection knows nothing as exact: that of
    the source (a Content-Type), or the one with the file's extension in it. A `.log` is `text/x-log` that way."""
    if detected not in VAGUE or not own:
        return detected
    if (declared := bare(hint)) in own:
        return declared
    return next((each for each in own if extension and _form(each) == extension), detected)


def check(own: Iterable[str]) -> None:
    """Raise UsageError for a media type that no file ever has, with the nearest one that some have."""
    for each in own:
        kind, slash, _ = each.partition("/")
        if each == "*" or each in TYPES or (each == f"{kind}/*" and kind in _KINDS):
            continue
        form = _form(each)
        other = _ALIASES.get(each) or EXTENSIONS.get(form) or next((n for n in TYPES if _form(n) == form), None)
        if slash and kind in _KINDS and form and "*" not in form and each == each.lower() and other is None:
            continue
        near = other or next(iter(get_close_matches(each.lower(), [*TYPES, *(f"{kind}/*" for kind in _KINDS)], 1, 0)))
        raise UsageError(f"no file has the media type {each!r}, so its parser would never be called: use {near!r}")


def _form(media_type: str) -> str:
    """The part that an extension is compared with: `log` of `text/x-log`."""
    return media_type.partition("/")[2].removeprefix("x-")
