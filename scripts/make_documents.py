"""Makes the documents the parser tests read: `python scripts/make_documents.py tests/data/documents`.

Deterministic, from the standard library alone: a PDF is text, the rest are zips of XML. The tests also call the
makers here for documents that are broken on purpose or too big to keep.
"""

from __future__ import annotations

import hashlib
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

# ---------------------------------------------------------------- PDF


def pdf(
    pages: Sequence[str | None],
    *,
    title: str = "",
    password: bool = False,
    streams: Mapping[int, tuple[bytes, str]] | None = None,
) -> bytes:
    """A PDF with these texts; None makes a page of graphics. `streams` replaces a page's content: (data, filter)."""
    objects: list[bytes] = []
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(b"<< /Type /Catalog /Pages 2 0 R >>")
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for n, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        data, kind = (streams or {}).get(n, (content(text), ""))
        objects.append(
            f"<< /Length {len(data)} {f'/Filter {kind}' if kind else ''} >>\nstream\n".encode() + data + b"\nendstream"
        )
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R"
    if title:
        objects.append(f"<< /Title ({title}) >>".encode())
        trailer = f"/Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R"
    if password:
        id = hashlib.md5(b"penstock").digest()
        objects.append(_encryption(id))
        trailer = f"/Size {len(objects) + 1} /Root 1 0 R /Encrypt {len(objects)} 0 R /ID [<{id.hex()}><{id.hex()}>]"
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for n, body in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n" % n + body + b"\nendobj\n")
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % offset for offset in offsets)
    out.write(f"trailer\n<< {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def content(text: str | None) -> bytes:
    if text is None:
        return b"0 0 1 rg 100 100 300 300 re f"
    lines = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)").split("\n")
    shown = "".join(f"({line}) Tj T*\n" for line in lines)
    return f"BT /F1 11 Tf 14 TL 50 740 Td\n{shown}ET".encode("cp1252")


def _encryption(id: bytes) -> bytes:
    """A 40-bit RC4 dictionary (the oldest handler) whose user password is not empty."""
    pad = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    password = (b"secret" + pad)[:32]
    owner = _rc4(hashlib.md5(password).digest()[:5], password)
    key = hashlib.md5(password + owner + (-4 & 0xFFFFFFFF).to_bytes(4, "little") + id).digest()[:5]
    user = _rc4(key, pad)
    return f"<< /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> /U <{user.hex()}> /P -4 >>".encode()


def _rc4(key: bytes, data: bytes) -> bytes:
    box = list(range(256))
    j = 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


