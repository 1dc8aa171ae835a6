"""Fingerprints of functions: which changes they show, and which they do not."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from penstock.support.code_fingerprint import CodeFingerprint, code_fingerprint

MODULE = """
import re
from os.path import join as glue, split

SIZE = 200
SEPARATORS = ["\\n", ". "]

def clean(text):
    return text.strip()

def cut(text):
    parts = [clean(text[at : at + SIZE]) for at in range(0, len(text), SIZE)]
    return sorted({one for one in parts if one in {"a", "b", "c"}}) + SEPARATORS

def unused():
    return 1
"""


@pytest.fixture
def of(tmp_path: Path) -> Callable[..., CodeFingerprint]:
    """The fingerprint of a module's function, whose source can be read; with `hide` only its bytecode can."""
    numbers = count()

    def fingerprint(source: str, name: str = "cut", *, hide: bool = False) -> CodeFingerprint:
        path = tmp_path / f"module{next(numbers)}.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("fingerprinted", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hide:
            path.unlink()
        value: Any = module
        for part in name.split("."):
            value = getattr(value, part)
        return code_fingerprint(value)

    return fingerprint


CHANGES = [
    ("text.strip()", "text.lstrip()"),  # of a function that it calls
    ("SIZE = 200", "SIZE = 100"),
    ("range(0,", "range(1,"),
    ("def cut(text)", "def cut(text, more=1)"),
    ('"b", "c"', '"b", "d"'),
]


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_changed_code_has_another_fingerprint(of: Any, before: str, after: str, hide: bool) -> None:
    assert (
        of(MODULE, hide=hide).digest
        == of(MODULE, hide=hide).digest
        != of(MODULE.replace(before, after), hide=hide).digest
    )


def test_what_only_the_source_shows_is_a_change(of: Any) -> None:
    """A list may be another one by now, so of bytecode alone it is not compared."""
    changed = MODULE.replace('". "]', '"; "]')
    assert of(MODULE).digest != of(changed).digest
    assert of(MODULE, hide=True).uncompared == ("SEPARATORS of fingerprinted",)
    assert of(MODULE).uncompared == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def cut(text):\n", "# Cuts.\n\n\ndef cut(text: str) -> list[str]:\n    '''Cut.'''\n\n"),
        ("clean(text[at : at + SIZE])", "clean(\n        text[at:at + SIZE],\n    )"),
        ("return 1", "return 2"),  # of a function that it does not call
        ("import re", "import re, sys"),
        ("def clean", "CACHE = {}\n\ndef clean"),
    ],
)
def test_layout_and_what_is_not_used_are_no_change(of: Any, before: str, after: str) -> None:
    assert before in MODULE
    assert of(MODULE.replace(before, after)) == of(MODULE)


def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the order of sets and the addresses of objects."""
    (tmp_path / "mine.py").write_text(MODULE)
    script = (
        "import mine; from penstock.support.code_fingerprint import code_fingerprint as of\n"
        "space = {'__name__': 'made'}; exec(open('mine.py').read(), space)\n"
        "print(of(mine.cut).digest, of(space['cut']).digest)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1
    assert len(set(seen.pop().split())) == 2


def test_a_source_that_was_edited_after_the_import_is_not_taken_for_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the function's own nor that of another one that it calls, nor a value; until they are imported anew."""
    # Bytecode is told from that of another source by its second and its length alone.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "edited.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("edited", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seen = [code_fingerprint(module.cut)]
    for before, after in (("text.strip()", "text.lstrip()"), ("SIZE = 200", "SIZE = 1_000"), ("range(0,", "range(1,")):
        path.write_text(path.read_text().replace(before, after))
        assert code_fingerprint(module.cut) == seen[-1]
    spec.loader.exec_module(module)
    assert code_fingerprint(module.cut) != seen[0]
    path.write_text(path.read_text().replace("text.lstrip()", "text.rstrip()"))
    before = code_fingerprint(module.cut)
    spec.loader.exec_module(module)
    after = code_fingerprint(module.cut)
    assert after != before
    path.write_text(path.read_text().replace("SIZE = 1_000", "SIZE = 50"))
    spec.loader.exec_module(module)
    assert code_fingerprint(module.cut) != after


