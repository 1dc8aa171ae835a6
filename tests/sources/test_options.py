"""Options of a source belong to that source: declared once, and no other gets them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import registry
from penstock.core.contracts import Source
from penstock.core.errors import UsageError
from penstock.core.records import Change, Item
from penstock.sources import from_url, options_of
from penstock.sources.files import Files
from penstock.sources.rows import Rows
from penstock.sources.urls import Urls


class Ticker(Source):
    """A source of no files: it takes nothing."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def name(self) -> str:
        return self.url

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        return iter(())

    def lookup(self, uri: str) -> Item | None:
        return None


@pytest.fixture
def _ticker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "ticker", (f"{__name__}:Ticker", None))


@pytest.mark.parametrize("kind", [Files, Rows, Urls])
def test_every_option_is_a_parameter_with_that_default(kind: type[Source]) -> None:
    parameters = inspect.signature(kind).parameters
    for option in kind.options:
        assert option.help
        if option.name in parameters:
            assert parameters[option.name].default == option.default
        else:
            assert any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    named = {each.name for each in parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert named <= {option.name for option in kind.options}


def test_a_source_gets_what_it_declares(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    source = from_url(tmp_path, include=["*.md"], exclude=[], hidden=True, skip=[tmp_path / "x"])
    assert source.name.endswith("?include=%2A.md&hidden=1")


@pytest.mark.usefixtures("_ticker")
def test_a_source_without_files_gets_none_of_their_options() -> None:
    source = from_url("ticker://x", include=(), exclude=(), hidden=False, skip=["/somewhere"])
    assert source.name == "ticker://x"
    with pytest.raises(UsageError, match=r"'hidden' of ticker://: it takes none\. It is an option of file:"):
        from_url("ticker://x", hidden=True)


def test_an_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown option 'hiden' of file://: did you mean 'hidden'"):
        from_url(tmp_path, hiden=True)
    with pytest.raises(UsageError, match=r"unknown option 'caption' of file://.*It is an option of parquet://"):
        from_url(tmp_path, caption="alt")
    with pytest.raises(UsageError, match="invalid include 'x': expected a list"):
        from_url(tmp_path, include="x")
    with pytest.raises(UsageError, match=r"unknown option 'captoin' of parquet://.*: did you mean 'caption'"):
        from_url(f"parquet://{tmp_path}?captoin=x")


def test_columns_are_named_in_the_url_or_beside_it(tmp_path: Path) -> None:
    in_url = from_url(f"parquet://{tmp_path}?image=img&private=1&key=")
    beside = from_url(f"parquet://{tmp_path}", image="img", private=True, key="")
    assert in_url.name == beside.name
    assert from_url(f"parquet://{tmp_path}", private=False).name == from_url(f"parquet://{tmp_path}").name
    with pytest.raises(UsageError, match="twice"):
        from_url(f"parquet://{tmp_path}?image=img", image="other")
    with pytest.raises(UsageError, match="invalid private 'maybe'"):
        from_url(f"urls://{tmp_path}?private=maybe")
    with pytest.raises(UsageError, match="unknown option 'image' of urls://"):
        from_url(f"urls://{tmp_path}", image="img")


def test_the_options_of_every_source_by_scheme() -> None:
    known = options_of()
    assert "include" in [each.name for schemes in known if "s3://" in schemes for each in known[schemes]]
    assert {"url", "caption", "key", "private"} <= {
        each.name for schemes, declared in known.items() if schemes.startswith("urls://") for each in declared
    }
