"""Every command and snippet of the documents runs, in order, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.cli.main import main

ROOT = Path(__file__).parents[2]
TEXT = 12_000
"""Characters of each document that is indexed: the snippets index them some twenty times."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_cross_encoders
    import make_token_checkpoints

    make_cross_encoders.make("bert", tmp_path).rename(tmp_path / "reranker")
    for name in ("static", "late", "splade"):
        make_token_checkpoints.make(name, tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("guide.md", "design.md"):
        (docs / name).write_text((ROOT / "docs" / name).read_text()[:TEXT])
    shutil.copytree(ROOT / "tests" / "data" / "shapes-clip", tmp_path / "shapes-clip")
    subprocess.run([sys.executable, ROOT / "scripts" / "make_shapes.py", tmp_path / "images", "40"], check=True)
    (tmp_path / "images" / "captions.jsonl").unlink()
    shutil.make_archive(str(tmp_path / "shards" / "000"), "tar", tmp_path / "images")
    pictures = sorted((tmp_path / "images").glob("*.*"))
    shutil.copy(pictures[0], tmp_path / "one.png")
    (tmp_path / "photos").mkdir()
    rows = {"key": [path.name for path in pictures], "image": [path.read_bytes() for path in pictures]}
    pq.write_table(pa.table(rows), tmp_path / "photos" / "some.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "document", ["README.md", "docs/guide.md", "docs/live.md", "docs/machines.md", "docs/threat-model.md"]
)
def test_snippets_run(document: str, folder: Path) -> None:
    blocks = FENCE.findall((ROOT / document).read_text())
    assert blocks
    beside: list[subprocess.Popen[bytes]] = []
    """Commands that go on beside the others, and end by themselves."""
    for language, code in blocks:
        if language == "sh":
            for line in code.splitlines():
                run(line, folder, beside)
        elif language == "toml":
            (folder / "penstock.toml").write_text(code)
        elif language == "python":
            argv = [sys.executable, "-W", "error", "-c", code]
            if "class Test" in code:
                (folder / "test_snippet.py").write_text(code)
                argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_snippet.py"]
            done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert all(process.wait(100) == 0 for process in beside)


def run(line: str, folder: Path, beside: list[subprocess.Popen[bytes]]) -> None:
    words = shlex.split(line, comments=True)
    if words[0].startswith("scripts/"):
        assert os.access(ROOT / words[0], os.X_OK)  # CI runs them
        return
    if words[0] in ("cp", "rm"):
        subprocess.run(words, cwd=folder, check=True)
        return
    assert words[0] == "penstock"
    if words[-1] == "&":
        beside.append(subprocess.Popen([sys.executable, "-m", "penstock", *words[1:-1]], cwd=folder))
        return
    out = Path(words[-1]) if words[-2] == ">" else None
    with open(out or os.devnull, "w") as file, contextlib.redirect_stdout(file if out else sys.stdout):
        assert main(words[1:-2] if out else words[1:]) == 0, line


def test_every_figure_of_the_readme_names_its_command() -> None:
    numbers = (ROOT / "README.md").read_text().split("## Numbers")[1].split("\n## ")[0]
    for script in re.findall(r"benchmarks/\w+\.py", numbers):
        assert (ROOT / script).exists()
    assert re.findall(r"benchmarks/\w+\.py", numbers)


def test_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"
