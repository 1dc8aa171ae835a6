"""From a folder of pictures to a page of hits, with a real model."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from penstock import ingest, open_index
from tests.server.serving import Client, served, with_settings

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "shapes-clip"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, dict[str, str]]]:
    """A server of 150 pictures, and the prompts that describe them."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from make_shapes import draw, jpeg, scenes
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    base = tmp_path_factory.mktemp("pictures")
    folder, random = base / "images", Random(7)
    folder.mkdir()
    shown: dict[str, str] = {}
    for number, scene in zip(range(150), scenes(random), strict=False):
        path = folder / f"{number}.jpg"
        path.write_bytes(jpeg(draw(scene, random, 160, 120)))
        shown[path.as_uri()] = scene.prompt
    url = f"lance://{base}/index"
    assert ingest(folder, url, model=str(MODEL), state=base / "ledger.db").ok
    with served(url, with_settings(roots=(folder,), state=base / "ledger.db"), opener=open_index) as client:
        yield client, shown


def test_words_find_pictures(drawn: tuple[Client, dict[str, str]]) -> None:
    """A matching picture comes first, with a thumbnail of it."""
    client, shown = drawn
    prompts = sorted(set(shown.values()))
    right = sum(shown[client.found(text=prompt, k=1)[0]] == prompt for prompt in prompts)
    assert right >= 0.9 * len(prompts), f"{right} of {len(prompts)}"
    hit = client.post("/v1/search", json={"text": prompts[0], "k": 1}).json()["hits"][0]
    small = client.get(hit["thumb"], params={"size": "128"})
    assert small.status_code == 200, small.text
    assert Image.open(io.BytesIO(small.content)).size == (128, 96)
    assert hit["metadata"]["width"] == 160


def test_pictures_find_pictures(drawn: tuple[Client, dict[str, str]]) -> None:
    """By upload, in base64 and by id; beside words with a weight."""
    client, shown = drawn
    uri = next(iter(shown))
    content = Path(uri.removeprefix("file://")).read_bytes()
    hits = client.post("/v1/search", files={"image": ("a.jpg", content)}, data={"k": "3"}).json()["hits"]
    assert hits[0]["uri"] == uri
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert client.found(image=base64.b64encode(content).decode(), k=1) == [uri]
    assert client.found(like=[hits[0]["id"]], k=1) == [uri]
    prompt = next(prompt for prompt in shown.values() if prompt != shown[uri])
    moved = client.found(image=base64.b64encode(content).decode(), text=prompt, image_weight=0.2, k=1)
    assert shown[moved[0]] == prompt
    status = client.get("/v1/status").json()
    assert status["model"]["images"] is True
    assert status["ledger"]["done"] == 150
