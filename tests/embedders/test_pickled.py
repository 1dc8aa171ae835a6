"""Weights in PyTorch's own files are read; nothing that a pickle names is run."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from penstock.core.errors import ModelError
from penstock.embedders.names import from_name
from penstock.embedders.pickled import read_pickled
from penstock.embedders.weights import read_tensors
from tests.embedders.pickles import pack, save

NUMBERS = np.arange(24, dtype="<f4").reshape(4, 6)


def test_floats_are_read_whatever_their_type_and_order(tmp_path: Path) -> None:
    arrays = {
        "a.weight": NUMBERS,
        "a.half": (NUMBERS / 7).astype("<f2"),
        "a.double": NUMBERS.astype("<f8"),
        "a.columns": np.asfortranarray(NUMBERS),
        "a.one": np.array(2.5, "<f4"),
        "a.none": np.zeros((0, 3), "<f4"),
        "a.ids": np.arange(5, dtype="<i8"),
        "b": NUMBERS,
    }
    save(tmp_path / "pytorch_model.bin", arrays)
    found = read_tensors([tmp_path / "pytorch_model.bin"], starting=("a.",))
    assert found.keys() == arrays.keys() - {"b", "a.ids"}
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, arrays[name].astype(np.float32))


class Calls:
    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return self.what[0], self.what[1:]


def _nested(path: Path) -> None:
    """Tuples in tuples, deeper than a process can count, as a key."""
    pack(path, b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.")


def _bomb(path: Path) -> None:
    """A small file of weights that are all the same numbers."""
    numbers = np.zeros((100, 100), "<f4")
    save(path, {f"a{n}": numbers for n in range(9)})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("archive/data.pkl")
    for n in range(1, 9):
        program = program.replace(b"X\x01\x00\x00\x00%d" % n, b"X\x01\x00\x00\x000")
    pack(path, program, {"data/0": numbers.tobytes()})


def _shrunk(path: Path) -> None:
    save(path, {"a": NUMBERS})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("archive/data.pkl")
    pack(path, program, {"data/0": NUMBERS.tobytes()[:-4]})


def _compressed(path: Path) -> None:
    save(path, {"a": NUMBERS})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("archive/data.pkl")
    pack(path, program, {"data/0": NUMBERS.tobytes()}, compression=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: pack(path, pickle.dumps(Calls(os.mkdir, "harm"))), r"its pickle names posix.mkdir"),
        (lambda path: pack(path, pickle.dumps(Calls(eval, "1"))), r"its pickle names builtins.eval"),
        (lambda path: pack(path, pickle.dumps([1])), "no mapping of names"),
        (lambda path: pack(path, b"\x80\x02X"), "cannot be read"),
        (lambda path: pack(path, pickle.dumps({}), {"other/data.pkl": b""}), "no data.pkl, or several"),
        (lambda path: pack(path, pickle.dumps({}), {"byteorder": b"big"}), "big-endian"),
        (lambda path: path.write_bytes(b"no zip"), "no file of PyTorch 1.6 or later"),
        (lambda path: save(path, {"a": np.broadcast_to(np.float32(1), (3, 4))}), "repeats its numbers"),
        (_shrunk, "larger than its numbers"),
        (_nested, "a key of type tuple"),
        (_bomb, "far larger than their numbers"),
        (_compressed, "compressed"),
    ],
)
def test_what_is_no_list_of_weights_is_refused(
    make: Callable[[Path], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "model.bin")
    with pytest.raises(ModelError, match=message):
        read_pickled(tmp_path / "model.bin")
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["late", "free"])
def test_a_checkpoint_and_its_modules_make_the_same_vectors(
    name: str, tokens: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    folder = Path(shutil.copytree(tokens(name), tmp_path / "pickled"))
    for path in [*folder.rglob("model.safetensors")]:
        save(path.with_name("pytorch_model.bin"), load_file(path))
        path.unlink()
    with from_name(str(tokens(name))) as one, from_name(str(folder)) as other:
        vectors = [each.query(["a question of turbines"])[0] for each in (one, other)]
    np.testing.assert_array_equal(vectors[0].values, vectors[1].values)