def flate_bomb(size: int) -> bytes:
    """A one-page PDF whose content stream unpacks to `size` bytes (deflated twice, so that the file is small)."""
    packer = zlib.compressobj(9)
    inner = b"".join([*(packer.compress(b"(a) Tj " * 150_000) for _ in range(size // 1_050_000)), packer.flush()])
    return pdf(["-"], streams={0: (zlib.compress(inner, 9), "[/FlateDecode /FlateDecode]")})


# ---------------------------------------------------------------- packages


def package(members: Mapping[str, str | bytes], *, stored: Sequence[str] = ()) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return out.getvalue()


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CORE = (
    '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{}</dc:title></cp:coreProperties>'
)


def docx(body: str | None = None) -> bytes:
    body = body or (
        _paragraph("Pumps", "berschrift1")
        + _paragraph("A pump lifts water &amp; oil.")
        + _paragraph("Impellers", "berschrift2")
        + "<w:p><w:r><w:t>They </w:t></w:r><w:r><w:t>spin.</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"  # noqa: E501
        + "<w:tbl><w:tr><w:tc>" + _paragraph("part") + "</w:tc><w:tc>" + _paragraph("price") + "</w:tc></w:tr>"
        + "<w:tr><w:tc>" + _paragraph("seal") + "</w:tc><w:tc>" + _paragraph("12") + "</w:tc></w:tr></w:tbl>"
        + _paragraph("Valves", "berschrift1")
        + _paragraph("A valve stops it.")
    )  # fmt: skip
    return package(
        {
            "[Content_Types].xml": "<Types/>",
            "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": f'<w:styles {W}><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
            '<w:style w:styleId="berschrift2"><w:name w:val="Heading 2"/></w:style></w:styles>',
            "docProps/core.xml": CORE.format("On pumps"),
        }
    )


def _paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def pptx() -> bytes:
    """Two slides, shown in the reverse order of their file names; the first has notes."""
    spaces = (
        'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
        f'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:r="{R}"'
    )

    def shape(kind: str, text: str) -> str:
        return f'<p:sp><p:nvPr><p:ph type="{kind}"/></p:nvPr><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>'  # noqa: E501

    def relations(*pairs: tuple[str, str]) -> str:
        return (
            "<Relationships>" + "".join(f'<Relationship Id="{a}" Target="{b}"/>' for a, b in pairs) + "</Relationships>"
        )

    return package(
        {
            "[Content_Types].xml": "<Types/>",
            "ppt/presentation.xml": f'<p:presentation {spaces}><p:sldIdLst><p:sldId r:id="rId9" id="256"/>'
            '<p:sldId id="257" r:id="rId8"/></p:sldIdLst></p:presentation>',
            "ppt/_rels/presentation.xml.rels": relations(("rId8", "slides/slide1.xml"), ("rId9", "slides/slide2.xml")),
            "ppt/slides/slide1.xml": f"<p:sld {spaces}>{shape('title', 'Losses')}{shape('body', 'Friction.')}</p:sld>",
            "ppt/slides/slide2.xml": f"<p:sld {spaces}>{shape('ctrTitle', 'Head')}{shape('sldNum', '1')}</p:sld>",
            "ppt/slides/_rels/slide2.xml.rels": relations(("rId1", "../notesSlides/notesSlide1.xml")),
            "ppt/notesSlides/notesSlide1.xml": f"<p:notes {spaces}>{shape('body', 'Say hello.')}</p:notes>",
            "docProps/core.xml": CORE.format("Hydraulics"),
        }
    )


def odf(kind: str, body: str) -> bytes:
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "text", "table", "draw", "meta")
    )
    content = f"<office:document-content {spaces}><office:body>{body}</office:body></office:document-content>"
    title = f'<office:document-meta {spaces} xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Dams</dc:title></office:document-meta>'
    return package(
        {"mimetype": f"application/vnd.oasis.opendocument.{kind}", "content.xml": content, "meta.xml": title},
        stored=["mimetype"],
    )


def odt() -> bytes:
    return odf(
        "text",
        '<text:h text:outline-level="1">Dams</text:h><text:p>A dam<text:s text:c="2"/>holds <text:span>water</text:span>.</text:p>'  # noqa: E501
        "<table:table><table:table-row><table:table-cell><text:p>height</text:p></table:table-cell>"
        "<table:table-cell><text:p>30 m</text:p></table:table-cell></table:table-row></table:table>"
        '<text:h text:outline-level="2">Spillways</text:h><text:p>They let it go.</text:p>',
    )


def odp() -> bytes:
    return odf(
        "presentation",
        "<draw:page><text:p>First slide</text:p></draw:page><draw:page><text:p>Second</text:p></draw:page>",
    )


def ods() -> bytes:
    def row(*cells: str) -> str:
        inner = "".join(f"<table:table-cell><text:p>{cell}</text:p></table:table-cell>" for cell in cells)
        return f'<table:table-row>{inner}<table:table-cell table:number-columns-repeated="16384"/></table:table-row>'

    return odf(
        "spreadsheet", f'<table:table table:name="Flows">{row("river", "m3/s")}{row("Aare", "560")}</table:table>'
    )


def epub() -> bytes:
    chapter = "<html><head><title>x</title></head><body><h1>{}</h1><p>{}</p></body></html>"
    return package(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',  # noqa: E501
            "OEBPS/book.opf": '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>The Weir</dc:title></metadata>'  # noqa: E501
            '<manifest><item id="b" href="two%20.xhtml" media-type="application/xhtml+xml"/>'
            '<item id="a" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
            "OEBPS/one.xhtml": chapter.format("Upstream", "The water is calm."),
            "OEBPS/two .xhtml": chapter.format("Downstream", "It roars."),
        },
        stored=["mimetype"],
    )


def xlsx() -> bytes:
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    rows = (("name", "kW"), ("Francis", 700), ("Pelton", 420.5))

    def cell(value: object) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    data = "".join(f"<row>{''.join(cell(value) for value in row)}</row>" for row in rows)
    relation = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="{}" Target="{}"/></Relationships>'  # noqa: E501
    return package(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
            "_rels/.rels": relation.format(R + "/officeDocument", "xl/workbook.xml"),
            "xl/workbook.xml": f'<workbook {main} xmlns:r="{R}"><sheets><sheet name="Turbines" sheetId="1" r:id="rId1"/></sheets></workbook>',  # noqa: E501
            "xl/_rels/workbook.xml.rels": relation.format(R + "/worksheet", "worksheets/sheet1.xml"),
            "xl/worksheets/sheet1.xml": f"<worksheet {main}><sheetData>{data}</sheetData></worksheet>",
        }
    )


