"""ClipEmbedder on PyTorch against itself on ONNX Runtime. No GPU is needed: what is here runs on any device."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock import Pipeline, open_index
from penstock.core.errors import EmbedError, MissingExtra, ModelError, UsageError
from penstock.embedders.clip import ClipEmbedder
from penstock.embedders.clip_torch import TorchTowers
from penstock.embedders.names import from_name
from penstock.embedders.weights import read_tensors
from penstock.sinks.memory import forget
from tests.embedders.conftest import ROOT
from tests.embedders.test_clip import GOLDEN, PICTURES, TEXTS, TRAINED, cosines, matrix, said, shown

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def trained() -> Iterator[ClipEmbedder]:
    with ClipEmbedder(TRAINED, device="best") as embedder:
        embedder.open()
        yield embedder


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The trained checkpoint, to be spoilt."""
    return Path(shutil.copytree(TRAINED, tmp_path / "model"))


def towers(embedder: ClipEmbedder) -> TorchTowers:
    assert isinstance(embedder._towers, TorchTowers)
    return embedder._towers


def test_weights_in_torchs_own_file_are_the_same(copied: Path, cache: Path) -> None:
    from safetensors.torch import load_file

    path = copied / "model.safetensors"
    tensors = load_file(path)
    torch.save(tensors, copied / "pytorch_model.bin")
    path.unlink()
    found = read_tensors([copied / "pytorch_model.bin"])
    assert found.keys() == {name for name, tensor in tensors.items() if tensor.is_floating_point()}
    for name, values in found.items():
        np.testing.assert_array_equal(values, tensors[name].float().numpy())
    torch.save(
        {"a": torch.tensor([1.5, -2]).bfloat16(), "b": torch.nn.Parameter(torch.ones(2, 3).T)}, copied / "some.bin"
    )
    assert read_tensors([copied / "some.bin"])["a"].tolist() == [1.5, -2.0]
    assert read_tensors([copied / "some.bin"])["b"].shape == (3, 2)


