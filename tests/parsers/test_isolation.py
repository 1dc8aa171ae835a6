from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from penstock.core.errors import LimitExceeded, ParseError, PenstockError, SourceError, Unsupported
from penstock.core.records import Block, Gap, Item
from penstock.parsers import Parsers, without_secrets
from tests.parsers import hostile
from tests.parsers.conftest import ROOT, item, text_of


@pytest.fixture
def parsers() -> Iterator[Parsers]:
    with Parsers({"text/plain": hostile.parse}, timeout=2, memory=400 << 20) as parsers:
        yield parsers


def run(parsers: Parsers, *orders: str) -> list[Block | Gap]:
    return list(parsers.parse(item("\n".join(orders).encode(), "a.txt")).blocks)


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_what_a_worker_yields_arrives_as_it_is(parsers: Parsers) -> None:
    assert run(parsers, "say héllo 😀", "gap torn", "image") == [
        Block("héllo 😀"),
        Gap("torn", page=7),
        Block(image=b"\0\xff", headings=("a", "b"), page=3, metadata={"n": [1, {"x": None}]}),
    ]


def test_one_worker_serves_one_document_after_another(parsers: Parsers) -> None:
    pids = {text_of(run(parsers, "pid")) for _ in range(5)}
    assert len(pids) == 1
    assert pids != {str(os.getpid())}
    parsers.close()
    assert gone(int(pids.pop()))


def test_no_process_before_a_file_needs_one(parsers: Parsers) -> None:
    before = psutil.Process().children()
    list(parsers.parse(item(b"# in this process\n", "a.md")).blocks)
    assert psutil.Process().children() == before


def test_a_parser_that_hangs_is_ended_in_time(parsers: Parsers) -> None:
    for order in ("hang", "spin"):
        began = time.monotonic()
        with pytest.raises(LimitExceeded, match="2 seconds"):
            run(parsers, order)
        assert time.monotonic() - began < 4
    assert run(parsers, "say on") == [Block("on")]


def test_the_clock_stands_while_the_pipeline_is_busy(parsers: Parsers) -> None:
    blocks = parsers.parse(item(b"many 3000", "a.txt")).blocks
    next(blocks)
    time.sleep(2.5)
    assert sum(1 for _ in blocks) == 2999


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_parser_that_dies_is_a_failure_of_its_document_alone(parsers: Parsers, number: int) -> None:
    parts = []
    with pytest.raises(ParseError, match=rf"signal {int(number)}.*last words"):
        parts.extend(parsers.parse(item(f"say before\ndie {int(number)}".encode(), "a.txt")).blocks)
    assert run(parsers, "say after") == [Block("after")]


def test_killed_from_outside_in_the_middle_of_a_file(parsers: Parsers) -> None:
    blocks = parsers.parse(item(b"pid\nhang", "a.txt")).blocks
    part = next(blocks)
    assert isinstance(part, Block)
    os.kill(int(part.text), signal.SIGKILL)
    with pytest.raises(ParseError, match="signal 9"):
        next(blocks)
    assert run(parsers, "say after") == [Block("after")]


def test_killed_while_idle_costs_no_document(parsers: Parsers) -> None:
    pid = int(text_of(run(parsers, "pid")))
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    assert run(parsers, "say on") == [Block("on")]


def test_an_exit_is_a_failure(parsers: Parsers) -> None:
    with pytest.raises(ParseError, match="exit status 3"):
        run(parsers, "exit")


def test_memory_is_limited(parsers: Parsers) -> None:
    with pytest.raises(LimitExceeded, match="memory"):
        run(parsers, "eat 2000000000")
    assert run(parsers, "eat 1000") == [Block("1000")]


def test_what_a_parser_raises_is_told_without_secrets(parsers: Parsers) -> None:
    with pytest.raises(ParseError, match=r"RuntimeError: no s3://bucket/key$"):
        run(parsers, "raise no s3://user:password@bucket/key?X-Amz-Signature=abc")
    assert without_secrets("plain: a@b ?c") == "plain: a@b ?c"


def test_what_a_library_prints_is_no_reply(parsers: Parsers) -> None:
    assert run(parsers, "print", "say on") == [Block("on")]


def test_ctrl_c_is_left_to_the_parent(parsers: Parsers) -> None:
    assert run(parsers, "interrupt", "say on") == [Block("on")]


