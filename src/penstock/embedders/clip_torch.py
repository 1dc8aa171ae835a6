"""CLIP and SigLIP by PyTorch, as transformers has them, for GPUs; the vectors are those of ONNX Runtime.

Threads decode images at once and take turns at the device. Images go there as bytes and are normalized there; the model
runs in full precision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import MissingExtra, ModelError, UsageError
from penstock.embedders.checkpoint import read
from penstock.embedders.clip_checkpoint import ClipCheckpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BEST = "best"
"""The first of `cuda`, `mps` and `cpu` that is available."""


class TorchTowers:
    """Both towers on one device. `at_once`: rows that a call of the model takes; fewer from then on where the device's
    memory did not hold so many."""

    def __init__(self, checkpoint: ClipCheckpoint, device: str, at_once: int) -> None:
        self._torch = _import()
        self._checkpoint = checkpoint
        self.device = _device(self._torch, device)
        self.at_once = at_once
        self._lock = threading.Lock()
        try:
            self._model = _loaded(self._torch, checkpoint, self.device)
        except ModelError:
            raise
        # What transformers raises for configurations and weights that make no sense has no base but Exception.
        except Exception as error:
            raise ModelError(f"{checkpoint.folder} cannot be loaded by PyTorch on {self.device}: {error}") from error
        prepared = checkpoint.preprocessing
        self._scale = prepared.scale
        self._mean, self._deviation = (
            self._torch.tensor(values, device=self.device)[:, None, None]
            for values in (prepared.mean, prepared.deviation)
        )

    def vision(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._run(pixels, self._images)

    def text(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self._run(self._checkpoint.filled(rows), self._texts)

    def _images(self, pixels: Any) -> Any:
        channels = pixels.permute(0, 3, 1, 2).float() * self._scale
        return self._model.get_image_features((channels - self._mean) / self._deviation)

    def _texts(self, ids: Any) -> Any:
        return self._model.get_text_features(ids.long())

    def _run(self, rows: NDArray[Any], features: Callable[[Any], Any]) -> NDArray[np.float32]:
        import numpy as np

        parts: list[NDArray[np.float32]] = []
        done = 0
        with self._lock, self._torch.inference_mode():
            while done < len(rows):
                some = rows[done : done + self.at_once]
                if (vectors := self._tried(some, features)) is not None:
                    parts.append(vectors)
                    done += len(some)
                elif len(some) > 1:
                    self.at_once = len(some) // 2
                    self._torch.cuda.empty_cache()
                else:
                    name = self._checkpoint.name
                    raise ModelError(f"{self.device} has too little memory left to run {name} on even one row")
        return np.concatenate(parts)

    def _tried(self, rows: NDArray[Any], features: Callable[[Any], Any]) -> NDArray[np.float32] | None:
        """None where they do not fit: by then nothing holds on to what was allocated for them, as an exception does."""
        torch = self._torch
        try:
            pooled = features(torch.from_numpy(rows).to(self.device)).pooler_output
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled).cpu().numpy()
            return vectors
        except torch.OutOfMemoryError:
            return None


def _import() -> Any:
    try:
        import torch
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtra("running a model on PyTorch", "torch") from None
    return torch


def _device(torch: Any, name: str) -> Any:
    if name == BEST:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    # Each kind of device fails in its own way where there is none, with assertions among them.
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"PyTorch has no device {name!r} here: {why}") from error
    return device


def _loaded(torch: Any, checkpoint: ClipCheckpoint, device: Any) -> Any:
    """Configuration and safetensors alone: `from_pretrained` also follows what a folder says of adapters, kernels and
    other files, and makes up the weights that are missing."""
    import transformers
    from safetensors.torch import load_file

    names = ("CLIPConfig", "CLIPModel") if checkpoint.family == "clip" else ("SiglipConfig", "SiglipModel")
    configuration, model = (getattr(transformers, name) for name in names)
    config = configuration.from_dict(read(checkpoint.folder / "config.json"), attn_implementation="sdpa")
    with torch.device(device):
        network = model(config).float().requires_grad_(False).eval()
    weights = {name: value for path in checkpoint.weights for name, value in load_file(path).items()}
    missing, _ = network.load_state_dict(weights, strict=False)
    # How similarities are scaled bears on no vector.
    if lacking := sorted(name for name in missing if not name.startswith("logit_")):
        raise ModelError(f"{checkpoint.folder} lacks the weight {lacking[0]!r}")
    return network
