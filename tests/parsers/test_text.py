from __future__ import annotations

import codecs
import io
import itertools
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.records import Block, Gap, Item
from penstock.parsers import Parsers
from penstock.parsers.text import BLOCK, PIECE, decode, decoded, parse
from tests.parsers.conftest import Read, item, text_of

WESTERN = "Der Fluß fällt über das Wehr, où l’eau déborde à l’été; el año pasado llovió más. " * 8
SAMPLES = {
    "utf-8": WESTERN,
    "utf-8-sig": WESTERN,
    "utf-16": WESTERN,
    "utf-16-le": WESTERN,
    "utf-16-be": WESTERN,
    "utf-32": WESTERN,
    "utf-32-le": WESTERN,
    "cp1252": WESTERN,
    "latin-1": "Der Fluß fällt über das Wehr, où l'eau déborde à l'été; el año pasado llovió. " * 8,
    "cp1251": "Вода течёт через плотину, и турбина вращается всё быстрее и быстрее. " * 8,
    "koi8-r": "Вода течёт через плотину, и турбина вращается всё быстрее и быстрее. " * 8,
    "shift_jis": "水はダムを通って流れ、タービンを回します。川の流れは速いです。" * 8,
    "euc-jp": "水はダムを通って流れ、タービンを回します。川の流れは速いです。" * 8,
    "gb18030": "水流过大坝，带动涡轮机旋转。河水流得很快，声音很大。" * 8,
    "big5": "水流過大壩，帶動渦輪機旋轉。河水流得很快，聲音很大。" * 8,
    "euc-kr": "물은 댐을 통해 흐르고 터빈을 돌립니다. 강물은 매우 빠르게 흐릅니다. " * 8,
    "cp1253": "Το νερό ρέει μέσα από το φράγμα και γυρίζει τον στρόβιλο γρήγορα. " * 8,
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_the_encoding_is_found(encoding: str, read: Read) -> None:
    text = SAMPLES[encoding]
    assert text_of(read(text.encode(encoding), "notes.txt")) == text.removeprefix("\ufeff")


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "shift_jis"])
def test_the_encoding_is_found_where_the_first_megabyte_is_ascii(encoding: str, read: Read) -> None:
    text = "plain\r\n" * 150_000 + SAMPLES[encoding]
    assert text_of(read(text.encode(encoding), "a.txt")) == text.replace("\r\n", "\n")


def test_short_western_words_are_not_taken_for_something_exotic() -> None:
    for text in ("café", "Voilà le château, les élèves étaient fâchés", "Müller & Söhne", "El Niño"):
        assert decode(text.encode("latin-1")) == text


def test_what_the_source_says_of_the_encoding_counts_if_it_is_true(read: Read) -> None:
    word = "Łódź".encode("iso-8859-2")
    assert text_of(read(word, "a.txt", "text/plain; charset=iso-8859-2")) == "Łódź"
    assert text_of(read("Łódź".encode(), "a.txt", "text/plain; charset=ascii")) == "Łódź"
    assert text_of(read("Łódź".encode(), "a.txt", "text/plain; charset=rot13")) == "Łódź"
    assert text_of(read("Łódź".encode(), "a.txt", "text/plain; charset=no-such")) == "Łódź"


def test_damage_in_the_middle_is_a_gap_and_the_rest_is_read(read: Read) -> None:
    clean = ("é" * 1000 + "\n") * 400
    parts = read(clean.encode() + b"\xff\xfe\xff" + clean.encode(), "a.txt")
    gaps = [part for part in parts if isinstance(part, Gap)]
    assert len(gaps) == 1
    assert "from about byte 80040" in gaps[0].cause
    assert text_of(parts) == clean + "\ufffd" * 3 + clean


def test_a_character_cut_off_at_the_end_is_a_gap(read: Read) -> None:
    parts = read(("é" * 300).encode()[:-1], "a.txt")
    assert any(isinstance(part, Gap) for part in parts)
    assert text_of(parts) == "é" * 299 + "\ufffd"


def test_nuls_are_dropped(read: Read) -> None:
    assert text_of(read(b"log line\n" * 900 + bytes(500) + b"after the crash\n", "a.log")).endswith(
        "line\nafter the crash\n"
    )


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=300), st.integers(1, 2000))
def test_joined_blocks_are_the_decoded_text(words: str, times: int) -> None:
    text = words * times
    parts = list(parse(io.BytesIO(text.encode()), item(b"")))
    assert all(isinstance(part, Block) and 0 < len(part.text) <= BLOCK for part in parts)
    assert text_of(parts) == text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


@given(st.integers(-3, 3), st.sampled_from(["\r\n", "€", "😀", "\r"]))
def test_what_straddles_two_reads_is_whole(shift: int, straddling: str) -> None:
    text = "é" + "a" * (PIECE - 2 + shift) + straddling + "end"
    joined = "".join(part for part in decoded(io.BytesIO(text.encode())) if isinstance(part, str))
    assert joined == text.replace("\r\n", "\n").replace("\r", "\n")


def test_source_code_says_its_language(read: Read) -> None:
    (block,) = read(b"def f():\n    pass\n", "a.py")
    assert isinstance(block, Block)
    assert block.metadata == {"language": "python"}


class Endless(io.RawIOBase):
    """`size` bytes of one line, made as they are read."""

    def __init__(self, size: int) -> None:
        self.left, self.size, self.at = size, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset if whence == 0 else self.size + offset
        return self.at

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.size - self.at)
        self.at += size
        return b"x" * size


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py"])
def test_a_line_of_300_mb_takes_constant_memory(name: str, parsers: Parsers) -> None:
    size = 300_000_000
    parsed = parsers.parse(Item(f"memory://{name}", "1", lambda: Endless(size)))  # type: ignore[arg-type, return-value]
    list(itertools.islice(parsed.blocks, 8))
    tracemalloc.start()
    read = sum(len(part.text) for part in parsed.blocks if isinstance(part, Block))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size - 9 * BLOCK <= read < size
    assert peak < 4 << 20


def test_a_hole_of_200_mb_in_a_log_takes_constant_memory(parsers: Parsers, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"line\n" * 5000)
    os.truncate(log, 200 << 20)
    tracemalloc.start()
    parts = list(parsers.parse(item(log)).blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text_of(parts) == "line\n" * 5000
    assert peak < 4 << 20


def test_a_file_closed_early_is_let_go_of(parsers: Parsers) -> None:
    opened: list[io.BytesIO] = []

    def opener() -> io.BytesIO:
        opened.append(io.BytesIO(b"words\n" * 100_000))
        return opened[-1]

    parsed = parsers.parse(Item("memory://a.txt", "1", opener))
    next(parsed.blocks)
    parsed.blocks.close()
    parsers.parse(Item("memory://b.txt", "1", opener)).blocks.close()
    assert [stream.closed for stream in opened] == [True, True]


def test_marks_of_byte_order_are_no_text() -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode("word".encode(encoding)) == "word"
    assert decode(codecs.BOM_UTF16_BE + "word".encode("utf-16-be")) == "word"
