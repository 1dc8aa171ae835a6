"""Each store answers hostile filters, or refuses them with a line that says why: no error of its own, and no crash."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from penstock.core.errors import UsageError
from penstock.core.filter_parser import TERMS, VALUES, parse_filter
from penstock.testing import postgres
from tests.attack.filters import hostile

STORES = {
    "memory": "memory://hostile",
    "sqlite": "sqlite://{}/notes.db",
    "lance": "lance://{}/notes",
    "chroma": "chroma://{}/stores/notes",
    "qdrant": "qdrant://{}/stores/notes",
    "milvus": "milvus://{}/stores.db/notes",
}


def ask(url: str, seconds: float) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.attack.filters", url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    wrong = [one for one in answers if one["error"] not in ("", "UsageError") or "\n" in one.get("message", "")]
    assert not wrong, wrong[:3]
    asked = sum(1 for _ in hostile())
    last = answers[-1]["filter"] if answers else "nothing"
    assert len(answers) == asked, f"it ended after {last!r}: {ran.stderr[-500:]}"
    assert ran.returncode == 0, ran.stderr[-500:]
    slow = [one for one in answers if one["seconds"] > 30]
    assert not slow, f"a filter that takes so long keeps a server busy: {slow[:3]}"


@pytest.mark.attack
def test_hostile_filters_of_sqlite(tmp_path: Path) -> None:
    ask(STORES["sqlite"].format(tmp_path), 110)


@pytest.mark.attack
@pytest.mark.parametrize("store", [name for name in STORES if name != "sqlite"])
def test_hostile_filters(store: str, tmp_path: Path) -> None:
    ask(STORES[store].format(tmp_path), 115)


@pytest.mark.attack
@pytest.mark.skipif(not postgres.installed(), reason="no PostgreSQL here")
def test_hostile_filters_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    # The server has another user, who may not enter the folders of tests.
    temporary = tempfile.TemporaryDirectory(prefix="penstock-pg-", ignore_cleanup_errors=True)
    with temporary as folder, postgres.running(Path(folder)) as server, server.connect() as admin:
        admin.execute("CREATE EXTENSION vector")
        monkeypatch.setenv("PGPASSWORD", "")
        ask(server.url("notes", user="postgres"), 115)


def test_filters_have_limits() -> None:
    """Of terms and of values, wherever they stand."""
    assert parse_filter({"$or": [{"page": n} for n in range(TERMS)]})
    assert parse_filter({"page": list(range(VALUES))})
    for where in (
        {"$or": [{"page": n} for n in range(TERMS + 1)]},
        {"$and": [{"$not": {"$or": [{"year": n} for n in range(40)]}} for _ in range(26)]},
        {"team": {"$all": [f"team {n}" for n in range(TERMS + 1)]}},
        {f"field{n}": n for n in range(TERMS + 1)},
        {"$or": [{".".join(["a"] * 16): n} for n in range(300)]},
        {"page": list(range(VALUES + 1))},
        {"$or": [{"year": list(range(2000))} for _ in range(6)]},
    ):
        with pytest.raises(UsageError, match=r"a filter of .* expected at most") as raised:
            parse_filter(where)
        assert "\n" not in str(raised.value)
