"""Runs over folders of broken documents of every kind: each run ends by itself, and no document is lost in silence."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random

import pytest

from penstock import Pipeline
from penstock.core.contracts import Embedder
from penstock.core.schema import IndexSchema
from penstock.ledger import Ledger
from penstock.testing.embedders import HashingEmbedder
from tests.attack.fuzz.mutate import mutate
from tests.attack.fuzz.targets import TARGETS
from tests.shards.world import PixelEmbedder

ENDINGS = {
    "pdf": "pdf",
    "docx": "docx",
    "pptx": "pptx",
    "xlsx": "xlsx",
    "xls": "xls",
    "odt": "odt",
    "ods": "ods",
    "epub": "epub",
    "html": "html",
    "xml": "xml",
    "markdown": "md",
    "mail": "eml",
    "outlook": "msg",
    "rtf": "rtf",
    "csv": "csv",
    "json": "json",
    "jsonl": "jsonl",
    "text": "txt",
    "image": "png",
    "tar": "tar",
    "zip": "zip",
}
"""Target -> ending of its files."""
MEMORY = "64MiB"


def scatter(folder: Path, count: int, seed: int) -> list[Path]:
    """Write so many mutated documents, of all kinds in turn, some of them in archives and under wrong names."""
    rng = Random(seed)
    kinds = list(ENDINGS)
    made = []
    for number in range(count):
        target = TARGETS[kinds[number % len(kinds)]]
        seeds = [path.read_bytes() for path in target.seeds]
        data = mutate(target.shape, rng, rng.choice(seeds), seeds)
        ending = rng.choice(list(ENDINGS.values())) if rng.random() < 0.1 else ENDINGS[target.name]
        path = folder / f"{number % 5}" / f"{number:04}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < 0.05 and ending not in ("tar", "zip"):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(path.name, data)
            path, data = path.with_suffix(".zip"), packed.getvalue()
        path.write_bytes(data)
        made.append(path)
    return made


def account(folder: Path, made: list[Path], seed: int, model: Embedder) -> tuple[int, int]:
    """Run over the folder, twice, and hold every file against the ledger. Gives how many were read, and were not."""
    state = folder.parent / f"state-{seed}"
    pipeline = Pipeline(
        folder, into=f"sqlite://{state}/index.db", model=model, state=state / "ledger.db", memory=MEMORY
    )
    report = pipeline.run()
    assert report.status == "done"
    read = failed = 0
    with Ledger.reader(state / "ledger.db") as ledger:
        listed = [one for one, _ in ledger.listed("", 100_000)]
        failing = list(ledger.failures())
        for path in made:
            documents = [one for one in listed if _of(one.uri, path)]
            failures = [one for one in failing if _of(one.uri, path)]
            assert documents or failures, f"{path} is not accounted for (seed {seed})"
            for document in documents:
                # What an archive does not have where it says is open, with a cause: the next run tries it again.
                assert document.state in ("done", "failed", "skipped", "open"), (path, document)
                if document.state != "done":
                    causes = [one.cause for one in failures if one.uri == document.uri]
                    assert all(causes), path
                    assert causes, f"{path} is {document.state} without a cause (seed {seed})"
            assert all(0 < len(one.cause) < 5000 for one in failures), path
            read += any(one.state == "done" for one in documents)
            failed += not any(one.state == "done" for one in documents)
        chunks = ledger.counts().acknowledged
    with pipeline.sink as sink:
        sink.open(_manifest(sink))
        assert sink.count() == chunks
    again = pipeline.run()
    assert again.status == "done"
    with pipeline.sink as sink:
        sink.open(_manifest(sink))
        assert sink.count() == chunks, f"a second run over the same files changes the index (seed {seed})"
    return read, failed


def _of(uri: str, path: Path) -> bool:
    own = path.as_uri()
    return uri == own or uri.startswith((f"{own}/", f"{own}#"))


def _manifest(sink: object) -> object:
    manifest = sink.manifest()  # type: ignore[attr-defined]
    assert isinstance(manifest.schema, IndexSchema)
    return manifest


def test_broken_documents_of_every_kind_end_no_run_and_none_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    made = scatter(folder, 84, seed=12)
    read, failed = account(folder, made, 12, HashingEmbedder(8))
    assert read > 20
    assert failed > 5


def test_broken_images_and_captions_end_no_run_and_none_is_lost(tmp_path: Path) -> None:
    rng, folder = Random(3), tmp_path / "in"
    folder.mkdir()
    seeds = [path.read_bytes() for path in TARGETS["image"].seeds]
    captions = [path.read_bytes() for path in TARGETS["caption"].seeds]
    made = []
    for number in range(60):
        path = folder / f"{number}.png"
        path.write_bytes(mutate("bytes", rng, rng.choice(seeds), seeds) if number % 3 else rng.choice(seeds))
        path.with_suffix(".json").write_bytes(mutate("json", rng, rng.choice(captions)))
        made.append(path)
    read, failed = account(folder, made, 3, PixelEmbedder())
    assert read > 15
    assert failed > 5


@pytest.mark.attack
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_many_broken_documents_end_no_run(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "in"
    made = scatter(folder, 400, seed)
    account(folder, made, seed, PixelEmbedder() if seed % 2 else HashingEmbedder(8))
