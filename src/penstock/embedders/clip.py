"""Images and texts in one space: CLIP and SigLIP by ONNX Runtime, without PyTorch; or by PyTorch, for GPUs.

A thread decodes an image and runs the model itself, on one core; the embedder is called by as many as there are cores.
With PyTorch they decode, and take turns at the device (penstock.embedders.clip_torch).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, ModelError, ParseError, QueryMismatch, UsageError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.embedders import clip_checkpoint, clip_graph, int8, models
from penstock.embedders.builder import cached
from penstock.embedders.clip_checkpoint import ClipCheckpoint
from penstock.embedders.onnx import batches, fingerprint, located, space
from penstock.embedders.runtime import run, session
from penstock.support import images
from penstock.support.cores import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.clip_torch import TorchTowers
    from penstock.embedders.tokenize import HFTokenizer

AT_ONCE = 8
"""Images a call of the model takes: more are no faster on one core, and their states leave its cache."""
DEVICE_ROWS, DEVICE_TOKENS = 64, 4096
"""Size of a batch where PyTorch runs it: a GPU does more at once."""


class ClipEmbedder(Embedder):
    """Embeds with a CLIP or SigLIP checkpoint in Hugging Face's format: a folder or a hub id.

    A chunk with an image is embedded as that image, one without as its text. `pixels`: the most an image may have.
    `workers`: by default as many as there are cores to use. `device`: one of PyTorch's ("cuda", "cuda:1", "mps"), or
    "best" for the best one available; by default the model runs without PyTorch. The space is the same. `exact=False`:
    as `int8:` before its name (penstock.embedders.int8).
    """

    embeds_images = True
    has_tokenizer = True
    batch_rows = 32

    def __init__(
        self,
        model: str | Path,
        *,
        workers: int | None = None,
        pixels: int = images.PIXELS,
        device: str | None = None,
        exact: bool = True,
    ) -> None:
        if device is not None and not exact:
            raise UsageError("PyTorch runs models as they are: exact=False goes without device=")
        self.model = model
        self.device = device
        self.exact = exact
        if device is not None:
            self.batch_rows, self.batch_tokens = DEVICE_ROWS, DEVICE_TOKENS
        self.workers = workers or usable_cores()
        self.pixels = pixels
        self._tokenizer: HFTokenizer | None = None
        self._towers: _Towers | TorchTowers | None = None
        self.checkpoint: ClipCheckpoint | None = None

    def __repr__(self) -> str:
        device = f", device={self.device!r}" if self.device is not None else ""
        return f"ClipEmbedder({str(self.model)!r}{device}{'' if self.exact else ', exact=False'})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None, "_towers": None, "checkpoint": None}

    def describe(self) -> VectorSpec:
        return space(self._load(), self.exact)

    def open(self) -> None:
        if self._towers is not None:
            return
        from penstock.embedders.tokenize import HFTokenizer

        checkpoint = self._load()
        tokenizer = HFTokenizer(checkpoint.folder / "tokenizer.json", checkpoint.positions)
        if checkpoint.end is not None and checkpoint.end not in tokenizer.suffix:
            raise ModelError(f"{checkpoint.name} pools texts at token {checkpoint.end}, which its tokenizer never adds")
        self._tokenizer, self._towers = tokenizer, _towers(checkpoint, self.device, self.exact)

    def close(self) -> None:
        self._tokenizer = self._towers = None

    @property
    def tokenizer(self) -> HFTokenizer | None:
        return self._tokenizer

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        results: list[Any] = [None] * len(chunks)
        shown = [i for i, chunk in enumerate(chunks) if chunk.image is not None]
        captions = [i for i, chunk in enumerate(chunks) if chunk.image is None]
        for places, vectors in (
            (shown, self._images(self._decoded(chunks[i] for i in shown))),
            (captions, self._captions([chunks[i] for i in captions])),
        ):
            for i, vector in zip(places, vectors, strict=True):
                results[i] = vector
        return results

    def query(self, texts: Sequence[str]) -> list[Dense]:
        tokenizer, _ = self._opened()
        rows = tokenizer.encode(texts)
        for text, row in zip(texts, rows, strict=True):
            if len(row) > tokenizer.room:
                raise QueryMismatch(
                    f"the query {text[:40]!r}... has {len(row)} tokens; {self._load().name} takes {tokenizer.room}"
                )
        return self._texts(rows)

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        """Search by image: one vector each. Raises ParseError for what cannot be decoded."""
        prepared = self._load().preprocessing
        return list(self._images(prepared.pixels(picture, self.pixels) for picture in pictures))

    def _load(self) -> ClipCheckpoint:
        if self.checkpoint is None:
            self.checkpoint = clip_checkpoint.load(*located(self.model))
        return self.checkpoint

    def _opened(self) -> tuple[HFTokenizer, _Towers | TorchTowers]:
        if self._tokenizer is None or self._towers is None:
            raise EmbedError("the embedder is not open")
        return self._tokenizer, self._towers

    def _decoded(self, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.uint8]]:
        prepared = self._load().preprocessing
        for chunk in chunks:
            try:
                yield prepared.pixels(chunk.image or b"", self.pixels)
            except ParseError as error:
                raise EmbedError(f"the image of chunk {chunk.id} of {chunk.uri}: {error}") from error

    def _images(self, decoded: Iterable[NDArray[np.uint8]]) -> Iterator[Dense]:
        """Never more in memory than one whole image and a few small ones."""
        import numpy as np

        _, towers = self._opened()
        waiting: list[NDArray[np.uint8]] = []
        for pixels in decoded:
            waiting.append(pixels)
            if len(waiting) >= towers.at_once:
                yield from map(Dense, towers.vision(np.stack(waiting)))
                waiting = []
        if waiting:
            yield from map(Dense, towers.vision(np.stack(waiting)))

    def _captions(self, chunks: Sequence[Chunk]) -> list[Dense]:
        tokenizer, _ = self._opened()
        bare = [chunk.text for chunk in chunks if chunk.tokens is None]
        encoded = iter(tokenizer.encode(bare) if bare else ())
        rows = [chunk.tokens if chunk.tokens is not None else next(encoded) for chunk in chunks]
        for chunk, row in zip(chunks, rows, strict=True):
            if len(row) > tokenizer.room:
                raise EmbedError(
                    f"chunk {chunk.id} of {chunk.uri} has {len(row)} tokens; {self._load().name} takes {tokenizer.room}"
                )
        return self._texts(rows)

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[Dense]:
        tokenizer, towers = self._opened()
        checkpoint = self._load()
        complete = [[*tokenizer.prefix, *row, *tokenizer.suffix] for row in rows]
        results: list[Any] = [None] * len(rows)
        lengths = [checkpoint.positions if checkpoint.family == "siglip" else len(row) for row in complete]
        for places in batches(lengths, self.batch_tokens):
            for i, vector in zip(places, towers.text([complete[i] for i in places]), strict=True):
                results[i] = Dense(vector)
        return results


class _Towers:
    """Two sessions, each opened when it is first needed: who only searches by text never loads the other."""

    at_once = AT_ONCE

    def __init__(self, checkpoint: ClipCheckpoint, exact: bool) -> None:
        self._checkpoint, self._exact = checkpoint, exact
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def vision(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = run(self._session("vision"), {"pixels": pixels})
        return vectors

    def text(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        import numpy as np

        inputs: dict[str, Any] = {"ids": self._checkpoint.filled(rows)}
        if self._checkpoint.family == "clip":
            inputs["ends"] = np.array([self._end(row) for row in rows], np.int32)
        vectors: NDArray[np.float32] = run(self._session("text"), inputs)
        return vectors

    def _end(self, row: Sequence[int]) -> int:
        end = self._checkpoint.end
        return row.index(max(row) if end is None else end)

    def _session(self, tower: str) -> Any:
        with self._lock:
            if tower not in self._sessions:
                checkpoint, exact = self._checkpoint, self._exact
                name = f"{fingerprint(checkpoint, exact)}-{tower}-{clip_graph.VERSION}{int8.suffix(exact)}"
                build = clip_graph.vision if tower == "vision" else clip_graph.text
                path = cached(name, lambda: build(checkpoint, exact=exact), models.cache_folder())
                self._sessions[tower] = session(path)
            return self._sessions[tower]


def _towers(checkpoint: ClipCheckpoint, device: str | None, exact: bool) -> _Towers | TorchTowers:
    if device is None:
        return _Towers(checkpoint, exact)
    from penstock.embedders.clip_torch import TorchTowers

    return TorchTowers(checkpoint, device, DEVICE_ROWS)
