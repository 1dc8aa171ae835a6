"""Why a path is passed over: what is said of one path is what a listing does with it."""

from __future__ import annotations

import os
import socket
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pytest

from penstock.core.records import Upsert
from penstock.sources.files import Files
from penstock.sources.files.local import uri_of
from penstock.testing.sources import ListSource

FILES = (
    "a.md",
    "a.tmp",
    "deep/er/b.md",
    "deep/er/.secret",
    ".git/config",
    "build/out.md",
    "keep/build.md",
    "index/data.md",
    "na me\x1b[31m.md",
    os.fsdecode(b"na\xffme.md"),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, errors="surrogateescape")
    (root / "link.md").symlink_to("a.md")
    (root / "folder").symlink_to("deep")
    (root / "loop").symlink_to(".")
    (root / "to-index").symlink_to("index")
    os.mkfifo(root / "pipe.md")
    with zipfile.ZipFile(root / "two.zip", "w") as archive:
        for name in ("in/a.md", "in/a.tmp", "in/.hidden.md"):
            archive.writestr(name, name)
    with zipfile.ZipFile(root / "build" / "three.zip", "w") as archive:
        archive.writestr("a.md", "a")
    return root


OPTIONS: list[dict[str, Any]] = [
    {},
    {"exclude": ["*.tmp", "build/"]},
    {"include": ["*.md"], "hidden": True},
    {"include": ["deep/**"], "follow_links": True},
    {"exclude": ["two.zip"], "hidden": True, "follow_links": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_path_is_listed_or_has_a_reason(tree: Path, options: dict[str, Any]) -> None:
    """And a lookup goes by the same rule. What is listed has none."""
    source = Files(tree, skip=[tree / "index"], **options)
    listed = {change.item.uri for change in source.changes() if isinstance(change, Upsert)}
    assert listed
    reasons = Counter[str]()
    paths = [Path(folder) / name for folder, _, names in os.walk(tree) for name in names]
    uris = [uri_of(str(path)) for path in paths if path.suffix != ".zip"]
    members = ("two.zip/in/a.md", "two.zip/in/a.tmp", "two.zip/in/.hidden.md", "build/three.zip/a.md")
    for uri in [*uris, *(uri_of(str(tree / member)) for member in members)]:
        reason = source.passes_over(uri)
        assert bool(reason) == (uri not in listed), uri
        assert (source.lookup(uri) is None) == bool(reason)
        reasons[reason] += 1
    assert reasons.keys() - {""} <= source.passed_over.keys()
    assert {source.passes_over(uri) for uri in listed} == {""}


def test_the_reasons_by_name(tree: Path) -> None:
    source = Files(tree, exclude=["*.tmp", "build/"], skip=[tree / "index"])

    def reason(name: str) -> str:
        return source.passes_over(uri_of(str(tree / name)))

    assert reason("a.md") == ""
    assert reason("keep/build.md") == ""
    assert reason("a.tmp") == reason("build") == reason("build/out.md") == reason("index/data.md") == "excluded"
    assert reason(".git/config") == reason("deep/er/.secret") == "hidden"
    assert reason("link.md") == reason("folder/er/b.md") == "link"
    assert reason("pipe.md") == "special"
    assert reason("nosuch.md") == reason("a.md/b.md") == ""
    assert reason("two.zip/in/a.tmp") == "excluded"
    assert reason("two.zip/in/.hidden.md") == "hidden"


def test_links_that_are_followed_have_reasons_of_their_own(tree: Path) -> None:
    source = Files(tree, follow_links=True, skip=[tree / "index"])
    assert source.passes_over(uri_of(str(tree / "link.md"))) == ""
    assert source.passes_over(uri_of(str(tree / "loop" / "a.md"))) == "loop"
    assert source.passes_over(uri_of(str(tree / "to-index" / "data.md"))) == "excluded"


def test_a_socket_is_special(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.md")
        assert Files(tree).passes_over(uri_of(str(tree / "s.md"))) == "special"


def test_a_root_inside_another_decides_for_itself(tree: Path) -> None:
    source = Files(tree, tree / "build", exclude=["build/"])
    assert source.passes_over(uri_of(str(tree / "build/out.md"))) == ""
    assert source.passes_over(uri_of(str(tree / "a.md"))) == ""
    assert source.passes_over("file:///elsewhere/a.md") == ""


def test_objects_of_a_store_have_reasons(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    fs = fsspec.filesystem("memory")
    for name in ("a.md", "a.tmp", "x/.b/c.md", "inner/d.md"):
        fs.pipe(f"/{tmp_path.name}/{name}", b"text")
    source = Files(url, f"{url}/inner", exclude=["*.tmp"])
    listed = {change.item.uri for change in source.changes() if isinstance(change, Upsert)}
    expected = {"a.md": "", "a.tmp": "excluded", "x/.b/c.md": "hidden", "inner/d.md": "", "nosuch.md": ""}
    assert {name: source.passes_over(f"{url}/{name}") for name in expected} == expected
    assert listed == {f"{url}/a.md", f"{url}/inner/d.md"}
    assert source.passes_over("memory://elsewhere/a.md") == ""
    assert Files(url, f"{url}/inner")._trees[0].passes_over(f"{url}/inner/d.md") == "excluded"


def test_a_source_that_cannot_tell_says_nothing() -> None:
    assert ListSource().passes_over("doc:a") == ""
