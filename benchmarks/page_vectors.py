"""Memory of every path that moves pages of a thousand vectors: a page is half a megabyte, so rows are no measure.

    python benchmarks/page_vectors.py                                       # 10,000 pages: 21 GB of disk
    python benchmarks/page_vectors.py --pages 1000 --only ingest rename copy

Each page is a chunk of text with 1,030 vectors of 128 dimensions, as a late-interaction model of page images makes
them; the model is a fake, with batches of 256 pages. Each step is a process of its own, on LanceDB: its peak is held
against that of the same step on three pages (the base) plus the budget. The process that compacts may take 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from figures import MISSED, record
from memory import MIB, children, status

from penstock import Pipeline, compose
from penstock.core.contracts import Embedder, Source
from penstock.core.records import Change, Chunk, Item, ListingEnd, MultiVector, Upsert
from penstock.core.schema import VectorSpec
from penstock.jobs import reindex as jobs
from penstock.testing.sources import Bytes

VECTORS, DIM = 1030, 128
FEW = 3
COMPACTOR = 1 << 30
WORDS = ("pressure", "gate", "intake", "turbine", "valve", "sluice", "spillway", "head", "surge", "conduit")


class PageEmbedder(Embedder):
    """A matrix a page, in an array of its own, of which the page's text says where in a table it begins."""

    batch_tokens, batch_rows = 1 << 17, 256

    def __init__(self, version: int = 1, name: int | None = None) -> None:
        self.version, self.name = version, name or version
        self._table: Any = None

    def describe(self) -> VectorSpec:
        return VectorSpec("pages", DIM, f"pages-{self.name}", kind="MultiVector")

    def open(self) -> None:
        if self._table is None:
            import numpy as np

            self._table = np.random.default_rng(self.version).standard_normal((2 * VECTORS, DIM), np.float32)

    def embed(self, chunks: Sequence[Chunk]) -> list[MultiVector]:
        return self.query([chunk.text for chunk in chunks])

    def query(self, texts: Sequence[str]) -> list[MultiVector]:
        starts = [crc32(text.encode()) % VECTORS for text in texts]
        return [MultiVector(self._table[start : start + VECTORS].copy()) for start in starts]


class Pages(Source):
    def __init__(self, count: int, folder: str = "a", revision: str = "") -> None:
        self.count, self.folder, self.revision = count, folder, revision

    @property
    def name(self) -> str:
        return "page:"

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        for number in range(self.count):
            yield Upsert(self._item(number))
        yield ListingEnd()

    def lookup(self, uri: str) -> Item | None:
        return self._item(int(uri.rpartition("/")[2]))

    def _item(self, number: int) -> Item:
        dice = random.Random(number)
        text = f"Page {number}. " + " ".join(dice.choice(WORDS) for _ in range(120))
        uri = f"page:{self.folder}/{number}"
        metadata = {"score": self.revision} if self.revision else {}
        return Item(
            uri, "1", Bytes(uri, text.encode()), len(text), "text/plain", metadata=metadata, revision=self.revision
        )


# ---------------------------------------------------------------- the steps, each in a process of its own


