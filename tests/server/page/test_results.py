"""Results of documents: shown, paged, filtered, saved and linked to."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np

from penstock.core.records import Sparse
from penstock.core.schema import VectorSpec
from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder
from tests.server.page.browsing import Browser
from tests.server.page.corpus import EVIL
from tests.server.process import Slow
from tests.server.serving import chunk, either, fill, served


def test_passages_are_a_list(words: Browser) -> None:
    """Title, headings, page, link, and the matching words marked."""
    words.shot("blank")
    assert "130 passages" in words.text("#greeting")
    words.search("cavitation blades pressure")
    assert words.one("#results").get_attribute("class") == "list"
    assert words.text("article h3") == "turbines.pdf"
    assert "Turbines › Cavitation" in words.text("article .where")
    assert words.text("article .where").startswith("page ")
    assert {mark.lower() for mark in words.texts("article:first-child mark")} == {"cavitation", "blades", "pressure"}
    links = words.run("return [...document.querySelectorAll('article a')].map(one => [one.href, one.rel, one.target])")
    assert links
    for href, rel, target in links:
        assert href.startswith("https://example.org/")
        assert (".pdf" in href) == ("#page=" in href)
        assert (rel, target) == ("noopener noreferrer", "_blank")
    assert "file:///srv/handbook/turbines.pdf" in " ".join(words.texts("article .where span"))
    assert re.fullmatch(r"\d+ results so far, [\d.]+ ms", words.text("#summary"))
    words.shot("documents-light")
    with words.seen(theme="dark"):
        words.shot("documents-dark")
    with words.seen(width=390, height=844, phone=True):
        assert words.run("return document.documentElement.scrollWidth") <= 390
        words.shot("documents-phone")


def test_scrolling_fetches_all_results_once(words: Browser) -> None:
    words.search("water")
    assert len(words.all("article")) == 40

    def down() -> bool:
        words.run("scrollTo(0, document.body.scrollHeight)")
        return words.shown("#all")

    words.until(down)
    assert len(words.all("article")) == 130
    addresses = words.run("return [...document.querySelectorAll('article')].map(one => one.ariaPosInSet)")
    assert addresses == [str(n) for n in range(1, 131)]
    assert words.text("#summary").startswith("130 results,")
    assert not words.shown("#more")


def test_scrolling_fetches_more_when_the_browser_is_slow(words: Browser) -> None:
    """A busy browser tells of several changes at once; the last one holds."""
    late = """
    const Observer = IntersectionObserver;
    window.IntersectionObserver = class extends Observer {
      constructor(task, options) {
        let held = [];
        super((entries, self) => {
          if (!held.length) setTimeout(() => { const all = held; held = []; task(all, self); }, 300);
          held.push(...entries);
        }, options);
      }
    };
    """
    added = words.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": late})
    try:
        words.go()
        test_scrolling_fetches_all_results_once(words)
    finally:
        words.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_hostile_texts_stay_texts(words: Browser) -> None:
    """In titles, snippets, addresses, metadata, chips and links; and no script runs."""
    words.search("hostile sentence onerror hurt script")
    assert EVIL in words.text("article h3")
    assert EVIL in words.text("article .snippet")
    assert "\u202e" not in words.text("article .snippet")
    assert words.texts("article:first-child a") == []
    assert EVIL in words.text("article .where")
    other = words.run("return document.querySelectorAll('article')[1].querySelector('a').getAttribute('href')")
    assert other == "https://example.org/%22onmouseover=%22window.hurt=3"
    words.click("article .title")
    assert words.texts("#detail .facts dt").count(EVIL) == 1
    assert EVIL in words.texts("#detail .facts dd")
    words.shot("hostile")
    words.click("#detail-close")
    words.click("article .like")
    words.settle()
    assert EVIL[:60] in words.text("#chips")
    words.go("#" + f"q={EVIL}&like={EVIL}&url=javascript:alert(1)&where={{bad&least=x&share=9")
    words.settle()
    assert words.run("return window.hurt") is None
    assert words.run("return document.querySelectorAll('article img, article script, #chips img').length") == 0


def test_minus_terms(words: Browser) -> None:
    words.search('water lake -cavitation -"francis turbine"')
    assert words.texts("#chips .minus") == ["Without cavitation", "Without francis turbine"]
    assert "turbines.pdf" not in words.texts("article:nth-child(-n+10) h3")
    words.search("-water")
    assert words.text("#summary") == "Add what to look for, not only what to leave out."


def test_filters_by_rows_and_by_json(words: Browser) -> None:
    """Each is converted to the other; what rows cannot express stays JSON; invalid input is reported."""
    words.search("water")
    words.click("#filters-open")
    words.type(".condition input", "https://example.org/handbook/gates")
    words.until(lambda: "q=water&where=" in words.hash())
    words.until(lambda: set(words.texts("article h3")) == {"gates.md"})
    assert words.text("#filters-name") == "Filters (1)"
    words.one("#filters .row:not(.condition) button").click()
    row = words.all(".condition")[1]
    row.find_elements("css selector", "select")[1].send_keys("is at least")
    row.find_element("css selector", "input").send_keys("10")
    words.until(lambda: len(words.all("article")) == 10)
    pages = [int(found) for found in re.findall(r"page (\d+)", " ".join(words.texts("article .where")))]
    assert pages
    assert min(pages) >= 10
    words.shot("filters")
    row.find_element("css selector", "input").send_keys("x")
    assert "invalid whole number" in words.until(lambda: words.text("#filters .wrong"))
    words.click("#filters summary")
    words.type("#filters textarea", '{"$or": [{"page": 1}, {"$not": {"page": {"$lt": 19}}}]}')
    words.until(lambda: len(words.all("article")) == 21)
    assert words.shown("#filters > p.dim")
    assert words.text("#filters .wrong") == ""
    words.type("#filters textarea", '{"colour..x": "red"}')
    words.until(lambda: "cannot be narrowed by 'colour..x'" in words.text("#error"))
    assert words.all("#error button") == []


def test_near_duplicates_and_the_lowest_score(words: Browser) -> None:
    words.search("the very same sentence stands in eight places")
    assert [title.startswith("doc:copy-") for title in words.texts("article h3")[:9]] == [True] * 8 + [False]
    words.click("#distinct")
    words.until(lambda: words.texts("article:first-child .stands") == ["stands for 8 hits"])
    assert words.texts("article h3")[1].startswith("doc:copy-") is False
    words.type("#threshold", "0.6")
    words.until(lambda: len(words.all("article")) == 1)
    words.type("#threshold", "1.5")
    words.until(lambda: "lowest score" in words.text("#summary"))
    assert "least=1.5" in words.hash()
    assert "distinct=1" in words.hash()


def test_on_a_phone_a_condition_is_two_rows(words: Browser) -> None:
    with words.seen(width=390, height=844, phone=True):
        words.click("#filters-open")
        across = "return [...document.querySelector('.condition').children].map(one => one.getBoundingClientRect().top)"
        what, how, value, away = words.run(across)
        assert what == how < value == away


def test_a_slow_search_is_indicated(driver: Any) -> None:
    """And the results that are still shown are dimmed."""
    url = "memory://page-slow"
    fill(url, [chunk(n, f"line {n} of many") for n in range(5)])
    with served(url, opener=either(Slow())) as client:
        browser = Browser(driver, str(client.base_url)).go()
        browser.search("line 1")
        browser.type("#q", "slow line 2")
        browser.click("#form button.main")
        browser.until(lambda: browser.text("#summary") == "Searching …")
        assert browser.run("return getComputedStyle(document.querySelector('#results')).opacity") == "0.45"
        browser.settle()
        assert browser.text("#summary").startswith("5 results")
        assert browser.run("return getComputedStyle(document.querySelector('#results')).opacity") == "1"
        assert browser.complaints() == []
        driver.get("about:blank")
    forget(url)


def test_the_address_holds_the_query(words: Browser) -> None:
    """Opened anew it shows the same results; back and forward go through earlier queries."""
    words.search("gates floods -pumps")
    words.click("article .like")
    words.settle()
    words.click("#distinct")
    words.settle()
    address, titles = words.hash(), words.texts("article h3")
    words.go(address)
    words.until(lambda: words.texts("article h3") == titles)
    assert words.run("return document.querySelector('#q').value") == "gates floods -pumps"
    assert words.run("return document.querySelector('#distinct').checked")
    words.until(lambda: "gates.md" in words.text("#chips .like"))
    words.search("cavitation")
    words.until(lambda: words.text("article h3") == "turbines.pdf")
    words.driver.back()
    words.until(lambda: words.texts("article h3") == titles)
    assert words.hash() == address
    words.driver.forward()
    words.until(lambda: words.text("article h3") == "turbines.pdf")


def test_results_are_saved(words: Browser) -> None:
    """As JSON and CSV; no cell is a formula."""
    words.search("hostile sentence onerror hurt script")
    words.click("#save-json")
    words.click("#save-csv")
    folder = words.driver.downloads
    words.until(lambda: (folder / "results.json").exists() and (folder / "results.csv").exists())
    words.until(lambda: not list(folder.glob("*.crdownload")))
    hits = json.loads((folder / "results.json").read_text("utf-8"))
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text("utf-8"), newline="")))
    assert len(hits) == len(rows) == 40
    assert [row["id"] for row in rows] == [hit["id"] for hit in hits]
    assert rows[0]["text"] == hits[0]["text"]
    assert json.loads(rows[0]["metadata"])["title"] == EVIL
    table = words.driver.execute_async_script(
        "const [hits, done] = arguments; import('./export.js').then((it) => done(it.toCsv(hits)))",
        [{"id": "=1+1", "text": '-2,"', "score": -1}],
    )
    assert table.splitlines()[1] == '\'=1+1,,-1,,,"\'-2,""",,'


