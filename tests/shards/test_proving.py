"""Every kind of damage is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.shards import verify
from penstock.shards.folder import Done, Folder, shard_of
from penstock.shards.format import Entry, Listed, decode, records
from penstock.shards.proof import Verified
from penstock.shards.store import at
from penstock.sources.files import Files

from .world import embedded, encode, pictures, torn


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    source = pictures(tmp_path / "in", 40)
    (source / "torn.png").write_bytes(torn())
    for number in (1, 2, 3):
        embedded(source, tmp_path / "out", partition=(number, 3))
    return Folder.open(at(tmp_path / "out"))


def proved(folder: Folder, **how: Any) -> Verified:
    return verify(folder.store.url, **how)


def rewritten(folder: Folder, number: int, change: Callable[[list[Any], list[Entry]], None], **space: Any) -> str:
    """Replace the rows of a part, and record the part as if it had always been so."""
    name = folder.part_names(2)[number]
    part = folder.read(name)
    rows, entries = list(records(part.table)), list(part.entries)
    change(rows, entries)
    data = encode(rows, entries, replace(folder.space, **space), part.facts)
    folder.store.put(name, data)
    done = folder.done(2)
    assert done is not None
    new = decode(name, data)
    parts = [Listed(name, len(rows), new.sha256, len(entries)) if p.name == name else p for p in done.parts]
    folder.finish(replace(done, parts=parts))
    return name


def test_complete_parts(folder: Folder, tmp_path: Path) -> None:
    """The report has all sums, and failures with their causes; progress reaches the end."""
    seen: list[Verified] = []
    found = verify(folder.store.url, seen.append, source=Files(str(tmp_path / "in")))
    assert found.ok
    assert found.troubles == ()
    assert found.counts == {"embedded": 40, "duplicate": 0, "failed": 1, "skipped": 0}
    assert (found.shards, found.finished, found.rows, found.total) == (3, 3, 40, 40)
    assert found.failures[0][0] == (tmp_path / "in" / "torn.png").as_uri()
    assert [one.parts for one in seen] == list(range(1, found.parts + 1))
    assert json.dumps(found.to_json())


def test_a_shard_that_is_missing(folder: Folder) -> None:
    """Its record is missing, or it was never finished."""
    folder.store.remove("_done/0002-000001.json")
    assert proved(folder).troubles == ("shard 2 of 3 is not finished",)


def test_a_part_that_is_missing(folder: Folder) -> None:
    """Its name is reported, and that its inputs are not accounted for."""
    name = folder.part_names(2)[0]
    folder.store.remove(name)
    troubles = proved(folder).troubles
    assert troubles[0] == f"{name} does not exist"
    assert "accounted for are not the" in troubles[1]


@pytest.mark.parametrize("where", [0, 100, -10])
def test_a_part_with_another_bit(where: int, folder: Folder) -> None:
    """Whether or not Parquet notices."""
    name = folder.part_names(2)[0]
    data = bytearray(folder.store.read(name) or b"")
    data[where] ^= 1
    folder.store.put(name, bytes(data))
    assert any(name in trouble for trouble in proved(folder).troubles)


def test_a_part_cut_short(folder: Folder) -> None:
    """It cannot be read."""
    name = folder.part_names(2)[0]
    folder.store.put(name, (folder.store.read(name) or b"")[:-30])
    assert f"{name} cannot be read as a part" in proved(folder).troubles[0]


def test_an_image_twice(folder: Folder) -> None:
    """In one part or in two."""
    name = rewritten(folder, 0, lambda rows, entries: rows.append(rows[0]))
    troubles = proved(folder).troubles
    assert f"{name}: 1 of its ids occur twice" in troubles
    assert any("is accounted for twice" in trouble for trouble in troubles)


def test_an_image_too_few(folder: Folder) -> None:
    """Though the record of the shard has the part as it is."""
    rewritten(folder, 0, lambda rows, entries: rows.pop())
    assert "are not the" in proved(folder).troubles[0]


def test_another_image_instead(folder: Folder) -> None:
    """The number is right: the digest is not."""

    def swap(rows: list[Any], entries: list[Entry]) -> None:
        rows[0] = rows[0]._replace(uri=rows[0].uri + "x")

    rewritten(folder, 0, swap)
    assert not proved(folder).ok


def test_vectors_of_another_model(folder: Folder) -> None:
    """The column of fingerprints shows them."""
    name = rewritten(folder, 0, lambda rows, entries: None, fingerprint="other")
    assert proved(folder).troubles == (f"{name} holds vectors of another model",)


def test_a_duplicate_of_nothing(folder: Folder) -> None:
    """The image that it names is not embedded."""

    def claim(rows: list[Any], entries: list[Entry]) -> None:
        row = rows.pop()
        entries.append(Entry(row.uri, "duplicate", "file:///nowhere.png"))

    rewritten(folder, 0, claim)
    troubles = proved(folder).troubles
    assert "has the content of file:///nowhere.png, which is not embedded" in troubles[0]
    assert "the record of the shard" in troubles[1]


@pytest.mark.parametrize("entry", [Entry("u", "gone", ""), Entry("u", "failed", None), ("u",), Entry(1, "failed", "")])  # type: ignore[arg-type]
def test_invalid_entries(entry: Any, folder: Folder) -> None:
    """In the footer of a part."""
    name = folder.part_names(2)[0]
    folder.store.put(name, encode([], [entry], folder.space, {}))
    assert f"{name} cannot be read as a part" in proved(folder).troubles[0]


def test_an_input_of_another_shard(folder: Folder) -> None:
    """It is reported."""
    name = rewritten(folder, 0, lambda rows, entries: entries.append(Entry("file:///f", "skipped", "x")))
    assert shard_of("file:///f", 3) != 2
    assert proved(folder).troubles[0] == f"{name}: file:///f does not belong to shard 2"


def test_a_record_of_another_shard(folder: Folder) -> None:
    """Or a file that is no record."""
    done = folder.done(2)
    assert isinstance(done, Done)
    folder.store.put("_done/0001-000001.json", folder.store.read("_done/0002-000001.json") or b"")
    assert "is of shard 2" in proved(folder).troubles[0]
    folder.store.put("_done/0001-000001.json", b'{"penstock_done": 1}')
    assert "cannot be read" in proved(folder).troubles[0]


def test_a_source_that_has_changed(folder: Folder, tmp_path: Path) -> None:
    """Listed again, new and missing inputs are named."""
    gone, new = tmp_path / "in" / "0" / "00007.png", tmp_path / "in" / "new.png"
    gone.unlink()
    new.write_bytes(b"x")
    assert proved(folder).ok
    troubles = proved(folder, source=Files(str(tmp_path / "in"))).troubles
    assert set(troubles) == {
        f"{new.as_uri()} is in the source and not accounted for",
        f"{gone.as_uri()} is accounted for, and not in the source any more",
    }


def test_many_troubles_are_counted(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first ones are listed."""
    from penstock.shards import proof as proving

    monkeypatch.setattr(proving, "NAMED", 2)
    for name in folder.part_names():
        folder.store.remove(name)
    found = proved(folder)
    assert len(found.troubles) == 2
    assert found.wrong > 2


def test_a_folder_without_parts(tmp_path: Path) -> None:
    """It says so."""
    with pytest.raises(UsageError, match="no parts at"):
        verify(tmp_path)
