"""What bytes become: upright opaque RGB, or an error that says why not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock.core.errors import LimitExceeded, MissingExtra, ParseError, Unsupported
from penstock.support import images

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(width: int = 80, height: int = 60) -> Image.Image:
    """Every pixel encodes where it was."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def png_of_size(width: int, height: int) -> bytes:
    """A header that promises much, and nothing behind it."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_gives_the_picture(kind: str) -> None:
    if kind not in images._pillow()[1]:
        pytest.skip(f"this Pillow reads no {kind}")
    found = images.decode(saved(gradient(), kind))
    assert (found.mode, found.size) == ("RGB", (80, 60))
    assert np.abs(np.asarray(found, int) - np.asarray(gradient(), int)).mean() < 6


def test_a_stream_is_read_as_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(gradient()))
    with path.open("rb") as stream:
        assert images.decode(stream).tobytes() == gradient().tobytes()


def test_heic_is_read_where_its_driver_is_there() -> None:
    pytest.importorskip("pillow_heif")
    images._pillow()
    whole = saved(gradient(), "HEIF", quality=95)
    assert np.abs(np.asarray(images.decode(whole), int) - np.asarray(gradient(), int)).mean() < 6
    with pytest.raises(ParseError, match=r"cannot be|makes no sense"):
        images.decode(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(kind: str, orientation: int) -> None:
    """What a camera stored lying comes out as it was seen, whichever of the eight ways it lay."""
    lay = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = gradient() if lay is None else gradient().transpose(Image.Transpose(lay))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = images.decode(saved(stored, kind, exif=exif, quality=95))
    assert found.size == (80, 60)
    assert np.abs(np.asarray(found, int) - np.asarray(gradient(), int)).mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_spoils_no_picture() -> None:
    assert images.decode(saved(gradient(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\1")).size == (80, 60)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")]
)
def test_what_is_transparent_is_white(mode: str, kind: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 0, 8, 8))
    stored = image.quantize(4) if mode == "P" else image.convert(mode)
    assert stored.mode == mode
    found = images.decode(saved(stored, kind, lossless=True))
    assert (found.getpixel((0, 0)), found.getpixel((7, 7))) == (WHITE, (0, 0, 0))


def test_a_transparent_colour_of_a_png_without_alpha_is_white() -> None:
    found = images.decode(saved(Image.new("RGB", (4, 4), RED), transparency=RED))
    assert found.getpixel((0, 0)) == WHITE


def test_half_transparent_red_on_white_is_pink() -> None:
    assert images.decode(saved(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))).getpixel((1, 1)) == (255, 127, 127)


def test_cmyk_is_brought_to_rgb() -> None:
    red, green, blue = images.decode(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_brought_to_eight_and_not_clipped(kind: str) -> None:
    """Pillow's own conversion makes everything above 255 white."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    found = np.asarray(images.decode(saved(Image.fromarray(ramp), kind)))[0, :, 0]
    np.testing.assert_allclose(found, np.arange(256), atol=1)


def test_sixteen_bits_with_a_transparent_shade_are_not_clipped() -> None:
    """Only the shade that is meant is white, not its neighbours."""
    shades = np.array([[0, 30_000, 30_001, 40_000]], np.uint16)
    found = images.decode(saved(Image.fromarray(shades), transparency=30_000))
    assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 255, 117, 156]


