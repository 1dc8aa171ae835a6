"""Text in any encoding, streamed: a 2 GB file of one line takes no more memory than a note.

The encoding is that of the byte order mark, else the declared one, else UTF-8, else what charset-normalizer makes
of the first piece that is not UTF-8. A file that was UTF-8 and then is not, yields a Gap and goes on with U+FFFD.
Line ends become "\\n". NULs are dropped (by the dispatch, for every parser).
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from penstock.core.records import NOTHING, Block, Gap, Item
from penstock.parsers.detect import bom, wide

PIECE = 1 << 18
"""Bytes read at a time."""
BLOCK = 1 << 16
"""The most characters in a block."""
_SAMPLE = 1 << 15
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_LATIN = frozenset(
    {"cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "cp437", "cp775", "cp850", "cp852", "cp858", "hp_roman8"}
    | {"iso8859_2", "iso8859_3", "iso8859_4", "iso8859_9", "iso8859_10", "iso8859_13", "iso8859_14", "iso8859_15"}
    | {"iso8859_16", "latin_1", "mac_roman", "mac_iceland", "mac_latin2", "mac_turkish"}
)
_UNLIKELY = ["utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "utf_7"]
_UNLIKELY += ["cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140"]
"""Wide ones are recognized by their NULs before; EBCDIC is not met in files."""


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    metadata = language(item)
    for text in whole_lines(decoded(stream, charset(item))):
        if isinstance(text, Gap):
            yield text
        else:
            for part in cut(text):
                yield Block(part, metadata=metadata)


def empty(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    """Nothing: an empty file is a document without chunks."""
    return iter(())


def language(item: Item) -> Mapping[str, Any]:
    kind = (item.media_type or "").partition(";")[0]
    return {"language": kind[7:]} if kind.startswith("text/x-") else NOTHING


def charset(item: Item) -> str | None:
    """The encoding that the source names, if Python knows it as one of text."""
    return known_encoding((item.media_type or "").partition("; charset=")[2])


def known_encoding(name: str) -> str | None:
    try:
        known = codecs.lookup(name) if name else None
    except (LookupError, UnicodeError, ValueError):
        return None
    # rot13, base64 and their like are codecs too
    return known.name if known is not None and getattr(known, "_is_text_encoding", False) else None


def decoded(stream: BinaryIO, declared: str | None = None) -> Iterator[str | Gap]:
    """The text in pieces, as they come, and at most one Gap that says from where on it is damaged."""
    piece = stream.read(PIECE)
    encoding = bom(piece) or wide(piece) or (declared if declared and fits(piece, declared) else "utf-8")
    decoder = _decoder(encoding)
    position, still_ascii = 0, encoding == "utf-8"
    while True:
        final = not piece
        state = decoder.getstate()
        try:
            text = decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            if still_ascii:  # whatever it is, so far it read the same
                still_ascii = False
                held = (b"\r" if state[1] & 1 else b"") + state[0]
                piece, position = held + piece, position - len(held)
                encoding = guess(piece)
                decoder = _decoder(encoding)
                continue
            yield Gap(f"not valid {encoding} from about byte {position + error.start} on: replaced by U+FFFD")
            decoder = _decoder(encoding, "replace")
            decoder.setstate(state)
            text = decoder.decode(piece, final)
        if text:
            still_ascii = still_ascii and text.isascii()
            yield text
        if final:
            return
        position += len(piece)
        piece = stream.read(PIECE)


def decode(data: bytes, declared: str | None = None) -> str:
    """All of a text that is held anyway."""
    return "".join(part for part in decoded(io.BytesIO(data), declared) if isinstance(part, str))


def fits(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeError:
        return False
    return True


def guess(sample: bytes) -> str:
    """The likeliest encoding of bytes that are not UTF-8."""
    from charset_normalizer import from_bytes  # slow to import, rarely needed

    first = _BEYOND_ASCII.search(sample)
    start = max(0, (first.start() if first else 0) - _SAMPLE // 4)
    sample = sample[start : start + _SAMPLE]
    if len(sample) == _SAMPLE:  # cut where no character is: these are never its second byte, else by pairs
        end = max(sample.rfind(mark) for mark in (b"\n", b" ", b",", b".")) + 1
        sample = sample[: end if end > _SAMPLE // 2 else end + (_SAMPLE - end) // 2 * 2]
    runs = _BEYOND_ASCII.findall(sample)
    accents = sum(map(len, runs)) < 1.5 * len(runs)  # they stand alone, letters of other scripts in runs
    matches = [
        match
        for match in from_bytes(sample, cp_exclusion=_UNLIKELY)
        if match.encoding not in ("ascii", "utf_8") and (not accents or match.encoding in _LATIN)
    ]
    for match in matches:
        western = "cp1252" in (match.encoding, *match.could_be_from_charset)
        if western and (match.chaos, match.coherence) == (matches[0].chaos, matches[0].coherence):
            return "cp1252"  # of equally likely ones the most common
    return matches[0].encoding if matches else "cp1252"


def whole_lines(texts: Iterator[str | Gap]) -> Iterator[str | Gap]:
    """The same text, cut after line ends where lines are not too long."""
    rest = ""
    for text in texts:
        if isinstance(text, Gap):
            yield text
            continue
        text = rest + text if rest else text
        end = text.rfind("\n", len(text) - BLOCK if len(text) > BLOCK else 0) + 1
        if end == 0 and len(text) > BLOCK:
            end = len(text)
        rest = text[end:]
        if end:
            yield text[:end] if rest else text
    if rest:
        yield rest


def cut(text: str) -> Iterator[str]:
    """Blocks of a text: at most BLOCK characters, after a line end if there is one in the latter half."""
    start = 0
    while len(text) - start > BLOCK:
        end = text.rfind("\n", start + BLOCK // 2, start + BLOCK) + 1 or start + BLOCK
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _decoder(encoding: str, errors: str = "strict") -> io.IncrementalNewlineDecoder:
    return io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), translate=True)
