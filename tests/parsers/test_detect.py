from __future__ import annotations

import gzip
import random
import time
from pathlib import Path

import pytest

from penstock.core.errors import ParseError, Unsupported
from penstock.parsers import Parsers
from penstock.parsers.detect import detect
from tests.parsers.conftest import Read, item

HTML = b"<!DOCTYPE html><html><body><p>hi</p></body></html>"


def kind(data: bytes, name: str = "", hint: str | None = None) -> str | None:
    def peek(offset: int, size: int) -> bytes:
        start = max(0, len(data) + offset) if offset < 0 else offset
        return data[start : start + size]

    return detect(peek, name, hint)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.md", "text/markdown"),
        ("a.MARKDOWN", "text/markdown"),
        ("a.html", "text/html"),
        ("a.csv", "text/csv"),
        ("a.jsonl", "application/x-ndjson"),
        ("a.json", "application/json"),
        ("a.py", "text/x-python"),
        ("a.rs", "text/x-rust"),
        ("Makefile", "text/x-make"),
        ("a.txt", "text/plain"),
        ("md", "text/plain"),
        ("dir.md/notes", "text/plain"),
        ("a.eml", "message/rfc822"),
    ],
)
def test_the_name_decides_between_kinds_of_text(name: str, expected: str) -> None:
    assert kind(b"just some words\n", name) == expected


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.md", "a.docx", ""])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"%PDF-1.7\n", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n\0\0", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (gzip.compress(b"x", mtime=0), "application/gzip"),
        (b"\x7fELF\2\1\1\0", "application/x-elf"),
        (rb"{\rtf1\ansi hello}", "application/rtf"),
        (HTML, "text/html"),
        (b"\n<!-- c --><HTML lang=en>", "text/html"),
        ("<!doctype HTML>".encode("utf-16"), "text/html"),
        (b"", "application/x-empty"),
    ],
)
def test_a_lying_name_is_found_out(data: bytes, expected: str, name: str) -> None:
    assert kind(data, name) == expected


def test_packages_are_told_apart_by_what_is_in_them(documents: Path) -> None:
    for path in documents.iterdir():
        wrong = kind(path.read_bytes(), "x.txt")
        assert wrong == kind(path.read_bytes(), path.name), path
        assert wrong != "text/plain", path


def test_a_plain_zip_is_no_document(make: object, parsers: Parsers) -> None:
    data = make.package({"a.txt": "hello"})  # type: ignore[attr-defined]
    assert kind(data, "a.docx") == "application/zip"
    with pytest.raises(Unsupported, match="application/zip"):
        parsers.parse(item(data, "a.docx"))


def test_outlook_and_word_files_are_told_by_their_directory() -> None:
    header = bytearray(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(512, b"\0"))
    header[30:32], header[48:52] = (9).to_bytes(2, "little"), (3).to_bytes(4, "little")
    body = bytes(header) + bytes(3 * 512)
    assert kind(body + "__properties_version1.0".encode("utf-16-le"), "x") == "application/vnd.ms-outlook"
    assert kind(body + "WordDocument".encode("utf-16-le"), "x.msg") == "application/msword"
    assert kind(bytes(header), "x.msg") == "application/x-ole-storage"


def test_an_office_document_under_a_password_says_so(read: Read) -> None:
    header = bytearray(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(512, b"\0"))
    header[30:32] = (9).to_bytes(2, "little")
    with pytest.raises(ParseError, match="encrypted"):
        read(bytes(header) + "EncryptedPackage".encode("utf-16-le"), "a.docx")


def test_the_source_s_word_counts_where_the_content_says_nothing() -> None:
    assert kind(b"<p>hello", "page.php", "text/html; charset=utf-8") == "text/html"
    assert kind(b"a b", "README", "text/markdown") == "text/markdown"
    assert kind(b"a b", "a.md", "application/octet-stream") == "text/markdown"
    assert kind(b"%PDF-1.4", "a", "text/html") == "application/pdf"


def test_mail_and_scripts_are_known_without_a_name(make: object) -> None:
    assert kind(make.EML, "12345") == "message/rfc822"  # type: ignore[attr-defined]
    assert kind(b"Note: this\nis no mail: really\n", "12345") == "text/plain"
    assert kind(b"#!/usr/bin/env python3\nprint()\n", "tool") == "text/x-python"
    assert kind(b"#!/bin/sh\ntrue\n", "tool") == "text/x-bash"


@pytest.mark.parametrize("name", ["a.bin", "a.txt", "a.py", "a"])
def test_binary_of_unknown_type_is_unsupported(name: str, parsers: Parsers) -> None:
    noise = random.Random(1).randbytes(5000)
    assert kind(noise, name) is None
    assert kind(bytes(5000), name) is None
    with pytest.raises(Unsupported, match="unknown type"):
        parsers.parse(item(noise, name))


def test_an_empty_file_is_a_document_without_blocks(read: Read) -> None:
    assert read(b"", "a.pdf") == []
    assert read(b"", "a.md") == []


def test_detection_is_quick() -> None:
    """Under a millisecond for the slowest kind of head, the whole of it text."""
    head = ("naïve text, line after line\n" * 600).encode()
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        kind(head, "notes")
        best = min(best, time.perf_counter() - began)
    assert best < 0.001
