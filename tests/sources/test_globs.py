"""Patterns, in the manner of .gitignore."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import UsageError
from penstock.sources.files import Files
from penstock.sources.files.globs import Selection


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*.md", ["a.md", "x/y/a.md"], ["a.mdx", "a.txt", "md"]),
        ("build", ["build", "build/x", "a/build/b/c"], ["builds", "rebuild", "a/rebuild/x"]),
        ("build/", ["build/x", "a/build/x/y"], ["build", "a/build"]),
        ("docs/*.md", ["docs/a.md"], ["docs/x/a.md", "x/docs/a.md"]),
        ("/README.md", ["README.md"], ["x/README.md"]),
        ("docs/**", ["docs/a", "docs/x/y"], ["docsx/a", "x/docs/a"]),
        ("**/*.md", ["a.md", "x/y/a.md"], ["a.txt"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["az", "b/a/z"]),
        ("**/old/*.txt", ["old/a.txt", "x/old/a.txt"], ["old/x/a.txt"]),
        ("?.md", ["a.md"], ["ab.md", ".md"]),
        ("[a-c].md", ["b.md"], ["d.md"]),
        ("[!a-c].md", ["d.md"], ["b.md"]),
        ("[+--].md", ["+.md", ",.md", "-.md"], ["a.md"]),
        ("[--/].md", ["-.md"], ["+.md"]),
        ("x[]y]z", ["x]z", "xyz"], ["xz"]),
        ("a[b", ["a[b"], ["ab"]),
        (r"\*.md", ["*.md"], ["a.md"]),
        ("a+(b).md", ["a+(b).md"], ["aab.md"]),
        ("x/**/**/**/y", ["x/y", "x/a/b/y"], ["xy"]),
        ("line*", ["line\nend"], ["in\nline"]),
    ],
)
def test_a_pattern_matches(glob: str, yes: list[str], no: list[str]) -> None:
    """As an include pattern and, the other way round, as an exclude pattern."""
    for path in yes:
        assert Selection(include=(glob,)).takes(path), path
        assert not Selection(exclude=(glob,)).takes(path), path
    for path in no:
        assert not Selection(include=(glob,)).takes(path), path
        assert Selection(exclude=(glob,)).takes(path), path


def test_exclude_wins_over_include() -> None:
    selection = Selection(include=("*.md",), exclude=("drafts",))
    assert selection.takes("a.md")
    assert not selection.takes("drafts/a.md")
    assert not selection.enters("x/drafts")
    assert selection.enters("x/drafted")


@pytest.mark.parametrize("glob", ["", "/", "!a.md", "[z-a]", "//"])
def test_a_pattern_that_says_nothing_is_refused(glob: str) -> None:
    """Silently matching nothing would index or delete everything."""
    with pytest.raises(UsageError, match="not a pattern"):
        Selection(include=(glob,))


@given(st.text(alphabet="ab/*?[]!^-\\.&|~(", min_size=1, max_size=12), st.text(alphabet="ab/.", max_size=12))
def test_any_pattern_is_understood_or_refused(glob: str, path: str) -> None:
    """Never an error of the regex engine."""
    try:
        selection = Selection(exclude=(glob,))
    except UsageError:
        return
    # A folder that is not entered holds no file that is wanted.
    assert selection.enters(path) or not selection.takes(path + "/x")


def test_an_excluded_folder_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """node_modules has a million files that nobody wants listed."""
    import os

    for name in ("a.md", "node_modules/x/b.md", "sub/c.md", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: entered.append(os.path.basename(path)) or scandir(path))
    source = Files(tmp_path, exclude=["node_modules/"], include=["*.md"])
    uris = [change.item.uri.rpartition("/")[2] for change in list(source.changes())[:-1]]  # type: ignore[union-attr]
    assert uris == ["a.md", "c.md"]
    assert entered == [tmp_path.name, "sub"]
    assert source.passed_over == {"excluded": 2}