class Steps:
    """The steps in their order: each works on what those before it left in the folder."""

    def __init__(self, folder: Path, pages: int, budget: int) -> None:
        self.folder, self.pages, self.budget = folder, pages, budget
        self.store, self.copied, self.joined = (f"lance://{folder}/{name}" for name in ("index", "copy", "joined"))
        self.scored = Pages(pages, "b", "2")

    def pipeline(
        self, source: Source, into: Any = None, model: PageEmbedder | None = None, state: str = "ledger"
    ) -> Pipeline:
        return Pipeline(
            source,
            into=into or self.store,
            model=model or PageEmbedder(),
            chunk="5000 characters",
            memory=self.budget,
            state=self.folder / f"{state}.db",
        )

    def run(self, *given: Any, embedded: int = 0, moved: int = 0, **options: Any) -> None:
        report = self.pipeline(*given, **options).run(allow_mass_delete=True)
        assert report.ok, report
        assert (report.embedded, report.moved, report.behind) == (embedded, moved, ()), report

    def ingest(self) -> None:
        self.run(Pages(self.pages), embedded=self.pages)

    def rename(self) -> None:
        self.run(Pages(self.pages, "b"), moved=self.pages)

    def metadata(self) -> None:
        self.run(self.scored, moved=self.pages)

    def verify(self) -> None:
        assert self.pipeline(self.scored).verify(sample=0.2).ok

    def altered(self) -> None:
        """All vectors are another model's."""
        assert self.pipeline(self.scored, model=PageEmbedder(2, name=1)).verify(sample=1.0).altered == self.pages

    def copy(self) -> None:
        assert compose.copy(self.store, self.copied).written == self.pages

    def adopt(self) -> None:
        self.run(self.scored, self.copied, state="copy")

    def catch_up(self) -> None:
        self.run(self.scored, [self.store, self.joined])

    def reindex(self) -> None:
        """Its check of recall asks few questions: each is compared with all pages, which takes time and no memory."""
        jobs.QUERIES = 3
        assert self.pipeline(self.scored, model=PageEmbedder(2)).reindex().switched

    def all(self) -> dict[str, Callable[[], None]]:
        steps = (self.ingest, self.rename, self.metadata, self.verify, self.altered, self.copy, self.adopt)
        return {step.__name__: step for step in (*steps, self.catch_up, self.reindex)}


def measured(step: Callable[[], None]) -> dict[str, float]:
    """Peak of this process, and the highest of its children, sampled."""
    highest, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.02):
            highest = max(highest, *(status("VmHWM", pid) for pid in children()), 0)

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    try:
        step()
    finally:
        ended.set()
        watching.join()
    return {"peak": status("VmHWM"), "children": highest, "seconds": time.monotonic() - began}


def apart(name: str, folder: Path, pages: int, budget: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--step", name, "--folder", str(folder)]
    command += ["--pages", str(pages), "--memory", str(budget)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    from penstock.support.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--memory", type=parse_size, default=512 * MIB, help="the budget (512MiB)")
    parser.add_argument("--only", nargs="+", help="steps; those that they need come first")
    parser.add_argument("--temp", type=Path, help="where the indexes are made")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        from penstock.support.heap import tighten

        tighten()  # as the command line does
        print(json.dumps(measured(Steps(options.folder, options.pages, options.memory).all()[options.step])))
        return
    pages, budget = options.pages, options.memory
    size = pages * VECTORS * DIM * 4
    with tempfile.TemporaryDirectory(dir=options.temp) as scratch:
        few, many = Path(scratch, "few"), Path(scratch, "many")
        few.mkdir()
        many.mkdir()
        if shutil.disk_usage(scratch).free < 4 * size:
            parser.error(f"{pages:,} pages take {4 * size / 1e9:.0f} GB in {scratch}: choose fewer, or another --temp")
        print(f"{pages:,} pages of {VECTORS} x {DIM}: {size / 1e9:.1f} GB; budget {budget / MIB:.0f} MiB; MiB:")
        print(f"{'':10} {'base':>6} {'peak':>6} {'limit':>6} {'child':>6} {'s':>6}")
        missed = False
        for name in Steps(many, pages, budget).all():
            if options.only and name not in options.only:
                continue
            base = apart(name, few, FEW, budget)["peak"]
            found = apart(name, many, pages, budget)
            limit = base + budget
            record(f"{name}, {pages:,} pages: peak", found["peak"] / MIB, "MiB", bar=limit / MIB, better="lower")
            if found["children"]:
                highest, bar = found["children"] / MIB, COMPACTOR / MIB
                record(f"{name}, {pages:,} pages: compactor", highest, "MiB", bar=bar, better="lower")
            missed |= found["peak"] > limit or found["children"] > COMPACTOR
            row = [base / MIB, found["peak"] / MIB, limit / MIB, found["children"] / MIB, found["seconds"]]
            print(f"{name:10}", *(f"{number:6.0f}" for number in row), flush=True)
    sys.exit(MISSED if missed else 0)


if __name__ == "__main__":
    main()
