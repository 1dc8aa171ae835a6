"""Benchmarks run in their smallest form, keep their results, and the README's table is made of these."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SMALLEST = {
    "attack.py": ["--seconds", "1", "--points", "100", "--only", "pipelined"],
    "chunking.py": ["--mb", "0.2", "--repeat", "1", "--edits", "5"],
    "embed_loop.py": ["--chunks", "20", "--rounds", "1"],
    "encoders.py": ["--memory", "--texts", "2", "--tokens", "64", "--layers", "2"],
    "page_vectors.py": ["--pages", "6"],
    "pages.py": ["--seconds", "2", "--rounds", "1", "--hosts", "5"],
    "workers.py": ["--documents", "40", "--workers", "2", "--coordinators", "0", "--rounds", "1"],
    "parts.py": ["--images", "100", "--vectors", "500"],
    "rerank.py": ["--searches", "1", "--rounds", "1"],
    "serve.py": ["--vectors", "2000", "--dim", "32", "--queries", "20", "--clients", "5", "--each", "1"],
    "floods.py": ["--chunks", "100", "--seconds", "0.5", "--senders", "2"],
    "filters.py": ["--points", "500", "--dim", "32", "--queries", "5"],
    "hybrid.py": ["--documents", "60", "--questions", "2", "--fresh", "2"],
    "images.py": ["--images", "16", "--rounds", "1"],
    "hackernews.py": ["--hours", "0.1", "--speed", "60", "--backfill", "60"],
    "live.py": ["--files", "60", "--changes", "3", "--idle", "2", "--burst", "50", "--renamed", "10"],
    "latency.py": ["--files", "30", "--mb", "2", "--rounds", "1"],
    "maxsim.py": ["--passages", "60", "--questions", "10", "--rounds", "1"],
    "memory.py": ["--quick", "--only", "8 MB"],
    "moves.py": ["--quick"],
    "pipelines.py": ["--mb", "0.02", "--rounds", "1"],
    "precision.py": ["--passages", "40", "--questions", "8", "--stores", "sqlite"],
    "overhead.py": ["--mb", "0.02", "--rounds", "1"],
    "sinks.py": ["--points", "500", "--sinks", "memory"],
    "words.py": ["--points", "300", "--rounds", "1", "--sinks", "sqlite"],
    "weeks.py": ["--rows", "600", "--days", "2", "--commits", "10"],
    "token_vectors.py": ["--mb", "0.2", "--chunks", "8", "--rounds", "1"],
    "throughput.py": ["--mb", "1", "--rounds", "1"],
}
NEEDS_PEERS = {"peers.py"}
LIBRARIES = {"corpus.py", "figures.py", "live_cocoindex.py", "run.py"}

Ran = subprocess.CompletedProcess[str]


def python(*arguments: object) -> Ran:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_no_benchmark_is_forgotten() -> None:
    assert {path.name for path in BENCHMARKS.glob("*.py")} == SMALLEST.keys() | NEEDS_PEERS | LIBRARIES


@pytest.mark.heavy
@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_runs_and_its_figures_are_kept(name: str, tmp_path: Path) -> None:
    done = python(BENCHMARKS / "run.py", "--results", tmp_path, name, *SMALLEST[name])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    [run] = json.loads((tmp_path / name).with_suffix(".json").read_text())["runs"]
    assert run["arguments"] == SMALLEST[name]
    assert len({figure["name"] for figure in run["figures"]}) == len(run["figures"]) > 0


# ---------------------------------------------------------------- run.py


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """Copies run.py beside a benchmark of the given code, and runs that."""

    def ran(code: str, *arguments: str) -> Ran:
        for name in ("run.py", "figures.py"):
            (tmp_path / name).write_text((BENCHMARKS / name).read_text())
        (tmp_path / "trial.py").write_text(
            f'"""A trial."""\nimport sys\nimport figures\nfrom figures import record\n{code}'
        )
        return python(tmp_path / "run.py", *arguments)

    return ran


def kept(folder: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((folder / "results" / "trial.json").read_text())["runs"]
    return runs


def test_result_has_figures_machine_date_commit_and_arguments(run: Callable[..., Ran], tmp_path: Path) -> None:
    done = run("record('wait', 0.5, 's', bar=0.3, better='lower')\nprint('as ever')", "trial", "--size", "3")
    assert (done.returncode, done.stdout) == (0, "as ever\n")
    [entry] = kept(tmp_path)
    assert entry["arguments"] == ["--size", "3"]
    figure = {"name": "wait", "value": 0.5, "unit": "s", "bar": 0.3, "better": "lower", "reached": False}
    assert entry["figures"] == [figure]
    assert {"date", "commit", "seconds"} <= entry.keys()
    assert {"cpu", "cores", "avx2", "avx512", "memory GiB"} <= entry["machine"].keys()


def test_further_run_replaces_figures_of_the_same_name_only(run: Callable[..., Ran], tmp_path: Path) -> None:
    run("record('a', 1); record('b', 1)", "trial")
    run("record('b', 2); record('c', 2)", "trial", "--more")
    first, second = kept(tmp_path)
    assert [figure["name"] for figure in first["figures"]] == ["a"]
    assert [(figure["name"], figure["value"]) for figure in second["figures"]] == [("b", 2), ("c", 2)]
    run("record('a', 3)", "trial", "--last")
    assert [entry["arguments"] for entry in kept(tmp_path)] == [["--more"], ["--last"]]


def test_failed_benchmark_shows_its_error_and_keeps_nothing(run: Callable[..., Ran], tmp_path: Path) -> None:
    done = run("record('a', 1)\nraise OSError('no such store')", "trial")
    assert done.returncode == 1
    assert "OSError: no such store" in done.stderr
    assert "trial failed with status 1" in done.stderr
    assert not (tmp_path / "results").exists()


def test_missed_bar_is_no_failure_of_the_benchmark(run: Callable[..., Ran], tmp_path: Path) -> None:
    done = run("record('a', 1, bar=2)\nsys.exit(figures.MISSED)", "trial")
    assert done.returncode == 3
    assert kept(tmp_path)[0]["figures"][0]["reached"] is False


def test_list_and_unknown_name(run: Callable[..., Ran]) -> None:
    assert run("").stdout.split() == ["trial", "A", "trial."]
    done = run("", "trail")
    assert done.returncode == 2
    assert "no benchmark 'trail'" in done.stderr
    assert "trial?" in done.stderr


def test_figures_of_a_script_run_directly_go_nowhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import figures; figures.record('a', 1)"], cwd=BENCHMARKS, env={}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_peers_show_the_error_of_an_export(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "ModuleNotFoundError: No module named \'onnx\'" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    done = python(BENCHMARKS / "peers.py", "--quick", "--peers-python", fake)
    assert done.returncode == 1
    assert "No module named 'onnx'" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- the README's table


@pytest.fixture
def readme(tmp_path: Path) -> Callable[..., Ran]:
    """Fills a copy of the README from results of one latency run."""
    copy, results = tmp_path / "README.md", tmp_path / "results"
    copy.write_text((ROOT / "README.md").read_text())
    results.mkdir()
    machine = {"cpu": "Some CPU", "cores": 2, "avx2": True, "avx512": False, "memory GiB": 23.6, "python": "3.11.7"}
    names = {"penstock --help": (0.0512, 0.3), "first vector of 1,600 MB": (3.24, 3.0), "of a small trial": (9.0, None)}
    figures = [
        {"name": name, "value": value, "unit": "s", "bar": bar, "better": "lower"}
        | ({} if bar is None else {"reached": value <= bar})
        for name, (value, bar) in names.items()
    ]
    entry = {"arguments": [], "date": "2026-11-20T10:00:00+00:00", "commit": "abc", "machine": machine}
    (results / "latency.json").write_text(
        json.dumps({"benchmark": "latency", "runs": [entry | {"figures": figures}]}), "utf-8"
    )
    return lambda *arguments: python(
        ROOT / "scripts" / "readme_numbers", "--readme", copy, "--results", results, *arguments
    )


def test_table_is_filled_from_results(readme: Callable[..., Ran], tmp_path: Path) -> None:
    assert readme().returncode == 0
    text = (tmp_path / "README.md").read_text()
    assert "| `penstock --help` | **0.05 s** | ≤ 0.3 s | `benchmarks/latency.py` |" in text
    assert "| first vector of a 1.6 GB corpus | 3.2 s (*not reached*) | ≤ 3 s | `benchmarks/latency.py` |" in text
    assert "| 20,000 files, nothing changed | not measured here yet |  | `benchmarks/latency.py` |" in text
    assert "Measured on Some CPU (2 cores, AVX2, 24 GiB of memory), 2026-11-20." in text
    assert "9.0" not in text.split("## Numbers")[1].split("\n## ")[0]
    original = (ROOT / "README.md").read_text()
    assert text.split("<!-- numbers")[0] == original.split("<!-- numbers")[0]
    assert text.split("<!-- end of numbers")[1] == original.split("<!-- end of numbers")[1]


def test_check_fails_where_readme_and_results_differ(readme: Callable[..., Ran], tmp_path: Path) -> None:
    readme()
    assert readme("--check").returncode == 0
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("**0.05 s**", "**0.04 s**"))
    before = path.read_text()
    done = readme("--check")
    assert done.returncode == 1
    assert "run scripts/readme_numbers" in done.stderr
    assert "+| `penstock --help` | **0.05 s**" in done.stdout
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("README.md", "no marker", "expected one line"),
        ("results/latency.json", "{", "is no result of benchmarks/run.py"),
    ],
)
def test_unusable_input_is_named(
    file: str, text: str, message: str, readme: Callable[..., Ran], tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text)
    done = readme()
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_readme_shows_the_results_of_this_checkout() -> None:
    done = python(ROOT / "scripts" / "readme_numbers", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_row_names_a_benchmark() -> None:
    commands = python(ROOT / "scripts" / "readme_numbers", "--commands").stdout.splitlines()
    assert commands
    assert {command.split()[2] + ".py" for command in commands} <= SMALLEST.keys() | NEEDS_PEERS
