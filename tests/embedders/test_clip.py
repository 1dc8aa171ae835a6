"""ClipEmbedder against what transformers made of the same pictures and texts, and what a trained model finds."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import EmbedError, LimitExceeded, ModelError, ParseError, UsageError
from penstock.core.records import Chunk, Dense
from penstock.embedders import clip_checkpoint
from penstock.embedders.clip import AT_ONCE, ClipEmbedder
from penstock.embedders.names import from_name
from penstock.embedders.pixels import GAP, Preprocessing
from tests.embedders.conftest import REFERENCE, TRAINED, Make

Image = pytest.importorskip("PIL.Image")

GOLDEN = REFERENCE / "clip"
NAMES = ("clip-quick", "clip-gelu", "clip-legacy", "clip-padded", "siglip", "siglip-odd")
PICTURES = [path.read_bytes() for path in sorted(GOLDEN.glob("[0-9].*"))]
TEXTS: list[str] = json.loads((GOLDEN / "texts.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def trained() -> Iterator[ClipEmbedder]:
    with ClipEmbedder(TRAINED) as embedder:
        embedder.open()
        yield embedder


@pytest.fixture
def spoilt(made: Make, tmp_path: Path, cache: Path) -> Callable[..., Path]:
    """A copy of a checkpoint with something changed in one of its files."""

    def spoil(name: str = "clip-quick", file: str = "", **changes: Any) -> Path:
        folder = tmp_path / "spoilt"
        shutil.copytree(made(name), folder, dirs_exist_ok=True)
        if file:
            settings = json.loads((folder / file).read_text())
            for key, value in changes.items():
                inner, _, rest = key.partition("__")
                (settings[inner] if rest else settings)[rest or inner] = value
            (folder / file).write_text(json.dumps(settings))
        return folder

    return spoil


def opened(folder: Path) -> ClipEmbedder:
    embedder = ClipEmbedder(folder)
    embedder.open()
    return embedder


def shown(*images: bytes) -> list[Chunk]:
    return [Chunk(f"{i:032}", f"memory://{i}", i, "", (0, 0), image=image) for i, image in enumerate(images)]


def said(*texts: str) -> list[Chunk]:
    return [Chunk(f"{i:032}", f"memory://{i}", i, text, (0, len(text))) for i, text in enumerate(texts)]


def matrix(vectors: Sequence[Dense]) -> np.ndarray:
    return np.stack([vector.values for vector in vectors])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize("name", [*NAMES, "shapes"])
def test_vectors_are_those_of_transformers(name: str, made: Make, cache: Path) -> None:
    with np.load(GOLDEN / f"{name}.npz") as golden, opened(made(name)) as embedder:
        images, texts = matrix(embedder.embed(shown(*PICTURES))), matrix(embedder.query(TEXTS))
        assert cosines(images, golden["images"]).min() >= 0.9999
        assert cosines(texts, golden["texts"]).min() >= 0.99999
        np.testing.assert_allclose(np.linalg.norm(np.concatenate([images, texts]), axis=1), 1, atol=1e-5)
        assert embedder.describe().dim == images.shape[1] == texts.shape[1]


def test_the_golden_vectors_tell_models_and_inputs_apart() -> None:
    """If they were all alike, agreeing with them would mean nothing."""
    for name in [*NAMES, "shapes"]:
        with np.load(GOLDEN / f"{name}.npz") as golden:
            for vectors in (golden["images"], golden["texts"]):
                same = vectors @ vectors.T - np.eye(len(vectors))
                assert same.max() < 0.9995, name


def test_texts_and_images_mixed_keep_their_order(trained: ClipEmbedder) -> None:
    images, texts = shown(*PICTURES), said(*TEXTS)
    mixed = [chunk for pair in zip(images, texts, strict=True) for chunk in pair]
    found = matrix(trained.embed(mixed))
    np.testing.assert_allclose(found[0::2], matrix(trained.embed(images)), atol=1e-5)
    np.testing.assert_allclose(found[1::2], matrix(trained.embed(texts)), atol=1e-5)
    np.testing.assert_allclose(found[1::2], matrix(trained.query(TEXTS)), atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(trained: ClipEmbedder) -> None:
    many = (PICTURES * AT_ONCE)[: 3 * AT_ONCE + 1]
    together = matrix(trained.embed(shown(*many)))
    alone = np.concatenate([matrix(trained.query_images([image])) for image in PICTURES])
    np.testing.assert_allclose(together[: len(alone)], alone, atol=1e-5)
    texts = matrix(trained.embed(said(*TEXTS)))
    np.testing.assert_allclose(texts, np.concatenate([matrix(trained.query([text])) for text in TEXTS]), atol=1e-5)


def test_token_ids_that_come_along_are_used(trained: ClipEmbedder) -> None:
    assert trained.tokenizer
    ids = trained.tokenizer.encode(["a red circle"])[0]
    chunk = Chunk("0" * 32, "memory://a", 0, "something else", (0, 14), tokens=ids)
    np.testing.assert_allclose(trained.embed([chunk])[0].values, trained.query(["a red circle"])[0].values, atol=1e-6)


def test_threads_at_once_get_their_own_vectors(made: Make, cache: Path) -> None:
    """From the very first call on, when both towers are opened by whoever comes first."""
    with np.load(GOLDEN / "clip-quick.npz") as golden, opened(made("clip-quick")) as embedder:
        expected = np.concatenate([golden["images"], golden["texts"]])
        worst: list[float] = []

        def work(number: int) -> None:
            chunks = [*shown(*PICTURES), *said(*TEXTS)]
            order = np.random.default_rng(number).permutation(len(chunks))
            found = matrix(embedder.embed([chunks[i] for i in order]))
            worst.append(float(cosines(found, expected[order]).min()))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(worst) == 4
    assert min(worst) >= 0.9999


# ---------------------------------------------------------------- preprocessing


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 300), st.floats(0.5, 2), st.integers(8, 64), st.integers(8, 80), st.sampled_from([1, 2, 3]))
def test_cropping_first_gives_the_pixels_of_cropping_last(
    width: int, ratio: float, short: int, crop: int, resample: int
) -> None:
    """By hand as transformers does it: resize the whole, pad with black, cut out the middle."""
    height = max(10, int(width * ratio))
    pixels = np.random.RandomState(width * 1000 + height).randint(0, 255, (height, width, 3), np.uint8)
    prepared = Preprocessing(short, None, (crop, crop), resample, 1.0, (0.0,) * 3, (1.0,) * 3)
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    whole = np.asarray(Image.fromarray(pixels).resize(size, resample, reducing_gap=GAP))
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    around = ((max(0, -top), crop), (max(0, -left), crop), (0, 0))
    wanted = np.pad(whole, around)[max(0, top) :, max(0, left) :][:crop, :crop]
    found = np.asarray(prepared.fit(Image.fromarray(pixels)))
    assert found.shape == (crop, crop, 3)
    # Noise moved by one pixel differs by 80. Pillow does rows or columns first, whichever is cheaper, and where it
    # shrinks by whole pixels before, it does so from the corner of what it is given.
    slack = 3 if short * GAP * 2 > min(width, height) else 12
    assert np.abs(found.astype(int) - wanted).mean() <= slack


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(130, 120), (267, 1064), (451, 303), (900, 637), (1333, 1000)])
def test_shrinking_on_load_hardly_moves_a_vector(
    kind: str, size: tuple[int, int], trained: ClipEmbedder, scripts: None
) -> None:
    from make_shapes import draw, scenes

    random, pictures = Random(size[0]), []
    for scene, seed in zip(scenes(random), range(3), strict=False):
        grain = np.random.RandomState(seed).randint(-20, 20, (size[1], size[0], 3))
        pixels = np.asarray(draw(scene, random, *size), int) + grain
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, kind, quality=90)
        pictures.append(out.getvalue())
    assert trained.checkpoint
    assert trained._towers
    prepared = trained.checkpoint.preprocessing
    whole = [np.asarray(_plainly(prepared, picture)) for picture in pictures]
    found = matrix(trained.query_images(pictures))
    assert cosines(found, trained._towers.vision(np.stack(whole))).min() >= 0.999


def _plainly(prepared: Preprocessing, picture: bytes) -> Any:
    """Decoded at full size, resized with the whole filter, cropped last."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    short, crop = prepared.short, prepared.crop
    assert short
    assert crop
    scale = short / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], prepared.resample)
    left, top = (image.width - crop[1]) // 2, (image.height - crop[0]) // 2
    return image.crop((left, top, left + crop[1], top + crop[0]))


