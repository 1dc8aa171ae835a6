"""Tensors of a checkpoint's files, as float32."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import ModelError
from penstock.embedders.checkpoint import Checkpoint
from penstock.embedders.families import NAMES, Names
from penstock.embedders.pickled import read_pickled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[np.float32]]


def read_weights(checkpoint: Checkpoint) -> Weights:
    """All tensors as float32, without a prefix such as `bert.`, which a model has when it was saved with a head."""
    tensors = read_tensors(checkpoint.weights)
    prefixes = {f"{checkpoint.family}.", "roberta."}
    if checkpoint.design is not None:
        words = f"{NAMES[checkpoint.family]['words'][0]}.weight"
        prefixes = {name.removesuffix(words) for name in tensors if name.endswith(f".{words}")}
    for prefix in prefixes:
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {renamed(name): value for name, value in tensors.items()}


def renamed(name: str) -> str:
    """The name that a weight has today: layer norms of checkpoints from before 2019 have a gamma and a beta."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.{ {'gamma': 'weight', 'beta': 'bias'}.get(last, last) }" if stem else name


def read_tensors(paths: Sequence[Path], *, starting: tuple[str, ...] = ("",)) -> dict[str, NDArray[np.float32]]:
    """The tensors of numbers whose names start so, as float32."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, NDArray[np.float32]] = {}
    for path in paths:
        if path.suffix == ".bin":
            tensors |= read_pickled(path, starting)
            continue
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    if not name.startswith(starting):
                        continue
                    if file.get_slice(name).get_dtype() == "BF16":
                        tensors[name] = _bfloat16(path, name)
                    elif (value := file.get_tensor(name)).dtype.kind == "f":
                        tensors[name] = value.astype(np.float32, copy=False)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    return tensors


def _bfloat16(path: Path, name: str) -> NDArray[np.float32]:
    """A tensor of 16-bit brain floats, which numpy has no type for: they are the upper halves of float32."""
    import numpy as np

    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(header))[name]
    start, end = entry["data_offsets"]
    halves = np.fromfile(path, "<u2", (end - start) // 2, offset=8 + header + start)
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


class Layer:
    """The tensors of one layer, or of the model itself, by the parts of NAMES."""

    def __init__(self, weights: Weights, names: Names, at: str = "") -> None:
        self._weights, self._names, self._at = weights, names, at

    def layer(self, number: int) -> Layer:
        ways = [way.format(number) for way in self._names["layer"]]
        at = next((way for way in ways if any(name.startswith(way) for name in self._weights)), ways[0])
        return Layer(self._weights, self._names, at)

    def get(self, part: str, leaf: str = "weight") -> NDArray[np.float32] | None:
        ways = (f"{self._at}{name}.{leaf}" for name in self._names.get(part, ()))
        return next((self._weights[way] for way in ways if way in self._weights), None)

    def knows(self, part: str) -> bool:
        """Whether checkpoints of the family have that part."""
        return part in self._names

    def need(self, part: str) -> NDArray[np.float32]:
        """The weight of that part. Raises KeyError."""
        if (found := self.get(part)) is None:
            raise KeyError(f"{self._at}{self._names[part][0]}.weight")
        return found