class Counting(HashingEmbedder):
    """Sparse vectors: each word of a text has an index of its own."""

    def describe(self) -> VectorSpec:
        return VectorSpec(model="counting", dim=1 << 16, fingerprint="counting", kind="Sparse")

    def query(self, texts: Sequence[str]) -> list[Any]:
        vectors = []
        for text in texts:
            indices = sorted({crc32(word.encode()) % (1 << 16) for word in text.split()})
            vectors.append(Sparse(np.array(indices, np.int32), np.ones(len(indices), np.float32)))
        return vectors


def test_live_results_come_by_themselves_and_move_nothing(driver: Any) -> None:
    """At the top they are shown; where somebody reads, a button offers them."""
    url, model = "memory://page-live", HashingEmbedder()
    fill(url, [chunk(n, f"line {n} of many") for n in range(30)], model)
    with served(url, opener=either(model)) as client:
        browser = Browser(driver, str(client.base_url)).go()
        browser.search("line of many")
        browser.click("#live")
        fill(url, [chunk(100, "line of many")], model)
        browser.until(lambda: len(browser.all("article")) == 31)
        browser.run("scrollTo(0, 400)")
        fill(url, [chunk(101, "line of many"), chunk(102, "line of many")], model)
        browser.until(lambda: browser.text("#fresh") == "Show 2 new results")
        assert len(browser.all("article")) == 31
        assert browser.run("return scrollY") == 400
        browser.click("#fresh")
        browser.until(lambda: len(browser.all("article")) == 33)
        assert not browser.shown("#fresh")
        browser.click("#live")
        assert browser.complaints() == []
        driver.get("about:blank")
    forget(url)


def test_an_index_of_sparse_vectors(driver: Any) -> None:
    """No votes and no near-duplicates, which the server does not have for them."""
    url = "memory://page-sparse"
    fill(url, [chunk(n, f"line {n} of many") for n in range(5)], Counting())
    with served(url, opener=either(Counting())) as client:
        browser = Browser(driver, str(client.base_url)).go()
        browser.search("line 3")
        browser.until(lambda: browser.text("article .snippet") == "line 3 of many")
        browser.until(lambda: not browser.shown("#distinct"))
        assert not browser.shown("article .actions")
        driver.get("about:blank")
    forget(url)
