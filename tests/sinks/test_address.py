"""Urls of stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.core.errors import UsageError
from penstock.sinks.address import Address, parse


def read(url: str, names: int = 1) -> Address:
    return parse(url, "store", "store://host:1/notes", port=6333, names=names, options=frozenset({"tls"}))


def test_servers() -> None:
    found = read("store://me@example.org/notes%20x?tls=1")
    assert (found.host, found.port, found.user, found.names, found.tls) == (
        "example.org",
        6333,
        "me",
        ("notes x",),
        True,
    )
    assert read("store://[::1]:99/a/b", names=2).names == ("a", "b")
    assert not read("store://h:1/a").tls


@pytest.mark.parametrize(
    ("url", "folder"),
    [("store://./db/notes", "db"), ("store:///srv/db/notes/", "/srv/db"), ("store://../notes", "..")],
)
def test_folders(url: str, folder: str) -> None:
    found = read(url)
    assert (found.folder, found.names) == (Path(folder), ("notes",))


@pytest.mark.parametrize(
    "url",
    ["", "other://h/a", "store://", "store://h", "store://h/a/b", "store:///", "store://./", "store://h:x/a",
     "store://h/a?colour=red", "store://me:hunter2@h/a", "store://h/\0"],
)  # fmt: skip
def test_what_cannot_be_meant(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(url)
    assert "hunter2" not in str(raised.value)
