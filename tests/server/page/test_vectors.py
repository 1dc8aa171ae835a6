"""The page of an index with several vectors a chunk: a choice of the one to search by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.page.browsing import Browser
from tests.server.several import look_and_words, served_several, several


@pytest.fixture
def browser(driver: Any) -> Iterator[Browser]:
    with served_several(several("several://page")) as client:
        browser = Browser(driver, str(client.base_url)).go()
        yield browser
        assert browser.complaints() == []
        driver.get("about:blank")


def first(browser: Browser) -> str:
    return browser.text("article .snippet")


def choose(browser: Browser, name: str) -> None:
    browser.one(f"#using option[value={name}]").click()
    browser.settle()


def test_the_vector_is_chosen(browser: Browser) -> None:
    """The first one at first; the choice is searched by at once, kept in the address, and survives other changes."""
    browser.until(lambda: browser.shown("#using"))
    assert browser.texts("#using option") == ["title", "body"]
    browser.search("otters")
    assert first(browser) == "otters: rivers"
    assert browser.hash() == "#q=otters&using=title"
    choose(browser, "body")
    browser.until(lambda: first(browser) == "rivers: otters")
    assert browser.hash() == "#q=otters&using=body"
    browser.shot("vectors")
    browser.run("document.querySelector('article .more').click()")
    browser.until(lambda: browser.hash().startswith("#using=body&like="))
    browser.settle()
    assert first(browser) == "rivers: otters"
    browser.click("#home")
    browser.search("gates")
    assert browser.hash() == "#q=gates&using=body"
    assert first(browser) == "floods: gates"
    browser.driver.back()
    browser.driver.back()
    browser.driver.back()
    browser.until(lambda: first(browser) == "rivers: otters")
    assert browser.run("return document.querySelector('#using').value") == "body"


@pytest.mark.parametrize("using", ["", "&using=summary", "&using=<b>"])
def test_a_link_that_names_no_vector_of_the_index(browser: Browser, using: str) -> None:
    """It is searched by the first one, whichever arrives first, the results or the status."""
    browser.go(f"#q=otters{using}")
    browser.until(lambda: first(browser) == "otters: rivers")
    browser.settle()
    assert browser.text("#error") == ""


def test_status_lists_the_vectors(browser: Browser) -> None:
    browser.click("#tab-status")
    browser.until(lambda: browser.shown(".card"))
    text = browser.run("return document.querySelector('#status').innerText")
    for part in ("Vector title", "64 dimensions", "Vector body", "32 dimensions"):
        assert part in text, text
    browser.shot("status-vectors")


def test_pictures_are_offered_where_the_vector_takes_them(driver: Any) -> None:
    index, models = look_and_words("several://page-look")
    with served_several(index, models) as client:
        browser = Browser(driver, str(client.base_url)).go()
        browser.until(lambda: browser.shown("#using"))
        assert not browser.shown("#picture-open")
        choose(browser, "look")
        browser.until(lambda: browser.shown("#picture-open"))
        choose(browser, "words")
        browser.until(lambda: not browser.shown("#picture-open"))
        assert browser.complaints() == []
        driver.get("about:blank")
