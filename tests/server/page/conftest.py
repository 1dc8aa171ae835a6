"""A browser, and two servers whose pages it shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from penstock import ingest
from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder
from tests.server.page.browsing import Browser, chromium
from tests.server.page.corpus import DOCUMENTS, MODEL, PICTURES, ROOT, passages
from tests.server.serving import chunk, either, fill, served, with_settings


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads) as browser:
        browser.downloads = downloads
        yield browser


@pytest.fixture(scope="package")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a run: three documents, one of them unreadable."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "in").mkdir()
    for name in "ab":
        (folder / "in" / f"{name}.md").write_text(f"# {name}\n\nWater runs down.\n")
    (folder / "in" / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    ingest(folder / "in", f"lance://{folder}/index", model=HashingEmbedder(), state=folder / "ledger.db")
    return folder / "ledger.db"


@pytest.fixture(scope="package")
def documents(state: Path) -> Iterator[str]:
    fill(DOCUMENTS, passages(), HashingEmbedder())
    with served(DOCUMENTS, with_settings(state=state), opener=either(HashingEmbedder())) as client:
        yield str(client.base_url)
    forget(DOCUMENTS)


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def pictures(drawn: Any) -> Iterator[str]:
    """A server of 144 drawn pictures, three of each colour and shape, with a small CLIP trained on such."""
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
