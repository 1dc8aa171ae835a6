"""With the small real CLIP: from a folder of pictures to an answer."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import penstock as ps
from penstock.compose import embed, load
from penstock.core.errors import UsageError
from penstock.shards import verify
from penstock.shards.embed import Options
from penstock.testing.embedders import HashingEmbedder

from .world import entries

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "shapes-clip"


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of each colour and shape, named after it; one is cut short, one exists twice."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from make_shapes import COLOURS, SHAPES, Scene, draw, jpeg

    folder = tmp_path / "shapes"
    for seed in range(3):
        (folder / str(seed)).mkdir(parents=True)
        for colour in COLOURS:
            for shape in SHAPES:
                image = jpeg(draw(Scene(colour, shape), Random(f"{seed}{colour}{shape}"), 128, 96))
                (folder / str(seed) / f"{colour}-{shape}.jpg").write_bytes(image)
    (folder / "cut.jpg").write_bytes(image[: len(image) // 2])
    (folder / "twin.jpg").write_bytes(image)
    sys.modules.pop("make_shapes", None)
    return folder


def test_a_red_circle(shapes: Path, tmp_path: Path) -> None:
    """In three shards, proved, loaded, and searched by words and by image."""
    out, url = tmp_path / "parts", f"lance://{tmp_path}/index"
    counts: list[dict[str, Any]] = []
    for number in (1, 2, 3):
        done = embed(str(shapes), str(MODEL), out, partition=(number, 3), options=Options(rows=32, memory="64MiB"))
        assert not done.open
        counts.append(dict(done.counts))
    assert sum(one["failed"] for one in counts) == 1
    state, why = entries(out)["cut.jpg"]
    assert state == "failed"
    assert "cannot be decoded" in why
    found = verify(out)
    assert found.ok, found.troubles
    made = load(out, url, state=tmp_path / "state")
    assert made.ok
    assert made.written == found.counts["embedded"] == sum(one["embedded"] for one in counts)
    with ps.open_index(url, str(MODEL)) as index:
        hits = index.search("a red circle", k=3)
        assert [hit.chunk.uri.rpartition("/")[2] for hit in hits].count("red-circle.jpg") >= 2
        assert (hits[0].chunk.metadata["width"], hits[0].chunk.metadata["height"]) == (128, 96)


def test_a_model_of_texts_is_refused(shapes: Path, tmp_path: Path) -> None:
    """It would embed the captions."""
    with pytest.raises(UsageError, match="embeds no images"):
        embed(str(shapes), HashingEmbedder(), tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
