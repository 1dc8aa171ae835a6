"""Use by keyboard and screen reader; contrast, light and dark."""

from __future__ import annotations

import pytest

from tests.server.page.browsing import Browser


def test_by_keyboard_alone(words: Browser) -> None:
    """/ goes to the box, arrows to the results, Enter opens, m finds more, + and - vote, Esc closes."""
    keys = {"down": "\ue015", "up": "\ue013", "enter": "\ue007", "escape": "\ue00c", "tab": "\ue004"}
    focused = "const one = document.activeElement; return one.ariaPosInSet ?? one.id"
    words.run("document.activeElement.blur()")
    words.press("/")
    assert words.run(focused) == "q"
    words.press("cavitation" + keys["enter"])
    words.settle()
    words.press(keys["down"])
    assert words.run(focused) == "1"
    words.press(keys["down"], keys["down"], keys["up"])
    assert words.run(focused) == "2"
    words.press(keys["enter"])
    assert words.shown("#detail")
    assert words.text("#detail h2") == "turbines.pdf"
    words.press(keys["escape"])
    words.until(lambda: not words.shown("#detail"))
    assert words.run(focused) == "2"
    words.press("+")
    words.until(lambda: "like=" in words.hash())
    words.settle()
    assert words.all("article .like[aria-pressed=true]")
    words.until(lambda: words.run(focused) == "2")
    words.press("-")
    words.until(lambda: "unlike=" in words.hash())
    words.settle()
    words.until(lambda: words.run(focused) == "2")
    words.press("m")
    words.until(lambda: words.hash().startswith("#like="))
    words.settle()
    assert words.text("#q") == ""
    assert words.text("#chips .like").startswith("Like turbines.pdf")
    words.until(lambda: words.run(focused) == "1")
    words.press(keys["up"])
    assert words.run(focused) == "q"
    words.press("/")
    assert words.run("return document.querySelector('#q').value") == "/", "while typing, keys are letters"


def test_by_screen_reader(words: Browser) -> None:
    """Landmarks, names of all controls, one tab stop a result, and announced results."""
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
    named = {
        (node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in tree if not node["ignored"]
    }
    assert ("search", "Search the index") in named
    assert ("button", "More like this") in named
    assert any(role == "article" and name for role, name in named)
    assert ("searchbox", "Search by words; a word after a minus sign is excluded") in named


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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(words: Browser, theme: str) -> None:
    """At least 4.5 between each text and its background, as WCAG asks for."""
    with words.seen(theme=theme):
        words.go("#q=water lake -francis&distinct=1")
        words.settle()
        words.click("article .like")
        words.settle()
        assert words.run(CONTRAST) == []
        words.click("#tab-status")
        words.until(lambda: words.shown(".card"))
        assert words.run(CONTRAST) == []


def test_light_and_dark(words: Browser) -> None:
    """As in the system, and as the switch is set, which is remembered."""
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
