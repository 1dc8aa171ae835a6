"""`penstock copy`: nothing lost, nothing doubled, and a copy that broke off goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.cli import main as cli
from penstock.compose import copy
from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError, PenstockError, SinkError, SinkUnavailable, UsageError
from penstock.core.records import Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.jobs.copy import Copied
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.sink_suite import DIM, holds, point
from penstock.testing.sinks import Died, Faults, FaultySink, NothingSink

FROM, TO = "memory://copied-from", "memory://copied-to"
MANIFEST = Manifest(single(VectorSpec("a model", DIM, "f" * 32), "256 tokens"), owners={"": "ledger 1"})
POINTS = [point(n, metadata={"n": [n]}, page=n, headings=("H",), image=bytes([n % 256])) for n in range(1500)]


@pytest.fixture
def source() -> Iterator[Sink]:
    with MemorySink(FROM) as sink:
        sink.open(MANIFEST)
        sink.write(POINTS)
        yield sink
    forget(FROM)
    forget(TO)


def held(sink: Sink, wanted: Sequence[Point]) -> None:
    manifest = sink.manifest()
    assert manifest is not None
    assert manifest.schema == MANIFEST.schema
    assert not manifest.owners, "a copy belongs to no ledger"
    with sink:
        sink.open(manifest)
        holds(sink, wanted)


def test_all_comes_over_and_a_second_copy_writes_nothing(source: Sink, tmp_path: Path) -> None:
    """To the bit, into a store of another kind and back."""
    url = f"lance://{tmp_path}/index"
    seen: list[Copied] = []
    assert copy(FROM, url, seen.append) == Copied(1500, 0, 1500, 0, {})
    assert [one.written for one in seen] == sorted(one.written for one in seen)
    held(LanceSink(url), POINTS)
    assert copy(FROM, url) == Copied(0, 1500, 1500, 0, {})
    assert copy(url, TO).written == 1500
    held(MemorySink(TO), POINTS)


def test_a_copy_that_broke_off_goes_on(source: Sink) -> None:
    """What had been written is not written again."""
    with pytest.raises(Died):
        copy(FROM, FaultySink(MemorySink(TO), Faults(dies=frozenset({1}))))
    before = MemorySink(TO)
    already = before.count()
    assert 0 < already < 1500
    assert copy(FROM, TO) == Copied(1500 - already, already, 1500, 0, {})
    held(MemorySink(TO), POINTS)


def test_what_differs_is_written_again(source: Sink) -> None:
    """Text, position or vector: a copy is made equal."""
    copy(FROM, TO)
    changed = [point(3, version=1), replace(POINTS[5], chunk=replace(POINTS[5].chunk, ordinal=99))]
    changed.append(Point(POINTS[7].chunk, point(7, version=2).vectors))
    source.write(changed)
    assert copy(FROM, TO) == Copied(3, 1497, 1500, 0, {})
    new = {p.id: p for p in changed}
    held(MemorySink(TO), [new.get(p.id, p) for p in POINTS])


def test_a_store_that_is_away_is_waited_for(source: Sink) -> None:
    sink = FaultySink(MemorySink(TO), Faults(transient=frozenset({0}), half=frozenset({2}), flush=frozenset({0})))
    assert copy(FROM, sink).written == 1500
    held(MemorySink(TO), POINTS)


def test_what_the_target_cannot_hold_is_told(source: Sink) -> None:
    """By id and cause; the others are there. A batch that is too large is divided."""
    faults = Faults(refuses={POINTS[3].id: "poison"}, max_rows=100)
    copied = copy(FROM, FaultySink(MemorySink(TO), faults))
    assert copied == Copied(1499, 0, 1500, 0, {POINTS[3].id: "poison"})
    assert not copied.ok
    held(MemorySink(TO), [p for p in POINTS if p.id != POINTS[3].id])


def test_foreign_points_are_told(source: Sink) -> None:
    copy(FROM, TO)
    source.delete([POINTS[0].id])
    copied = copy(FROM, TO)
    assert (copied.foreign, copied.ok) == (1, False)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("memory://nowhere", TO, SinkError),
        (FROM, FROM, UsageError),
        ("nowhere", TO, UsageError),
        (FROM, "nowhere://x", UsageError),
    ],
)
def test_what_cannot_be_copied(source: Sink, old: str, new: str, error: type[PenstockError]) -> None:
    with pytest.raises(error):
        copy(old, new)


def test_an_index_of_a_ledger_is_not_written_over(source: Sink) -> None:
    with MemorySink(TO) as sink:
        sink.open(replace(MANIFEST, owners={"": "ledger 2"}))
        sink.write([point(1, version=5)])
    with pytest.raises(OwnershipError, match="another url"):
        copy(FROM, TO)
    with pytest.raises(UsageError, match="read back"):
        copy(FROM, NothingSink())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it did, in words and in JSON, and a copied index is adopted by the ingest that follows."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Pumps\n\nThe pump starts at noon.\n")
    one, two = f"lance://{tmp_path}/one", f"lance://{tmp_path}/two"
    assert cli.main(["ingest", str(docs), "--into", one, "--state", str(tmp_path / "one.db"), "-q"]) == 0
    assert cli.main(["copy", one, "--into", two]) == 0
    assert "1 written" in capsys.readouterr().out
    assert cli.main(["copy", one, "--into", two, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 1
    assert cli.main(["ingest", str(docs), "--into", two, "--state", str(tmp_path / "two.db"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["counts"]["embedded"] == 0
    for where, found in (('{"page": null}', 1), ('{"uri": "nowhere"}', 0)):
        assert cli.main(["search", "pump", "--in", two, "--where", where, "--json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == found
    assert cli.main(["search", "pump", "--in", two, "--where", "page==3"]) == 2
    assert "--where" in capsys.readouterr().err


def test_a_copy_that_fails_does_not_wait_for_a_store_that_is_away(source: Sink) -> None:
    """The next page is being read meanwhile, and would be asked for again for ten minutes."""

    class Away(MemorySink):
        pages = 0

        def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
            self.pages += 1
            if self.pages > 1:
                raise SinkUnavailable("away")
            return super().fetch(ids)

    def interrupt(copied: Copied) -> None:
        raise KeyboardInterrupt

    errors: list[BaseException] = []

    def work() -> None:
        try:
            copy(Away(FROM), TO, interrupt)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert [type(error) for error in errors] == [KeyboardInterrupt]
