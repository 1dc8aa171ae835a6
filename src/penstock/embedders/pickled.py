"""Tensors of PyTorch's own files, pytorch_model.bin, as float32. They are zip archives: a pickle says what the tensors
are called and which parts of the other members they are, and no code that it names is run."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import ModelError
from penstock.support.unpickling import Hostile, Inert, Unpickler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_PICKLE = 8 << 20
"""Bytes of the pickle: names and shapes."""
SHARED = 4
"""How many times larger than their file tensors may be that share their numbers."""
MOST_SIDES = 8
TYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "BFloat16Storage": "<u2"}
"""The classes of storages of floats, and what numpy reads them as."""
BRAIN = "BFloat16Storage"
_OTHERS = {"LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"}


class _Kind(NamedTuple):
    """A class of storages."""

    name: str


class _Storage(NamedTuple):
    kind: str
    member: str


class _Tensor(Inert):
    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


class _Names(dict[Any, Any]):
    """An OrderedDict, whose state is of no use here."""

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        return


def read_pickled(path: Path, starting: tuple[str, ...] = ("",)) -> dict[str, NDArray[np.float32]]:
    """The tensors of floats whose names start so."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _tensors(archive, starting)
    except zipfile.BadZipFile:
        raise ModelError(
            f"{path} cannot be read: it is no file of PyTorch 1.6 or later; save the model as safetensors"
        ) from None
    except Hostile as error:
        raise ModelError(f"{path} is not read: {error}") from error
    # Crafted bytes make an unpickler raise anything.
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {type(error).__name__}: {error!s:.300}") from error


def _tensors(archive: zipfile.ZipFile, starting: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(names) != 1:
        raise Hostile("it holds no data.pkl, or several")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        with archive.open(f"{folder}byteorder") as member:
            if member.read(16).strip() != b"little":
                raise Hostile("its numbers are big-endian")
    if archive.getinfo(names[0]).file_size > MOST_PICKLE:
        raise Hostile("its data.pkl is larger than any list of weights")
    with archive.open(names[0]) as member:
        found = _Unpickler(io.BytesIO(member.read(MOST_PICKLE))).load()
    if not isinstance(found, dict):
        raise Hostile("it holds no mapping of names to weights")
    tensors = {
        name: tensor
        for name, tensor in found.items()
        if isinstance(name, str) and name.startswith(starting)
        if isinstance(tensor, _Tensor) and tensor.storage.kind in TYPES
    }
    if sum(2 * math.prod(one.shape) for one in tensors.values()) > SHARED * sum(
        one.compress_size for one in archive.infolist()
    ):
        raise Hostile("its tensors are far larger than their numbers")
    return {name: _read(archive, folder, tensor) for name, tensor in tensors.items()}


def _read(archive: zipfile.ZipFile, folder: str, tensor: _Tensor) -> NDArray[np.float32]:
    """The numbers of a tensor, and no others of the storage that it is a part of."""
    import numpy as np

    info = archive.getinfo(f"{folder}data/{tensor.storage.member}")
    if info.compress_type != zipfile.ZIP_STORED:
        raise Hostile("its weights are compressed, as PyTorch does not do")
    kind = np.dtype(TYPES[tensor.storage.kind])
    count = math.prod(tensor.shape)
    reach = 1 + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True))
    if count and (tensor.offset + reach) * kind.itemsize > info.file_size:
        raise Hostile("a tensor is larger than its numbers")
    if count > reach:
        raise Hostile("a tensor repeats its numbers")
    with archive.open(info) as member:
        member.seek(tensor.offset * kind.itemsize)
        numbers = np.frombuffer(_exactly(member, (reach if count else 0) * kind.itemsize), kind)
    values = np.lib.stride_tricks.as_strided(
        numbers, tensor.shape, [stride * kind.itemsize for stride in tensor.strides], writeable=False
    )
    if tensor.storage.kind == BRAIN:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.array(values, np.float32, order="C")  # a scalar stays one


def _exactly(member: IO[bytes], size: int) -> bytes:
    data = member.read(size)
    if len(data) != size:
        raise Hostile("it is cut short")
    return data


class _Rebuild(Inert):
    """Stands for the function of torch that makes a tensor of a part of a storage."""

    __slots__ = ()

    def __call__(self, *args: object) -> _Tensor:
        match args:
            case (_Storage() as storage, int() as offset, tuple() as shape, tuple() as strides, *_):
                numbers = (offset, *shape, *strides)
                if len(shape) == len(strides) <= MOST_SIDES and all(
                    type(number) is int and 0 <= number < 1 << 48 for number in numbers
                ):
                    return _Tensor(storage, offset, shape, strides)
        raise Hostile("it holds a tensor of a shape that makes no sense")


class _Parameter(Inert):
    """Stands for the function that makes a parameter of a tensor, which is taken as it is."""

    __slots__ = ()

    def __call__(self, tensor: object, *_: object) -> object:
        return tensor


class _Unpickler(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and (name in TYPES or name in _OTHERS):
            return _Kind(name)
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2":
                return _Rebuild()
            case "torch._utils", "_rebuild_parameter":
                return _Parameter()
            case "collections", "OrderedDict":
                return _Names
        raise Hostile(f"its pickle names {module:.100}.{name:.100}, which is no weight")

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case ("storage", _Kind(kind), str(member), str(), int()):
                return _Storage(kind, member)
        raise Hostile("its pickle refers to something outside of it")
