"""Drives the page in a headless Chromium."""

from __future__ import annotations

import os
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
    # A user with a mouse.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)
T = TypeVar("T")


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """Start the browser. Skips where it is not installed; one that does not start fails the test."""
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
    """`url` is the server's; selectors are those of CSS."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url.rstrip("/")

    def go(self, hash: str = "") -> Browser:
        """Load a fresh page."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/{hash}")
        self.until(lambda: self.run("return document.readyState === 'complete'"))
        self.until(lambda: self.run("return document.querySelector('#theme').title !== ''"))
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, task: Callable[[], T], seconds: float = 12) -> T:
        """Call the task until its result is true, and return that."""
        end, result = time.monotonic() + seconds, task()
        while not result:
            assert time.monotonic() < end, f"timed out: {self.describe()}"
            time.sleep(0.03)
            result = task()
        return result

    def describe(self) -> str:
        """The text of the page and the messages of its console."""
        return f"{self.run('return document.body.innerText')[:1500]!r} {self.driver.get_log('browser')}"

    def all(self, selector: str) -> list[Any]:
        elements: list[Any] = self.driver.find_elements("css selector", selector)
        return elements

    def one(self, selector: str) -> Any:
        return self.until(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
        texts: list[str] = self.run(script, selector)
        return texts

    def shown(self, selector: str) -> bool:
        return bool(self.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", selector))

    def click(self, selector: str) -> None:
        self.until(lambda: self.shown(selector))
        self.one(selector).click()

    def type(self, selector: str, text: str) -> None:
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def press(self, *keys: str) -> None:
        """Send keys to the element that has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def search(self, words: str) -> None:
        """Search and wait for the results."""
        self.type("#q", words)
        self.one("#form button.main").click()
        self.settle()

    def settle(self) -> None:
        time.sleep(0.05)
        self.until(lambda: self.run("return document.querySelector('#busy').hidden"))

    def hash(self) -> str:
        return str(self.run("return location.hash"))

    def complaints(self) -> list[str]:
        """Errors of scripts and violations of the content policy, from the console."""
        logged = self.driver.get_log("browser")
        wrong = ("Content Security Policy", "Uncaught", "SyntaxError", "TypeError", "ReferenceError")
        return [entry["message"] for entry in logged if any(word in entry["message"] for word in wrong)]

    def shot(self, name: str) -> None:
        """Save a screenshot in the folder that PENSTOCK_SHOTS names, if it does."""
        if folder := os.environ.get("PENSTOCK_SHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.run("scrollTo(0, 0)")
            time.sleep(0.5)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    @contextmanager
    def seen(
        self, *, theme: str = "light", width: int = 1280, height: int = 900, phone: bool = False
    ) -> Iterator[None]:
        """Emulate another screen, or other colours in the system's settings."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.until(lambda: self.run("return matchMedia(arguments[0]).matches", f"(width: {width}px)"))
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    @contextmanager
    def network(self, offline: bool) -> Iterator[None]:
        def set_offline(off: bool) -> None:
            conditions = {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

        self.driver.execute_cdp_cmd("Network.enable", {})
        set_offline(offline)
        try:
            yield
        finally:
            set_offline(False)
