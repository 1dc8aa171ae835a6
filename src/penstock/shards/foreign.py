"""`import_foreign`: write parts of the vectors of other programs.

clip-retrieval            img_emb/img_emb_0.npy ... beside metadata/metadata_0.parquet ...
SkyPilot's example        Parquet files, anywhere beneath: `idx`, and `output`, a pickle of (image in base64, vector)
other Parquet files       a column of vectors: lists of floats, their bytes, or pickled
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import LockedError, ParseError, Rejected, SourceError, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Item, Piece, Point
from penstock.core.schema import VectorSpec, single
from penstock.engine.identity import Namer
from penstock.engine.journal import Begun
from penstock.shards import store as stores
from penstock.shards import unpickling
from penstock.shards.accounts import Accounts
from penstock.shards.embed import ROWS
from penstock.shards.folder import Folder
from penstock.shards.format import FAILED, Entry
from penstock.shards.images import Whole
from penstock.shards.leases import Leases
from penstock.shards.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTORS = ("output", "embedding", "embeddings", "vector", "image_embedding", "clip_embedding")
URIS = ("uri", "url", "image_path", "image_url", "path", "key", "idx", "id")
CAPTIONS = ("caption", "text")
IMAGES = ("image", "image_bytes", "image_base64")
GROUP = 512
"""Rows to read at a time."""


@dataclass(frozen=True, slots=True)
class Imported:
    url: str
    files: int
    counts: Mapping[str, int]
    failures: tuple[tuple[str, str], ...]
    """Rows that could not be read, and why; a hundred of them at most."""
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.counts[FAILED]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


class Foreign(NamedTuple):
    """A row of another program."""

    uri: str
    vector: Callable[[], tuple[NDArray[np.float32], bytes | None]]
    """Gives its vector, and the image if that is kept with it. Raises ValueError."""
    caption: str
    metadata: Mapping[str, Any]


def import_foreign(
    foreign: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model_name: str,
    *,
    space: VectorSpec | None = None,
    rows: int = ROWS,
    storage: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Write parts of the vectors in a folder. `progress` is called with the files read, and how many there are.

    `space`: the space of an embedder that made them (`embedder.describe()`), so that it can embed the questions.
    Without it they are in a space of their own, named `model_name`. Images kept beside the vectors are measured, and
    not copied. A row that cannot be read is listed as failed, and no pickle is executed.
    """
    began = time.monotonic()
    root = Path(foreign).absolute()
    files = list(_files(root))
    if not files:
        raise UsageError(
            f"{root} holds neither img_emb/*.npy beside metadata/*.parquet, nor Parquet files with vectors"
        )
    dim = next((len(vector) for file in files for row in file() if (vector := _first(row)) is not None), 0)
    if not dim:
        raise UsageError(f"no vector in {root} can be read: {_why(files)}")
    if space is None:
        digest = hashlib.blake2b(f"{model_name}/{dim}".encode(), digest_size=16).hexdigest()
        space = VectorSpec(model_name, dim, f"foreign-{digest}")
    elif space.dim != dim:
        raise UsageError(f"{root} holds vectors of {dim} dimensions; those of {space.model} have {space.dim}")
    folder = Folder.begin(stores.at(out, storage), single(space, Whole.spec), 1, root.as_uri())
    failures: list[tuple[str, str]] = []
    accounts = Accounts()
    with ExitStack() as stack:
        stack.callback(accounts.close)
        if (done := folder.done(1)) is not None:
            return Imported(folder.store.url, 0, done.counts, (), time.monotonic() - began)
        lease = Leases(folder).take(1)
        if lease is None:
            raise LockedError(f"another worker is importing into {folder.store.url}")
        stack.callback(lease.release)
        writer = Writer(folder, 1, lease.term, rows, accounts, lease.check)
        stack.callback(writer.close)
        for name in folder.part_names(1):
            writer.take_in(folder.read(name))
        for number, file in enumerate(files):
            if progress:
                progress(number, len(files))
            for row in file():
                if accounts.add(row.uri) and (why := _take(row, writer, dim)):
                    writer.account(Entry(row.uri, FAILED, why))
                    failures = [*failures, (row.uri, why)][:100]
        done = writer.finish()
    if progress:
        progress(len(files), len(files))
    return Imported(folder.store.url, len(files), done.counts, tuple(failures), time.monotonic() - began)


def _take(row: Foreign, writer: Writer, dim: int) -> str:
    """Add a row. Gives why it cannot be, or nothing."""
    try:
        values, image = row.vector()
        if values.shape != (dim,):
            return f"its vector has the shape {values.shape}; the first one has {dim} dimensions"
        if not values.any():
            return "its vector is zero"
        chunk = _chunk(row, image)
        writer.admit(1)
        writer.add([Point(chunk, {VECTOR: Dense(values)})])
    except Rejected as error:
        return next(iter(error.reasons.values()))
    except (ValueError, TypeError, binascii.Error) as error:
        return str(error)
    return ""


