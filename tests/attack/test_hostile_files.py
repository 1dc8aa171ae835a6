"""Files of somebody else that are small and mean much, or name what is not theirs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.cli.conditions import parse_conditions
from penstock.core.errors import EmbedError, ModelError, ParseError, SinkError, SourceError, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.records import Block, Chunk, Gap, Item
from penstock.core.schema import VectorSpec
from penstock.embedders.onnx import OnnxEmbedder
from penstock.embedders.tokenize import HFTokenizer
from penstock.parsers import Parsers, html, mail
from penstock.parsers.blocks import GAPS, checked
from penstock.parsers.wire import CAUSE, to_part
from penstock.shards import format as parts
from penstock.shards import verify
from penstock.shards.folder import DONE, LEASES, Folder
from penstock.shards.leases import Leases
from penstock.shards.store import at
from penstock.sinks import manifests
from tests.attack.fuzz.target import SEEDS
from tests.shards.world import embedded, pictures


def test_a_part_of_kilobytes_does_not_unpack_to_gigabytes() -> None:
    """A text of a megabyte that a dictionary holds once, for each of 300 rows."""
    rows, schema = 300, parts.schema(2)
    cells: dict[str, Any] = {
        **{name: ["x"] * rows for name in ("id", "uri", "metadata", "model")},
        "content_hash": [None] * rows,
        "width": [1] * rows,
        "height": [1] * rows,
        "text": ["t" * (1 << 20)] * rows,
        "vector": [[0.0, 1.0]] * rows,
    }
    out = io.BytesIO()
    with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=["text"]) as writer:
        for start in range(0, rows, 50):
            some = {name: values[start : start + 50] for name, values in cells.items()}
            writer.write_table(pa.table(some, schema=schema))
        writer.add_key_value_metadata({"penstock.part": "{}", "penstock.account": "[]"})
    assert len(out.getvalue()) < 1 << 20
    with pytest.raises(SourceError, match="its rows unpack to more than 256 MiB"):
        parts.decode("part-0001-000001-000001.parquet", out.getvalue())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    embedded(pictures(tmp_path / "in", 5), tmp_path / "out")
    return Folder.open(at(tmp_path / "out"))


def record(folder: Folder, **changes: Any) -> None:
    (name,) = folder.store.names(DONE)
    kept = json.loads(folder.store.read(f"{DONE}/{name}") or b"")
    folder.store.put(f"{DONE}/{name}", json.dumps(kept | changes).encode())


@pytest.mark.parametrize(
    "name", ["../../secret.parquet", "/etc/passwd", ["x"], None, "part-0001-000001-00000\u0661.parquet"]
)
def test_the_record_of_a_shard_names_parts_alone(folder: Folder, name: Any) -> None:
    record(folder, parts=[{"name": name, "rows": 1, "sha256": "x"}])
    found = verify(folder.store.url)
    assert not found.ok
    assert "a part of another name" in " ".join(found.troubles)


@pytest.mark.parametrize("changes", [{"counts": 5}, {"counts": {"embedded": "x"}}, {"inputs": None}, {"digest": 1}])
def test_the_record_of_a_shard_has_counts_that_are_numbers(folder: Folder, changes: dict[str, Any]) -> None:
    record(folder, **changes)
    assert not verify(folder.store.url).ok


@pytest.mark.parametrize("pieces", [0, -1, 1 << 40, "4", None, [1]])
def test_a_folder_of_parts_has_a_number_of_shards(folder: Folder, pieces: Any) -> None:
    kept = json.loads(folder.store.read("_penstock.json") or b"")
    folder.store.put("_penstock.json", json.dumps(kept | {"pieces": pieces}).encode())
    with pytest.raises(SinkError, match="invalid pieces"):
        Folder.open(folder.store)


@pytest.mark.parametrize("ttl", [float("inf"), float("nan"), 10**400, -1, 1e9])
def test_no_lease_holds_a_shard_for_ever(folder: Folder, ttl: float) -> None:
    facts = {"token": "x", "turn": 0, "released": False, "ttl": ttl, "machine": "", "pid": 1}
    folder.store.put(f"{LEASES}/0001-000007.json", json.dumps(facts).encode())
    leases = Leases(folder, ttl=0.05)
    assert leases.take(1) is None
    time.sleep(0.1)
    lease = leases.take(1)
    assert lease is not None
    lease.release()


def test_files_that_lie_beside_leases_are_none(folder: Folder) -> None:
    folder.store.put(f"{LEASES}/0001-notes.txt", b"x")
    lease = Leases(folder).take(1)
    assert lease is not None
    lease.check()
    lease.release()


SPEC = {"model": "m", "dim": 8, "fingerprint": "f"}


@pytest.mark.parametrize(
    "changes",
    [
        {"current": "1/../../x"},
        {"current": -1},
        {"current": True},
        {"former": 1.5},
        {"owners": ["a"]},
        {"owners": {"": 5}},
        {"schema": {"vectors": {"vector": {**SPEC, "dim": "8"}}, "chunking": ""}},
        {"schema": {"vectors": {"vector": {**SPEC, "metric": []}}, "chunking": ""}},
        {"schema": {"vectors": {"Not a name": SPEC}, "chunking": ""}},
        {"schema": {"vectors": {}, "chunking": ""}},
        {"schema": {"vectors": {"vector": SPEC}, "chunking": None}},
        {"schema": 5},
    ],
)
def test_a_manifest_of_other_types_is_a_fault_of_the_store(changes: dict[str, Any]) -> None:
    kept = {"penstock": 2, "schema": {"vectors": {"vector": SPEC}, "chunking": ""}, "owners": {}}
    manifests.from_json(json.dumps(kept), "x://")
    with pytest.raises(SinkError, match="the manifest of x:// cannot be read"):
        manifests.from_json(json.dumps(kept | changes), "x://")


@pytest.mark.parametrize("text", ["[]", "5", "[" * 100_000, "\ud800"])
def test_a_manifest_that_is_no_object_is_a_fault_of_the_store(text: str) -> None:
    with pytest.raises(SinkError):
        manifests.from_json(text.encode(errors="surrogatepass"), "x://")


def test_a_vocabulary_with_an_id_of_billions_takes_no_gigabytes(tmp_path: Path) -> None:
    """Written out anew, such a tokenizer has an entry for every id up to the highest: 8 GB of them."""
    kept = json.loads((SEEDS / "tokenizer" / "seed-00").read_bytes())
    kept["model"]["vocab"]["##b"] = (1 << 31) - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(kept))
    tokenizer = HFTokenizer(tmp_path / "tokenizer.json", 64)
    assert tokenizer.additive
    assert tokenizer.encode(["a b"]) == [[4, 5]]


def test_a_vocabulary_without_its_unknown_word_is_no_unnamed_error(tmp_path: Path) -> None:
    kept = json.loads((SEEDS / "tokenizer" / "seed-00").read_bytes())
    kept["model"]["unk_token"] = "[NONE]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(kept))
    with pytest.raises((ModelError, EmbedError), match=r"UNK|unk|NONE"):
        HFTokenizer(tmp_path / "tokenizer.json", 64).encode(["zzz"])


def test_a_filter_is_not_repeated_in_the_message_about_it() -> None:
    for where in (
        {"x": {"$" + "y" * 1_000_000: 1}},
        {"type": "z" * 1_000_000},
        {"page": 10**5000},
        {"q" * 10**6: [[]]},
    ):
        with pytest.raises(UsageError) as refused:
            parse_filter(where)
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("opened", ["[", '{"a":'])
def test_a_condition_of_thousands_of_levels_is_a_text_or_refused(opened: str) -> None:
    value = opened * 100_000
    assert parse_conditions([f"x={value}"]) == {"x": value}
    with pytest.raises(UsageError, match="invalid --where"):
        parse_conditions(['{"x": ' + value])


@pytest.mark.parametrize("page", [1e400, 1.5, "7", True, [1]])
def test_a_page_that_a_worker_sends_is_a_whole_number(page: object) -> None:
    with pytest.raises(ValueError, match="page"):
        to_part({"text": "x", "page": page})


def test_a_cause_that_a_worker_sends_has_an_end() -> None:
    part = to_part({"gap": "x" * 10_000_000})
    assert isinstance(part, Gap)
    assert len(part.cause) == CAUSE


def test_a_small_pdf_that_claims_many_pages_is_no_flood_of_failures() -> None:
    data = (SEEDS / "pdf" / "seed-00").read_bytes()
    data = data.replace(b"/Count 3", b"/Count 30000")
    assert b"/Count 30000" in data
    with Parsers() as parsers:
        parts = list(parsers.parse(Item("memory://x.pdf", "", partial(io.BytesIO, data), len(data))).blocks)
    gaps = [part for part in parts if isinstance(part, Gap)]
    assert len(gaps) == GAPS + 1
    assert "more parts of it cannot be read" in gaps[-1].cause
    assert any(isinstance(part, Block) for part in parts)


@pytest.mark.parametrize("page", [1 << 31, -(1 << 70)])
def test_a_page_is_a_number_that_stores_hold(page: int) -> None:
    with pytest.raises(ParseError, match="page"):
        checked(Block("x", page=page), "own")


def test_a_model_that_lacks_a_word_of_its_tokenizer_is_no_unnamed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    files = json.loads((SEEDS / "weights" / "seed-00").read_bytes())
    files["tokenizer.json"]["model"]["vocab"]["b"] = 1000
    header, size = json.dumps(files.pop("weights")).encode(), files.pop("bytes")
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    weights = len(header).to_bytes(8, "little") + header + bytes(size)
    (tmp_path / "model.safetensors").write_bytes(weights)
    with OnnxEmbedder(tmp_path, workers=1) as model, pytest.raises(EmbedError, match="the model cannot be run"):
        model.embed([Chunk("0" * 32, "memory://x", 0, "b", (0, 1))])


def test_a_parquet_file_whose_metadata_contradict_each_other_ends_no_process(tmp_path: Path) -> None:
    """pyarrow gives the metadata of a column without a guard for the errors of C++: `terminate called`."""
    (tmp_path / "a.parquet").write_bytes((SEEDS / "rows" / "once-aborted-cells-py-163").read_bytes())
    listing = (
        "import sys; from penstock.sources.rows import Rows; source = Rows(sys.argv[1]); source.open();"
        "print([type(change).__name__ for change in source.changes()])"
    )
    listed = subprocess.run(
        [sys.executable, "-c", listing, f"parquet://{tmp_path}/a.parquet"], capture_output=True, text=True, timeout=60
    )
    assert listed.returncode == 0, listed.stderr[-500:]
    assert "Unreadable" in listed.stdout


def text_of(parse: Any, data: bytes, media_type: str) -> str:
    blocks = parse(io.BytesIO(data), Item("memory://x", "", io.BytesIO, len(data), media_type))
    return "".join(block.text for block in blocks if isinstance(block, Block))


@pytest.mark.parametrize("charset", ["hex", "base64", "zlib", "rot13", "idna", "undefined", "no-such"])
def test_a_page_that_names_an_odd_charset_is_read(charset: str) -> None:
    page = f'<html><head><meta charset="{charset}"></head><body><p>grün ist der Text</p></body></html>'
    assert "grün ist der Text" in text_of(html.parse, page.encode(), "text/html")


@pytest.mark.parametrize(
    "header",
    [
        "Date: Mon, 1 Jan 2024 00:00:00 +99999999999999999999",
        "From: a: b, c;, <@",
        "To: =?x?q?=?=@",
        "Content-Type: text/plain; charset*0*=",
        "Content-Disposition: inline; filename*0",
        "Message-ID: <",
    ],
)
def test_a_broken_header_costs_that_header_and_not_the_message(header: str) -> None:
    message = f"Subject: valves\n{header}\n\nThe body stays.\n"
    assert text_of(mail.parse, message.encode(), "message/rfc822") == "valves\n\nThe body stays.\n"


def test_spec_of_a_vector_is_kept_as_it_was() -> None:
    spec = VectorSpec("m", 8, "f")
    kept = {"penstock": 1, "space": {**SPEC, "chunking": "c"}}
    assert manifests.from_json(json.dumps(kept), "x://").schema.only == spec