def test_a_newer_processor_config_is_read_as_well(spoilt: Callable[..., Path], made: Make) -> None:
    folder = spoilt()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    loaded = clip_checkpoint.load(folder, "a").preprocessing
    assert loaded == clip_checkpoint.load(made("clip-quick"), "a").preprocessing


# ---------------------------------------------------------------- what a trained model finds


def test_a_red_circle_is_found_and_so_is_every_other_shape(trained: ClipEmbedder, scripts: None) -> None:
    """Recall@5 over 480 pictures that the model has never seen, ten of each colour and shape."""
    from make_shapes import draw, jpeg, scenes

    random = Random(20_261)
    drawn = [scene for _, scene in zip(range(480), scenes(random), strict=False)]
    pictures = [jpeg(draw(scene, random, *random.choice(((160, 120), (120, 160), (320, 240))))) for scene in drawn]
    images = matrix(trained.embed(shown(*pictures)))
    prompts = sorted({scene.prompt for scene in drawn})
    assert len(prompts) == 48
    asked = matrix(trained.query(prompts))
    recalls = {}
    for prompt, vector in zip(prompts, asked, strict=True):
        best = np.argsort(-(images @ vector))[:5]
        recalls[prompt] = float(np.mean([drawn[i].prompt == prompt for i in best]))
    assert recalls["a red circle"] >= 0.8
    assert float(np.mean(list(recalls.values()))) >= 0.9, recalls


