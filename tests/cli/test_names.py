"""Names of files that are hard to write down: documents of every kind bear them, from the first run to removal."""

from __future__ import annotations

import io
import json
import os
import shutil
import unicodedata
import zipfile
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest

from penstock import Pipeline
from penstock.core.errors import ParseError
from penstock.core.records import Item
from penstock.parsers import Parsers
from tests.cli.conftest import ROOT, Run

DOCUMENTS = ROOT / "tests/data/documents"
NAMES = [
    b"caf\xe9",
    b"\xff\xfe",
    b"new\nline",
    b"quote ' \" and % #?",
    b"-rf",
    b"--",
    "\u202egnp.exe\u200f".encode(),
    unicodedata.normalize("NFC", "café").encode(),
    unicodedata.normalize("NFD", "café").encode(),
    b"tab\tand\rbell\a\x1b[31m",
    b"~",
    b"$(id)`id`",
    b"\xed\xa0\x80",
    b"x" * 200,
]


def uri(path: bytes) -> str:
    return "file://" + quote_from_bytes(path)


@pytest.fixture
def folder(here: Path) -> bytes:
    shutil.rmtree(here / "docs")
    folder = os.fsencode(here / "docs")
    os.mkdir(folder)
    return folder


def _item(path: bytes) -> Item:
    return Item(uri(path), "1", lambda: open(path, "rb"), os.path.getsize(path), None, os.fsdecode(path))


@pytest.mark.parametrize("sample", sorted(DOCUMENTS.iterdir()), ids=lambda path: path.name)
def test_a_name_of_any_bytes_reads_as_another(sample: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9" + os.fsencode(sample.suffix)
    shutil.copy(sample, odd)

    def read(path: bytes) -> object:
        try:
            parsed = parsers.parse(_item(path))
            return parsed.parser, [*parsed.blocks]
        except ParseError as error:
            return str(error)

    with Parsers(timeout=20) as parsers:
        assert read(odd) == read(os.fsencode(sample))


def test_documents_of_odd_names_are_ingested_found_renamed_and_removed(
    run: Run, folder: bytes, here: Path, model: str
) -> None:
    into = f"sqlite://{here}/index.db"
    samples = [DOCUMENTS / "pumps.docx", DOCUMENTS / "gate.eml", DOCUMENTS / "rich.rtf"]
    paths = []
    for number, name in enumerate(NAMES):
        sample = samples[number % len(samples)]
        paths.append(folder + b"/" + name + os.fsencode(sample.suffix))
        shutil.copy(sample, paths[-1])
    longest = folder + b"/" + b"\xe9" * 251 + b".txt"
    paths.append(longest)
    Path(os.fsdecode(longest)).write_text("A name of 255 bytes.")
    uris = sorted(map(uri, paths))

    ingest = ("ingest", "docs", "--into", into, "--model", model, "--log-format", "json")
    ran = run(*ingest)
    assert ran.status == 0, ran.err
    for line in ran.err.splitlines():
        json.loads(line)
    assert not run("failures", "--json").out

    listed = [one["uri"] for one in run("documents", "--json").lines]
    assert sorted(listed) == uris
    assert [unquote_to_bytes(one.removeprefix("file://")) for one in uris] == sorted(paths, key=uri)
    assert run("documents").status == 0
    for path in paths:
        for name in (os.fsdecode(path), uri(path)):
            explained = run("explain", "--json", "--", name)
            assert explained.status == 0, explained.err
            assert explained.lines[0]["uri"] == uri(path)
        assert run("explain", "--", os.fsdecode(path)).status == 0
    found = run("search", "pump", "--in", into, "-k", "50", "--json")
    assert found.status == 0, found.err
    assert run("search", "pump", "--in", into, "-k", "50").status == 0
    assert run("verify").status == 0

    renamed = folder + b"/\xe8\xe9\xea.docx"
    os.rename(paths[0], renamed)
    planned = run("plan", "--json")
    assert planned.status == 0
    assert {tuple(one) for one in planned.lines[0]["documents"]} == {("new", uri(renamed)), ("deleted", uri(paths[0]))}
    assert run("plan").status == 0
    assert run(*ingest).status == 0
    removed = run("remove", "--yes", "--json", "--", os.fsdecode(renamed), os.fsdecode(paths[4]))
    assert removed.status == 0, removed.err
    os.unlink(paths[2])
    assert run(*ingest).status == 0
    listed = [one["uri"] for one in run("documents", "--json").lines]
    assert sorted(listed) == sorted({*uris} - {uri(paths[0]), uri(paths[4]), uri(paths[2])})
    assert run("verify").status == 0


def test_a_folder_and_a_ledger_may_have_such_names_as_well(run: Run, folder: bytes, model: str) -> None:
    inner = folder + b"/d\xe9p\xf4t\n"
    os.mkdir(inner)
    shutil.copy(DOCUMENTS / "pumps.docx", inner + b"/a\xe9.docx")
    state = os.fsdecode(folder + b"/\xe9tat.db")
    into = f"sqlite://{os.fsdecode(folder)}/index.db"
    ran = run("ingest", os.fsdecode(inner), "--into", into, "--model", model, "--state", state)
    assert ran.status == 0, ran.err
    for command in ("status", "documents", "plan", "verify", "failures"):
        ran = run(command, "--state", state, "--json")
        assert ran.status == 0, (command, ran.err)
        ran.out.encode()
    assert run("search", "pump", "--in", into).status == 0
    assert run("ledgers", os.fsdecode(folder), "--json").status == 0


@pytest.mark.parametrize("scheme", ["sqlite", "lance", "parquet", "delta"])
def test_a_store_whose_path_is_not_utf_8_is_refused_as_such(run: Run, here: Path, model: str, scheme: str) -> None:
    into = os.fsdecode(f"{scheme}://{here}/ind".encode() + b"\xe9x")
    commands = [("ingest", "docs", "--into", into, "--model", model)]
    if scheme in ("sqlite", "lance"):  # the others only take points
        commands.append(("search", "pump", "--in", into))
    for ran in (run(*command) for command in commands):
        assert ran.status == 2, ran.err
        assert "UTF-8" in ran.err
        assert ran.err.count("\n") == 1


def test_members_of_archives_may_have_names_of_any_bytes(here: Path, folder: bytes) -> None:
    from penstock.testing.embedders import HashingEmbedder

    content = (DOCUMENTS / "pumps.docx").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("caf_.docx", content)
        archive.writestr("pl_in.txt", "A text.")
    # As programs from before UTF-8 write names: in cp437, of whose bytes nothing is said.
    data = packed.getvalue().replace(b"caf_", b"caf\x82").replace(b"pl_in", b"pl\xffin")
    Path(os.fsdecode(folder + b"/b\xfcndel.zip")).write_bytes(data)
    pipeline = Pipeline("docs", into=f"sqlite://{here}/index.db", model=HashingEmbedder())
    report = pipeline.run()
    assert report.ok, report
    uris = [one.uri for one in pipeline.documents()]
    assert len(uris) == 2
    assert all(one.startswith(uri(folder + b"/b\xfcndel.zip")) for one in uris)
    assert pipeline.verify().ok
