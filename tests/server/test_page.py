"""The page in a real browser, against a real server: what people see, type, drop, press and share."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from penstock import ingest
from penstock.core.records import Sparse
from penstock.core.schema import VectorSpec
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.page_files import FOLDER
from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder
from tests.server.browsing import Browser, chromium
from tests.server.process import Slow
from tests.server.serving import chunk, either, fill, picture, served, with_settings

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "shapes-clip"
DOCUMENTS, PICTURES = "memory://page-documents", "memory://page-pictures"
EVIL = "<img src=x onerror=window.hurt=1><script>window.hurt=2</script>"
PROSE = (
    (
        "turbines.pdf",
        ("Turbines", "Runner blades"),
        "The runner of a Francis turbine takes water from all sides at once.",
    ),
    ("turbines.pdf", ("Turbines", "Cavitation"), "Cavitation eats the blades where the pressure of the water falls."),
    ("valves.html", ("Valves",), "A butterfly valve closes the penstock within twelve seconds of an alarm."),
    ("gates.md", ("Gates", "Inspection"), "Gates are inspected twice a year, before the floods and after them."),
    (
        "dams.pdf",
        ("Dams", "Seepage"),
        "Seepage beneath a dam is measured at weirs and compared with the level of the lake.",
    ),
    ("pumps.docx", ("Pumps",), "Pumps lift water back to the upper lake at night, when power is cheap."),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("downloads")) as made:
        made.downloads = tmp_path_factory.getbasetemp() / "downloads0"
        yield made


def passages() -> list[Any]:
    made = []
    for n in range(120):
        name, headings, text = PROSE[n % len(PROSE)]
        more = f"{text} Note {n} of the handbook of the power station adds what the crew of shift {n % 7} has seen."
        uri = f"https://example.org/handbook/{name}" if n % 2 else f"file:///srv/handbook/{name}"
        made.append(
            chunk(n, more, uri=uri, page=n // 6, headings=headings, metadata={"shift": n % 7, "language": "en"})
        )
    made += [
        chunk(200 + n, "Copied: the very same sentence stands in eight places.", uri=f"doc:copy-{n}") for n in range(8)
    ]
    evil = {"uri": f"javascript:alert(1)//{EVIL}", "headings": (EVIL,), "metadata": {EVIL: EVIL, "title": EVIL}}
    made.append(chunk(300, f"hostile sentence {EVIL} \u202etxt.exe", **evil))
    made.append(
        chunk(
            301,
            "hostile sentence, another one of many words, " * 4,
            uri='https://example.org/"onmouseover="window.hurt=3',
            page=2,
        )
    )
    return made


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a run: three documents, one of them with bytes that nobody reads."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "in").mkdir()
    for name in "ab":
        (folder / "in" / f"{name}.md").write_text(f"# {name}\n\nWater runs down.\n")
    (folder / "in" / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    ingest(folder / "in", f"lance://{folder}/index", model=HashingEmbedder(), state=folder / "ledger.db")
    return folder / "ledger.db"


@pytest.fixture(scope="module")
def documents(state: Path) -> Iterator[str]:
    fill(DOCUMENTS, passages(), HashingEmbedder())
    with served(DOCUMENTS, with_settings(state=state), opener=either(HashingEmbedder())) as client:
        yield str(client.base_url)
    forget(DOCUMENTS)


@pytest.fixture(scope="module")
def drawn() -> Any:
    """Draws a shape in a colour, with a seed: bytes of a JPEG."""
    pytest.importorskip("PIL.Image")
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from make_shapes import Scene, draw, jpeg
    finally:
        sys.path.remove(str(ROOT / "scripts"))

    def make(colour: str, shape: str, seed: int = 0) -> tuple[str, bytes]:
        scene = Scene(colour, shape)
        return scene.caption, jpeg(draw(scene, Random(f"{seed}{colour}{shape}"), 320, 240))

    return make


@pytest.fixture(scope="module")
def pictures(drawn: Any) -> Iterator[str]:
    """144 drawn pictures, three of each colour and shape, and the small CLIP that knows them."""
    from make_shapes import COLOURS, SHAPES

    from penstock.embedders.clip import ClipEmbedder

    chunks = []
    for n, (seed, colour, shape) in enumerate((s, c, f) for s in range(3) for c in COLOURS for f in SHAPES):
        caption, image = drawn(colour, shape, seed)
        about = {"caption": caption, "camera": f"no. {seed}"}
        chunks.append(chunk(n, image=image, uri=f"https://example.org/shapes/{n}.jpg", metadata=about))
    embedder = ClipEmbedder(MODEL)
    fill(PICTURES, chunks, embedder)
    with served(PICTURES, opener=either(ClipEmbedder(MODEL))) as client:
        yield str(client.base_url)
    forget(PICTURES)


@pytest.fixture
def words(driver: Any, documents: str) -> Iterator[Browser]:
    browser = Browser(driver, documents)
    yield browser.go()
    assert browser.complaints() == []


@pytest.fixture
def shapes(driver: Any, pictures: str) -> Iterator[Browser]:
    browser = Browser(driver, pictures)
    yield browser.go()
    assert browser.complaints() == []


@contextmanager
def small(driver: Any, **settings: Any) -> Iterator[Browser]:
    """Another server of a few lines, with settings of its own and a model that takes pictures."""
    url = "memory://page-small"
    fill(url, [chunk(n, f"line {n} of many") for n in range(100)])
    try:
        with served(url, with_settings(**settings)) as client:
            yield Browser(driver, str(client.base_url)).go()
            driver.get("about:blank")
    finally:
        forget(url)


# ---------------------------------------------------------------- what is shipped


def test_nothing_becomes_markup_and_nothing_comes_from_elsewhere() -> None:
    """No way to make HTML of a text, no code in attributes, no address of another server."""
    for path in FOLDER.iterdir():
        text = path.read_text("utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
        ):
            assert word not in text, f"{path.name}: {word}"
        assert "setHTML" not in text
        assert "srcdoc" not in text
        if path.suffix == ".html":
            assert not re.search(r"\s(on\w+|style)=|<style|<script(?![^>]+src=)", text)
        elsewhere = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
        assert not elsewhere, f"{path.name}: {elsewhere}"
        assert not re.search("[\U0001f300-\U0001faff]", text)


def test_every_file_is_small() -> None:
    assert {"index.html", "app.js", "style.css"} <= {path.name for path in FOLDER.iterdir()}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 120_000


# ---------------------------------------------------------------- documents


def test_passages_are_a_list(words: Browser) -> None:
    """Title, headings, page, link and the matching words marked."""
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


def test_scrolling_brings_all_of_them_each_once(words: Browser) -> None:
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


def test_hostile_texts_stay_texts(words: Browser) -> None:
    """In titles, snippets, addresses, metadata, chips and the link itself; and none of them is run."""
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
    """Each is made from the other; what rows cannot say stays JSON; what makes no sense is told."""
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
    words.type("#filters textarea", '{"colour": "red"}')
    words.until(lambda: "cannot be narrowed by 'colour'" in words.text("#error"))
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


def test_a_slow_search_says_so(driver: Any) -> None:
    """And what is shown meanwhile is seen to be of the past."""
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


def test_an_address_says_it_all(words: Browser) -> None:
    """Opened anew it shows the same; back and forward walk through what was asked."""
    words.search("gates floods -pumps")
    words.click("article .like")
    words.settle()
    words.click("#distinct")
    words.settle()
    told, titles = words.hash(), words.texts("article h3")
    words.go(told)
    words.until(lambda: words.texts("article h3") == titles)
    assert words.run("return document.querySelector('#q').value") == "gates floods -pumps"
    assert words.run("return document.querySelector('#distinct').checked")
    words.until(lambda: "gates.md" in words.text("#chips .like"))
    words.search("cavitation")
    words.until(lambda: words.text("article h3") == "turbines.pdf")
    words.driver.back()
    words.until(lambda: words.texts("article h3") == titles)
    assert words.hash() == told
    words.driver.forward()
    words.until(lambda: words.text("article h3") == "turbines.pdf")


def test_what_is_shown_is_saved(words: Browser) -> None:
    """As JSON and CSV; nothing in a table computes."""
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
    made = words.driver.execute_async_script(
        "const [hits, done] = arguments; import('./export.js').then((it) => done(it.toCsv(hits)))",
        [{"id": "=1+1", "text": '-2,"', "score": -1}],
    )
    assert made.splitlines()[1] == '\'=1+1,,-1,,,"\'-2,""",,'