def msg() -> bytes:
    """An Outlook message: an OLE file of four streams, all of them small ones."""
    text = {"0037": "Gate opened", "1000": "The gate is open.\r\nWater flows.", "0C1A": "Ada"}
    streams = {f"__substg1.0_{tag}001F": value.encode("utf-16-le") for tag, value in text.items()}
    properties = b"".join(
        struct.pack("<IIQ", int(tag, 16) << 16 | 0x1F, 6, len(value.encode("utf-16-le")) + 2)
        for tag, value in text.items()
    )
    streams["__properties_version1.0"] = bytes(32) + properties
    last, end, free, none = len(streams), 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFF

    def entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
        raw = name.encode("utf-16-le") + b"\0\0"
        head = raw.ljust(64, b"\0") + struct.pack("<HBBIII", len(raw), kind, 1, none, right, child)
        return head + bytes(36) + struct.pack("<IQ", start, size)

    directory: list[bytes] = []
    small = b""
    chains: list[int] = []
    for n, (name, data) in enumerate(streams.items(), 1):
        first, count = len(chains), -(-len(data) // 64)
        chains += [*range(first + 1, first + count), end]
        directory.append(entry(name, 2, n + 1 if n < last else none, none, first, len(data)))
        small += data.ljust(count * 64, b"\0")
    directory.insert(0, entry("Root Entry", 5, none, 1, 4, len(small)))
    sectors = -(-len(small) // 512)
    table = [
        0xFFFFFFFD,
        2,
        end,
        end,
        *range(5, 4 + sectors),
        end,
    ]  # itself, the directory, the small chains, their bytes
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    header += (
        struct.pack("<IIIIIIIII", 0, 1, 1, 0, 4096, 3, 1, end, 0) + struct.pack("<I", 0) + struct.pack("<I", free) * 108
    )
    chained = b"".join(struct.pack("<I", n) for n in chains).ljust(512, b"\xff")
    fat = b"".join(struct.pack("<I", n) for n in table).ljust(512, b"\xff")
    return header + fat + b"".join(directory).ljust(1024, b"\0") + chained + small.ljust(sectors * 512, b"\0")


EML = b"""From: Ada <ada@example.org>
To: Bob <bob@example.org>
Subject: =?utf-8?q?The_gate_is_ge=C3=B6ffnet?=
Date: Mon, 02 Nov 2026 10:00:00 +0000
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="=="

--==
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Water flows at 3 m=B3/s.
--==
Content-Type: application/pdf
Content-Disposition: attachment; filename="plan.pdf"

%PDF-
--==--
"""

RTF = rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\f0 Rich \b text\b0  with \'e9 accents.\par Second.}"

PAGES = ["The first page is about pumps.\nIt has two lines.", "The second page is about valves “quoted”.", "Third."]

DOCUMENTS = {
    "pumps.pdf": lambda: pdf(PAGES, title="Pumps"),
    "scan.pdf": lambda: pdf([None, None]),
    "encrypted.pdf": lambda: pdf(PAGES, password=True),
    "pumps.docx": docx,
    "slides.pptx": pptx,
    "dams.odt": odt,
    "slides.odp": odp,
    "flows.ods": ods,
    "weir.epub": epub,
    "turbines.xlsx": xlsx,
    "gate.eml": lambda: EML,
    "rich.rtf": lambda: RTF,
    "gate.msg": msg,
}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/documents")
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in DOCUMENTS.items():
        (folder / name).write_bytes(make())


if __name__ == "__main__":
    main()
