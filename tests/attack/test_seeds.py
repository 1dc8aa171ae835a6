"""Every seed of the fuzzing, and every input that once failed, by its target: quick, in the default tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.fuzz import loop
from tests.attack.fuzz.target import SEEDS, Fault, Target, allowed
from tests.attack.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_no_seed_makes_a_fault(name: str) -> None:
    target = TARGETS[name]
    assert target.seeds, f"no seeds in {SEEDS / name}"
    for path in target.seeds:
        try:
            target.run(path.read_bytes())
        except BaseException as error:
            pytest.fail(f"{path}: {loop.signature_of(error)}: {error!r:.300}")


def test_every_folder_of_seeds_has_a_target() -> None:
    assert {path.name for path in SEEDS.iterdir()} == set(TARGETS)


def test_a_message_of_megabytes_is_a_fault() -> None:
    with pytest.raises(Fault, match="a message of"), allowed(ValueError):
        raise ValueError("x" * 1_000_000)


def test_the_loop_finds_a_fault_and_keeps_its_input(tmp_path: Path) -> None:
    def run(data: bytes) -> None:
        if b"<<" in data:
            raise IndexError("list index out of range")

    faults = loop.Found(tmp_path)

    def once(data: bytes) -> None:
        try:
            run(data)
        except IndexError as error:
            faults.add(data, loop.signature_of(error), "")

    loop.mutate_seeds(once, Target("planted", run, "tags"), [b"<a>text</a>"], 0.3, 1)
    (kept,) = [path for path in tmp_path.iterdir() if not path.suffix]
    assert b"<<" in kept.read_bytes()
