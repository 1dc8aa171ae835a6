"""The files of the page: small, and without a way to turn text into markup."""

from __future__ import annotations

import re

from penstock.server.page_files import FOLDER


def test_no_text_becomes_markup_and_no_other_server_is_named() -> None:
    """No function that parses HTML, no code in attributes, no address of another server."""
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