def test_closing_early_ends_the_worker_and_leaves_no_files(
    parsers: Parsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blocks = parsers.parse(item(b"pid\nmany 100000", "a.txt")).blocks
    part = next(blocks)
    assert isinstance(part, Block)
    assert list(tmp_path.iterdir())
    blocks.close()
    assert gone(int(part.text))
    assert not list(tmp_path.iterdir())
    assert run(parsers, "say on") == [Block("on")]


def test_threads_have_workers_of_their_own(parsers: Parsers) -> None:
    pids: list[str] = []

    def work() -> None:
        for _ in range(5):
            pids.append(text_of(run(parsers, "sleep 0.02", "pid")))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 15
    assert 1 <= len(set(pids)) <= 3
    # workers outlive the threads that started them
    assert text_of(run(parsers, "pid")) in pids


def test_a_worker_dies_with_its_parent() -> None:
    script = (
        "import sys, io; from functools import partial; from penstock.parsers import Parsers; from penstock.core.records import Item\n"  # noqa: E501
        "from tests.parsers import hostile\n"
        "p = Parsers({'text/plain': hostile.parse}, timeout=1)\n"
        "blocks = p.parse(Item('m://a.txt', '1', partial(io.BytesIO, sys.argv[1].encode()))).blocks\n"
        "print(next(blocks).text, flush=True); sys.stdin.read()\n"
    )
    for orders in ("pid\nmany 100000", "pid\nspin"):
        parent = subprocess.Popen(
            [sys.executable, "-c", script, orders], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            parent.kill()
        assert gone(pid, 9)


def test_a_process_that_forgets_to_close_ends_quietly() -> None:
    script = (
        "import io; from functools import partial; from penstock.parsers import Parsers; from penstock.core.records import Item\n"  # noqa: E501
        "p = Parsers(); b = p.parse(Item('m://a.html', '1', partial(io.BytesIO, b'<html><p>hi'))).blocks; print(next(b).text)\n"  # noqa: E501
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "hi"
    assert done.stderr == ""


def test_parsers_of_the_user_come_first_and_run_here_unless_marked() -> None:
    def shout(stream: object, item: Item) -> list[str]:
        return [stream.read().decode().upper(), ""]  # type: ignore[attr-defined]

    with Parsers({"text/*": shout, "image/*": shout, "*": shout}) as parsers:
        assert list(parsers.parse(item(b"hi", "a.md")).blocks) == [Block("HI")]
        assert list(parsers.parse(item(b"GIF89a\x01", "a")).blocks) == [Block("GIF89A\x01")]
        assert "shout" in parsers.parse(item(b"hi", "a.md")).parser
        with pytest.raises(Unsupported):
            parsers.parse(item(bytes(100), "a.bin"))


def test_whatever_a_parser_does_is_a_parse_error() -> None:
    def broken(stream: object, item: Item) -> Iterator[object]:
        yield Block("fine")
        yield 42

    def failing(stream: object, item: Item) -> Iterator[Block]:
        yield Block("fine")
        raise KeyError("what")

    for parser, message in ((broken, "yielded a int"), (failing, "KeyError: 'what'")):
        blocks = Parsers({"*": parser}).parse(item(b"x", "a.txt")).blocks  # type: ignore[dict-item]
        assert next(blocks) == Block("fine")
        with pytest.raises(ParseError, match=message):
            next(blocks)


def test_what_cannot_be_read_is_no_fault_of_the_document() -> None:
    """A ParseError is for good; a file that cannot be read now is tried again by the next run."""

    def gone_away() -> object:
        raise FileNotFoundError(2, "No such file", "/a/b")

    with pytest.raises(SourceError, match="FileNotFoundError"):
        Parsers().parse(Item("m://a", "1", gone_away))  # type: ignore[arg-type]


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, documents: Path) -> None:
    monkeypatch.setitem(sys.modules, "striprtf", None)
    monkeypatch.delitem(sys.modules, "penstock.parsers.rtf", raising=False)
    monkeypatch.delitem(sys.modules, "striprtf.striprtf", raising=False)
    with pytest.raises(Unsupported, match=r'pip install "penstock\[office\]"'):
        Parsers(isolate=False).parse(item(documents / "rich.rtf"))


def test_bare_import_is_cheap() -> None:
    script = (
        "import sys, penstock.parsers\n"
        "heavy = {'subprocess', 'pypdfium2', 'resiliparse', 'charset_normalizer', 'numpy', 'zipfile', 'email', 'json'}\n"  # noqa: E501
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_failure_is_of_penstock() -> None:
    assert issubclass(ParseError, PenstockError)
