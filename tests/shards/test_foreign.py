"""Vectors of other programs become parts like any others: proved, loaded, searched."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.compose import load
from penstock.core.errors import SourceError, SpaceMismatch, UsageError
from penstock.core.schema import VectorSpec
from penstock.shards import import_foreign, verify

from .world import everything, picture, uris

RNG = np.random.default_rng(5)


def unit(count: int, dim: int = 16) -> Any:
    values = RNG.standard_normal((count, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def reference_example(root: Path, count: int = 60, per: int = 25) -> Any:
    """As its compute_vectors.py leaves them: numbered files, and the last one in a folder of its own."""
    vectors = unit(count)
    for number, start in enumerate(range(0, count, per)):
        rows = range(start, min(start + per, count))
        cells = [pickle.dumps((base64.b64encode(picture(n, kind="JPEG")).decode(), vectors[n])) for n in rows]
        last = start + per >= count
        path = root / (f"x_part_{number}/data.parquet" if last else f"embeddings_0_60.parquet_{number}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"idx": list(rows), "output": cells}), path)
    return vectors


def clip_retrieval(root: Path, count: int = 60, per: int = 25) -> Any:
    """As its writer leaves them: float16 matrices, and a table beside each."""
    vectors = unit(count).astype(np.float16)
    for folder in ("img_emb", "metadata", "text_emb"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, count, per)):
        rows = range(start, min(start + per, count))
        np.save(root / "img_emb" / f"img_emb_{number}.npy", vectors[start : start + per])
        np.save(root / "text_emb" / f"text_emb_{number}.npy", vectors[start : start + per])
        table = pa.table(
            {
                "image_path": [f"/images/{n}.jpg" for n in rows],
                "caption": [f"picture {n}" for n in rows],
                "licence": [None if n % 2 else "CC0" for n in rows],
                "__index_level_0__": list(rows),
            }
        )
        pq.write_table(table, root / "metadata" / f"metadata_{number}.parquet")
    return vectors.astype(np.float32)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["uri"]: row for part in everything(out) for row in part.table.to_pylist()}


def test_the_reference_example(tmp_path: Path) -> None:
    """Every row of every file, the one in a folder of its own as well; the image is measured and hashed."""
    vectors = reference_example(tmp_path / "in")
    seen: list[tuple[int, int]] = []
    done = import_foreign(
        tmp_path / "in", tmp_path / "out", "ViT-bigG-14", rows=16, progress=lambda *at: seen.append(at)
    )
    assert done.ok
    assert done.counts["embedded"] == 60
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    found = {int(uri.rpartition("#")[2]): row for uri, row in rows(tmp_path / "out").items()}
    assert sorted(found) == list(range(60))
    for number, row in found.items():
        assert np.array_equal(np.array(row["vector"], np.float32), vectors[number])
        assert (row["width"], row["height"]) == (8, 6)
        assert len(row["content_hash"]) == 64
    assert verify(tmp_path / "out").ok
    assert load(tmp_path / "out", f"sqlite://{tmp_path}/x.db", state=tmp_path / "state").written == 60


def test_clip_retrieval(tmp_path: Path) -> None:
    """With path, caption and metadata of each image."""
    vectors = clip_retrieval(tmp_path / "in")
    done = import_foreign(tmp_path / "in", tmp_path / "out", "ViT-B/32", rows=16)
    assert done.counts["embedded"] == 60
    found = rows(tmp_path / "out")
    assert found["/images/7.jpg"]["text"] == "picture 7"
    assert found["/images/7.jpg"]["metadata"] == "{}"
    assert found["/images/8.jpg"]["metadata"] == '{"licence": "CC0"}'
    for number in range(60):
        assert np.array_equal(np.array(found[f"/images/{number}.jpg"]["vector"], np.float32), vectors[number])
    assert verify(tmp_path / "out").ok


@pytest.mark.parametrize("way", ["lists", "bytes", "arrays"])
def test_other_tables(way: str, tmp_path: Path) -> None:
    """Lists of floats, their bytes, and an array's pickle alone."""
    vectors = unit(5)
    cells = {
        "lists": vectors.tolist(),
        "bytes": [v.tobytes() for v in vectors],
        "arrays": [pickle.dumps(v) for v in vectors],
    }[way]
    table = {"url": [f"https://x/{n}.jpg" for n in range(5)], "embedding": cells, "text": ["t"] * 5}
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(table), tmp_path / "in" / "a.parquet")
    import_foreign(tmp_path / "in", tmp_path / "out", "m")
    assert uris(tmp_path / "out") == [f"https://x/{n}.jpg" for n in range(5)]
    assert np.array_equal(np.array(rows(tmp_path / "out")["https://x/3.jpg"]["vector"], np.float32), vectors[3])


