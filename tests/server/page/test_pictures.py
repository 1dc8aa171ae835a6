"""Pictures: as results, and to search by."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.server.image_fetcher import ImageFetcher
from tests.server.page.browsing import Browser
from tests.server.page.corpus import captions, drop, small
from tests.server.serving import picture


def test_an_index_of_texts_takes_no_pictures(words: Browser) -> None:
    words.until(lambda: words.shown("#form"))
    assert not words.shown("#picture-open")
    drop(words, b"whatever")
    words.until(lambda: "embeds no pictures" in words.text("#remark"))


def test_a_red_circle(shapes: Browser) -> None:
    """A grid of loaded pictures, the red circles first."""
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
def test_a_dropped_or_pasted_picture(shapes: Browser, drawn: Any, kind: str) -> None:
    drop(shapes, drawn("blue", "star", 9)[1], kind)
    shapes.until(lambda: captions(shapes)[:1] == ["a blue star"])
    assert "mine.jpg" in shapes.text("#chips")
    assert shapes.run("return document.querySelector('#chips img').naturalWidth") > 0
    assert shapes.hash() == "#picture=own"
    assert not shapes.shown("#drop")
    assert not shapes.shown("#weigh")


def test_words_and_a_picture_are_weighed(shapes: Browser, drawn: Any, tmp_path: Path) -> None:
    """Chosen as a file; the slider decides between them. A link says that it does not hold the picture."""
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


def test_a_large_picture_is_shrunk_before_it_is_sent(shapes: Browser) -> None:
    """As every page of results sends it again."""
    from PIL import Image

    out = io.BytesIO()
    noise = Image.effect_noise((1800, 1500), 90).convert("RGB")
    noise.save(out, "PNG")
    assert out.tell() > 2 << 20
    encoded = shapes.driver.execute_async_script(
        "const [data, done] = arguments; const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));"
        "const file = new File([bytes], 'a.png');"
        "import('./picture.js').then((it) => it.readPicture(file)).then((one) => done(one.base64))",
        base64.b64encode(out.getvalue()).decode(),
    )
    sent = base64.b64decode(encoded)
    with Image.open(io.BytesIO(sent)) as image:
        assert max(image.size) == 1024
    assert len(sent) < 2 << 20


def test_invalid_pictures(shapes: Browser) -> None:
    """The server's error is shown; so is one of a file that is not sent."""
    drop(shapes, b"<html>no picture</html>")
    shapes.until(lambda: "cannot process" in shapes.text("#error") or "does not support" in shapes.text("#error"))
    drop(shapes, b"")
    shapes.until(lambda: "empty" in shapes.text("#remark"))
    shapes.click("#picture-open")
    assert shapes.shown("#url-why")
    assert not shapes.shown("#url")


def test_more_like_this_and_votes(shapes: Browser) -> None:
    """One click each; a vote refines the query, and can be taken back."""
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
    """Where the server fetches urls; its refusal of an address is shown."""
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
