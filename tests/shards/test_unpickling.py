"""Pickled arrays are read; all other pickles are refused, and none of their code runs."""

from __future__ import annotations

import array
import contextlib
import datetime
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.shards.unpickling import Hostile, loads

VALUES = np.arange(6, dtype=np.float32) / 7


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8"])
def test_arrays_come_back(kind: str, protocol: int) -> None:
    """Every float type, in every protocol, beside an image in base64 as in the reference example."""
    image, values = loads(pickle.dumps(("aGVsbG8=", VALUES.astype(kind)), protocol))
    assert image == "aGVsbG8="
    assert values.dtype == np.float32
    assert np.array_equal(values, VALUES.astype(kind).astype(np.float32))


def test_other_plain_things() -> None:
    """Lists, mappings and matrices."""
    given = {"v": [1.5, 2, None, True, b"x"], "m": np.ones((2, 3))}
    found = loads(pickle.dumps(given))
    assert found["v"] == given["v"]
    assert found["m"].shape == (2, 3)


class Evil:
    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


def _global(module: str, name: str, args: bytes = b"") -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + args + b"\x85R."


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {mark}"),
        (subprocess.check_output, ["touch", "{mark}"]),
        (eval, "open('{mark}', 'w')"),
        (exec, "open('{mark}', 'w')"),
        (open, "{mark}", "w"),
        (Path, "{mark}"),
        (getattr, "x", "upper"),
        (np.load, "{mark}"),
        (np.memmap, "{mark}", "uint8", "w+"),
        (np.fromfile, "{mark}"),
        (OrderedDict,),
        (datetime.date, 2020, 1, 1),
        (array.array, "f"),
        (bytearray, 10),
        (__import__, "os"),
    ],
    ids=lambda call: getattr(call[0], "__name__", "x"),
)
def test_nothing_is_called(call: tuple[Any, ...], tmp_path: Path) -> None:
    """Whatever a pickle names."""
    mark = str(tmp_path / "mark")

    def marked(value: Any) -> Any:
        if isinstance(value, list):
            return [marked(part) for part in value]
        return value.format(mark=mark) if isinstance(value, str) else value

    evil = Evil(call[0], *(marked(arg) for arg in call[1:]))
    for data in (pickle.dumps(evil), pickle.dumps(("x", evil), 2), pickle.dumps([VALUES, {"a": evil}])):
        with pytest.raises(Hostile):
            loads(data)
    assert not os.path.exists(mark)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x04.",
        b"no pickle",
        pickle.dumps(VALUES)[:-9],
        pickle.dumps(np.array([object()], dtype=object)),
        pickle.dumps(np.array(["text"])),
        pickle.dumps(np.zeros(2, [("a", "f4")])),
        pickle.dumps(np.arange(3)),
        pickle.dumps(np.zeros(2, "c8")),
        pickle.dumps(np.zeros(2, "datetime64[s]")),
        pickle.dumps(np.float32(1)),
        pickle.dumps({1, 2}),
        pickle.dumps(np.dtype("f4")),
        pickle.dumps(np.ndarray),
        _global("numpy", "dtype", b"X\x02\x00\x00\x00O8"),
        _global("builtins", "eval", b"X\x01\x00\x00\x001"),
        _global("numpy.core.multiarray", "scalar", b"N"),
        _global("penstock.shards.unpickling", "_Call", b"N"),
        _global("numpy", "dtype.__class__", b"N"),
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}\x8c\x05_name\x8c\x04evalsb.",  # BUILD on a stand-in
        b"\x80\x02cnumpy\ndtype\n}X\x05\x00\x00\x00_nameX\x04\x00\x00\x00evals\x86b.",
        b"\x80\x02P1\n.",  # a persistent id
        b"\x80\x04Q.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".",  # depth
        b"\x80\x04]\x94h\x00a.",  # a list that holds itself
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",  # a text of 4 EB
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b"0.",  # an index in the memo
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"x.",  # 8 GiB
        b"\x80\x05\x95" + struct.pack("<Q", 1 << 33) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.",
    ],
    ids=lambda data: data[:12].hex(),
)
def test_other_pickles_are_refused(data: bytes) -> None:
    """Is refused with a reason."""
    with pytest.raises(Hostile):
        loads(data)


@pytest.mark.parametrize("shape", [(7,), (1 << 40,), (-1,), (3, -2), ("6",), (6.0,), 6])
def test_an_array_that_lies_about_its_size(shape: Any) -> None:
    """It is refused before memory is reserved."""
    state = (1, shape, np.dtype("f4"), False, VALUES.tobytes())

    class Lying:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    with pytest.raises(Hostile):
        loads(pickle.dumps(Lying()))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    """Whatever the bytes are: a value, or refused."""
    with contextlib.suppress(Hostile):
        loads(b"\x80\x04" + data)


@settings(deadline=None)
@given(st.data())
def test_pickles_with_bytes_changed(draw: st.DataObject) -> None:
    """One byte of a valid one is changed: it gives a value, or is refused."""
    data = bytearray(pickle.dumps(("aGVs", VALUES), draw.draw(st.integers(0, 5))))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(Hostile):
        loads(bytes(data))


def test_the_globals_of_honest_pickles_are_all_there_are() -> None:
    """A numpy that pickles in another way fails here."""
    from penstock.shards import unpickling

    named = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            named.add((module, name))
            return super().find_class(module, name)

    for protocol in range(6):
        Noting(io.BytesIO(pickle.dumps(VALUES, protocol))).load()
    assert named - {("builtins", "bytearray")} <= unpickling._ALLOWED


def test_a_pickle_takes_no_more_memory_than_it_has_bytes() -> None:
    """Whatever lengths and memo indexes it names."""
    tracemalloc.start()
    for data in (
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 31) + b"x.",
        b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b"0.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 31) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 31) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    ):
        with pytest.raises(Hostile):
            loads(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
