"""The contents of the served indexes, hostile texts among them; and helpers that several tests use."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.sinks.memory import forget
from tests.server.page.browsing import Browser
from tests.server.serving import chunk, fill, served, with_settings

ROOT = Path(__file__).parents[3]

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


def passages() -> list[Any]:
    chunks = []
    for n in range(120):
        name, headings, text = PROSE[n % len(PROSE)]
        more = f"{text} Note {n} of the handbook of the power station adds what the crew of shift {n % 7} has seen."
        uri = f"https://example.org/handbook/{name}" if n % 2 else f"file:///srv/handbook/{name}"
        chunks.append(
            chunk(n, more, uri=uri, page=n // 6, headings=headings, metadata={"shift": n % 7, "language": "en"})
        )
    chunks += [
        chunk(200 + n, "Copied: the very same sentence stands in eight places.", uri=f"doc:copy-{n}") for n in range(8)
    ]
    evil = {"uri": f"javascript:alert(1)//{EVIL}", "headings": (EVIL,), "metadata": {EVIL: EVIL, "title": EVIL}}
    chunks.append(chunk(300, f"hostile sentence {EVIL} \u202etxt.exe", **evil))
    chunks.append(
        chunk(
            301,
            "hostile sentence, another one of many words, " * 4,
            uri='https://example.org/"onmouseover="window.hurt=3',
            page=2,
        )
    )
    return chunks


@contextmanager
def small(driver: Any, **settings: Any) -> Iterator[Browser]:
    """A page of a server of 100 lines, with settings of its own and a model that embeds pictures."""
    url = "memory://page-small"
    fill(url, [chunk(n, f"line {n} of many") for n in range(100)])
    try:
        with served(url, with_settings(**settings)) as client:
            yield Browser(driver, str(client.base_url)).go()
            driver.get("about:blank")
    finally:
        forget(url)


def drop(browser: Browser, image: bytes, kind: str = "drop", name: str = "mine.jpg", type: str = "image/jpeg") -> None:
    """Drop or paste a file on the page."""
    browser.run(
        """
        const [data, kind, name, type] = arguments;
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, {type}));
        const options = {bubbles: true, cancelable: true};
        const paste = new ClipboardEvent("paste", {...options, clipboardData: transfer});
        if (kind === "paste") return document.body.dispatchEvent(paste);
        for (const step of ["dragenter", "dragover", kind])
          document.body.dispatchEvent(new DragEvent(step, {...options, dataTransfer: transfer}));
        """,
        base64.b64encode(image).decode(),
        kind,
        name,
        type,
    )


def captions(browser: Browser) -> list[str]:
    return browser.texts("article h3")
