"""Keys, and errors of the server and of the network."""

from __future__ import annotations

import re
from typing import Any

import pytest

from penstock.sinks.memory import forget
from tests.server.page.browsing import Browser
from tests.server.page.corpus import MODEL, small
from tests.server.serving import chunk, either, fill, served, with_settings


def test_a_key_is_requested_and_kept_for_the_session_only(driver: Any) -> None:
    with small(driver, keys=("sesame",)) as browser:
        browser.until(lambda: browser.shown("#key"))
        browser.type("#q", "line 7")
        browser.one("#form button.main").click()
        browser.settle()
        browser.type("#key", "wrong")
        browser.click("#key-form button")
        browser.until(lambda: "does not accept this key" in browser.text("#error"))
        browser.shot("key")
        browser.type("#key", "sesame")
        browser.click("#key-form button")
        browser.until(lambda: len(browser.all("article")) == 40)
        assert not browser.shown("#key-form")
        assert browser.run("return sessionStorage.getItem('key')") == "sesame"
        assert "sesame" not in browser.hash()
        assert browser.run("return document.cookie + JSON.stringify(localStorage)").count("sesame") == 0
        browser.run("sessionStorage.clear()")


def test_pictures_behind_a_key(driver: Any, drawn: Any) -> None:
    """An <img> sends no key: a script fetches them."""
    from penstock.embedders.clip import ClipEmbedder

    url, image = "memory://page-locked", drawn("red", "ring")[1]
    fill(url, [chunk(n, image=image, uri=f"doc:{n}.jpg") for n in range(12)], ClipEmbedder(MODEL))
    with served(url, with_settings(keys=("sesame",)), opener=either(ClipEmbedder(MODEL))) as client:
        browser = Browser(driver, str(client.base_url)).go("#q=ring")
        browser.until(lambda: browser.shown("#key"))
        browser.type("#key", "sesame")
        browser.click("#key-form button")
        browser.until(lambda: len(browser.all(".frame.loaded")) == 12)
        assert browser.run("return document.querySelector('article img').src").startswith("blob:")
        browser.run("sessionStorage.clear()")
        driver.get("about:blank")
    forget(url)


def test_a_busy_server_is_retried(driver: Any) -> None:
    """429: it is shown, and the search is repeated after Retry-After by itself."""
    with small(driver, rate=0.5) as browser:
        for words in ("line 1", "line 2", "line 3"):
            browser.type("#q", words)
            browser.one("#form button.main").click()
        browser.until(lambda: re.search(r"is busy.Trying again in \d s", browser.text("#error")))
        browser.until(lambda: browser.text("article .snippet") == "line 3 of many")
        assert browser.text("#error") == ""


def test_slow_broken_and_offline(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """504, 500 and no connection are shown in words, with a button to retry."""
    from penstock.server.search import Searcher

    answer = Searcher.search

    async def slow(self: Searcher, ask: Any, client: str) -> Any:
        if ask.text == "slow":
            raise TimeoutError
        if ask.text == "broken":
            raise ZeroDivisionError
        return await answer(self, ask, client)

    monkeypatch.setattr(Searcher, "search", slow)
    with small(driver) as browser:
        browser.search("slow")
        assert "longer than the server allows" in browser.text("#error")
        assert browser.text("#error button") == "Try again"
        browser.search("broken")
        assert "Internal error of the server" in browser.text("#error")
        with browser.network(offline=True):
            browser.search("line 5")
            assert "You are offline" in browser.text("#error")
            browser.shot("offline")
        browser.until(lambda: browser.text("article .snippet") == "line 5 of many")
        assert browser.text("#error") == ""
