"""Small images, a model of their pixels that keeps a log, workers that can be killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from penstock.compose import embed
from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, ParseError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.shards import Embedded
from penstock.shards.embed import Options
from penstock.shards.folder import Folder
from penstock.shards.format import Entry, Part, PartBuilder, Row
from penstock.shards.store import at
from penstock.support.images import decode

DIM = 12


class PixelEmbedder(Embedder):
    """The vector of an image is its 2 x 2 thumbnail. Logs a line for each that it embeds, at once."""

    embeds_images = True
    batch_rows = 4

    def __init__(
        self, log: str | None = None, *, workers: int = 2, seconds: float = 0.0, model: str = "pixels"
    ) -> None:
        self.log, self.workers, self.seconds, self.model = log, workers, seconds, model

    def describe(self) -> VectorSpec:
        return VectorSpec(self.model, DIM, f"{self.model}-1")

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        time.sleep(self.seconds)
        vectors = []
        for chunk in chunks:
            try:
                vectors.append(self._vector(chunk.image or b""))
            except ParseError as error:
                raise EmbedError(f"{chunk.uri}: {error}") from error
        if self.log:
            with open(self.log, "ab", buffering=0) as file:
                file.write("".join(f"{os.getpid()} {chunk.uri}\n" for chunk in chunks).encode())
        return vectors

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [Dense(np.ones(DIM, np.float32)) for _ in texts]

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        return [self._vector(picture) for picture in pictures]

    def _vector(self, picture: bytes) -> Dense:
        return Dense(np.asarray(decode(picture).resize((2, 2)), np.float32).reshape(-1) + 1)


def picture(number: int, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    raw = blake2b(str(number).encode(), digest_size=3).digest()
    image = Image.new("RGB", size, tuple(raw))
    image.putpixel((number % size[0], number // size[0] % size[1]), (255 - raw[0], raw[1], raw[2]))
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def torn() -> bytes:
    """An image that is cut off after its header."""
    return picture(1, (64, 64))[:60]


def pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"{number % 7}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return folder


def everything(out: Path | str, **storage: Any) -> list[Part]:
    folder = Folder.open(at(out, storage))
    return [folder.read(name) for name in folder.part_names()]


def uris(out: Path | str, **storage: Any) -> list[str]:
    return sorted(uri for part in everything(out, **storage) for uri in part.table.column("uri").to_pylist())


def entries(out: Path | str) -> dict[str, tuple[str, str]]:
    """Name of the file -> state and cause."""
    every = (entry for part in everything(out) for entry in part.entries)
    return {entry.uri.rpartition("/")[2]: (entry.state, entry.why) for entry in every}


def embedded(source: Path, out: Path | str, log: Path | None = None, rows: int = 8, **how: Any) -> Embedded:
    options = how.pop("options", None) or Options(rows=rows, memory="64MiB", ttl=how.pop("ttl", 60.0))
    return embed(str(source), how.pop("model", None) or PixelEmbedder(log and str(log)), out, options=options, **how)


# ---------------------------------------------------------------- workers in processes of their own


def start(source: Path, out: Path | str, log: Path, **how: Any) -> subprocess.Popen[bytes]:
    job = {"source": str(source), "out": str(out), "log": str(log), **how}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.shards.world", json.dumps(job)], cwd=Path(__file__).parents[2]
    )


def _work(job: dict[str, Any]) -> None:
    model = PixelEmbedder(job.pop("log"), workers=job.pop("workers", 2), seconds=job.pop("seconds", 0.0))
    options = Options(
        rows=job.pop("rows", 8),
        memory="64MiB",
        ttl=job.pop("ttl", 60.0),
        storage=job.pop("storage", {}),
    )
    if moment := job.pop("moment", None):
        _die(*moment)
    if "partition" in job:
        job["partition"] = tuple(job["partition"])
    done = embed(job.pop("source"), model, job.pop("out"), options=options, **job)
    print(json.dumps(done.to_json()))
    sys.exit(0 if done.ok else 1)


def _die(module: str, name: str, nth: int, after: bool) -> None:
    """Kill this process at the n-th call of a method: before it, or as soon as it has returned."""
    import importlib

    path, _, kind = module.rpartition(":")
    owner = getattr(importlib.import_module(path), kind)
    real, calls = getattr(owner, name), iter(range(1, 1 << 30))

    def deadly(self: Any, *args: Any) -> Any:
        last = next(calls) == nth
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(self, *args)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))


def encode(rows: Iterable[Row], entries: Sequence[Entry], space: VectorSpec, facts: Mapping[str, Any]) -> bytes:
    """The bytes of a part."""
    part = PartBuilder(space)
    for row in rows:
        part.add(row)
    return part.finish(entries, facts)
