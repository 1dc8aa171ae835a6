"""A page in a real headless Chromium, and words for what one does with it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1280,900", "--force-prefers-reduced-motion", "--disable-dev-shm-usage"),
)
T = TypeVar("T")


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """Skips where there is none; everywhere else a browser that does not start fails the test."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("Chromium and chromedriver are not installed")
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            yield browser
        finally:
            browser.quit()


class Browser:
    """`url` is where the server is; selectors are those of CSS."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url.rstrip("/")

    def go(self, hash: str = "") -> Browser:
        """A fresh page, whatever was there before."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/{hash}")
        self.until(lambda: self.run("return document.readyState === 'complete'"))
        self.until(lambda: self.run("return document.querySelector('#theme').title !== ''"))
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, task: Callable[[], T], seconds: float = 12) -> T:
        """What the task gives, once that is true."""
        end, found = time.monotonic() + seconds, task()
        while not found:
            assert time.monotonic() < end, f"it does not come: {self.told()}"
            time.sleep(0.03)
            found = task()
        return found

    def told(self) -> str:
        """All that the page says, and what its console does."""
        return f"{self.run('return document.body.innerText')[:1500]!r} {self.driver.get_log('browser')}"

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        return self.until(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def shown(self, selector: str) -> bool:
        return bool(self.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", selector))

    def click(self, selector: str) -> None:
        self.until(lambda: self.shown(selector))
        self.one(selector).click()

    def type(self, selector: str, text: str) -> None:
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def press(self, *keys: str) -> None:
        """To whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def search(self, words: str) -> None:
        """Waits for the answer."""
        self.type("#q", words)
        self.one("#form button.main").click()
        self.settle()

    def settle(self) -> None:
        time.sleep(0.05)
        self.until(lambda: self.run("return document.querySelector('#busy').hidden"))

    def hash(self) -> str:
        return str(self.run("return location.hash"))

    def complaints(self) -> list[str]:
        """Of the console: errors of scripts, refusals of the content policy."""
        logged = self.driver.get_log("browser")
        wrong = ("Content Security Policy", "Uncaught", "SyntaxError", "TypeError", "ReferenceError")
        return [entry["message"] for entry in logged if any(word in entry["message"] for word in wrong)]
