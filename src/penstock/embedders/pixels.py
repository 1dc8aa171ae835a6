"""The preprocessing of a checkpoint's preprocessor_config.json: from an image to the pixels of its model.

Decoding, resizing and cropping are Pillow's, as in the checkpoint's training; scale, mean and deviation are left to the
graph, which takes bytes: they are part of its first matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.core.errors import ModelError
from penstock.embedders.checkpoint import read
from penstock.support import images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

GAP = 2
"""Shrinking on load stops where the image is still so many times larger than the model wants it: what Pillow's
resampling then does hardly differs from the same done to the whole."""

CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIGLIP = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""Defaults of transformers for settings that the file leaves out."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    short: int | None
    """The shorter side is brought to this, the other in proportion ..."""
    size: tuple[int, int] | None
    """... or both are, height first, out of proportion or not; or the image is left as it is."""
    crop: tuple[int, int] | None
    """Height and width cut out of the middle then; black where there is less."""
    resample: int
    """Pillow's number of the filter."""
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width that come out; None where that depends on the image."""
        return self.crop or self.size

    def pixels(self, source: bytes | BinaryIO, limit: int = images.PIXELS) -> NDArray[np.uint8]:
        """(height, width, 3). Raises ParseError."""
        import numpy as np

        wanted = self.short or (max(self.size) if self.size else None)
        with images.decoded(source, edge=GAP * wanted if wanted else None, pixels=limit) as image:
            return np.asarray(self.fit(image))

    def fit(self, image: Image) -> Image:
        left, top, right, bottom = filled = images.extent(image)
        target = self._target(right - left, bottom - top)
        if self.crop is None:
            return self._resized(image, target, filled)
        high, wide = self.crop
        x, y = (target[0] - wide) // 2, (target[1] - high) // 2
        if x < 0 or y < 0:
            return self._resized(image, target, filled).crop((x, y, x + wide, y + high))
        # Only what will be kept is resampled: its pixels are the same as if all had been.
        across, down = (right - left) / target[0], (bottom - top) / target[1]
        box = (left + x * across, top + y * down, left + (x + wide) * across, top + (y + high) * down)
        return self._resized(image, (wide, high), box)

    def _target(self, width: float, height: float) -> tuple[int, int]:
        if self.size is not None:
            return self.size[1], self.size[0]
        if self.short is None:
            return int(width), int(height)
        if width <= height:
            return self.short, int(self.short * height / width)
        return int(self.short * width / height), self.short

    def _resized(self, image: Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image:
        # Pillow wants a box within the image, and division may end a hair outside.
        box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
        return image.resize(size, self.resample, box, reducing_gap=GAP)


def load(folder: Path, defaults: Mapping[str, Any]) -> Preprocessing:
    config = {**defaults, **_config(folder)}
    if odd := [key for key in ("do_pad", "do_reduce_labels", "do_flip_channel_order") if config.get(key)]:
        raise ModelError(f"{folder} prepares images by {', '.join(odd)}, which Penstock does not do")
    short, size = _size(config, folder) if config.get("do_resize", True) else (None, None)
    rescales, normalizes = config.get("do_rescale", True), config.get("do_normalize", True)
    return Preprocessing(
        short=short,
        size=size,
        crop=_both(config["crop_size"]) if config.get("do_center_crop") else None,
        resample=int(config["resample"]),
        scale=float(config.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        mean=_three(config["image_mean"]) if normalizes else (0.0, 0.0, 0.0),
        deviation=_three(config["image_std"]) if normalizes else (1.0, 1.0, 1.0),
    )


def _config(folder: Path) -> dict[str, Any]:
    """preprocessor_config.json, or its part of processor_config.json, where newer versions of transformers write it."""
    combined = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").is_file() and combined.is_file():
        return dict(read(combined)["image_processor"])
    return dict(read(folder / "preprocessor_config.json"))


def _size(config: Mapping[str, Any], folder: Path) -> tuple[int | None, tuple[int, int] | None]:
    size = config["size"]
    if not isinstance(size, Mapping):
        # Older files give a number: CLIP's shorter side.
        return (int(size), None) if "crop_size" in config else (None, _both(size))
    sizes = {key: value for key, value in size.items() if value is not None}
    if sizes.keys() == {"shortest_edge"}:
        return int(sizes["shortest_edge"]), None
    if sizes.keys() == {"height", "width"}:
        return None, (int(sizes["height"]), int(sizes["width"]))
    raise ModelError(f"{folder} resizes images to {dict(size)!s:.200}, which Penstock does not do")


def _both(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, Mapping) else (int(size), int(size))


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
