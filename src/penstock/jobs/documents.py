"""The documents of a ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from penstock.core.contracts import Source
from penstock.core.errors import SourceError
from penstock.ledger import Ledger
from penstock.sources import uri_of
from penstock.sources.files.globs import compile_globs
from penstock.sources.files.local import path_of

PAGE = 500


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """A line in the list of documents."""

    uri: str
    state: str
    """`done`, `open` (half-done), `failed` or `skipped`; or `removed`, for good."""
    chunks: int
    """In the index."""
    changed: float | None
    """When the run began that worked on it last, in seconds since 1970; or when it was removed."""
    cause: str = ""
    """Why it is missing."""
    searchable: float | None = None
    """When it became so as it is, in seconds since 1970."""
    since_heard: float | None = None
    """How many seconds that was after it was heard of."""
    since_changed: float | None = None
    """... and after it was changed, where that is known."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def documents(
    ledger: Ledger, pattern: str | None = None, *, failing: bool = False, missing_from: Source | None = None
) -> Iterator[DocumentEntry]:
    """The documents whose names match, by uri, a page at a time. `failing`: those that a retry would try again.
    `missing_from`: those that this source no longer has, or cannot read."""
    matches = _matcher(pattern)
    after = ""
    while page := ledger.listed(after, PAGE, failing=failing):
        after = page[-1][0].uri
        matching = [(document, began) for document, began in page if matches(document.uri)]
        chunks = ledger.indexed([document.id for document, _ in matching])
        for document, began in matching:
            cause = _absence(missing_from, document.uri) if missing_from else ""
            if cause or not missing_from:
                yield DocumentEntry(
                    *(document.uri, document.state, chunks.get(document.id, 0), began, cause),
                    *(document.searchable, document.since_heard, document.since_changed),
                )


def removed(ledger: Ledger, pattern: str | None = None) -> Iterator[DocumentEntry]:
    """What was removed for good: documents, and folders with all beneath them."""
    matches = _matcher(pattern)
    return (DocumentEntry(uri, "removed", 0, since) for uri, since in ledger.removals() if matches(uri))


def _matcher(pattern: str | None) -> Callable[[str], bool]:
    """Whether a document's name has the pattern in it, or matches it as a glob. The name of a local file is its path,
    from here where it lies beneath; to a pattern that is an absolute path or a uri, so is the name."""
    if pattern is None:
        return lambda uri: True
    text = pattern.removeprefix("./")
    glob = compile_globs([text]) if any(char in text for char in "*?[") else None
    here = os.path.join(os.getcwd(), "")

    def matches(uri: str) -> bool:
        name = uri
        if uri.startswith("file:///") and "://" not in text:
            name = path_of(uri)
            name = name if text.startswith("/") else name.removeprefix(here)
        return text in name or (glob is not None and glob.match(name.removeprefix("/")) is not None)

    return matches


def _absence(source: Source, uri: str) -> str:
    try:
        return "" if source.lookup(uri) else "the source no longer has it"
    except SourceError as error:
        return str(error)


def resolve(ledger: Ledger, name: str) -> str:
    """The uri that a name means: of a source of the user's own, uris may be any text."""
    with suppress(UnicodeEncodeError):  # a path that is not UTF-8
        if ledger.document(name) or ledger.removal_of(name):
            return name
    return uri_of(name)
