"""Mutations of inputs: of bytes, and of the trees, archives and tags that the bytes stand for.

Seeded: the same generator and input give the same mutation.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

_NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 16, 64, 127, 128, 255, 256, 1000, 4095, 32767, 32768, 65535, 65536, 1 << 20, 1 << 24),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63)),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.0, 1e308, 1e-320, float("inf"), float("-inf"), float("nan")),
    *((1 << 31) - 1, 1 << 31, 1 << 53, 1 << 63, -(1 << 63) - 1, 1 << 64, 10**30, 10**400),
    *("", " ", "a", "\0", "\ud800", "￿", "ß", "Ā" * 40, "x" * 5000, "../../etc/passwd", "/", "%00", "1", "1e9", "NaN"),
    *("2024-02-30", "9999-12-31T23:59:59Z", "http://[", "a.b.c", "$ne", "file:///a/../b", "-1", "\U0010ffff", "'\"`\\"),
    *([], {}, [[]], [None], [1, "a"], {"": 0}, {"a": {"b": []}}, {"$in": []}, [[1, 2], [3]]),
)
_ATTRIBUTES = (
    "0",
    "-1",
    "1",
    "65536",
    "4294967296",
    "²",
    "٣",
    "1e9",
    "",
    "x" * 300,
    "../x",
    "#",
    "%ff",
    "&#0;",
    "true",
)
_TEXTS = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b'"', b"'", b"<", b"&", b"[", b"{", b"\\", b"\\u0000")


def mutate(shape: str, rng: Random, data: bytes, others: Sequence[bytes] = (), largest: int = 1 << 16) -> bytes:
    """One to four mutations, most of them of the structure that the shape names."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        by_structure = _SHAPES.get(shape)
        if by_structure is not None and rng.random() < 0.7:
            try:
                data = by_structure(rng, data)[: 4 * largest]
                continue
            except Exception:  # it is no such structure any more, and is taken for bytes
                pass
        data = _of_bytes(rng, data[:largest], others)
    return data[:largest]


# ---------------------------------------------------------------- bytes


def _of_bytes(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    if not data:
        return rng.randbytes(rng.randint(1, 16))
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 512)))
    match rng.randrange(9):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + data[at:end] * rng.choice((2, 3, 16, 256)) + data[end:]
        case 4:
            return data[:at] + rng.choice(_TEXTS) * rng.choice((1, 1, 4, 5000)) + data[at:]
        case 5:
            width = rng.choice((1, 2, 4, 8))
            raw = (rng.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
            return data[:at] + raw + data[at + width :]
        case 6 if others:
            other = rng.choice(others)
            start = rng.randrange(len(other)) if other else 0
            return data[:at] + other[start : start + rng.randint(1, 4096)] + data[rng.choice((at, end)) :]
        case 7:
            return data[:at]
        case _:
            return data[:at] + str(rng.choice(_NUMBERS)).encode() + data[end:]


# ---------------------------------------------------------------- JSON


def _of_json(rng: Random, data: bytes) -> bytes:
    tree = json.loads(data)
    spots = list(_spots(tree))
    for _ in range(rng.randint(1, 3)):
        tree = _changed(rng, tree, spots)
        spots = list(_spots(tree)) or [(None, None)]
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _spots(tree: Any) -> list[tuple[Any, Any]]:
    """Each value within the tree, by what holds it and its key."""
    found: list[tuple[Any, Any]] = [(None, None)]
    waiting = [tree]
    while waiting and len(found) < 5000:
        here = waiting.pop()
        pairs = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, value in pairs:
            found.append((here, key))
            waiting.append(value)
    return found


def _changed(rng: Random, tree: Any, spots: list[tuple[Any, Any]]) -> Any:
    holder, key = rng.choice(spots)
    here = tree if holder is None else holder[key]
    other, at = rng.choice(spots)
    value: Any
    match rng.randrange(8):
        case 0 if holder is not None:
            del holder[key]
            return tree
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "$or", "$not", "a.b", "\ud800", "id", "x" * 300, f"{key}", str(at)))] = here
            return tree
        case 2:
            value = json.loads(json.dumps(tree if other is None else other[at]))
        case 3:
            value = here
            for _ in range(rng.choice((1, 2, 20, 60, 3000 if rng.random() < 0.2 else 5))):
                value = [value] if rng.random() < 0.5 else {rng.choice(("a", "$not", "$and")): value}
        case 4 if isinstance(here, list):
            value = here * rng.choice((0, 2, 3, 100))
        case 5 if isinstance(here, str):
            value = here[: rng.randint(0, len(here))] + rng.choice(("", "\0", "\ud800", "é", " ", "=", "%", "/..")) * 2
        case 6 if isinstance(here, int):
            value = rng.choice((here + 1, here - 1, -here, float(here) if abs(here) < 1 << 60 else 0, str(here)))
        case _:
            value = json.loads(json.dumps(rng.choice(_VALUES)))
    if holder is None:
        return value
    holder[key] = value
    return tree


