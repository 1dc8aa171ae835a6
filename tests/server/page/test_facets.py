"""Values to narrow a search by: shown with their counts, clicked, kept in the address, taken away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

import pytest

from penstock.core.contracts import Index
from penstock.sinks.memory import MemoryIndex, forget
from tests.server.page.browsing import Browser
from tests.server.page.corpus import EVIL
from tests.server.page.test_access import CONTRAST
from tests.server.serving import chunk, fill, picture, served

URL = "memory://page-facets"
KEYS = {"enter": "\ue007", "tab": "\ue004"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Sixty lines of three departments, and a picture."""
    chunks = []
    for n in range(60):
        metadata: dict[str, Any] = {
            "department": ("hr", "it", "it", EVIL)[n % 4],
            "extension": "md" if n % 3 else "pdf",
            "language": "en",
            "name": f"{n}.md",
            "author": {"name": ("Ada", "Grace")[n % 2]},
            "code": ("3", 3, True)[n % 3],
            "tags": ["all", "even"] if n % 2 == 0 else ["all"],
            "type": ("memo", "letter")[n % 2],
            "serial": f"number {n}",
            "essay": "x" * 200 if n % 2 else "y" * 200,
        }
        chunks.append(chunk(n, f"line {n} of many", metadata=metadata))
    chunks.append(chunk(99, "red", image=picture("red")))
    fill(URL, chunks)
    with served(URL) as client:
        yield str(client.base_url)
    forget(URL)


@pytest.fixture
def page(driver: Any, server: str) -> Iterator[Browser]:
    browser = Browser(driver, server).go()
    yield browser
    assert browser.complaints() == []


def group(name: str) -> str:
    return f'#facets [aria-label="{name}"]'


def values(page: Browser, name: str) -> dict[str, str]:
    """The values of a field that are shown, with their counts."""
    texts = "(kind) => [...document.querySelectorAll(`${arguments[0]} ${kind}`)].map((one) => one.textContent)"
    shown, numbers = page.run(f"return ['.value', '.number'].map({texts})", group(name))  # of the same moment
    return dict(zip(shown, numbers, strict=True))


def click(page: Browser, name: str, value: str) -> None:
    page.until(lambda: value in values(page, name))
    page.run("document.querySelector('#facets details')?.setAttribute('open', '')")
    buttons = page.all(f"{group(name)} button")
    next(one for one in buttons if one.get_attribute("aria-label").startswith(f"{value}, ")).click()
    page.settle()


def test_values_are_shown_with_counts(page: Browser) -> None:
    """Of the whole index; of fields whose values are shared, and that have several."""
    assert not page.shown("#facets")
    page.search("line")
    page.until(lambda: page.shown("#facets"))
    assert values(page, "Type") == {"text": "60", "image": "1"}
    assert values(page, "extension") == {"md": "40", "pdf": "20"}
    assert values(page, "department") == {"it": "30", "hr": "15", EVIL: "15"}
    assert values(page, "author.name") == {"Ada": "30", "Grace": "30"}
    assert values(page, "code") == {'"3"': "20", "3": "20", "true": "20"}
    assert values(page, "metadata.type") == {"letter": "30", "memo": "30"}
    shown = page.run("return [...document.querySelectorAll('#facets [role=group]')].map(one => one.ariaLabel)")
    assert not {"language", "name", "serial", "essay"} & set(shown)
    assert len(page.all("#facets > [role=group]")) == 3, "the rest is folded away"
    assert page.run("return window.hurt") is None
    page.shot("facets")
    with page.seen(theme="dark"):
        assert page.run(CONTRAST) == []
    with page.seen(width=390, height=844, phone=True):
        assert page.run("return document.documentElement.scrollWidth") <= 390
        page.shot("facets-phone")
    page.click("#home")
    page.until(lambda: not page.shown("#facets"))


def test_a_click_narrows_and_another_takes_it_back(page: Browser) -> None:
    """The address holds it, a chip shows it, and so does the panel of filters."""
    page.search("line")
    click(page, "department", "hr")
    page.until(lambda: len(page.all("article")) == 15)
    assert 'where={"department":"hr"}' in unquote_plus(page.hash())
    assert page.texts("#chips .only") == ["Only department is hr"]
    assert page.text("#filters-name") == "Filters (1)"
    page.until(lambda: values(page, "department") == {"hr": "15"})
    assert page.one(f"{group('department')} button").get_attribute("aria-pressed") == "true"
    click(page, "code", '"3"')
    page.until(lambda: len(page.all("article")) == 5)
    assert page.texts("#chips .only") == ["Only department is hr", 'Only code is "3"']
    address, titles = page.hash(), page.texts("article h3")
    page.go(address)
    page.until(lambda: page.texts("article h3") == titles)
    page.until(lambda: page.all(f"{group('code')} button[aria-pressed=true]"))
    assert len(page.texts("#chips .only")) == 2
    page.click("#filters-open")
    fields = "return [...document.querySelectorAll('.condition')].map(one => [...one.querySelectorAll('select, input')]"
    assert page.run(fields + ".map(one => one.value))") == [["department", "$eq", "hr"], ["code", "$eq", '"3"']]
    page.click("#chips .only button")
    page.until(lambda: page.texts("#chips .only") == ['Only code is "3"'])
    page.until(lambda: len(page.all("article")) == 20)
    click(page, "code", '"3"')
    page.until(lambda: len(page.all("article")) == 40)
    assert "where" not in page.hash()
    page.driver.back()
    page.until(lambda: len(page.all("article")) == 20)
    page.until(lambda: page.texts("#chips .only") == ['Only code is "3"'])


