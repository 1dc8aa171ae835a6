"""The list of slow tests names what exists, and the marker leaves those out."""

from __future__ import annotations

import pytest

from tests.conftest import LONGEST, SLOW, TESTS, is_slow


@pytest.mark.parametrize("entry", [*SLOW, *LONGEST])
def test_listed_as_slow_exists(entry: str) -> None:
    path, _, test = entry.partition("::")
    assert (TESTS / path).exists(), f"{path} is gone: take it out of the list in tests/conftest.py, or rename it there"
    assert f"def {test}" in (TESTS / path).read_text() if test else True, f"no test {test} in {path}"


def test_slow_is_a_folder_a_module_or_a_single_test() -> None:
    assert is_slow(TESTS / "server" / "test_search.py")
    assert is_slow(TESTS / "cli" / "test_stopping.py")
    assert not is_slow(TESTS / "cli" / "test_grammar.py")
    archives = TESTS / "sources" / "test_archives.py"
    assert is_slow(archives, "test_many_members_in_flat_memory")
    assert not is_slow(archives)
    assert not is_slow(archives, "test_another")


def test_this_test_is_fast(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("fast")