# ---------------------------------------------------------------- tags, lines, archives


def _of_tags(rng: Random, data: bytes) -> bytes:
    """XML and HTML: tags and the text between them, moved, repeated, nested and renumbered."""
    parts = re.findall(rb"<[^>]*>|[^<]+", data)
    at, to = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(6):
        case 0:
            parts[at], parts[to] = parts[to], parts[at]
        case 1:
            del parts[at]
        case 2:
            parts[at:at] = [_repeated(b"".join(parts[min(at, to) : max(at, to)][:200]), rng.choice((1, 2, 50)))]
        case 3:
            parts[at] = _repeated(parts[at], rng.choice((2, 300, 3000)))
        case 4:
            value = rng.choice(_ATTRIBUTES).encode()
            parts[at] = re.sub(rb'"[^"]*"', lambda _: b'"' + value + b'"', parts[at], count=1)
        case _:
            name = re.match(rb"<([\w:-]+)", parts[at])
            if name:
                times = rng.choice((1, 5, 300, 2500))
                parts[at:at] = [b"<" + name[1] + b">"] * times
                parts.extend([b"</" + name[1] + b">"] * rng.choice((0, times)))
    return b"".join(parts)


def _repeated(data: bytes, times: int) -> bytes:
    return data * min(times, (1 << 18) // (len(data) or 1) + 1)


def _of_lines(rng: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines[at], lines[to] = lines[to], lines[at]
        case 1:
            lines[at:at] = [_repeated(lines[to], rng.choice((1, 40, 2000)))]
        case 2:
            del lines[at]
        case _:
            words = re.split(rb"(\W)", lines[at])
            words[rng.randrange(len(words))] = rng.choice(
                (*_TEXTS, b"", b"x" * 3000, str(rng.choice(_NUMBERS)).encode())
            )
            lines[at] = b"".join(words)
    return b"".join(lines)


def _of_zip(rng: Random, data: bytes) -> bytes:
    """A zip's members, packed anew with sizes and checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()[:50]]
    at, to = rng.randrange(len(members)), rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(8):
        case 0:
            del members[at]
        case 1:
            members.append((name, members[to][1]))
        case 2:
            members[at] = (rng.choice(("../x", "/etc/x", "", "a\\b", "\ud800", "x" * 200, members[to][0])), content)
        case _:
            inner = next((one for end, one in _INSIDE if name.lower().endswith(end)), _of_bytes)
            members[at] = (name, inner(rng, content))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            kind = zipfile.ZIP_DEFLATED if rng.random() < 0.3 and name != "mimetype" else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name or "_"), content, kind)
    return packed.getvalue()


_INSIDE: tuple[tuple[str, Mutation], ...] = (
    *((end, _of_tags) for end in (".xml", ".rels", ".xhtml", ".html", ".opf")),
    (".json", _of_json),
)
_SHAPES: dict[str, Mutation] = {"json": _of_json, "tags": _of_tags, "lines": _of_lines, "zip": _of_zip}