def test_floats_and_wide_integers_are_shades() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(2, axis=0)
    for values in (ramp, ramp * 255, (ramp * 65535).astype(np.int32), (ramp * 255).astype(np.int32)):
        found = np.asarray(images.decode(saved(Image.fromarray(values), "TIFF")))[0, :, 0]
        np.testing.assert_allclose(found, np.arange(256), atol=1.1)
    spoilt = np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32)
    assert images.decode(saved(Image.fromarray(spoilt), "TIFF")).getpixel((3, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr"])
def test_other_modes_are_brought_to_rgb(mode: str) -> None:
    data = saved(Image.new("RGB", (9, 9), WHITE).convert(mode), "TIFF" if mode == "YCbCr" else "PNG")
    red, green, blue = images.decode(data).getpixel((4, 4))
    assert min(red, green, blue) >= 253


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    found = images.decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    red, green, blue = found.getpixel((10, 10))
    assert (red > 230, green < 20, blue < 20) == (True, True, True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_what_is_cut_short_is_refused_and_never_grey(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 255, (90, 120, 3), np.uint8))
    whole = saved(noise, kind)
    with pytest.raises(ParseError):
        images.decode(whole[: int(len(whole) * share)])


def test_a_progressive_jpeg_cut_short_is_refused() -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 255, (90, 120, 3), np.uint8))
    whole = saved(noise, "JPEG", progressive=True)
    with pytest.raises(ParseError, match="the JPEG image cannot be decoded"):
        images.decode(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", ParseError, "zero bytes"),
        (b"<!DOCTYPE html><html><body>not found</body></html>", Unsupported, "an HTML page"),
        (b"\n  <html>", Unsupported, "an HTML page"),
        (b"%PDF-1.7 ...", Unsupported, "no image that can be read here: it is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Unsupported, "no image that can be read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ParseError, r"pillow-heif|makes no sense"),
        (b"\xff\xd8\xff\xe0", ParseError, "header makes no sense"),
        (b"\x89PNG\r\n\x1a\n", ParseError, "header makes no sense"),
        (b"GIF89a", ParseError, "header makes no sense"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1", ParseError, "header makes no sense"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data: bytes, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        images.decode(data)


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (10_001, 10_000), (100_000, 1_001), (2**31 - 1, 1)])
def test_a_pixel_bomb_is_refused_by_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(LimitExceeded, match="more than 100,000,000"):
        images.decode(png_of_size(width, height))
    with pytest.raises(LimitExceeded):
        images.measure(png_of_size(width, height))


def test_a_jpeg_of_endless_passes_is_refused() -> None:
    """Some bytes each, and as long to decode as the whole picture; the same bytes behind its end are no passes."""
    whole = saved(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    for edge in (None, 16):
        with pytest.raises(LimitExceeded, match="more than 64 passes"):
            images.decode(whole[:-2] + scan * 500 + b"\xff\xd9", edge=edge)
    began = time.process_time()
    with pytest.raises(LimitExceeded, match="passes"):
        images.decode(whole[:-2] + b"\xff\xda\0\0" * (1 << 20) + b"\xff\xd9")
    assert time.process_time() - began < 0.5
    assert images.decode(whole[:-2] + scan * 40 + b"\xff\xd9").size == (64, 64)
    assert images.decode(whole + scan * 500).size == (64, 64)
    assert images.decode(saved(Image.new("L", (64, 64)), "JPEG", comment=b"\xff\xda" * 100)).size == (64, 64)


def test_the_limit_is_the_callers() -> None:
    data = saved(gradient(80, 60))
    assert images.decode(data, pixels=4800).size == (80, 60)
    with pytest.raises(LimitExceeded, match="80 x 60 pixels, more than 4,799"):
        images.decode(data, pixels=4799)


def test_between_pillows_warning_and_our_limit_nothing_is_said() -> None:
    code = "from test_images import *; print(images.measure(png_of_size(9_500, 10_000)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, check=True
    )
    assert done.stdout == "('image/png', 9500, 10000)\n"
    assert done.stderr == ""


def test_measuring_decodes_nothing() -> None:
    whole = saved(gradient(640, 480), "JPEG")
    assert images.measure(whole[:700]) == ("image/jpeg", 640, 480)


