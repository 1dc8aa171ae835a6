"""Opening an index for a search: the model that made it, or a message that says what to give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from penstock.core.errors import UsageError
from penstock.core.schema import IndexSchema, VectorSpec, single
from penstock.jobs.search import models_of


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) + 1 for letter in "etaoin"] for text in texts], np.float32)


def made_by(model: str) -> IndexSchema:
    return single(VectorSpec(model, 6, "f"))


def test_a_function_is_asked_for_and_never_looked_up(tmp_path: Path) -> None:
    """Its name would else go to a model hub, and the message would be about the hub."""
    (tmp_path / "a.txt").write_text("a gate")
    url = f"memory://{tmp_path}"
    ps.Pipeline(tmp_path / "a.txt", into=url, model=letters, state=tmp_path / "a.db").run()
    with pytest.raises(UsageError, match=r"made by a function, .*test_open_index\.letters.*open_index\(url, model="):
        ps.open_index(url)
    with ps.open_index(url, model=letters) as index:
        assert len(index.search("a gate")) == 1


@pytest.mark.parametrize("name", ["__main__.letters", "__main__.<lambda>", "a.b.<locals>.c", "mine.größe"])
def test_names_of_functions(name: str) -> None:
    with pytest.raises(UsageError, match="made by a function"):
        models_of(made_by(name))


@pytest.mark.parametrize("name", ["gpt2", "org/name", "org/name.v2", "int8:org/a.b", "./a.b", "all-MiniLM-L6-v2.1"])
def test_names_of_models(name: str) -> None:
    assert models_of(made_by(name)) == name
