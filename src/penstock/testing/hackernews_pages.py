"""The pages of the server that is Hacker News: `/page/KIND/NUMBER`.

ok        a page of HTML, with a menu around its text       missing   404
redirect  leads to it                                       error     503, always
plain     a text                                            broken    bytes that are no document
pdf       a document of one page                            huge      does not end
slow      comes after a second                              hang      does not come
"""

from __future__ import annotations

from dataclasses import dataclass

READABLE = ("ok", "redirect", "plain", "pdf", "slow")
"""Kinds whose text can be read."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    content: bytes = b""
    media_type: str = "text/html; charset=utf-8"
    location: str = ""
    seconds: float = 0.0
    huge: bool = False


def sentence(number: int) -> str:
    """What the readable page of that number says, and no other."""
    return f"The page number {number} measures the water of lock {number * 7919 % 100_003}."


def page(path: str) -> Answer:
    """The answer to a request."""
    _, _, kind, number = (*path.split("/"), "", "", "")[:4]
    if not number.isdigit():
        return Answer(404)
    text = sentence(int(number))
    match kind:
        case "ok" | "slow":
            return Answer(content=_html(text).encode(), seconds=1.0 if kind == "slow" else 0.0)
        case "redirect":
            return Answer(302, location=f"/page/ok/{number}")
        case "plain":
            return Answer(content=text.encode(), media_type="text/plain; charset=utf-8")
        case "pdf":
            return Answer(content=pdf(text), media_type="application/pdf")
        case "error":
            return Answer(503, b"busy")
        case "broken":
            return Answer(content=bytes(range(256)) * 4)
        case "huge":
            return Answer(content=b"<p>more and more of it</p>", huge=True)
        case "hang":
            return Answer(seconds=60.0)
    return Answer(404, b"<html><body>There is nothing here.</body></html>")


def _html(text: str) -> str:
    more = "It lies between two gates, and a gauge shows its level by day and by night. " * 5
    return (
        "<!doctype html><html><head><title>A page</title></head><body><nav><a href='/'>Home</a> <a href='/x'>Menu</a>"
        f"</nav><main><article><h1>On locks</h1><p>{text}</p><p>{more}</p></article></main>"
        "<footer>Imprint</footer></body></html>"
    )


def pdf(text: str) -> bytes:
    """A document of one page with one line."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n%s" % (count, table) + trailer