def test_a_picture_finds_its_like(trained: ClipEmbedder, scripts: None) -> None:
    from make_shapes import COLOURS, SHAPES, Scene, draw, jpeg

    pairs = [Scene(colour, shape) for colour in COLOURS for shape in SHAPES]
    first, second = (
        matrix(trained.query_images([jpeg(draw(scene, random, 160, 120)) for scene in pairs]))
        for random in (Random(1), Random(2))
    )
    right = (first @ second.T).argmax(axis=1) == np.arange(len(pairs))
    assert right.mean() >= 0.7


# ---------------------------------------------------------------- limits and errors


@pytest.mark.parametrize("name", ["clip-quick", "siglip"])
def test_a_text_too_long_is_refused_and_never_cut(name: str, made: Make, cache: Path) -> None:
    with opened(made(name)) as embedder:
        assert embedder.tokenizer
        most = embedder.tokenizer.max_tokens
        assert most == 40 - (2 if name == "clip-quick" else 1)
        fits, long = ("the " * most).strip(), ("the " * (most + 1)).strip()
        assert len(embedder.embed(said(fits)) + embedder.query([fits])) == 2
        with pytest.raises(EmbedError, match=rf"chunk 0{{32}} of memory://0 has {most + 1} tokens; .* takes {most}"):
            embedder.embed(said(long))
        with pytest.raises(UsageError, match=rf"the query 'the the .* has {most + 1} tokens; .* takes {most}"):
            embedder.query(["the", long])


def test_an_image_that_cannot_be_decoded_is_told_by_its_chunk(trained: ClipEmbedder) -> None:
    chunks = shown(PICTURES[0], PICTURES[1][:200])
    with pytest.raises(EmbedError, match=r"chunk 0{31}1 of memory://1: the PNG image cannot be decoded"):
        trained.embed(chunks)
    with pytest.raises(EmbedError, match="zero bytes"):
        trained.embed(shown(b""))
    with pytest.raises(ParseError, match="HTML page"):
        trained.query_images([b"<html>"])


def test_pixels_are_limited(cache: Path) -> None:
    with ClipEmbedder(TRAINED, pixels=1000) as embedder:
        embedder.open()
        with pytest.raises(LimitExceeded, match="more than 1,000"):
            embedder.query_images([PICTURES[0]])


def test_nothing_in_nothing_out(trained: ClipEmbedder) -> None:
    assert trained.embed([]) == trained.query([]) == trained.query_images([]) == []


def test_a_tower_is_opened_when_it_is_needed_and_not_before(made: Make, cache: Path) -> None:
    with opened(made("clip-quick")) as embedder:
        assert not (cache / "graphs").exists()
        embedder.query(["a"])
        assert [path.name.split("-")[1] for path in (cache / "graphs").iterdir()] == ["text"]
        embedder.query_images(PICTURES[:1])
        assert sorted(path.name.split("-")[1] for path in (cache / "graphs").iterdir()) == ["text", "vision"]


def test_it_pickles_and_is_closed_twice(trained: ClipEmbedder) -> None:
    copy = pickle.loads(pickle.dumps(trained))
    assert copy.describe() == trained.describe()
    for call in (lambda: copy.query(["a"]), lambda: copy.embed(shown(PICTURES[0])), lambda: copy.embed(said("a"))):
        with pytest.raises(EmbedError, match="not open"):
            call()
    copy.close()
    copy.close()