def _chunk(row: Foreign, image: bytes | None) -> Chunk:
    metadata = dict(row.metadata)
    if image is not None:
        metadata["content_hash"] = hashlib.sha256(image).hexdigest()
        try:
            from penstock.support.images import measure

            _, metadata["width"], metadata["height"] = measure(image)
        except (ParseError, UsageError):
            pass  # the vector is good: its program could read the image
    item = Item(row.uri, "", _nothing)
    caption = row.caption.encode(errors="replace").decode()
    chunk, _ = Namer(item, Begun(0, 0, had=False)).name(Piece(caption, (0, len(caption)), metadata=metadata))
    return chunk


def _nothing() -> Any:
    raise SourceError("a row of a table cannot be opened")


def _first(row: Foreign) -> Any:
    try:
        return row.vector()[0]
    except (ValueError, TypeError, binascii.Error):
        return None


def _why(files: list[Callable[[], Iterator[Foreign]]]) -> str:
    for file in files:
        for row in file():
            try:
                row.vector()
            except (ValueError, TypeError, binascii.Error) as error:
                return str(error)
    return "there are no rows"


# ---------------------------------------------------------------- formats


def _files(root: Path) -> Iterator[Callable[[], Iterator[Foreign]]]:
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}")
    if arrays := sorted((root / "img_emb").glob("*.npy")):
        for array in arrays:
            number = re.search(r"(\d+)$", array.stem)
            table = root / "metadata" / f"metadata_{number[1] if number else ''}.parquet"
            if not table.exists():
                raise SourceError(f"{array} has no {table.name} beside it, which says what its vectors are of")
            yield partial(_retrieved, array, table)
        return
    for path in sorted(root.rglob("*.parquet")):
        yield partial(_pickled, path)


def _retrieved(array: Path, table: Path) -> Iterator[Foreign]:
    """clip-retrieval: a matrix, row by row beside a table."""
    import numpy as np

    try:
        matrix = np.load(array, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # its header is Python, of which the tokenizer's errors are no ValueErrors
        raise SourceError(f"{array} cannot be read: {error!s:.300}") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise SourceError(f"{array} holds {matrix.dtype} of shape {matrix.shape}, which are no vectors")
    at = 0
    for cells in _rows(table):
        if at >= len(matrix):
            raise SourceError(f"{table} has more rows than {array.name}, which has {len(matrix)}")
        uri = next((str(cells.pop(name)) for name in URIS if cells.get(name) is not None), f"{table.as_uri()}#{at}")
        caption = _caption(cells)
        values = np.array(matrix[at], np.float32)
        yield Foreign(uri, partial(_unchanged, values), caption, cells)
        at += 1
    if at != len(matrix):
        raise SourceError(f"{table} has {at} rows, {array.name} has {len(matrix)}")


def _pickled(path: Path) -> Iterator[Foreign]:
    """A table with vectors in it."""
    for at, cells in enumerate(_rows(path)):
        column = next((name for name in VECTORS if name in cells), None)
        if column is None:
            raise SourceError(f"{path} has no column of vectors: expected one named {', '.join(VECTORS)}")
        cell = cells.pop(column)
        name = next((name for name in URIS if cells.get(name) is not None), None)
        key = str(cells[name]) if name else str(at)
        uri = key if "://" in key or key.startswith("/") else f"{path.as_uri()}#{key}"
        image = next((cells.pop(name) for name in IMAGES if cells.get(name) is not None), None)
        yield Foreign(uri, partial(_vector, cell, image), _caption(cells), cells)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if not name.startswith("__")]  # pandas' row numbers
            for batch in file.iter_batches(GROUP, columns=names):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def _caption(cells: dict[str, Any]) -> str:
    captions = [value for name in CAPTIONS if isinstance(value := cells.pop(name, None), str)]
    for name, value in list(cells.items()):
        if value is None:
            del cells[name]
        elif isinstance(value, bytes):
            cells[name] = f"{len(value)} bytes"
        else:
            json.dumps(value, default=str)
    return captions[0] if captions else ""


def _unchanged(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], None]:
    return values, None


def _vector(cell: Any, image: Any) -> tuple[NDArray[np.float32], bytes | None]:
    import numpy as np

    if isinstance(cell, bytes) and cell.startswith(b"\x80"):
        cell = unpickling.loads(cell)
        # The reference example's: the image in base64, and its vector.
        if isinstance(cell, list) and len(cell) == 2 and isinstance(cell[1], np.ndarray):
            image, cell = cell
    elif isinstance(cell, bytes):
        if len(cell) % 4:
            raise ValueError(f"{len(cell)} bytes are neither a pickle nor float32")
        cell = np.frombuffer(cell, "<f4")
    values = np.asarray(cell, np.float32)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or not len(values):
        raise ValueError(f"its vector has the shape {values.shape}")
    return values, base64.b64decode(image, validate=True) if isinstance(image, str) else image