def test_hostile_rows_fail_alone(tmp_path: Path) -> None:
    """A pickle that runs code, one cut short, vectors of other sizes, NaN and zero: each with the reason."""
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {mark}",)

    good = unit(2)
    cells = [
        pickle.dumps(("", good[0])),
        pickle.dumps(Evil()),
        pickle.dumps(("", good[1]))[:-20],
        pickle.dumps(("", np.ones(3, np.float32))),
        pickle.dumps(("", np.full(16, np.nan, np.float32))),
        pickle.dumps(("", np.zeros(16, np.float32))),
        pickle.dumps(("not base64!", good[1])),
        None,
    ]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"idx": list(range(8)), "output": cells}), tmp_path / "in" / "a.parquet")
    done = import_foreign(tmp_path / "in", tmp_path / "out", "m")
    assert not done.ok
    assert done.counts == {"embedded": 1, "duplicate": 0, "failed": 7, "skipped": 0}
    causes = {int(uri.rpartition("#")[2]): why for uri, why in done.failures}
    assert "system" in causes[1]
    assert "cannot be read" in causes[2]
    assert "the shape (3,)" in causes[3]
    assert "NaN" in causes[4]
    assert causes[5] == "its vector is zero"
    assert not mark.exists()
    found = verify(tmp_path / "out")
    assert found.ok
    assert dict(found.failures).keys() == dict(done.failures).keys()


def test_a_matrix_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    """numpy would, if it were asked to."""
    clip_retrieval(tmp_path / "in")
    np.save(tmp_path / "in" / "img_emb" / "img_emb_1.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match="cannot be read"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m")


def test_a_table_that_does_not_match_its_matrix(tmp_path: Path) -> None:
    """Ends the import: every vector after it would be another image's."""
    clip_retrieval(tmp_path / "in")
    table = pq.read_table(tmp_path / "in" / "metadata" / "metadata_1.parquet")
    pq.write_table(table.slice(0, 20), tmp_path / "in" / "metadata" / "metadata_1.parquet")
    with pytest.raises(SourceError, match=r"has 20 rows, img_emb_1.npy has 25"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m")
    os.unlink(tmp_path / "in" / "metadata" / "metadata_1.parquet")
    with pytest.raises(SourceError, match=r"has no metadata_1\.parquet"):
        import_foreign(tmp_path / "in", tmp_path / "out2", "m")


def test_an_interrupted_import_resumes(tmp_path: Path) -> None:
    """And one that is finished is left alone."""
    clip_retrieval(tmp_path / "in")
    cut = tmp_path / "in" / "metadata" / "metadata_2.parquet"
    whole = cut.read_bytes()
    cut.write_bytes(b"torn")
    with pytest.raises(SourceError, match="metadata_2"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m", rows=10)
    first = {part.name for part in everything(tmp_path / "out")}
    assert first
    cut.write_bytes(whole)
    done = import_foreign(tmp_path / "in", tmp_path / "out", "m", rows=10)
    assert done.counts["embedded"] == 60
    assert first < {part.name for part in everything(tmp_path / "out")}
    assert verify(tmp_path / "out").ok
    assert import_foreign(tmp_path / "in", tmp_path / "out", "m").counts["embedded"] == 60


def test_a_space_of_their_own_or_of_an_embedder(tmp_path: Path) -> None:
    """Vectors of another name do not go into the same folder; a space of another size is not theirs."""
    clip_retrieval(tmp_path / "in")
    import_foreign(tmp_path / "in", tmp_path / "out", "m")
    with pytest.raises(SpaceMismatch):
        import_foreign(tmp_path / "in", tmp_path / "out", "another")
    here = VectorSpec("clip", 16, "abc")
    import_foreign(tmp_path / "in", tmp_path / "mine", "clip", space=here)
    assert {row["model"] for row in rows(tmp_path / "mine").values()} == {"abc"}
    with pytest.raises(UsageError, match="16 dimensions; those of clip have 17"):
        import_foreign(tmp_path / "in", tmp_path / "x", "clip", space=VectorSpec("clip", 17, "abc"))


def test_a_folder_without_vectors_is_refused(tmp_path: Path) -> None:
    """The message says what was expected."""
    with pytest.raises(UsageError, match="no folder"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m")
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="holds neither"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(SourceError, match="no column of vectors"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m")
    pq.write_table(pa.table({"output": [b"\x80\x04garbage"]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(UsageError, match="the pickle cannot be read"):
        import_foreign(tmp_path / "in", tmp_path / "out", "m")
