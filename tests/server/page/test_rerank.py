"""The page of a server with a reranker: a switch, and each hit's rank before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder, OverlapReranker
from tests.server.page.browsing import Browser
from tests.server.serving import chunk, either, fill, served

URL = "memory://page-rerank"


@pytest.fixture
def reranked(driver: Any) -> Iterator[Browser]:
    fill(URL, [chunk(n, f"gate weir {'gate ' * n}sluice {n}") for n in range(60)], HashingEmbedder())
    with served(URL, opener=either(HashingEmbedder()), rerank=OverlapReranker()) as client:
        browser = Browser(driver, str(client.base_url)).go()
        yield browser
        assert browser.complaints() == []
        driver.get("about:blank")
    forget(URL)


def before(browser: Browser) -> list[str]:
    return browser.texts("article .before")


def test_the_switch_reranks_and_each_hit_tells_its_rank_before(reranked: Browser) -> None:
    reranked.until(lambda: reranked.shown("#rerank"))
    reranked.search("gate weir")
    assert before(reranked) == []
    reranked.click("#rerank")
    reranked.until(lambda: len(before(reranked)) == 40)
    assert reranked.hash() == "#q=gate+weir&rerank=1"
    assert before(reranked)[0].startswith("before reranking: ")
    assert len(set(before(reranked))) == 40
    assert not reranked.shown("#more")
    reranked.click("article h3 button, article h3 a")
    reranked.until(lambda: "Rank before reranking" in reranked.text("#detail"))
    reranked.click("#detail-close")
    reranked.click("#rerank")
    reranked.until(lambda: before(reranked) == [])


def test_a_server_without_a_reranker_has_no_switch(words: Browser) -> None:
    """A link that asks for it is searched without."""
    words.go("#q=seepage&rerank=1")
    words.until(lambda: words.texts("article .snippet"))
    assert not words.shown("#rerank")
    assert words.text("#error") == ""