def test_hostile_values_are_narrowed_by_as_they_are(page: Browser) -> None:
    page.search("line")
    click(page, "department", EVIL)
    page.until(lambda: len(page.all("article")) == 15)
    assert page.run("return window.hurt") is None
    assert EVIL[:20] in page.text("#chips .only")
    page.go('#q=line&where={"$or":[{"department":"hr"},{"n":{"$exists":true}}],"__proto__":{"$in":[1]},"a":null}')
    page.settle()
    assert len(page.all("#chips .only")) == 3


def test_lists_and_pictures(page: Browser) -> None:
    """A list counts for each of its values; what is a picture is told by `type`."""
    page.search("line")
    click(page, "tags", "even")
    page.until(lambda: len(page.all("article")) == 30)
    page.until(lambda: values(page, "tags") == {"all": "30", "even": "30"})
    page.click("#home")
    page.search("line")
    click(page, "Type", "image")
    page.until(lambda: len(page.all("article")) == 1)
    assert page.texts("#chips .only") == ["Only Type is image"]


def test_by_keyboard(page: Browser) -> None:
    """The focus stays on the value."""
    page.search("line")
    page.until(lambda: page.shown("#facets"))
    page.run("document.querySelector('#facets button').focus()")
    page.press(KEYS["tab"], KEYS["tab"])
    focused = "return document.activeElement.ariaLabel"
    label = page.run(focused)
    assert label == "md, 40 passages"
    page.press(KEYS["enter"])
    page.until(lambda: "where" in page.hash())
    page.settle()
    page.until(lambda: values(page, "extension") == {"md": "40"})
    assert page.run(focused) == label
    page.press(KEYS["enter"])
    page.until(lambda: "where" not in page.hash())
    page.until(lambda: len(values(page, "extension")) == 2)
    assert page.run(focused) == label


def test_conditions_on_metadata_are_rows(page: Browser) -> None:
    """The fields that were seen are there to choose from."""
    page.search("line")
    page.click("#filters-open")
    page.until(lambda: "author.name" in page.texts(".condition select:first-child option"))
    page.one(".condition option[value=code]").click()
    row = page.one(".condition")
    page.until(lambda: row.find_elements("css selector", "select")[1].is_displayed())
    row.find_elements("css selector", "select")[1].send_keys("is one of")
    page.until(lambda: row.find_element("css selector", "input").is_displayed())
    row.find_element("css selector", "input").send_keys('3, "3"')
    page.until(lambda: page.texts("#chips .only") == ['Only code is one of 3, "3"'])
    page.until(lambda: "40 results," in page.text("#summary"))
    page.one(".condition option[value='author.name']").click()
    row.find_elements("css selector", "select")[1].send_keys("begins with")
    page.type(".condition input", "Gr")
    page.until(lambda: len(page.all("article")) == 30)
    assert '{"author.name":{"$prefix":"Gr"}}' in unquote_plus(page.hash())
    page.one(".condition option[value=type]").click()
    page.until(lambda: "it has no beginning" in page.text("#filters .wrong"))


def test_a_field_that_no_chunk_has_is_named(page: Browser) -> None:
    page.go('#q=line&where={"departmnt":"hr"}')
    page.until(lambda: page.text("#summary").startswith("No results"))
    assert page.text("#summary") == "No results: no chunk has the field 'departmnt'; did you mean 'department'?"
    page.go('#q=line&where={"department":"sales"}')
    page.until(lambda: page.text("#summary").startswith("No results"))
    assert page.text("#summary") == "No results. The filters or the lowest score may exclude them."


def test_a_store_that_cannot_count(page: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is searched as ever, and is not asked again."""
    asked = []

    def facets(self: Index, *args: Any, **options: Any) -> Any:
        asked.append(args)
        return Index.facets(self, *args, **options)

    monkeypatch.setattr(MemoryIndex, "facets", facets)
    for words in ("line 1", "line 2"):
        page.search(words)
        page.until(lambda: len(page.all("article")) == 40)
    page.until(lambda: asked)
    assert not page.shown("#facets")
    assert page.text("#error") == ""
    assert len(asked) == 1
