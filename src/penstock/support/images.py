"""From an image's bytes to pixels: upright, opaque, RGB. Hostile input is refused by its header, before it is decoded.

Pillow does the work (the extra `images`), and lets go of the GIL while it does: several threads decode at once.
HEIC is read where pillow-heif is installed.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.core.errors import LimitExceeded, MissingExtra, ParseError, Unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic")
CAPTIONS = (".json", ".txt")
"""Endings of files beside an image that hold its caption."""
PIXELS = 100_000_000
"""The most pixels an image may have: 300 MB once it is decoded, twice that if it is transparent."""
LARGE = 16_000_000
"""Pixels of an image that takes so much memory that there is only one such at a time."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF")
"""The formats that are tried. Pillow reads dozens more, some of them by running other programs."""
SCANS = 64
"""Passes over a JPEG; a photograph has a dozen. A pass over millions of pixels may take few bytes, and a second."""
MARKERS = 10_000
"""The most markers of a JPEG with many passes; they are searched one by one."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_OTHERS = {b"%PDF": "a PDF", b"%!PS": "PostScript", b"PK": "a zip archive", b"\x1f\x8b": "compressed by gzip"}
_QUOTED = re.compile(r"""b'[^']*'|b"[^"]*\"""")
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF's orientation -> Pillow's transposition."""
_WHITE = (255, 255, 255)
_one_large = threading.Lock()
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SCAN, _END = 0xDA, 0xD9


def decode(source: bytes | BinaryIO, *, edge: int | None = None, pixels: int = PIXELS) -> Image:
    """The first frame as an RGB image: turned as its EXIF data say, transparency on white, 16 bits brought to 8.

    `edge`: no side need be longer than this, so JPEGs may be decoded at 1/2, 1/4 or 1/8 as long as none gets shorter.
    Half of 267 rows is 134, of which the last is half empty: `extent(image)` is what is really filled.
    Raises ParseError for what is broken or cut short, Unsupported for what is no image, LimitExceeded beyond `pixels`.
    """
    with decoded(source, edge=edge, pixels=pixels) as image:
        return image


@contextmanager
def decoded(source: bytes | BinaryIO, *, edge: int | None = None, pixels: int = PIXELS) -> Iterator[Image]:
    """The same, for as long as it is needed. Of large images there is one at a time, whatever the number of threads."""
    image = _open(source, pixels)
    area = image.width * image.height
    with _blaming(image):
        drafted = None
        if image.format in ("JPEG", "MPO"):
            _few_scans(image)
            drafted = _shrink(image, edge) if edge is not None else None
    # Of a progressive JPEG all is in memory, whatever the fraction it is decoded at.
    held = area if "progressive" in image.info else image.width * image.height
    with _one_large if held > LARGE else nullcontext():
        yield _upright(image, drafted)


def _upright(image: Any, drafted: tuple[float, float] | None) -> Image:
    with _blaming(image):
        image.load()
        orientation = _orientation(image)
        upright: Image = _opaque(image)
        if (turn := _TURNS.get(orientation)) is not None:
            upright = upright.transpose(_pillow()[0].Transpose(turn))
        upright.info = {} if drafted is None else {"extent": _turned(drafted, upright.size, orientation)}
        return upright


@contextmanager
def _blaming(image: Any) -> Iterator[None]:
    try:
        yield
    except ParseError:
        raise
    # Pillow's decoders raise whatever hostile bytes make them raise: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ParseError(f"the {image.format} image cannot be decoded: {_cause(error)}") from error


def extent(image: Image) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the picture within a decoded image."""
    box: tuple[float, float, float, float] = image.info.get("extent", (0, 0, *image.size))
    return box


def measure(source: bytes | BinaryIO, *, pixels: int = PIXELS) -> tuple[str, int, int]:
    """Media type, width and height by the header, as the file says them: EXIF may turn it. Decodes nothing."""
    image = _open(source, pixels)
    return image.get_format_mimetype() or f"image/{(image.format or '').lower()}", image.width, image.height


def _open(source: bytes | BinaryIO, pixels: int) -> Any:
    module, formats = _pillow()
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    begins = stream.read(512)
    stream.seek(0)
    if not begins:
        raise ParseError("the image is empty: zero bytes")
    try:
        image = module.open(stream, formats=formats)
    except module.UnidentifiedImageError as error:
        if begins.startswith(_BEGINNINGS) or (begins[4:8] == b"ftyp" and _box(begins) in formats):
            raise ParseError("the image is broken: its header makes no sense, or is cut short") from error
        raise Unsupported(_unknown(begins)) from error
    except (module.DecompressionBombError, module.DecompressionBombWarning) as error:
        raise LimitExceeded(f"the image has more than {pixels:,} pixels: {_cause(error)}") from error
    except Exception as error:  # as in decode()
        raise ParseError(f"the image's header cannot be read: {_cause(error)}") from error
    if image.width * image.height > pixels:
        raise LimitExceeded(f"the image has {image.width:,} x {image.height:,} pixels, more than {pixels:,}")
    return image