@pytest.mark.parametrize(
    ("edge", "size"), [(None, (1000, 500)), (500, (1000, 500)), (251, (1000, 500)), (250, (500, 250)), (60, (125, 63))]
)
def test_a_jpeg_is_shrunk_on_load_but_never_below_the_edge(edge: int | None, size: tuple[int, int]) -> None:
    found = images.decode(saved(gradient(1000, 500), "JPEG"), edge=edge)
    assert found.size == size
    assert np.abs(np.asarray(found.resize((80, 40)), int) - np.asarray(gradient(80, 40), int)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_a_shrunk_jpeg_really_fills_is_told(orientation: int) -> None:
    """At 1/4, 403 columns are 101, the last of them filled to three quarters; it may come to lie first."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = images.decode(saved(gradient(403, 206), "JPEG", exif=exif), edge=50)
    across, down = {1: "rb", 2: "lb", 3: "lt", 4: "rt", 5: "rb", 6: "lb", 7: "lt", 8: "rt"}[orientation]
    size, filled = ((101, 52), (100.75, 51.5)) if orientation < 5 else ((52, 101), (51.5, 100.75))
    left = size[0] - filled[0] if across == "l" else 0
    top = size[1] - filled[1] if down == "t" else 0
    assert found.size == size
    assert images.extent(found) == (left, top, left + filled[0], top + filled[1])
    assert images.extent(images.decode(saved(gradient(), "JPEG"))) == (0, 0, 80, 60)


def test_a_picture_smaller_than_the_edge_is_left_alone() -> None:
    assert images.decode(saved(gradient(5, 1), "JPEG"), edge=448).size == (5, 1)


def test_without_pillow_the_install_line_is_told() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from penstock.support import images\n"
        "try: images.decode(b'a')\n"
        "except images.MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith('pip install "penstock[images]"')
    assert issubclass(MissingExtra, Exception)


def test_importing_it_loads_no_pillow() -> None:
    code = (
        "import sys, penstock.support.images, penstock.embedders.clip; assert not {'PIL', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_decode_at_once_and_get_their_own() -> None:
    def of(number: int) -> bytes:
        return saved(Image.new("RGB", (300, 200), (number * 40, 255 - number * 40, 90)), "JPEG")

    wrong: list[int] = []

    def work(number: int) -> None:
        data = of(number)
        for _ in range(15):
            red, green, _ = images.decode(data).getpixel((150, 100))
            if abs(red - number * 40) > 4 or abs(green - 255 + number * 40) > 4:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


SEEDS = [saved(gradient(40, 30), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8), st.floats(0.1, 1)
)
def test_spoilt_bytes_give_a_picture_or_a_parse_error_and_nothing_else(
    seed: bytes, spoils: list[tuple[float, int]], share: float
) -> None:
    data = bytearray(seed[: max(1, int(len(seed) * share))])
    for place, value in spoils:
        data[int(place * len(data))] = value
    try:
        found = images.decode(bytes(data), pixels=1_000_000)
    except ParseError:
        return
    assert found.mode == "RGB"


def test_the_types_of_errors_are_kept_apart() -> None:
    """So that a pipeline may count what is broken, what is foreign and what is too large."""
    kinds: dict[str, Callable[[], object]] = {
        "ParseError": lambda: images.decode(b""),
        "Unsupported": lambda: images.decode(b"hello"),
        "LimitExceeded": lambda: images.decode(png_of_size(20_000, 20_000)),
    }
    for name, call in kinds.items():
        with pytest.raises(ParseError) as caught:
            call()
        assert type(caught.value).__name__ == name


def test_of_large_images_there_is_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has been made small, not only until it is decoded; small ones do not wait for it."""
    monkeypatch.setattr(images, "LARGE", 100 * 100)
    large, small = saved(Image.new("RGB", (200, 100)), "PNG"), saved(Image.new("RGB", (10, 10)), "PNG")
    second = threading.Event()

    def another() -> None:
        with images.decoded(large):
            second.set()

    with images.decoded(large):
        thread = threading.Thread(target=another)
        thread.start()
        assert images.decode(small).size == (10, 10)
        assert not second.wait(0.2)
    assert second.wait(10)
    thread.join()


@given(st.binary(min_size=12, max_size=12).filter(lambda data: len(set(data)) > 8), st.sampled_from(range(9)))
def test_no_message_holds_bytes_of_the_file(data: bytes, kind: int) -> None:
    """Who gets the message may not be who may read the file: it may be behind a url, or another's."""
    secret = b"k3y:" + data.hex().upper().encode()  # no message has a word of such letters
    beginnings = (
        *(b"", b"\x89PNG\r\n\x1a\n\0\0\0\x0d", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0"),
        *(b"RIFF\x20\0\0\0WEBP", b"\0\0\0\x20ftypavif"),
    )
    for source in (beginnings[kind] + secret, secret[:4] + beginnings[kind] + secret):
        with pytest.raises(ParseError) as raised:
            images.decode(source)
        message = str(raised.value)
        assert not any(source[at : at + 4].decode("latin-1") in message for at in range(len(source) - 3)), message
        assert "b'" not in message
