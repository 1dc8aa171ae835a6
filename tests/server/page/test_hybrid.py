"""The page of an index with full text: a switch for hybrid searches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.page.browsing import Browser
from tests.server.several import served_several, several


@pytest.fixture
def plain(driver: Any) -> Iterator[Browser]:
    """An index without full text."""
    with served_several(several("several://page-plain")) as client:
        browser = Browser(driver, str(client.base_url)).go()
        yield browser
        assert browser.complaints() == []
        driver.get("about:blank")


def legs(browser: Browser) -> list[str]:
    return browser.texts("article .legs")


def test_each_hit_tells_its_legs_and_ranks(words: Browser) -> None:
    """The switch is kept in the address; scores of fused ranks have no least one."""
    words.until(lambda: words.shown("#words"))
    words.search("butterfly valve alarm")
    assert legs(words) == []
    words.click("#words")
    words.until(lambda: legs(words))
    assert words.hash() == "#q=butterfly+valve+alarm&words=1"
    assert {part.split()[0] for part in legs(words)[0].split(" · ")} == {"vector", "words"}
    assert words.run("return document.querySelector('#threshold').disabled")
    words.shot("hybrid")
    words.click("article h3 button, article h3 a")
    words.until(lambda: "Found by" in words.text("#detail"))
    words.click("#detail-close")
    before = len(legs(words))
    words.run("document.querySelector('#more').scrollIntoView()")
    words.until(lambda: len(legs(words)) > before)
    words.click("#words")
    words.until(lambda: legs(words) == [])
    assert not words.run("return document.querySelector('#threshold').disabled")
    words.go("#q=seepage&words=1")
    words.until(lambda: legs(words))
    assert words.run("return document.querySelector('#words').checked")


def test_an_index_without_full_text_has_no_switch(plain: Browser) -> None:
    """A link that asks for it is searched by the vector alone."""
    plain.until(lambda: plain.shown("#using"))
    assert not plain.shown("#words")
    plain.go("#q=otters&words=1")
    plain.until(lambda: plain.hash() == "#q=otters&words=1" and plain.text("article .snippet") == "otters: rivers")
    plain.until(lambda: legs(plain) == [])
    assert plain.text("#error") == ""
