"""From an item's bytes to blocks: detection picks a parser, hostile formats run in worker processes.

The table of them is `registry.PARSERS`. Its `text/*` is for every kind of text that has no row of its own (source code,
mostly).
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Self

from penstock.core.contracts import Parser
from penstock.core.errors import (
    LimitExceeded,
    MissingExtra,
    ParseError,
    PenstockError,
    SourceError,
    Transient,
    Unsupported,
    Vanished,
)
from penstock.core.records import Block, Gap, Item
from penstock.parsers import linked, media_types
from penstock.parsers.blocks import all_checked
from penstock.parsers.detect import detect
from penstock.registry import PARSERS, find, load, plugins
from penstock.support.code_fingerprint import CodeFingerprint, code_fingerprint
from penstock.support.images import CAPTIONS, ENDINGS
from penstock.support.linked import MEDIA_TYPE

if TYPE_CHECKING:
    from penstock.parsers.isolate import Workers


_PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_COMPRESSED = ("application/gzip", "application/x-bzip2", "application/x-xz", "application/zstd")
_SMALL = 256 << 10
_SPOOL = 1 << 20
_PRIMED = Gap("")


@dataclass(frozen=True, slots=True)
class Parsed:
    parser: str
    """The parser's name, for `explain`."""
    media_type: str
    blocks: Generator[Block | Gap, None, None]
    """Pulled by the caller; closing it early lets go of the file and of the worker process."""


