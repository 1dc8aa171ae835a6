"""PDF by PDFium, page by page. Runs isolated: PDFium is native code and not thread-safe.

Line-end hyphenation is undone, ligatures become their letters (those alone: NFKC would also turn ² into 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pypdfium2
import pypdfium2.raw as pdfium

from penstock.core.errors import ParseError
from penstock.core.records import NOTHING, Block, Gap, Item

_HYPHEN = re.compile("[\x02\ufffe\xad]\n?")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LIGATURES = {
    ord(ligature): letters
    for ligature, letters in zip("ﬀﬁﬂﬃﬄﬅﬆ", ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True)
}
_LIGATURE = re.compile("[ﬀ-ﬆ]")


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    try:
        document = pypdfium2.PdfDocument(item.path or stream)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:
            raise ParseError("encrypted: a password is needed") from None
        raise ParseError(f"not a readable PDF: {error}") from None
    with document:
        pages = len(document)
        metadata = _metadata(document)
        silent, broken = 0, 0
        for index in range(pages):
            try:
                text = tidy(_text(document, index))
            except pypdfium2.PdfiumError as error:
                broken += 1
                yield Gap(f"page {index + 1} cannot be read: {error}", index + 1)
                continue
            silent += not text
            yield Block(text and text + "\n\n", page=index + 1, metadata=metadata)
        if silent and silent + broken == pages:
            yield Gap(f"no text layer; {silent} pages need OCR")
        elif not pages:
            yield Gap("no pages")


def tidy(text: str) -> str:
    text = _HYPHEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROL.sub("", text)
    if _LIGATURE.search(text):
        text = text.translate(_LIGATURES)
    return text.strip()


def _text(document: pypdfium2.PdfDocument, index: int) -> str:
    page = document[index]
    try:
        words = page.get_textpage()
        try:
            return str(words.get_text_bounded())
        finally:
            words.close()
    finally:
        page.close()


def _metadata(document: pypdfium2.PdfDocument) -> Mapping[str, Any]:
    title = document.get_metadata_value("Title").strip()
    return {"title": title[:500]} if title else NOTHING
