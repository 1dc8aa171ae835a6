"""Detects media types: magic bytes first, then text or not, and only among kinds of text the name decides.

So a wrong extension does no harm, and a file without one is read all the same. Only the head is read, and of
archives the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from penstock.support import linked

HEAD = 8192
TAIL = 65536
EMPTY = "application/x-empty"

Peek = Callable[[int, int], bytes]
"""`peek(offset, size)`: bytes of the file; a negative offset counts from its end."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"(\xb5/\xfd", "application/zstd"),
    (b"7z\xbc\xaf'\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\x7fELF", "application/x-elf"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "video/x-matroska"),
    (b"\xca\xfe\xba\xbe", "application/java-vm"),
    (b"\0asm", "application/wasm"),
    (b"{\\rtf", "application/rtf"),
    (linked.MAGIC, linked.MEDIA_TYPE),
)
_MAGICS = tuple(magic for magic, _ in _MAGIC)
_TEXTUAL = {b"BZh", b"ID3", b"PAR1", b"GIF87a", b"GIF89a", b"OggS", b"fLaC"}  # a text may well begin with these
_OOXML = "application/vnd.openxmlformats-officedocument."
_PARTS = (
    (b"word/document", _OOXML + "wordprocessingml.document"),
    (b"ppt/presentation", _OOXML + "presentationml.presentation"),
    (b"xl/workbook", _OOXML + "spreadsheetml.sheet"),
)
_ZIPPED = {
    "docx": _PARTS[0][1], "docm": _PARTS[0][1], "dotx": _PARTS[0][1],
    "pptx": _PARTS[1][1], "pptm": _PARTS[1][1], "ppsx": _PARTS[1][1],
    "xlsx": _PARTS[2][1], "xlsm": _PARTS[2][1],
}  # fmt: skip
_OLE = (
    ("__substg1.0_", "application/vnd.ms-outlook"),
    ("__properties_version1.0", "application/vnd.ms-outlook"),
    ("WordDocument", "application/msword"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("Workbook", "application/vnd.ms-excel"),
    ("EncryptedPackage", "application/x-encrypted-office"),
)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip
_MARKS = tuple(mark for mark, _ in _BOMS)

_TEXTS = {
    "markdown": "md markdown mkd mdown mdx qmd rmd",
    "html": "html htm xhtml shtml",
    "csv": "csv",
    "tab-separated-values": "tsv tab",
}
_LANGUAGES = {
    "assembly": "asm s", "bash": "sh bash zsh ksh", "c": "c h", "clojure": "clj cljs cljc edn", "cmake": "cmake",
    "cpp": "cc cpp cxx hpp hh hxx cu", "csharp": "cs", "css": "css scss sass less", "cython": "pyx pxd", "dart": "dart",
    "elixir": "ex exs", "erlang": "erl hrl", "fortran": "f f90 f95", "fsharp": "fs fsx", "go": "go",
    "graphql": "graphql", "groovy": "groovy gradle",
    "haskell": "hs lhs", "ini": "ini cfg conf properties", "java": "java",
    "javascript": "js mjs cjs jsx", "julia": "jl", "kotlin": "kt kts", "latex": "tex sty", "lisp": "lisp el scm rkt",
    "lua": "lua", "make": "mk", "nim": "nim", "nix": "nix", "objective-c": "m mm", "ocaml": "ml mli", "perl": "pl pm",
    "php": "php", "powershell": "ps1 psm1", "protobuf": "proto", "python": "py pyi", "r": "r",
    "restructuredtext": "rst", "ruby": "rb rake", "rust": "rs",
    "scala": "scala sbt", "solidity": "sol", "sql": "sql", "svelte": "svelte",
    "swift": "swift", "terraform": "tf hcl", "toml": "toml", "typescript": "ts tsx", "verilog": "v sv svh",
    "vhdl": "vhd vhdl", "vue": "vue", "yaml": "yaml yml", "zig": "zig",
}  # fmt: skip
EXTENSIONS = {
    **{extension: f"text/{kind}" for kind, all_ in _TEXTS.items() for extension in all_.split()},
    **{extension: f"text/x-{language}" for language, all_ in _LANGUAGES.items() for extension in all_.split()},
    "jsonl": "application/x-ndjson", "ndjson": "application/x-ndjson", "json": "application/json",
    "geojson": "application/json", "xml": "application/xml", "rss": "application/xml", "atom": "application/xml",
    "eml": "message/rfc822", "svg": "application/xml",
}  # fmt: skip
_NAMES = {"makefile": "text/x-make", "dockerfile": "text/x-dockerfile", "cmakelists.txt": "text/x-cmake"}
_HINTS = {
    "text/markdown", "text/html", "text/csv", "text/tab-separated-values", "application/x-ndjson", "application/json",
    "message/rfc822", "application/xml",
}  # fmt: skip
SYNONYMS = {
    "application/xhtml+xml": "text/html", "text/x-markdown": "text/markdown",
    "application/jsonl": "application/x-ndjson",    "application/csv": "text/csv", "text/xml": "application/xml",
}  # fmt: skip

_OTHERS = {
    EMPTY, "text/plain", "application/pdf", "application/zip", "application/epub+zip", "application/x-ole-storage",
    "image/webp", "audio/wav", "video/x-msvideo", "image/avif", "image/heic", "video/mp4", "image/bmp",
    *("application/vnd.oasis.opendocument." + kind for kind in ("text", "spreadsheet", "presentation", "graphics")),
}  # fmt: skip
TYPES = frozenset(
    {*(kind for _, kind in _MAGIC), *(kind for _, kind in (*_PARTS, *_OLE)), *EXTENSIONS.values(), *_NAMES.values()}
    | _OTHERS
    | _HINTS
)
"""Every media type that is detected by content or name."""

_HTML = re.compile(rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--[^>]{0,2000}-->\s*){0,4}<(?:!doctype\s+html|html[\s>])", re.I)
_MAIL = re.compile(rb"(?:From |[\w-]{2,40}:[ \t])[^\n]{0,998}\r?\n")
_MAIL_HEADERS = re.compile(
    rb"^(from|received|return-path|delivered-to|message-id|subject|date|mime-version):", re.I | re.M
)
_SHEBANG = re.compile(rb"#![^\n]{0,100}\b(python|bash|zsh|sh|perl|ruby|node)[\d.]*\s")
_INTERPRETERS = {"sh": "bash", "zsh": "bash", "node": "javascript"}
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"


def bare(hint: str | None) -> str:
    """A Content-Type without its parameters."""
    return (hint or "").partition(";")[0].strip().lower()


def detect(peek: Peek, name: str, hint: str | None = None) -> str | None:
    """The media type; `application/x-empty` of nothing; None of a binary file that nothing here knows."""
    head = peek(0, HEAD)
    if not head:
        return EMPTY
    extension = name.rpartition("/")[2].rpartition(".")[2].lower()
    return _binary(head, peek, extension) or (_text(head, name, extension, hint) if is_text(head) else None)


def _binary(head: bytes, peek: Peek, extension: str) -> str | None:
    pdf = head.find(b"%PDF-", 0, 1024)  # readers accept junk before it
    if pdf == 0 or (pdf > 0 and (extension == "pdf" or not is_text(head))):
        return "application/pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(head, peek, extension)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _ole(head, peek)
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}[head[8:12]]
    if head[4:8] == b"ftyp":
        return {b"avif": "image/avif", b"heic": "image/heic", b"mif1": "image/heic"}.get(head[8:12], "video/mp4")
    if head.startswith(b"BM") and len(head) > 14 and head[6:10] == b"\0\0\0\0":
        return "image/bmp"
    if not head.startswith(_MAGICS):
        return None
    for magic, media_type in _MAGIC:
        if head.startswith(magic):
            return None if magic in _TEXTUAL and is_text(head) else media_type
    return None


