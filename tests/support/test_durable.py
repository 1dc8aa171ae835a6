from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from penstock.support import durable


def test_the_old_content_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no draft is left, whether it was moved or not."""
    file = tmp_path / "a.json"
    durable.replace(file, b"old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            durable.replace(file, b"new")
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"old", ["a.json"])
    durable.replace(file, b"new")
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"new", ["a.json"])


def test_nothing_else_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where somebody had guessed the draft's name."""
    other = tmp_path / "other"
    other.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda number: "guessed")
    (tmp_path / ".a.json.guessed.tmp").symlink_to(other)
    with pytest.raises(FileExistsError):
        durable.replace(tmp_path / "a.json", b"new")
    assert other.read_text() == "precious"


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_the_rights_do_not_depend_on_the_mask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.replace(tmp_path / "shared", b"", 0o644)
        durable.replace(tmp_path / "own", b"")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("shared", "own")] == [0o644, 0o600]