def test_by_keys_alone(words: Browser) -> None:
    """/ to the box, arrows among the results, Enter opens, m finds more, + and - vote, Esc closes."""
    keys = {"down": "\ue015", "up": "\ue013", "enter": "\ue007", "escape": "\ue00c", "tab": "\ue004"}
    place = "const one = document.activeElement; return one.ariaPosInSet ?? one.id"
    words.run("document.activeElement.blur()")
    words.press("/")
    assert words.run(place) == "q"
    words.press("cavitation" + keys["enter"])
    words.settle()
    words.press(keys["down"])
    assert words.run(place) == "1"
    words.press(keys["down"], keys["down"], keys["up"])
    assert words.run(place) == "2"
    words.press(keys["enter"])
    assert words.shown("#detail")
    assert words.text("#detail h2") == "turbines.pdf"
    words.press(keys["escape"])
    words.until(lambda: not words.shown("#detail"))
    assert words.run(place) == "2"
    words.press("+")
    words.until(lambda: "like=" in words.hash())
    words.settle()
    assert words.all("article .like[aria-pressed=true]")
    words.until(lambda: words.run(place) == "2")
    words.press("-")
    words.until(lambda: "unlike=" in words.hash())
    words.settle()
    words.until(lambda: words.run(place) == "2")
    words.press("m")
    words.until(lambda: words.hash().startswith("#like="))
    words.settle()
    assert words.text("#q") == ""
    assert words.text("#chips .like").startswith("Like turbines.pdf")
    words.until(lambda: words.run(place) == "1")
    words.press(keys["up"])
    assert words.run(place) == "q"
    words.press("/")
    assert words.run("return document.querySelector('#q').value") == "/", "where one types, keys are letters"


