"""CocoIndex 1.0 in its live mode, following a folder of Markdown files into LanceDB: the peer of `live.py`.

    PEERS/bin/python benchmarks/live_cocoindex.py FOLDER        # a venv with cocoindex, watchdog and penstock

It is given what it needs for its best figure: the same model, loaded already, by a plain function; each file is one
chunk; no vector index. `FOLDER/docs` is followed into `FOLDER/peer`, table `notes`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"

import cocoindex as coco
import lancedb
import pyarrow as pa
from cocoindex.connectors import lancedb as target
from cocoindex.connectors import localfs

import penstock as ps

FOLDER = Path(sys.argv[1])
DATABASE: coco.ContextKey[lancedb.AsyncConnection] = coco.ContextKey("database")
COLUMNS = {
    "id": target.ColumnDef(pa.string(), nullable=False),
    "text": target.ColumnDef(pa.string()),
    "vector": target.ColumnDef(pa.list_(pa.float32(), 384)),
}


@coco.fn(memo=True)
async def note(file: localfs.File, table: target.TableTarget) -> None:
    text = await file.read_text()
    vector = await asyncio.to_thread(ps.embed_documents, text)
    table.declare_row(row={"id": file.file_path.path.as_posix(), "text": text, "vector": vector.tolist()})


@coco.fn
async def notes(folder: Path) -> None:
    table = await target.mount_table_target(DATABASE, "notes", target.TableSchema(COLUMNS, ["id"]))
    files = localfs.walk_dir(folder, live=True, recursive=True)
    await coco.mount_each(note, files.items(), table)


async def main() -> None:
    ps.embed_documents("loads the model")

    @coco.lifespan
    async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
        builder.settings.db_path = FOLDER / "peer state"
        builder.provide(DATABASE, await target.connect_async(str(FOLDER / "peer")))
        yield

    app = coco.App("notes", notes, FOLDER / "docs")
    await app.update(live=True)


if __name__ == "__main__":
    asyncio.run(main())
