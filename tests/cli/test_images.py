"""From a folder of images to an index that is searched, by the commands; and the server as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from random import Random

import pytest

from tests.cli.conftest import ROOT, Run

pytest.importorskip("PIL")
MODEL = str(ROOT / "tests" / "data" / "shapes-clip")


@pytest.fixture
def images(here: Path) -> Path:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from make_shapes import Scene, draw, jpeg
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    random, folder = Random(3), here / "images"
    folder.mkdir()
    for colour in ("red", "blue", "green", "yellow"):
        for number in range(5):
            scene = Scene(colour, "circle" if number % 2 else "square")
            (folder / f"{colour}-{scene.shape}-{number}.jpg").write_bytes(jpeg(draw(scene, random, 160, 120)))
    return folder


def test_parts_are_made_proved_and_loaded(images: Path, run: Run) -> None:
    """In two shares; what is missing is said before the second is there, and nothing is loaded."""
    (images / "broken.jpg").write_text("<html>")
    assert run("embed", "images", "--model", MODEL, "--out", "parts", "--partition", "1/2").status in (0, 1)
    unfinished = run("verify", "parts")
    assert unfinished.status == 1
    assert "shard 2 of 2 is not finished" in unfinished.out
    assert run("load", "parts", "--into", "lance://./pictures").status != 0
    assert run("search", "red", "--in", "lance://./pictures").status == 3
    assert run("embed", "images", "--model", MODEL, "--out", "parts", "--partition", "2/2", "--json").status in (0, 1)
    proved = run("verify", "parts")
    assert proved.status == 0
    assert "20 embedded · 0 duplicate · 1 failed" in proved.out
    assert "broken.jpg" in proved.out
    loaded = run("load", "parts", "--into", "lance://./pictures")
    assert loaded.status == 0
    assert "20 written" in loaded.out
    hits = run("search", "a yellow circle", "--in", "lance://./pictures", "--json", "-k", "1").lines
    assert "yellow-circle" in hits[0]["uri"]


def test_an_image_is_a_question(images: Path, run: Run) -> None:
    """It finds itself; words or an image, not both; and not where the model sees none."""
    assert run("ingest", "images", "--into", "lance://./pictures", "--model", MODEL, "-q").status == 0
    first = next(iter(sorted(images.iterdir())))
    (hit,) = run("search", "--image", str(first), "--in", "lance://./pictures", "--json", "-k", "1").lines
    assert hit["uri"] == first.as_uri()
    assert hit["score"] > 0.999
    for words in ([], ["a circle", "--image", str(first)], ["--image", "nowhere.jpg"]):
        assert run("search", *words, "--in", "lance://./pictures").status == 2
    (images / "a.md").write_text("Otters.")
    assert run("ingest", str(images / "a.md"), "--into", "lance://./texts", "-q").status == 0
    refused = run("search", "--image", str(first), "--in", "lance://./texts")
    assert refused.status == 2
    assert "embeds no images" in refused.err
    both = run(
        "search", "--image", str(first), "--in", "lance://./texts", "--in", "lance://./pictures", "-k", "1", "--json"
    )
    assert [hit["index"] for hit in both.lines] == ["lance://./pictures"]
    assert "lance://./texts was not searched: the index is of" in both.err


def test_workers_that_claim(images: Path, run: Run) -> None:
    assert run("embed", "images", "--model", MODEL, "--out", "parts", "--claim", "--pieces", "3", "-q").status == 0
    again = run("embed", "images", "--model", MODEL, "--out", "parts", "--claim", "--pieces", "3", "--json")
    assert again.lines[-1]["parts"] == 0
    assert run("verify", "parts", "--json").lines[0]["counts"]["embedded"] == 20


@pytest.mark.parametrize(
    "words", [["--partition", "0/2"], ["--partition", "3/2"], ["--partition", "x"], ["--claim", "--partition", "1/2"]]
)
def test_shares_that_cannot_be_meant(images: Path, run: Run, words: list[str]) -> None:
    assert run("embed", "images", "--model", MODEL, "--out", "parts", *words).status == 2


def test_a_model_of_texts_is_refused(images: Path, run: Run, model: str) -> None:
    refused = run("embed", "images", "--model", model, "--out", "parts")
    assert refused.status == 2
    assert "embeds no images" in refused.err


def test_missing_parts_are_reported(here: Path, run: Run) -> None:
    assert run("verify", "nowhere").status in (2, 3)
    assert run("load", "nowhere", "--into", "memory://x").status in (2, 3)
    assert run("verify", "nowhere", "--repair").status == 2


@pytest.mark.timeout(90)
def test_the_server(images: Path, run: Run) -> None:
    """Started by the command, asked, and stopped by SIGTERM."""
    pytest.importorskip("uvicorn")
    assert run("ingest", "images", "--into", "lance://./pictures", "--model", MODEL, "-q").status == 0
    words = ["penstock", "serve", "--index", "lance://./pictures", "--root", "images", "--port", "0"]
    server = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().rsplit(" ", 1)[-1].strip()
        with urllib.request.urlopen(f"{url}v1/search?q=a%20blue%20square&k=1") as answer:
            hit = json.load(answer)["hits"][0]
        assert "blue-square" in hit["uri"]
        with urllib.request.urlopen(f"{url}{hit['thumb'].lstrip('/')}?size=128") as thumb:
            assert thumb.headers["content-type"] == "image/jpeg"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        server.stdout.close()
    assert run("serve", "--index", "lance://./nowhere", "--port", "0").status == 3
