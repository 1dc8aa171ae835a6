"""A folder of images through the whole pipeline: found by words, and what is no image is reported."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from penstock import Pipeline, open_index
from penstock.cli.output.results import hit_body
from penstock.core.records import VECTOR, Dense, Point
from penstock.embedders.clip import ClipEmbedder
from penstock.embedders.names import from_name
from penstock.embedders.onnx import OnnxEmbedder
from penstock.sinks.memory import MemorySink, forget

Image = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[1]
MODEL = str(ROOT / "tests" / "data" / "shapes-clip")


@pytest.fixture(scope="module")
def shapes() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "scripts"))
    import make_shapes

    yield make_shapes
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield (made := f"memory://{tmp_path}")
    forget(made)


@pytest.fixture
def folder(tmp_path: Path, shapes: Any) -> Path:
    """Images of every colour and shape, one of them with a caption beside it."""
    random = Random(7)
    (tmp_path / "images").mkdir()
    for number, scene in zip(range(96), shapes.scenes(random), strict=False):
        name = f"{scene.prompt.replace(' ', '-')}-{number}.jpg"
        (tmp_path / "images" / name).write_bytes(shapes.jpeg(shapes.draw(scene, random, 160, 120)))
    return tmp_path / "images"


def test_words_find_images(folder: Path, url: str) -> None:
    """One run, and "a red circle" finds red circles; a second run embeds nothing; the index keeps no image."""
    pipeline = Pipeline(folder, into=url, model=MODEL, state=folder.parent / "ledger.db")
    report = pipeline.run()
    assert report.ok
    assert report.embedded == 96
    with open_index(url) as index:
        for colour in ("red", "blue", "green"):
            hits = index.search(f"a {colour} circle", k=2)
            assert f"a-{colour}-circle" in hits[0].chunk.uri
            assert hits[0].chunk.image == b""
            assert hits[0].chunk.metadata["width"] > 0
    assert "image " in hit_body(hits[0], None, full=False)[0].plain
    assert pipeline.run().embedded == 0
    found = pipeline.verify(sample=1.0)
    assert found.ok
    assert (found.sampled, found.unseen) == (96, 0)
    first, second, third, *_ = sorted(folder.iterdir())
    tampered(url, second.as_uri())
    content = third.read_bytes()
    third.write_bytes(content + b"more")
    found = pipeline.verify(sample=1.0)
    assert (found.sampled, found.unseen, found.altered) == (95, 1, 1)
    third.write_bytes(content)
    assert pipeline.verify(repair=True, sample=1.0).repaired is not None
    assert pipeline.verify(sample=1.0).ok
    first.rename(first.with_name("renamed.jpg"))
    again = pipeline.run()
    assert again.counts["moved"] == 1
    assert again.embedded == 0
    assert len({id for page in MemorySink(url).ids() for id in page}) == 96


def tampered(url: str, uri: str) -> None:
    """Turn the vector of a document round."""
    with MemorySink(url) as sink:
        manifest = sink.manifest()
        assert manifest is not None
        sink.open(manifest)
        for point in [point for ids in sink.ids() for point in sink.fetch(ids) if point.chunk.uri == uri]:
            sink.write([replace(point, vectors={VECTOR: Dense(-np.asarray(point.vectors[VECTOR].values))})])
        sink.flush()


def test_captions_are_kept_true(folder: Path, url: str) -> None:
    """One that comes, changes, is mended or goes; a text whose image goes is a document, until another one comes."""
    pipeline = Pipeline(folder, into=url, model=MODEL, state=folder.parent / "ledger.db")
    first, second, *others = sorted(folder.iterdir())
    for other in others:
        other.unlink()
    caption, fields = first.with_suffix(".txt"), second.with_suffix(".json")

    def captions() -> dict[str, str]:
        return {Path(p.chunk.uri).name: p.chunk.text for ids in MemorySink(url).ids() for p in fetched(url, ids)}

    assert pipeline.run().ok
    assert captions() == {first.name: "", second.name: ""}
    caption.write_text("first")
    fields.write_text("{no JSON")
    assert not pipeline.run().ok
    caption.write_text("another")
    fields.write_text('{"caption": "second"}')
    assert pipeline.run().ok
    assert captions() == {first.name: "another", second.name: "second"}
    fields.unlink()
    held = first.read_bytes()
    first.unlink()
    assert pipeline.run(allow_mass_delete=True).ok
    assert captions() == {caption.name: "another", second.name: ""}
    first.write_bytes(held)
    assert pipeline.run(allow_mass_delete=True).ok
    assert captions() == {first.name: "another", second.name: ""}
    assert pipeline.verify().ok


def fetched(url: str, ids: Sequence[str]) -> Sequence[Point]:
    with MemorySink(url) as sink:
        manifest = sink.manifest()
        assert manifest is not None
        sink.open(manifest)
        return sink.fetch(ids)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_samples_of_an_archive(tmp_path: Path, url: str, shapes: Any, kind: str) -> None:
    """As WebDataset has them: an image, its caption, its fields. One point a sample; where it lies is its uri."""
    random = Random(3)
    members: dict[str, bytes] = {}
    for number, scene in zip(range(24), shapes.scenes(random), strict=False):
        members[f"{number:03}.jpg"] = shapes.jpeg(shapes.draw(scene, random, 80, 60))
        if number % 2:
            members[f"{number:03}.txt"] = scene.prompt.encode()
        else:
            members[f"{number:03}.json"] = json.dumps({"caption": scene.prompt, "number": number}).encode()
    members |= {"x.jpg": members["000.jpg"][:-1] + b"\0", "x.json": b"[1]", "y.txt": b"a text of its own"}
    path = tmp_path / f"shard.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, data in members.items():
                made.writestr(name, data)
    else:
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    pipeline = Pipeline(path, into=url, model=MODEL, state=tmp_path / "ledger.db")
    report = pipeline.run()
    assert report.embedded == 26
    with open_index(url) as index:
        hits = {hit.chunk.uri.removeprefix(f"{path.as_uri()}/"): hit.chunk for hit in index.search("a circle", k=99)}
        best = index.search(hits["002.jpg"].text, k=1)[0].chunk
    assert len(hits) == 26
    assert {name for name in hits if not name.endswith(".jpg")} == {"y.txt"}
    assert {**hits["002.jpg"].metadata, "number": 2, "width": 80, "height": 60} == hits["002.jpg"].metadata
    assert json.loads(members["002.json"])["caption"] == hits["002.jpg"].text
    assert members["003.txt"].decode() == hits["003.jpg"].text
    assert best.text == hits["002.jpg"].text
    assert pipeline.run().embedded == 0
    with pipeline.ledger as ledger:
        ledger.open(exclusive=False)
        (failure,) = ledger.failures()
    assert failure.uri == f"{path.as_uri()}/x.jpg"
    assert "the caption beside it cannot be read" in failure.cause


def test_what_is_no_image_is_listed(tmp_path: Path, url: str) -> None:
    """Each with its cause, and the good one is there, with its caption."""
    folder = tmp_path / "images"
    folder.mkdir()
    good = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(good, "PNG")
    (folder / "good.png").write_bytes(good.getvalue())
    (folder / "good.json").write_text(json.dumps({"caption": "a red field", "author": "x"}))
    (folder / "page.jpg").write_text("<html><body>not found</body></html>")
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "noise.jpg").write_bytes(Random(1).randbytes(3000))
    (folder / "noise.bin").write_bytes(Random(1).randbytes(3000))  # is no image, and is not said to be one
    (folder / "cut.png").write_bytes(good.getvalue()[:60])
    (folder / "huge.png").write_bytes(bomb())
    pipeline = Pipeline(folder, into=url, model=MODEL, state=tmp_path / "ledger.db")
    report = pipeline.run()
    assert not report.ok
    with pipeline.ledger as ledger:
        ledger.open(exclusive=False)
        causes = {f.uri.rpartition("/")[2]: f.cause for f in ledger.failures()}
    assert causes.keys() == {"page.jpg", "zero.jpg", "noise.jpg", "noise.bin", "cut.png", "huge.png"}
    assert (report.counts["failed"], report.counts["skipped"]) == (5, 1)
    assert causes["noise.jpg"] == "it is named like an image, and is of an unknown type"
    assert "named like an image" in causes["page.jpg"]
    assert "named like an image" in causes["zero.jpg"]
    assert "pixels" in causes["huge.png"]
    with open_index(url) as index:
        (hit,) = index.search("red")
    assert hit.chunk.text == "a red field"
    assert {**hit.chunk.metadata, "author": "x", "width": 60, "height": 40} == hit.chunk.metadata


def bomb() -> bytes:
    """A small file that says it is 30,000 pixels a side."""
    import struct
    import zlib

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"\0" * 1000)) + part(b"IEND", b"")


def test_a_model_of_texts_passes_images_over(folder: Path, url: str) -> None:
    """They are skipped, and why is listed."""
    from penstock.testing.embedders import HashingEmbedder

    pipeline = Pipeline(folder, into=url, model=HashingEmbedder(8), state=folder.parent / "ledger.db")
    report = pipeline.run()
    assert report.counts["skipped"] == 96
    with pipeline.ledger as ledger:
        ledger.open(exclusive=False)
        assert "embeds no images" in next(iter(ledger.failures())).cause


def test_the_kind_of_a_model() -> None:
    """By its config.json where it is at hand, else by its name."""
    assert isinstance(from_name(MODEL), ClipEmbedder)
    assert isinstance(from_name("openai/clip-vit-base-patch32"), ClipEmbedder)
    assert isinstance(from_name(None), OnnxEmbedder)
    assert isinstance(from_name("somebody/some-bert"), OnnxEmbedder)