@pytest.mark.parametrize("name", ["shapes", "clip-legacy", "clip-padded", "siglip-odd"])
def test_the_space_and_the_vectors_are_those_of_onnx(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_clip_checkpoints

    folder = TRAINED if name == "shapes" else make_clip_checkpoints.make(name, tmp_path)
    with (
        ClipEmbedder(folder, device="best") as here,
        ClipEmbedder(folder) as there,
        np.load(GOLDEN / f"{name}.npz") as g,
    ):
        here.open()
        there.open()
        assert here.describe() == there.describe()
        images, texts = matrix(here.embed(shown(*PICTURES))), matrix(here.query(TEXTS))
        assert cosines(images, matrix(there.embed(shown(*PICTURES)))).min() >= 0.99999
        assert cosines(texts, matrix(there.query(TEXTS))).min() >= 0.99999
        assert cosines(images, g["images"]).min() >= 0.9999
        assert cosines(texts, g["texts"]).min() >= 0.99999


def test_an_index_made_here_is_searched_and_kept_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, picture in enumerate(PICTURES):
        (tmp_path / f"{number}.png").write_bytes(picture)
    url, ledger = f"memory://{tmp_path}", tmp_path / "ledger.db"
    try:
        report = Pipeline(tmp_path, into=url, model=f"torch:{TRAINED}", state=ledger, include=["*.png"]).run()
        assert report.ok
        assert report.embedded == len(PICTURES)
        monkeypatch.setitem(sys.modules, "torch", None)
        with open_index(url) as index:
            assert index.manifest.schema.only.model == str(TRAINED)
            assert len(index.search("a red circle", k=3)) == 3
        again = Pipeline(tmp_path, into=url, model=str(TRAINED), state=ledger, include=["*.png"])
        assert again.run().embedded == 0
        with pytest.raises(MissingExtra, match=r"penstock\[torch\]"):
            Pipeline.from_state(ledger, model=f"torch:{TRAINED}")
    finally:
        forget(url)


def test_threads_at_once_get_their_own_vectors(trained: ClipEmbedder) -> None:
    chunks = [*shown(*PICTURES), *said(*TEXTS)]
    expected = matrix(trained.embed(chunks))
    found: dict[int, bool] = {}

    def work(number: int) -> None:
        order = np.random.default_rng(number).permutation(len(chunks))
        vectors = matrix(trained.embed([chunks[i] for i in order]))
        found[number] = np.allclose(vectors, expected[order], atol=1e-5)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


class Small:
    """A model on a device that has room for so many rows."""

    def __init__(self, model: Any, room: int) -> None:
        self._model, self._room = model, room
        self.tried: list[int] = []

    def get_image_features(self, rows: Any) -> Any:
        self._fits(rows)
        return self._model.get_image_features(rows)

    def get_text_features(self, rows: Any) -> Any:
        self._fits(rows)
        return self._model.get_text_features(rows)

    def _fits(self, rows: Any) -> None:
        self.tried.append(len(rows))
        if len(rows) > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_batch_that_does_not_fit_is_halved_and_none_is_so_large_again(
    trained: ClipEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, texts = shown(*(PICTURES * 3)[:21]), said(*(TEXTS * 2)[:11])
    expected = matrix([*trained.embed(pictures), *trained.embed(texts)])
    tight = towers(trained)
    small = Small(tight._model, room=6)
    monkeypatch.setattr(tight, "_model", small)
    monkeypatch.setattr(tight, "at_once", tight.at_once)
    found = matrix([*trained.embed(pictures), *trained.embed(texts)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert small.tried == [21, 10, 5, 5, 5, 5, 1, 5, 5, 1]
    assert tight.at_once == 5


def test_a_device_without_room_for_one_ends_the_run_and_says_so(
    trained: ClipEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = towers(trained)
    monkeypatch.setattr(tight, "_model", Small(tight._model, room=0))
    monkeypatch.setattr(tight, "at_once", tight.at_once)
    with pytest.raises(ModelError, match=r"too little memory left to run .*shapes-clip on even one"):
        trained.query_images(PICTURES)


def test_it_pickles_without_its_model(trained: ClipEmbedder) -> None:
    copy = pickle.loads(pickle.dumps(trained))
    assert repr(copy) == f"ClipEmbedder({str(TRAINED)!r}, device='best')"
    assert copy.describe() == trained.describe()
    with pytest.raises(EmbedError, match="not open"):
        copy.query(["a"])


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nonsense"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{device}' here: ."):
        ClipEmbedder(TRAINED, device=device).open()


def test_only_models_that_see_are_run_by_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for name in (str(tmp_path), "sentence-transformers/all-MiniLM-L6-v2", ""):
        with pytest.raises(UsageError, match="no CLIP or SigLIP model"):
            from_name(f"torch:{name}")


def test_weights_that_are_missing_are_not_made_up(copied: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    del weights["visual_projection.weight"], weights["logit_scale"]
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the weight 'visual_projection.weight'"):
        ClipEmbedder(copied, device="best").open()


def test_weights_of_other_shapes_are_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 48
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded by PyTorch on"):
        ClipEmbedder(copied, device="best").open()


def test_what_a_folder_says_of_code_and_other_files_is_not_followed(copied: Path, trained: ClipEmbedder) -> None:
    evil = {"attn_implementation": "someone/kernel", "auto_map": {"AutoModel": "evil.Model"}}
    config = json.loads((copied / "config.json").read_text()) | evil
    config |= {"transformers_weights": "/etc/passwd", "quantization_config": {"quant_method": "bitsandbytes"}}
    for side in ("text_config", "vision_config"):
        config[side] |= evil
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "evil.py").write_text("raise SystemExit('run')")
    (copied / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    with ClipEmbedder(copied, device="best") as embedder:
        embedder.open()
        np.testing.assert_allclose(matrix(embedder.query(TEXTS)), matrix(trained.query(TEXTS)), atol=1e-6)


def test_the_best_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.embedders.clip_torch import BEST, _device

    def fake(cuda: bool, mps: bool) -> Any:
        return SimpleNamespace(
            cuda=SimpleNamespace(is_available=lambda: cuda),
            backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
            device=str,
            zeros=lambda count, device: torch.zeros(count),
        )

    assert [_device(fake(*there), BEST) for there in ((True, True), (False, True), (False, False))] == [
        "cuda",
        "mps",
        "cpu",
    ]