class Parsers:
    """Parses items. Safe to call from several threads; no process is started before a file needs one.

    `extra` maps a media type (`text/html`, `image/*` or `*`) to a parser of the user's own, which comes first. One that
    detection knows nothing of is that of files with such an extension (`text/x-log`: `.log`); see `media_types`.
    Such a parser runs in this process, unless it is a module's function and marked with `isolated = True`. So do
    those of plug-ins, which add media types to ours.
    `images`: the model embeds these. What is named like one has to be one, then, and a text beside it is its caption.
    `timeout` is the seconds an isolated parser may take for each step of progress, `memory` the bytes it may have.
    """

    def __init__(
        self,
        extra: Mapping[str, Parser] | None = None,
        *,
        images: bool = False,
        isolate: bool = True,
        timeout: float = 60.0,
        memory: int = 1 << 30,
    ) -> None:
        self._extra = dict(extra or {})
        media_types.check(self._extra)
        self._images = images
        self._isolate = isolate
        self._timeout, self._memory = timeout, memory
        self._workers: Workers | None = None
        self._lock = threading.Lock()

    def parse(self, item: Item) -> Parsed:
        """Raises Unsupported where nothing reads such a file, ParseError or LimitExceeded: here or from `blocks`."""
        with _failures():
            stream = _opened(item)
            try:
                media_type = self._detected(stream, item)
                if self._images and not (media_type or "").startswith("image/"):
                    media_type = _among_images(media_type, item)
                if media_type is None:
                    suffix = PurePosixPath(_name(item)).suffix[:20]
                    raise Unsupported(f"a binary file of unknown type{f' ({suffix})' if suffix else ''}")
                if media_type in _COMPRESSED and media_type not in self._extra and _PACKED.search(item.uri):
                    raise Unsupported("a compressed tar is not read here: unpack it, or re-pack it as a plain .tar")
                if media_type == MEDIA_TYPE:
                    return self._linked(stream, item)
                parser, target, name = self._choose(media_type)
                item = replace(item, media_type=media_type + _charset(item.media_type))
                stream.seek(0)
                if target is None:
                    blocks = _in_process(parser, stream, item, name)
                else:
                    blocks = _isolated(self._pool(), target, stream, item, name)
                next(blocks)  # now that it has begun, close() reaches its finally
            except BaseException:
                stream.close()
                raise
        return Parsed(name, media_type, blocks)

    def _linked(self, stream: BinaryIO, item: Item) -> Parsed:
        """A text with a document that it links to. Whatever that is, for its readers the whole is a page."""
        parse = partial(linked.parse, parse_document=lambda document: self.parse(document).blocks)
        stream.seek(0)
        blocks = _in_process(parse, stream, item, "linked")
        next(blocks)
        return Parsed("linked", "text/html", blocks)

    def code(self, item: Item, media_type: str | None) -> str | None:
        """The fingerprint of the user's own parser that reads an item of this type, if one does. `media_type` may be
        that of an earlier run, which had other parsers; where it is None, as nothing read the item, all types that
        these parsers are for."""
        if not self._extra:
            return None
        if media_type is None:
            return " ".join(sorted(self._extra))
        registered = media_types.registered(media_type, _extension(item), item.media_type, tuple(self._extra))
        own = (self._codes[one].digest for one in _patterns(registered or media_type) if one in self._codes)
        return next(own, None)

    @property
    def uncompared(self) -> list[str]:
        """What the user's parsers use that may change without another `code`."""
        return [one for code in self._codes.values() for one in code.uncompared]

    @cached_property
    def _codes(self) -> dict[str, CodeFingerprint]:
        return {pattern: code_fingerprint(parser) for pattern, parser in self._extra.items()}

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _detected(self, stream: BinaryIO, item: Item) -> str | None:
        detected, own = _detected(stream, item), tuple(self._extra)
        if detected in media_types.VAGUE:
            own += tuple(plugins(PARSERS))
        return media_types.registered(detected, _extension(item), item.media_type, own)

    def _choose(self, media_type: str) -> tuple[Parser, str | None, str]:
        """The parser, its import path if it is to run isolated, its name."""
        patterns = _patterns(media_type)
        for pattern in patterns:
            if own := self._extra.get(pattern):
                return self._own(own)
        if media_type.startswith("image/") and not self._images:
            raise Unsupported(f"no parser for {media_type}: the model embeds no images; --model names a CLIP one")
        for pattern in patterns:
            if row := PARSERS.get(pattern):
                name = row.target.partition(":")[0].rpartition(".")[2]
                if row.isolated and self._isolate:
                    return _never, row.target, name
                return load(row.target, row.extra), None, name
            if pattern in plugins(PARSERS):
                return self._own(find(PARSERS, pattern))
        parquet = ": images in its rows are read by parquet://" if media_type.endswith(".parquet") else ""
        raise Unsupported(f"no parser for {media_type}{parquet}")

    def _own(self, parser: Parser) -> tuple[Parser, str | None, str]:
        name = getattr(parser, "__qualname__", type(parser).__qualname__)
        module = getattr(parser, "__module__", "__main__")
        alone = getattr(parser, "isolated", False) and module != "__main__" and "<" not in name
        return parser, f"{module}:{name}" if alone and self._isolate else None, name

    def _pool(self) -> Workers:
        from penstock.parsers.isolate import Workers  # subprocess and friends, for those who need them

        with self._lock:
            if self._workers is None:
                extras = {entry.target: entry.extra for entry in PARSERS.values()}
                self._workers = Workers(self._timeout, self._memory, extras)
            return self._workers


def _name(item: Item) -> str:
    return item.path or re.split("[?#]", item.uri, maxsplit=1)[0]


def _extension(item: Item) -> str:
    return os.path.splitext(_name(item))[1].lstrip(".").lower()


def _patterns(media_type: str) -> tuple[str, str, str]:
    """What a parser of this type may be registered for, the most exact first."""
    return media_type, media_type.partition("/")[0] + "/*", "*"


def _among_images(media_type: str | None, item: Item) -> str | None:
    """The type of a file that is no image, where images are looked for: an empty file's if it is the caption of one.
    Raises ParseError if it is named like an image."""
    stem, ending = os.path.splitext(_name(item))
    if ending.lower() in ENDINGS:
        raise ParseError(f"it is named like an image, and is {media_type or 'of an unknown type'}")
    if (item.media_type or "").startswith("image/"):
        raise ParseError(f"it is said to be an image, and is {media_type or 'of an unknown type'}")
    if ending.lower() in CAPTIONS and any(
        image in beside(item) or (item.path and os.path.isfile(stem + image)) for image in ENDINGS
    ):
        return "application/x-empty"
    return media_type


