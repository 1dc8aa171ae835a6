"""Files as torch.save makes them, without torch."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from numpy.typing import NDArray

Array = NDArray[Any]
CLASSES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


class Tensor:
    def __init__(self, array: Array, key: str) -> None:
        self.array, self.key = array, key

    def __reduce__(self) -> Any:
        utils: Any = sys.modules["torch._utils"]
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        return utils._rebuild_tensor_v2, (Storage(self), 0, self.array.shape, strides, False, OrderedDict())


class Storage:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Pickler(pickle._Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        torch: Any = sys.modules["torch"]
        array = obj.tensor.array
        return ("storage", getattr(torch, CLASSES[array.dtype.str]), obj.tensor.key, "cpu", array.size)


@contextmanager
def _torch() -> Iterator[None]:
    """Modules with the names that such a pickle has."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    for name in CLASSES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """As `torch.save` of a state dict."""
    tensors = OrderedDict((name, Tensor(array, str(key))) for key, (name, array) in enumerate(arrays.items()))
    tensors._metadata = OrderedDict()  # type: ignore[attr-defined]
    file = io.BytesIO()
    with _torch():
        Pickler(file, 2).dump(tensors)
    pack(path, file.getvalue(), {f"data/{key}": array.tobytes("A") for key, array in enumerate(arrays.values())})


def pack(path: Path, program: bytes, members: Mapping[str, bytes] = types.MappingProxyType({}), **options: Any) -> None:
    """The archive around a pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in {"data.pkl": program, "byteorder": b"little", **members}.items():
            archive.writestr(f"archive/{name}", data)
