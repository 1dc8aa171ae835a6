"""Draws shapes in colours, with captions: what the small CLIP of the tests is taught, and searched for. Needs Pillow.

`make_shapes.py FOLDER [COUNT]` writes JPEGs and `captions.jsonl`.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 30, 35),
    "green": (35, 150, 60),
    "blue": (35, 70, 205),
    "yellow": (245, 215, 40),
    "orange": (245, 130, 25),
    "purple": (130, 45, 165),
    "black": (15, 15, 18),
    "white": (248, 248, 246),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
NUMBERS = {1: "a", 2: "two", 3: "three"}
SIZES = ("small", "", "large")
DETAIL = 3
"""Shapes are drawn so many times larger and shrunk: Pillow's own edges are jagged."""

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What is in a picture: so many shapes of one kind and colour."""

    colour: str
    shape: str
    count: int = 1
    size: str = ""

    @property
    def caption(self) -> str:
        plural = "" if self.count == 1 else "es" if self.shape == "cross" else "s"
        words = (NUMBERS[self.count], self.size, self.colour, self.shape + plural)
        return " ".join(word for word in words if word).replace("a orange", "an orange")

    @property
    def prompt(self) -> str:
        """Colour and shape alone: what one would search for."""
        return Scene(self.colour, self.shape).caption


def scenes(random: Random) -> Iterator[Scene]:
    """For ever, every colour and shape equally often."""
    while True:
        pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
        random.shuffle(pairs)
        for colour, shape in pairs:
            yield Scene(colour, shape, random.choice((1, 1, 1, 2, 3)), random.choice(SIZES))


def draw(scene: Scene, random: Random, width: int, height: int) -> Image.Image:
    """The scene somewhere in the middle square of a picture, on a background of another colour."""
    w, h = width * DETAIL, height * DETAIL
    image = _background(scene, random, w, h)
    canvas = ImageDraw.Draw(image)
    edge = min(w, h)
    left, top = (w - edge) / 2, (h - edge) / 2
    near, far = {"small": (0.17, 0.19), "": (0.22, 0.24), "large": (0.28, 0.32)}[scene.size]
    radius = edge * random.uniform(near, far) * (1 if scene.count == 1 else 0.66 if scene.count == 2 else 0.62)
    colour = _near(COLOURS[scene.colour], random, 14)
    for x, y in _centres(scene.count, edge, random):
        _shape(canvas, scene.shape, left + x, top + y, radius, colour, random)
    return image.resize((width, height), Image.Resampling.BOX)


def jpeg(image: Image.Image, quality: int = 88) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _near(colour: RGB, random: Random, by: int) -> RGB:
    red, green, blue = (min(255, max(0, value + random.randint(-by, by))) for value in colour)
    return red, green, blue


def _background(scene: Scene, random: Random, width: int, height: int) -> Image.Image:
    # Pale, or deep behind pale shapes: every shape is to be seen.
    grey = random.randint(25, 75) if scene.colour in ("white", "yellow") else random.randint(165, 230)
    one = _near((grey, grey, grey), random, 25)
    if random.random() < 0.5:
        return Image.new("RGB", (width, height), one)
    # A gradient between near colours: no two backgrounds are alike, and none hides the shape.
    ramp = Image.linear_gradient("L").rotate(random.choice((0, 90, 180, 270))).resize((width, height))
    return Image.composite(Image.new("RGB", ramp.size, one), Image.new("RGB", ramp.size, _near(one, random, 20)), ramp)


def _centres(count: int, edge: float, random: Random) -> list[tuple[float, float]]:
    """Centres that lie apart: about the middle, side by side, or in a triangle that stands on either end."""
    if count == 1:
        near, anchors = 0.12, [(0.5, 0.5)]
    elif count == 2:
        near, anchors = 0.05, random.choice(([(0.27, 0.5), (0.73, 0.5)], [(0.5, 0.27), (0.5, 0.73)]))
    else:
        low = random.choice((0.28, 0.72))
        near, anchors = 0.04, [(0.27, low), (0.73, low), (0.5, 1 - low)]
    return [(edge * (x + random.uniform(-near, near)), edge * (y + random.uniform(-near, near))) for x, y in anchors]


def _shape(
    canvas: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, colour: RGB, random: Random
) -> None:
    def corners(angles: int, *radii: float) -> list[tuple[float, float]]:
        points = []
        for i in range(angles):
            far, angle = radii[i % len(radii)], turn + 2 * math.pi * i / angles
            points.append((x + far * math.sin(angle), y - far * math.cos(angle)))
        return points

    turn = random.uniform(-0.2, 0.2)
    if shape == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "ring":
        box = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(box, outline=colour, width=max(1, round(radius * random.uniform(0.28, 0.4))))
    elif shape == "triangle":
        canvas.polygon(corners(3, radius * 1.15), fill=colour)
    elif shape == "star":
        canvas.polygon(corners(10, radius * 1.15, radius * 0.48), fill=colour)
    elif shape == "square":
        turn += math.pi / 4
        canvas.polygon(corners(4, radius * 1.15), fill=colour)
    else:
        arm = radius * 0.3
        for across in (0.0, math.pi / 2):
            cos, sin = math.cos(turn + across), math.sin(turn + across)
            bar = [(-arm, -radius), (arm, -radius), (arm, radius), (-arm, radius)]
            canvas.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in bar], fill=colour)


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    folder.mkdir(parents=True, exist_ok=True)
    random = Random(1)
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as captions:
        for number, scene in zip(range(count), scenes(random), strict=False):
            name = f"{number:05}.jpg"
            (folder / name).write_bytes(jpeg(draw(scene, random, 320, 240)))
            captions.write(json.dumps({"file": name, "caption": scene.caption}) + "\n")
    print(f"{count} pictures in {folder}")


if __name__ == "__main__":
    main()