def test_for_who_does_not_see(words: Browser) -> None:
    """Landmarks, names for all that can be pressed, one stop of Tab for each result, and results that are announced."""
    words.search("water")
    for landmark in ("header", "nav[aria-label]", "main", "form[role=search]", "[role=feed][aria-labelledby]"):
        assert words.all(landmark), landmark
    assert words.one("#summary").get_attribute("role") == "status"
    assert words.one("#error").get_attribute("role") == "alert"
    nameless = words.run(
        "return [...document.querySelectorAll('button, a, input, select, textarea')].filter(one =>"
        " !one.ariaLabel && !one.textContent.trim() && !one.labels?.length).map(one => one.outerHTML)"
    )
    assert nameless == []
    stops = words.run("return [...document.querySelectorAll('article')].map(one => one.tabIndex)")
    assert stops == [0] + [-1] * 39
    words.run("document.querySelector('article').focus()")
    words.press("\ue015", "\ue015")
    stops = words.run("return [...document.querySelectorAll('article')].map(one => one.tabIndex)")
    assert stops == [-1, -1, 0] + [-1] * 37
    assert words.run("return document.querySelectorAll('article:nth-child(2) button[tabindex=\"0\"]').length") == 0
    tree = words.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = {
        (node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in tree if not node["ignored"]
    }
    assert ("search", "Search the index") in told
    assert ("button", "More like this") in told
    assert any(role == "article" and name for role, name in told)
    assert ("searchbox", "Search by words; a word after a minus sign is excluded") in told


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_can_be_read(words: Browser, theme: str) -> None:
    """Contrast of 4.5 between each text and what lies behind it, as WCAG has it."""
    with words.seen(theme=theme):
        words.go("#q=water lake -francis&distinct=1")
        words.settle()
        words.click("article .like")
        words.settle()
        assert words.run(CONTRAST) == []
        words.click("#tab-status")
        words.until(lambda: words.shown(".card"))
        assert words.run(CONTRAST) == []


CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (colour) => colour.slice(0, 3)
  .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
const behind = (one) => {
  for (let at = one; at; at = at.parentElement) {
    const found = rgba(getComputedStyle(at).backgroundColor);
    if (found[3] > 250) return found;
  }
  return rgba("Canvas");
};
return [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility({opacityProperty: true})
    && [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
    && !one.matches("script, noscript, option, .unseen, .unseen *, .skip")).flatMap((one) => {
  const [a, b] = [light(rgba(getComputedStyle(one).color)), light(behind(one))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return ratio >= 4.5 ? [] : [`${one.tagName}.${one.className} ${one.textContent.slice(0, 30)} ${ratio.toFixed(2)}`];
});
"""


def test_light_and_dark(words: Browser) -> None:
    """As the system has it, and as the switch says, which is remembered."""
    ground = "return getComputedStyle(document.body).backgroundColor"
    with words.seen(theme="light"):
        light = words.run(ground)
    with words.seen(theme="dark"):
        dark = words.run(ground)
        assert dark != light
        assert words.one("#theme").get_attribute("aria-label") == "Colours: as in the system"
        words.click("#theme")
        assert words.run(ground) == light
        words.go()
        assert words.run(ground) == light
        words.click("#theme")
        words.click("#theme")
        assert words.run(ground) == dark


def test_an_index_of_words_takes_no_pictures(words: Browser) -> None:
    words.until(lambda: words.shown("#form"))
    assert not words.shown("#picture-open")
    drop(words, b"whatever")
    words.until(lambda: "embeds no pictures" in words.text("#remark"))


class Counting(HashingEmbedder):
    """Sparse vectors: each word of a text has a place of its own."""

    def describe(self) -> VectorSpec:
        return VectorSpec(model="counting", dim=1 << 16, fingerprint="counting", kind="Sparse")

    def query(self, texts: Sequence[str]) -> list[Any]:
        made = []
        for text in texts:
            places = sorted({crc32(word.encode()) % (1 << 16) for word in text.split()})
            made.append(Sparse(np.array(places, np.int32), np.ones(len(places), np.float32)))
        return made


def test_an_index_of_sparse_vectors_offers_what_it_can(driver: Any) -> None:
    """No votes and no likeness, which the server refuses there."""
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


# ---------------------------------------------------------------- pictures


def drop(browser: Browser, image: bytes, kind: str = "drop", name: str = "mine.jpg", type: str = "image/jpeg") -> None:
    """As if a file were dragged here, or pasted."""
    browser.run(
        """
        const [data, kind, name, type] = arguments;
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, {type}));
        const told = {bubbles: true, cancelable: true};
        const paste = new ClipboardEvent("paste", {...told, clipboardData: transfer});
        if (kind === "paste") return document.body.dispatchEvent(paste);
        for (const step of ["dragenter", "dragover", kind])
          document.body.dispatchEvent(new DragEvent(step, {...told, dataTransfer: transfer}));
        """,
        base64.b64encode(image).decode(),
        kind,
        name,
        type,
    )


def captions(browser: Browser) -> list[str]:
    return browser.texts("article h3")


def test_a_red_circle(shapes: Browser) -> None:
    """Typed, and seen: a grid of pictures that are loaded, the red circles first."""
    assert "144 pictures" in shapes.text("#greeting")
    shapes.search("a red circle")
    assert shapes.one("#results").get_attribute("class") == "grid"
    assert captions(shapes)[:3] == ["a red circle"] * 3
    shapes.until(lambda: shapes.run("return document.querySelectorAll('.frame.loaded img').length > 6"))
    colour = shapes.run(
        """
        const image = document.querySelector("article img");
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
        canvas.drawImage(image, 0, 0);
        const data = canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data;
        let red = 0;
        for (let at = 0; at < data.length; at += 4) red += data[at] > 150 && data[at + 1] < 90 && data[at + 2] < 90;
        return red / (data.length / 4);
        """
    )
    assert colour > 0.03, "there is red in it"
    shapes.shot("pictures-light")
    with shapes.seen(theme="dark"):
        shapes.shot("pictures-dark")
    with shapes.seen(width=390, height=844, phone=True):
        assert shapes.run("return document.documentElement.scrollWidth") <= 390
        assert (
            shapes.run("return new Set([...document.querySelectorAll('article')].map(one => one.offsetLeft)).size") == 2
        )
        shapes.shot("pictures-phone")
    shapes.run("document.querySelector('article .open').click()")
    assert shapes.shown("#detail img")
    assert "camera" in shapes.texts("#detail dt")
    shapes.shot("detail")
    shapes.press("\ue014")
    assert shapes.text("#detail h2") == "a red circle"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_that_comes_by_itself(shapes: Browser, drawn: Any, kind: str) -> None:
    drop(shapes, drawn("blue", "star", 9)[1], kind)
    shapes.until(lambda: captions(shapes)[:1] == ["a blue star"])
    assert "mine.jpg" in shapes.text("#chips")
    assert shapes.run("return document.querySelector('#chips img').naturalWidth") > 0
    assert shapes.hash() == "#picture=own"
    assert not shapes.shown("#drop")
    assert not shapes.shown("#weigh")


def test_words_and_a_picture_are_weighed(shapes: Browser, drawn: Any, tmp_path: Path) -> None:
    """Chosen as a file; what the slider is moved to wins. A link tells kindly what it cannot hold."""
    mine = tmp_path / "circle.jpg"
    mine.write_bytes(drawn("green", "circle", 5)[1])
    shapes.click("#picture-open")
    shapes.one("#file").send_keys(str(mine))
    shapes.until(lambda: captions(shapes)[:1] == ["a green circle"])
    shapes.search("a yellow square")
    assert shapes.shown("#weigh")
    slide = "const s = document.querySelector('#share'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    shapes.run(slide, 100)
    shapes.until(lambda: captions(shapes)[:1] == ["a green circle"])
    shapes.run(slide, 0)
    shapes.until(lambda: captions(shapes)[:1] == ["a yellow square"])
    assert shapes.hash() == "#q=a+yellow+square&picture=own&share=0"
    shapes.shot("weighed")
    shapes.click("#share-link")
    shapes.until(lambda: "stays on this computer" in shapes.text("#remark"))
    shapes.go("#picture=own")
    shapes.until(lambda: "a picture that is not part of it" in shapes.text("#summary"))
    shapes.go("#q=a+yellow+square&picture=own")
    shapes.until(lambda: captions(shapes)[:1] == ["a yellow square"])
    assert "only the words" in shapes.text("#remark")


def test_a_large_picture_is_made_small_before_it_is_sent(shapes: Browser) -> None:
    """As every page of results sends it again."""
    from PIL import Image

    out = io.BytesIO()
    noise = Image.effect_noise((1800, 1500), 90).convert("RGB")
    noise.save(out, "PNG")
    assert out.tell() > 2 << 20
    told = shapes.driver.execute_async_script(
        "const [data, done] = arguments; const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));"
        "const file = new File([bytes], 'a.png');"
        "import('./picture.js').then((it) => it.readPicture(file)).then((one) => done(one.base64))",
        base64.b64encode(out.getvalue()).decode(),
    )
    sent = base64.b64decode(told)
    with Image.open(io.BytesIO(sent)) as image:
        assert max(image.size) == 1024
    assert len(sent) < 2 << 20


def test_pictures_that_are_none(shapes: Browser) -> None:
    """What the server says of it is told; so is what is not even sent."""
    drop(shapes, b"<html>no picture</html>")
    shapes.until(lambda: "cannot process" in shapes.text("#error") or "does not support" in shapes.text("#error"))
    drop(shapes, b"")
    shapes.until(lambda: "empty" in shapes.text("#remark"))
    shapes.click("#picture-open")
    assert shapes.shown("#url-why")
    assert not shapes.shown("#url")


def test_more_like_this_and_votes(shapes: Browser) -> None:
    """One click each; a vote refines what was asked, and can be taken back."""
    shapes.search("a red circle")
    shapes.until(lambda: captions(shapes)[:1] == ["a red circle"])
    shapes.run("document.querySelector('article .unlike').click()")
    shapes.settle()
    shapes.until(lambda: captions(shapes).count("a red circle") <= 2)
    assert "unlike=" in shapes.hash()
    shapes.click("#chips .unlike button")
    shapes.until(lambda: captions(shapes)[:3] == ["a red circle"] * 3)
    assert "unlike" not in shapes.hash()
    shapes.search("a star")
    n = next(n for n, caption in enumerate(captions(shapes)) if caption == "a purple star")
    shapes.run("document.querySelectorAll('article .like')[arguments[0]].click()", n)
    shapes.until(lambda: captions(shapes)[:1] == ["a purple star"])
    shapes.shot("voted")
    shapes.run("document.querySelector('article .more').click()")
    shapes.until(lambda: re.fullmatch("#like=[0-9a-f]+", shapes.hash()))
    shapes.settle()
    assert captions(shapes)[0] == "a purple star"
    assert shapes.run("return document.querySelector('#q').value") == ""


def test_by_address(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server fetches; what it says of addresses that it does not go to is told."""
    with small(driver, fetch_urls=True) as browser:
        browser.click("#picture-open")
        browser.type("#url", "nowhere")
        browser.click("#url-use")
        browser.until(lambda: "begins with https://" in browser.text("#remark"))
        browser.type("#url", "http://127.0.0.1/a.jpg")
        browser.click("#url-use")
        browser.until(lambda: browser.text("#error"))
        assert "By the picture at http://127.0.0.1/a.jpg" in browser.text("#chips")
        assert browser.hash() == "#url=http%3A%2F%2F127.0.0.1%2Fa.jpg"
        monkeypatch.setattr(ImageFetcher, "__call__", lambda self, url: picture("red"))
        browser.type("#q", "line 4")
        browser.one("#form button.main").click()
        browser.until(lambda: len(browser.all("article")) == 40)
        assert browser.shown("#weigh")
        assert browser.text("#error") == ""


# ---------------------------------------------------------------- troubles


def test_a_key_is_asked_for_and_kept_in_the_session_alone(driver: Any) -> None:
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
    """An <img> sends no key: they are fetched by hand."""
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


def test_a_busy_server_is_asked_again(driver: Any) -> None:
    """429: told, waited for as long as it says, and asked again without a hand being moved."""
    with small(driver, rate=0.5) as browser:
        for words in ("line 1", "line 2", "line 3"):
            browser.type("#q", words)
            browser.one("#form button.main").click()
        browser.until(lambda: re.search(r"is busy.Trying again in \d s", browser.text("#error")))
        browser.until(lambda: browser.text("article .snippet") == "line 3 of many")
        assert browser.text("#error") == ""


def test_slow_broken_and_offline(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """504, 500 and no connection are told in words, with a way to go on."""
    from penstock.server.search import Searcher

    answer = Searcher.search

    async def slow(self: Searcher, ask: Any) -> Any:
        if ask.text == "slow":
            raise TimeoutError
        if ask.text == "broken":
            raise ZeroDivisionError
        return await answer(self, ask)

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


# ---------------------------------------------------------------- status


def test_status(words: Browser) -> None:
    """The index, documents by state, failures, and how fresh it all is."""
    words.click("#tab-status")
    words.until(lambda: words.shown(".card"))
    told = words.run("return document.querySelector('#status').innerText")
    for part in (
        "130\npoints",
        "hashing",
        "3\ndocuments",
        "2 in the index",
        "1 failing",
        "1 failure",
        "since the last run ended",
    ):
        assert part in told, told
    assert words.hash() == "#tab=status"
    assert not words.shown("#search")
    words.shot("status-light")
    with words.seen(theme="dark"):
        words.shot("status-dark")
    with words.seen(width=390, height=844, phone=True):
        assert words.run("return document.documentElement.scrollWidth") <= 390
    words.click("#tab-search")
    assert words.shown("#q")
    words.go("#tab=status")
    words.until(lambda: words.shown(".card"))


def test_status_of_a_run_that_goes_on(words: Browser) -> None:
    """Stages, queues, bytes against the budget and the bottleneck, as a run's progress tells them."""
    told = words.driver.execute_async_script(
        "const [extra, done] = arguments; fetch('v1/status').then((it) => it.json()).then(async (told) => {"
        "const {renderStatus} = await import('./status.js'); document.querySelector('#search').hidden = true;"
        "document.querySelector('#status').hidden = false;"
        "document.querySelector('#status-body').replaceChildren(renderStatus({...told, ...extra}));"
        "done(document.querySelector('#status').innerText)})",
        {"pipeline": progress(), "trouble": f"gone {EVIL}"},
    )
    for part in (
        "Running now",
        "48.0 MiB in flight of a budget of 64.0 MiB",
        "bottleneck",
        "embed",
        "write",
        f"gone {EVIL}",
    ):
        assert part in told, told
    widths = words.run("return [...document.querySelectorAll('.stages .full')].map(one => one.style.width)")
    assert widths == ["75%", "25%", "100%", "0%", "50%"]
    words.shot("running")


def progress() -> dict[str, Any]:
    """What a run that waits for its model tells of itself."""
    from penstock.engine.channel import ChannelStats
    from penstock.engine.progress import COUNTERS, Progress

    def channel(name: str, pieces: int, bytes: int, capacity: int) -> ChannelStats:
        fields = {"name": name, "pieces": pieces, "bytes": bytes, "capacity": capacity}
        empty = {key: 0 for key in ChannelStats.__dataclass_fields__ if key not in fields}
        return ChannelStats(**fields, **empty)

    mib = 1 << 20
    channels = (
        channel("items", 12, 4 * mib, 16 * mib),
        channel("chunks", 900, 40 * mib, 40 * mib),
        channel("points", 0, 0, 4 * mib),
        channel("commits", 3, 4 * mib, 8 * mib),
    )
    counts = {**dict.fromkeys(COUNTERS, 0), "documents": 1234, "embedded": 56_789, "written": 55_000, "failed": 2}
    return Progress(95.0, counts, channels, 64 * mib, True, 9 * mib, "").to_json()
