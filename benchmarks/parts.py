"""Speed and memory of making parts, verifying them and loading them into LanceDB.

    python benchmarks/parts.py                       # 25,000 and 100,000 vectors; 1,000 and 10,000 images
    python benchmarks/parts.py --vectors 1000000
    python benchmarks/parts.py --images 50000 --vectors 0

Vectors: of 512 dimensions, in parts of 4,096 rows, made beforehand. `load` is until all rows are in the store, `index`
what the store does to them afterwards. Images: small ones, through a model that does nothing, so what is measured is
all but the model: list, read, hash, batch, and parts put in place. Each measurement is a process of its own, and peak
memory is that process's; 1,000 images and a quarter of the vectors show whether it grows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures import record

from penstock.compose import embed, load
from penstock.core.contracts import Embedder
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec, single
from penstock.shards import verify
from penstock.shards.embed import ROWS
from penstock.shards.folder import Done, Folder, facts_of
from penstock.shards.format import Digest, Listed, PartBuilder, Row
from penstock.shards.store import at

DIM = 512


class Nothing(Embedder):
    """Gives every image a vector of its own, out of nothing."""

    embeds_images = True
    workers = 2
    batch_rows = 32

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def describe(self) -> VectorSpec:
        return VectorSpec("nothing", DIM, "nothing")

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        return self._some(len(chunks))

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return self._some(len(texts))

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        return self._some(len(pictures))

    def _some(self, count: int) -> list[Dense]:
        return [Dense(row.copy()) for row in self._random.standard_normal((count, DIM), np.float32)]


def make_parts(out: Path, vectors: int) -> None:
    """As `embed` leaves them."""
    rng = np.random.default_rng(1)
    space = VectorSpec("random", DIM, "random")
    folder = Folder.begin(at(out), single(space, "whole images"), 1, "nowhere")
    listed: list[Listed] = []
    digest = Digest()
    for start in range(0, vectors, ROWS):
        part = PartBuilder(space)
        for n in range(start, min(start + ROWS, vectors)):
            uri = f"s3://images/{n // 1000:06}/{n:09}.jpg"
            digest.add(uri)
            id = hashlib.md5(uri.encode()).hexdigest()
            vector = rng.standard_normal(DIM, np.float32)
            part.add(Row(id, uri, id * 2, 640, 480, f"picture {n}", '{"licence": "CC0"}', vector))
        name = folder.part_name(1, 1, len(listed) + 1)
        data = part.finish([], facts_of(1, 1, len(listed) + 1, space))
        folder.store.put(name, data)
        listed.append(Listed(name, part.rows, hashlib.sha256(data).hexdigest()))
    counts = {"embedded": vectors, "duplicate": 0, "failed": 0, "skipped": 0}
    folder.finish(Done(1, 1, vectors, str(digest), counts, listed))


def make_images(folder: Path, count: int) -> None:
    """Write bitmaps, the format that is fastest to make."""
    header = b"BM" + (54 + 768).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + (16).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    for n in range(count):
        path = folder / f"{n // 1000:04}" / f"{n:08}.bmp"
        if n % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(header + hashlib.blake2b(str(n).encode(), digest_size=48).digest() * 16)


def measured(what: str, root: Path) -> dict[str, float]:
    began = time.perf_counter()
    if what == "verify":
        proof = verify(root / "parts")
        assert proof.ok, proof.troubles
        result = {"rows": proof.rows, "seconds": time.perf_counter() - began}
    elif what == "load":
        inside = began

        def tell(done: object) -> None:
            nonlocal inside
            inside = time.perf_counter()

        done = load(root / "parts", f"lance://{root}/index", tell, state=root / "state")
        assert done.ok, done
        whole = time.perf_counter()
        result = {"rows": done.written, "seconds": inside - began, "after": whole - inside}
    else:
        embedded = embed(str(root / "images"), Nothing(), root / "out")
        assert embedded.ok, embedded
        result = {"rows": embedded.counts["embedded"], "seconds": embedded.seconds}
    return result | {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def alone(what: str, root: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(what: str, result: dict[str, float]) -> None:
    rows, seconds, mib = result["rows"], result["seconds"], result["mib"]
    after = f"   index {result['after']:6.1f} s" if "after" in result else ""
    print(f"{what:8} {rows:>10,.0f} {seconds:>8.1f} s {rows / seconds:>9,.0f}/s {mib:>7,.0f} MiB{after}")
    name = f"{what} {rows:,.0f} " + ("images" if what == "embed" else "vectors")
    record(f"{name}: time", seconds + result.get("after", 0.0), "s")
    record(f"{name}: rate", rows / seconds, "/s")
    record(f"{name}: peak", mib, "MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000, help="vectors to verify and load (100,000)")
    parser.add_argument("--images", type=int, default=10_000, help="images to make parts of (10,000)")
    parser.add_argument("--folder", help="where the files go (the system's temporary folder)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        os.chdir(options.measure[1])
        print(json.dumps(measured(options.measure[0], Path(options.measure[1]))))
        return
    print(f"{'':8} {'rows':>10} {'time':>10} {'rate':>11} {'peak':>11}")
    for count in sorted({min(1000, options.images), options.images}):
        if count:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                make_images(Path(folder) / "images", count)
                show("embed", alone("embed", Path(folder)))
    for count in (options.vectors // 4, options.vectors):
        if count:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                make_parts(Path(folder) / "parts", count)
                for what in ("verify", "load"):
                    show(what, alone(what, Path(folder)))


if __name__ == "__main__":
    main()