@cache
def _pillow() -> tuple[Any, tuple[str, ...]]:
    """Pillow's Image module, and which formats it can read here."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise MissingExtra("decoding images (Pillow)", "images") from None
    try:
        pillow_heif = import_module("pillow_heif")
    except ModuleNotFoundError:
        pass  # Then HEIC is one of the types that are refused.
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    # It warns of odd metadata, and from 89 million pixels on, where the limit is ours. Its error, at twice that, stays.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return Image, tuple(name for name in FORMATS if name in Image.OPEN)


def _shrink(image: Any, edge: int) -> tuple[float, float] | None:
    """Have libjpeg decode at a fraction. Asked for a size, Pillow takes the largest fraction that reaches it, and tells
    the true width and height."""
    short = min(image.size)
    if edge >= short or (drafted := image.draft(None, [max(1, side * edge // short) for side in image.size])) is None:
        return None
    _, (_, _, width, height) = drafted
    return width, height


def _few_scans(image: Any) -> None:
    """Raises LimitExceeded where there are too many."""
    stream, parts = image.fp, image.layers
    # Pillow has read the head of the first pass. If that is of all colours it is the only one, unless progressive.
    size = 6 + 2 * parts
    stream.seek(max(0, stream.tell() - size - 2))
    if "progressive" not in image.info and stream.read(5) == bytes((0xFF, _SCAN, 0, size, parts)):
        return
    stream.seek(0)
    content = stream.read()
    if content.count(bytes((0xFF, _SCAN))) <= SCANS:
        return
    # Two bytes may be there by chance: in metadata, or in the film that a phone appends to a photograph.
    at = scans = 0
    for _ in range(MARKERS):
        marker = _MARKER.search(content, at)
        if not marker or (kind := content[marker.start() + 1]) == _END:
            return
        if (scans := scans + (kind == _SCAN)) > SCANS:
            break
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    raise LimitExceeded(f"the JPEG image is drawn in more than {SCANS} passes")


def _turned(filled: tuple[float, float], size: tuple[int, int], orientation: int) -> tuple[float, float, float, float]:
    """The filled part of an image once it is upright: the last row may be the first then."""
    width, height = filled if orientation < 5 else filled[::-1]
    left = size[0] - width if orientation in (2, 3, 6, 7) else 0.0
    top = size[1] - height if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + width, top + height


def _opaque(image: Any) -> Any:
    """In RGB, on white where it is transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        behind = _pillow()[0].new("RGB", image.size, _WHITE)
        behind.paste(image, mask=image.getchannel("A"))
        return behind
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Any) -> Any:
    """Grey of more than 8 bits a pixel. Integers count as 16 bits if one needs them, floats as 0 to 1 if all fit."""
    import numpy as np

    values = np.asarray(image)
    hidden = values == image.info.get("transparency")
    if image.mode == "F":
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        values = values * 255 if values.max(initial=0.0) <= 1 else values
    elif image.mode != "I" or values.max(initial=0) > 255:
        values = values >> 8
    shades = np.clip(values, 0, 255).astype(np.uint8)
    shades[hidden] = 255
    return _pillow()[0].fromarray(shades)


def _orientation(image: Any) -> int:
    """Asked once the image is loaded: Pillow turns TIFFs by itself, and takes the tag away then."""
    try:
        return int(image.getexif().get(0x0112, 1))
    # Broken EXIF data spoil no pixel, and every viewer shows the image as it lies.
    except Exception:
        return 1


def _box(begins: bytes) -> str:
    return "AVIF" if begins[8:12] in (b"avif", b"avis") else "HEIF"


def _unknown(begins: bytes) -> str:
    text = begins.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "this is no image but an HTML page"
    if begins[4:8] == b"ftyp" and _box(begins) == "HEIF":
        return "this is no image that can be read here; HEIC wants the package pillow-heif"
    kind = next((kind for beginning, kind in _OTHERS.items() if begins.startswith(beginning)), "of an unknown format")
    return f"this is no image that can be read here: it is {kind}"


def _cause(error: BaseException) -> str:
    """What Pillow says, without the bytes that it quotes: not all who read messages may read the file."""
    return _QUOTED.sub("...", f"{error}").strip() or type(error).__name__