def test_a_value_that_changes_while_the_program_runs_is_that_of_the_source(of: Any) -> None:
    source = "calls = 0\ndef cut(text):\n    global calls\n    calls += 1\n    return [text]\n"
    assert of(source) == of(source + "cut('text')\n")
    assert of(source) != of(source.replace("calls = 0", "calls = 5"))


def cutter(size: int, log: list[str]) -> Callable[[str], list[str]]:
    calls = 0

    def cut(text: str) -> list[str]:
        nonlocal calls
        calls += 1
        log.append(text)
        return [text[:size]]

    return cut


def test_what_a_closure_holds_counts_where_it_is_simple() -> None:
    cut = cutter(3, [])
    before = code_fingerprint(cut)
    assert before.uncompared == (f"log of {__name__}.cutter.<locals>.cut",)
    cut("text")  # what the function writes itself is no setting
    assert code_fingerprint(cut) == before == code_fingerprint(cutter(3, ["a"]))
    assert code_fingerprint(cutter(4, [])).digest != before.digest


class Splitter:
    def __init__(self, size: int, length: Callable[[str], int] = len) -> None:
        self.size, self.length, self.calls = size, length, 0

    def __call__(self, text: str) -> list[str]:
        self.calls += 1
        return [text[: self.size]]

    def split(self, text: str) -> list[str]:
        return self(text)


def test_an_object_is_its_class_and_its_attributes(of: Any) -> None:
    splitter = Splitter(3)
    before = code_fingerprint(splitter)
    splitter("text")
    assert code_fingerprint(splitter) == before == code_fingerprint(Splitter(3))
    assert before.uncompared == ()
    others = [Splitter(4), Splitter(3, lambda text: 1), Splitter(3).split, Splitter(4).split]
    assert len({before.digest, *(code_fingerprint(one).digest for one in others)}) == 5
    source = """
        class Cut:
            def __call__(self, text):
                return self.parts(text)

            def parts(self, text):
                return [text]

        cut = Cut()
    """
    changed = source.replace("return [text]", "return [text, 1]")
    for hide in (False, True):
        assert of(source, hide=hide) != of(changed, hide=hide)


def test_partials_and_wrapped_functions_are_seen_through() -> None:
    def two(text: str, size: int = 2) -> list[str]:
        return [text[:size]]

    partials = [functools.partial(two, size=3), functools.partial(two, size=4), two, functools.lru_cache(two)]
    assert len({code_fingerprint(one).digest for one in partials}) == 4
    first, second = (functools.lru_cache(one) for one in (lambda text: 1, lambda text: 2))
    assert code_fingerprint(first) != code_fingerprint(second)


def test_a_version_counts_instead_of_the_code(of: Any) -> None:
    source = "def cut(text):\n    return [text]\ncut.version = '1'\n"
    assert of(source) == of(source.replace("[text]", "[]"))
    assert of(source) != of(source.replace("'1'", "'2'"))
    assert of(source) != of(source.replace("cut", "other"), "other")


def test_lambdas_on_one_line_are_told_apart() -> None:
    one, two = (lambda text: [text], lambda text: [text, text])
    assert code_fingerprint(one) != code_fingerprint(two)


def test_a_function_of_an_extension_is_its_name() -> None:
    np = pytest.importorskip("numpy")
    assert code_fingerprint(str.split) != code_fingerprint(str.splitlines)
    assert code_fingerprint(len).uncompared == ()
    assert code_fingerprint("a".join) != code_fingerprint("b".join)
    assert code_fingerprint(np.sin).uncompared
    assert code_fingerprint(np.sin) == code_fingerprint(np.sin)
