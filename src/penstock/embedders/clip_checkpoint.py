"""The configuration of a CLIP or SigLIP checkpoint in Hugging Face's format. Reads no weights.

config.json                two towers: sizes, activations, how a text is pooled
preprocessor_config.json   what is done to an image first (penstock.embedders.pixels)
tokenizer.json, tokenizer_config.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelError
from penstock.embedders import kinds, pixels
from penstock.embedders.checkpoint import SENSELESS, WEIGHTS, read, weight_files
from penstock.embedders.pixels import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FAMILIES = kinds.SEEING
"""model_type of config.json. OpenCLIP's and LAION's models are CLIP here, SigLIP 2's of fixed size SigLIP."""

LEGACY_END = 2
"""The end token that old configurations name by mistake: the true one has the highest id of its text."""

_SHARED = {"num_hidden_layers": 12}
_DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "clip": {
        "text": {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 77, "eos_token_id": 49407},
        "vision": {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224, "patch_size": 32},
        "both": _SHARED | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    },
    "siglip": {
        "text": {"hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 64},
        "vision": {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224, "patch_size": 16},
        "both": _SHARED | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    },
}
"""Defaults of a configuration: transformers writes only what differs from these."""


@dataclass(frozen=True, slots=True)
class Tower:
    """One of the two transformers."""

    hidden: int
    layers: int
    heads: int
    epsilon: float
    activation: str


@dataclass(frozen=True, slots=True)
class ClipCheckpoint:
    folder: Path
    name: str
    family: str
    dim: int
    text: Tower
    vision: Tower
    positions: int
    """The most tokens of a text, special ones included."""
    end: int | None
    """The token at whose first place a text is pooled; None: the one with the highest id."""
    pad: int
    edge: int
    """Pixels of a side."""
    patch: int
    preprocessing: Preprocessing

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file besides the configuration that bears on a vector."""
        return (*self.weights, self.folder / "tokenizer.json")

    @property
    def weights(self) -> tuple[Path, ...]:
        if found := weight_files(self.folder):
            return found
        raise ModelError(f"{self.folder} holds neither of {' and '.join(WEIGHTS)}")

    @property
    def traits(self) -> dict[str, Any]:
        """The settings that bear on a vector, besides weights and tokenizer; no paths."""
        return {key: value for key, value in asdict(self).items() if key not in ("folder", "name")}

    def filled(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
        """The ids of texts, brought to one length."""
        import numpy as np

        # SigLIP has only ever seen texts filled up to its full length, and sees what they are filled up with. In
        # CLIP no place sees one after it: any id will do that is not taken for a text's end, which may be the highest.
        length, pad = (self.positions, self.pad) if self.family == "siglip" else (max(map(len, rows)), 0)
        ids = np.full((len(rows), length), pad, np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids


def load(folder: Path, name: str) -> ClipCheckpoint:
    config = read(folder / "config.json")
    try:
        return _load(folder, name, config)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def _load(folder: Path, name: str, config: Mapping[str, Any]) -> ClipCheckpoint:
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise ModelError(f"{folder}: its type is {family or 'not said':.200}, none of {', '.join(FAMILIES)}")
    # Old files say it a second time, in `text_config_dict`, and there they are right.
    text, vision = (
        {**_DEFAULTS[family]["both"], **_DEFAULTS[family][side], **_settings(config, side)}
        for side in ("text", "vision")
    )
    if not vision.get("vision_use_head", True):
        raise ModelError(f"{folder} has no pooling head: it does not make one vector of an image")
    end = None if family == "siglip" else int(text["eos_token_id"])
    edge = int(vision["image_size"])
    preprocessing = pixels.load(folder, pixels.CLIP if family == "clip" else pixels.SIGLIP)
    if preprocessing.shape != (edge, edge):
        raise ModelError(f"{folder} takes images of {edge} x {edge} pixels and prepares {preprocessing.shape}")
    dim = config.get("projection_dim", 512) if family == "clip" else text.get("projection_size") or text["hidden_size"]
    return ClipCheckpoint(
        folder=folder,
        name=name,
        family=family,
        dim=int(dim),
        text=_tower(text),
        vision=_tower(vision),
        positions=int(text["max_position_embeddings"]),
        end=None if end == LEGACY_END else end,
        pad=_pad(folder, text),
        edge=edge,
        patch=int(vision["patch_size"]),
        preprocessing=preprocessing,
    )


def _settings(config: Mapping[str, Any], side: str) -> dict[str, Any]:
    parts = [config.get(f"{side}_config") or {}, config.get(f"{side}_config_dict") or {}]
    return {key: value for part in parts for key, value in part.items() if value is not None}


def _tower(config: Mapping[str, Any]) -> Tower:
    return Tower(
        hidden=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        epsilon=float(config["layer_norm_eps"]),
        activation=str(config["hidden_act"]),
    )


def _pad(folder: Path, text: Mapping[str, Any]) -> int:
    """SigLIP reads its padding, so it must be the right one: the tokenizer's, which configurations often misname."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = read(folder / name).get("pad_token") if (folder / name).is_file() else None
        token = token.get("content") if isinstance(token, Mapping) else token
        if token is not None and (found := _id(folder, str(token))) is not None:
            return found
    return int(text.get("pad_token_id") or 1)


def _id(folder: Path, token: str) -> int | None:
    settings = read(folder / "tokenizer.json")
    for added in settings.get("added_tokens", ()):
        if added["content"] == token:
            return int(added["id"])
    vocab = settings["model"]["vocab"]
    if isinstance(vocab, Mapping):
        return int(vocab[token]) if token in vocab else None
    # Unigram: a list of pieces with their scores.
    return next((number for number, (piece, _) in enumerate(vocab) if piece == token), None)