def _zip(head: bytes, peek: Peek, extension: str) -> str:
    """OpenDocument and EPUB name themselves in their first member; Office is known by the names in the directory."""
    if head[30:38] == b"mimetype":
        declared = re.match(rb"(?:application/[\w.+-]{1,100}?)(?=PK|[^\w.+-]|$)", head[38:200])
        if declared:
            return declared[0].decode().removesuffix("-template")
    names = head + peek(-TAIL, TAIL)
    for part, media_type in _PARTS:
        if part in names:
            return media_type
    if b"META-INF/container.xml" in names and extension == "epub":
        return "application/epub+zip"
    if b"[Content_Types].xml" in names and extension in _ZIPPED:
        return _ZIPPED[extension]
    return "application/zip"


def _ole(head: bytes, peek: Peek) -> str:
    shift = min(int.from_bytes(head[30:32], "little"), 16)
    sector = int.from_bytes(head[48:52], "little")
    directory = peek((sector + 1) << shift, 4096)
    for stream, media_type in _OLE:
        if stream.encode("utf-16-le") in directory:
            return media_type
    return "application/x-ole-storage"


# ---------------------------------------------------------------- text


def bom(head: bytes) -> str | None:
    """The encoding of a byte order mark."""
    if not head.startswith(_MARKS):
        return None
    return next(encoding for mark, encoding in _BOMS if head.startswith(mark))


def wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, recognized by the NULs of its ASCII characters."""
    head = head[:2048]
    if len(head) < 8 or b"\0" not in head:
        return None
    head = head[: len(head) // 4 * 4]
    quarter = len(head) // 4
    nuls = [head[i::4].count(0) / quarter for i in range(4)]
    high, low = 0.6, 0.1
    for encoding, pattern in (
        ("utf-32-le", (0, 1, 1, 1)),
        ("utf-32-be", (1, 1, 1, 0)),
        ("utf-16-le", (0, 1, 0, 1)),
        ("utf-16-be", (1, 0, 1, 0)),
    ):
        if all(share > high if expected else share < low for share, expected in zip(nuls, pattern, strict=True)):
            return encoding
    return None


def is_text(head: bytes) -> bool:
    """Text has hardly any control characters, NULs only in UTF-16/32 or as holes in clean UTF-8 (torn logs)."""
    if bom(head) or wide(head):
        return True
    if b"\0" in head:
        head = head.replace(b"\0", b"")
        if not head or len(head) < HEAD // 8 or not _utf8(head):
            return False
    return (len(head) - len(head.translate(None, _CONTROLS))) <= len(head) * 0.03


def _utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _text(head: bytes, name: str, extension: str, hint: str | None) -> str:
    mark = bom(head)
    encoding = mark or wide(head)
    if encoding and encoding != "utf-8-sig":
        head = head.decode(encoding, "replace").encode()
    elif mark:
        head = head[3:]
    if _HTML.match(head):
        return "text/html"
    declared = bare(hint)
    if declared.endswith(("+json", "+xml")) and declared not in SYNONYMS:
        declared = "application/" + declared.rpartition("+")[2]
    declared = SYNONYMS.get(declared, declared)
    if declared in _HINTS:
        return declared
    base = name.rpartition("/")[2].lower()
    if media_type := _NAMES.get(base) or EXTENSIONS.get(extension if "." in base else ""):
        return media_type
    if _MAIL.match(head) and len({header.lower() for header in _MAIL_HEADERS.findall(head[:4096])}) >= 3:
        return "message/rfc822"
    if shebang := _SHEBANG.match(head):
        language = shebang[1].decode()
        return f"text/x-{_INTERPRETERS.get(language, language)}"
    return "text/plain"