def beside(item: Item) -> Mapping[str, Callable[[], BinaryIO]]:
    """The other members in the sample of an archive's member, by the end of their names."""
    members: Mapping[str, Callable[[], BinaryIO]] = getattr(item.opener, "beside", {})
    return members


def _in_process(parser: Parser, stream: BinaryIO, item: Item, name: str) -> Generator[Block | Gap, None, None]:
    parts: Iterable[Block | Gap | str] = ()
    try:
        yield _PRIMED
        with _failures():
            parts = parser(stream, item)
            yield from all_checked(parts, name)
    finally:
        if close := getattr(parts, "close", None):
            close()
        stream.close()


def _isolated(
    workers: Workers, target: str, stream: BinaryIO, item: Item, name: str
) -> Generator[Block | Gap, None, None]:
    spool = None
    try:
        yield _PRIMED
        with _failures():
            path = item.path
            if path is None:
                spool = tempfile.NamedTemporaryFile(prefix="penstock-")  # noqa: SIM115 - closed below
                _copy(stream, spool)
                spool.flush()
                path = spool.name
            stream.close()
            yield from all_checked(workers.parse(target, path, item), name)
    finally:
        stream.close()
        if spool is not None:
            spool.close()


# ---------------------------------------------------------------- opening, detecting


def _opened(item: Item) -> BinaryIO:
    stream = item.open()
    if item.size is not None and item.size <= _SMALL:
        # One read, and no more seeks and waits: from a bucket each is a request.
        data = stream.read(item.size + 1)
        if len(data) == item.size:
            stream.close()
            return io.BytesIO(data)
        if not stream.seekable():
            stream.close()
            stream = item.open()
    if stream.seekable():
        stream.seek(0)
        return stream
    spool = tempfile.TemporaryFile(prefix="penstock-")  # noqa: SIM115 - the caller closes it
    with stream:
        _copy(stream, spool)
    return spool


def _copy(source: BinaryIO, target: object) -> None:
    while piece := source.read(_SPOOL):
        target.write(piece)  # type: ignore[attr-defined]


def _detected(stream: BinaryIO, item: Item) -> str | None:
    def peek(offset: int, size: int) -> bytes:
        if offset < 0:
            offset = max(0, stream.seek(0, 2) + offset)
        stream.seek(offset)
        parts = []
        while size > 0 and (part := stream.read(size)):  # a raw stream may give less than was asked for
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    return detect(peek, _name(item), item.media_type)


def _charset(hint: str | None) -> str:
    """The encoding that an HTTP server names, to be kept beside the detected type."""
    match = re.search(r";\s*charset\s*=\s*[\"']?([\w.:-]{1,40})", hint or "", re.IGNORECASE)
    return f"; charset={match[1]}" if match else ""


# ---------------------------------------------------------------- failures


class _failures:
    """Whatever goes wrong inside is a ParseError: one bad document never ends a run. But trouble with reading is a
    SourceError, which the next run tries again."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SystemExit):
            raise ParseError(f"the parser ended the program (sys.exit({error.code!r}))") from error
        if isinstance(error, ParseError | Vanished) or not isinstance(error, Exception):
            return
        raise failure(error) from error


def failure(error: Exception) -> ParseError | SourceError:
    if isinstance(error, MissingExtra):
        return Unsupported(str(error))
    if isinstance(error, MemoryError):
        return LimitExceeded("out of memory")
    text = without_secrets(str(error))[:500]
    if isinstance(error, SourceError | Transient):
        return SourceError(text)
    if isinstance(error, OSError):
        return SourceError(f"{type(error).__name__}: {text}")
    if isinstance(error, PenstockError):
        return ParseError(text)
    return ParseError(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def without_secrets(text: str) -> str:
    """Urls lose their passwords and queries: that is where keys and signatures stand."""
    text = re.sub(r"(\w://)[^/\s@]*@", r"\1", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def _never(stream: BinaryIO, item: Item) -> Iterator[Block]:
    """Stands for a parser that is only imported in a worker process."""
    raise AssertionError("an isolated parser was called in this process")