def test_describing_loads_no_runtime_and_no_pillow(trained: ClipEmbedder) -> None:
    code = (
        f"import sys, penstock.embedders.clip as c; c.ClipEmbedder({str(TRAINED)!r}).describe();"
        "assert not {'onnxruntime', 'tokenizers', 'onnx', 'PIL'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_fingerprint_follows_everything_that_bears_on_a_vector(
    spoilt: Callable[..., Path], made: Make, tmp_path: Path, cache: Path
) -> None:
    first = ClipEmbedder(made("clip-quick")).describe().fingerprint
    assert ClipEmbedder(spoilt()).describe().fingerprint == first, "wherever it lies"
    cases = [
        ("preprocessor_config.json", {"resample": 2}),
        ("preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3]}),
        ("config.json", {"text_config__hidden_act": "gelu"}),
        ("config.json", {"vision_config__layer_norm_eps": 1e-3}),
        ("tokenizer.json", {"version": "1.1"}),
    ]
    seen = {first}
    for file, changes in cases:
        folder = spoilt("clip-quick", file, **changes)
        seen.add(ClipEmbedder(folder).describe().fingerprint)
        shutil.rmtree(folder)
    folder = spoilt()
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    seen.add(ClipEmbedder(folder).describe().fingerprint)
    assert len(seen) == len(cases) + 2


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("clip-quick", "config.json", {"model_type": "bert"}, "its type is bert, none of clip, siglip"),
        ("clip-quick", "config.json", {"text_config__hidden_size": "many"}, "makes no sense"),
        ("clip-quick", "config.json", {"vision_config__image_size": 64}, "takes images of 64 x 64 pixels and prepares"),
        ("clip-quick", "config.json", {"vision_config__patch_size": 4}, "17 positions for 8 x 8 patches"),
        ("clip-quick", "config.json", {"vision_config__num_hidden_layers": 3}, "lacks the weight"),
        ("clip-quick", "config.json", {"vision_config__hidden_act": "swish"}, "does not know the activation swish"),
        ("clip-quick", "config.json", {"projection_dim": 99}, "makes 24 dimensions, not 99"),
        ("clip-quick", "config.json", {"text_config__eos_token_id": 7}, "pools texts at token 7, which its tokenizer"),
        ("siglip", "config.json", {"vision_config__vision_use_head": False}, "has no pooling head"),
        ("clip-quick", "preprocessor_config.json", {"do_pad": True}, "prepares images by do_pad"),
        ("clip-quick", "preprocessor_config.json", {"size": {"longest_edge": 32}}, "resizes images to"),
        ("clip-quick", "preprocessor_config.json", {"image_mean": [0.5]}, "makes no sense"),
        ("clip-quick", "preprocessor_config.json", {"do_center_crop": False}, "and prepares None"),
    ],
)
def test_a_checkpoint_that_cannot_be_run_says_why(
    name: str, file: str, changes: dict[str, Any], message: str, spoilt: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=message):
        opened(spoilt(name, file, **changes)).query_images(PICTURES[:1])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "there is no model at"),
        ("preprocessor_config.json", "no preprocessor_config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("model.safetensors", "holds neither of model"),
    ],
)
def test_a_file_that_is_missing_is_named(file: str, message: str, spoilt: Callable[..., Path]) -> None:
    folder = spoilt()
    (folder / file).unlink()
    with pytest.raises(ModelError, match=message):
        ClipEmbedder(folder).describe()


def test_a_folder_without_weights_says_so(spoilt: Callable[..., Path]) -> None:
    folder = spoilt()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds neither of model"):
        ClipEmbedder(folder).describe()


def test_old_configurations_are_right_where_they_say_it_twice(spoilt: Callable[..., Path], made: Make) -> None:
    folder = spoilt("clip-quick", "config.json", text_config_dict={"hidden_act": "gelu", "num_hidden_layers": None})
    tower = clip_checkpoint.load(folder, "a").text
    assert (tower.activation, tower.layers) == ("gelu", 2)


def test_half_precision_weights_are_read(spoilt: Callable[..., Path], made: Make) -> None:
    from safetensors.numpy import load_file, save_file

    folder = spoilt()
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in weights.items()}, folder / "model.safetensors")
    with opened(folder) as half, opened(made("clip-quick")) as full:
        assert cosines(matrix(half.query_images(PICTURES)), matrix(full.query_images(PICTURES))).min() > 0.9999


@pytest.mark.peers
def test_live_comparison_with_transformers(trained: ClipEmbedder, scripts: None, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from make_clip_reference import vectors
    from make_shapes import draw, jpeg, scenes

    random, paths = Random(3), []
    for number, scene in zip(range(32), scenes(random), strict=False):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(jpeg(draw(scene, random, random.randint(40, 700), random.randint(40, 700))))
    texts = [scene.caption for _, scene in zip(range(32), scenes(random), strict=False)]
    live = vectors(TRAINED, paths, texts)
    assert cosines(matrix(trained.query_images([path.read_bytes() for path in paths])), live["images"]).min() >= 0.999
    assert cosines(matrix(trained.query(texts)), live["texts"]).min() >= 0.9999


def test_options_of_a_name_are_refused_for_models_of_images(made: Make) -> None:
    with pytest.raises(UsageError, match="is a model of images, which takes revision, not dim"):
        from_name(f"{made('clip-quick')}?dim=8")
