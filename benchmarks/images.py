"""Images a second: decoding alone, the model alone, the embedder that does both, and a loop by hand with transformers.

    python benchmarks/images.py --peers-python PYTHON_WITH_TRANSFORMERS
    python benchmarks/images.py --model vit-b-32 --images 100 --size 640x480 1600x1200 --peers-python ...
    python benchmarks/images.py --model vit-b-32 --int8 ...

All on the same drawn JPEGs and as many threads as there are cores, one after the other in every round; a row is the
median of its rounds. Without `--peers-python` the loop by hand is left out. The model is the small one of the tests, a
checkpoint's folder, or `vit-b-32`: random weights of that architecture.
Bar: 0.9 of the slower of decoding and model, and twice the loop by hand.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
from figures import record
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from make_clip_checkpoints import LARGE, make  # noqa: E402
from make_shapes import draw, jpeg, scenes  # noqa: E402

MODEL = ROOT / "tests" / "data" / "shapes-clip"
BATCH = 32
BAR_EMBEDDER, BAR_BY_HAND = 0.9, 2.0
BY_HAND = """
import sys, time
from pathlib import Path
import torch
from PIL import Image
from transformers import AutoModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
model = AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
siglip = model.config.model_type == "siglip"
prepare = (SiglipImageProcessorPil if siglip else CLIPImageProcessorPil).from_pretrained(sys.argv[1])
paths = sorted(Path(sys.argv[2]).glob("*.jpg"))
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    with torch.inference_mode():
        for i in range(0, len(paths), 32):
            shown = [Image.open(path) for path in paths[i : i + 32]]
            model.get_image_features(pixel_values=prepare(images=shown, return_tensors="pt")["pixel_values"])
    print(time.perf_counter() - start, flush=True)
"""


def drawn(count: int, width: int, height: int) -> list[bytes]:
    """Draw JPEGs of shapes, with a photograph's grain."""
    chance, jpegs = Random(1), []
    for number, scene in zip(range(count), scenes(chance), strict=False):
        grain = np.random.RandomState(number).randint(-12, 13, (height, width, 3), np.int16)
        pixels = np.asarray(draw(scene, chance, width, height), np.int16) + grain
        jpegs.append(jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))))
    return jpegs


def spread(work: Callable[[Sequence[bytes]], object], images: Sequence[bytes], threads: int) -> float:
    """Seconds for all images, in batches, on this many threads."""
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(work, parts):
            pass
        return time.perf_counter() - start


@contextmanager
def by_hand(python: str, model: str, images: Sequence[bytes]) -> Iterator[Callable[[], float]]:
    """Start a process of its own; the yielded function makes it go through all images once and returns its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            (Path(folder) / f"{number:05}.jpg").write_bytes(image)
        command = [python, "-c", BY_HAND, model, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin
            assert child.stdout
            if child.stdout.readline() != "ready\n":
                raise SystemExit(f"the loop by hand did not start in {python}: its error is above")

            def run() -> float:
                print(file=child.stdin, flush=True)
                return float(child.stdout.readline())

            yield run
            child.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--int8", action="store_true", help="as `int8:` before the model's name")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", nargs="+", default=["640x480"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers-python", help="a Python that has torch, transformers and Pillow")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        name = Path(options.model).name + (" int8" if options.int8 else "")
        if options.model in LARGE:
            os.environ["PENSTOCK_CACHE"] = folder  # what is made of it goes with it
            options.model = str(make(options.model, Path(folder)))
        for size in options.size:
            print(f"{size}, {options.images} images")
            measure(options, name, *map(int, size.split("x")))


def measure(options: argparse.Namespace, name: str, width: int, height: int) -> None:
    from penstock.core.records import Chunk
    from penstock.embedders.clip import AT_ONCE, ClipEmbedder

    name += f" {width}x{height}"
    images = drawn(options.images, width, height)
    embedder = ClipEmbedder(options.model, exact=not options.int8)
    embedder.open()
    embedder.query_images(images[:1])
    assert embedder.checkpoint
    assert embedder._towers
    prepared, towers = embedder.checkpoint.preprocessing, embedder._towers
    ready = np.stack([prepared.pixels(image) for image in images[:AT_ONCE]])

    def decode(part: Sequence[bytes]) -> None:
        for image in part:
            prepared.pixels(image)

    def model(part: Sequence[bytes]) -> None:
        for start in range(0, len(part), AT_ONCE):
            towers.vision(ready[: len(part[start : start + AT_ONCE])])

    def embed(part: Sequence[bytes]) -> None:
        embedder.embed([Chunk(f"{i:032}", "memory://i", i, "", (0, 0), image=image) for i, image in enumerate(part)])

    if options.int8:
        with ClipEmbedder(options.model) as exact:
            exact.open()
            vectors = [np.stack([one.values for one in by.query_images(images[:32])]) for by in (exact, embedder)]
        near = (vectors[0] * vectors[1]).sum(axis=1)
        print(f"  cosine with exact vectors: {np.median(near):.4f}, at least {near.min():.4f}")
        record(f"{name}: cosine with exact vectors", np.median(near))

    ways: dict[str, Callable[[], float]] = {
        "decode and resize": lambda: spread(decode, images, options.threads),
        "model": lambda: spread(model, images, options.threads),
        "embedder": lambda: spread(embed, images, options.threads),
    }
    if options.peers_python:
        with by_hand(options.peers_python, options.model, images) as hand:
            rounds(name, ways | {"transformers by hand": hand}, options.images, options.rounds)
    else:
        rounds(name, ways, options.images, options.rounds)


def rounds(model_name: str, ways: dict[str, Callable[[], float]], count: int, times: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, way in ways.items():
            seconds[name].append(way())
    rates = {name: count / statistics.median(taken) for name, taken in seconds.items()}
    for name, rate in rates.items():
        record(f"{model_name}: {name}", rate, "images/s")
        print(f"{name:<22} {rate:8.1f} images/s   rounds {', '.join(f'{count / s:.1f}' for s in seconds[name])}")
    decode, model, both = rates["decode and resize"], rates["model"], rates["embedder"]
    print(f"embedder / slower of the two      {both / min(decode, model):6.2f}")
    record(f"{model_name}: embedder / slower of the two", both / min(decode, model), bar=BAR_EMBEDDER)
    print(f"embedder / both in turn           {both / (1 / (1 / decode + 1 / model)):6.2f}")
    if "transformers by hand" in rates:
        ratio = both / rates["transformers by hand"]
        print(f"embedder / transformers by hand   {ratio:6.2f}")
        record(f"{model_name}: embedder / transformers by hand", ratio, bar=BAR_BY_HAND)


if __name__ == "__main__":
    main()
