"""Thumbnails of indexed images beneath the roots, and of nothing else on the machine."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from penstock.core.errors import UsageError
from penstock.server.settings import Settings
from penstock.sinks.memory import forget
from tests.server.serving import COLOURS, Client, chunk, fill, picture, refused, served, with_settings

URL = "memory://serve-thumbs"


def near(content: bytes, at: tuple[int, int], colour: str) -> bool:
    pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel(at)
    assert isinstance(pixel, tuple)
    return all(abs(a - b) < 30 for a, b in zip(pixel, COLOURS[colour], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with pictures, and private files beside it."""
    base = tmp_path_factory.mktemp("thumbs")
    root, outside = base / "root", base / "outside"
    for path in (root / "deep", outside, base / "root-not"):
        path.mkdir(parents=True)
    for path in (root / "a.png", root / "deep" / "b ü#?.png", outside / "secret.png", base / "root-not" / "c.png"):
        path.write_bytes(picture("red", size=(600, 300)))
    (root / "secret.txt").write_bytes(picture("red"))
    (root / "no-ending").write_bytes(picture("blue"))
    (root / "broken.png").write_bytes(picture("red")[:60])
    (root / "page.jpg").write_text("<html>")
    (root / "link-inside.png").symlink_to(root / "a.png")
    (root / "link-outside.png").symlink_to(outside / "secret.png")
    (root / "linked").symlink_to(outside)
    for path in (root / "in.zip", outside / "out.zip"):
        with ZipFile(path, "w") as packed:
            packed.writestr("deep/a ü.png", picture("green", size=(600, 300)))
            packed.writestr("a.txt", picture("red"))
            packed.writestr("broken.png", picture("red")[:60])
    (root / "linked.zip").symlink_to(outside / "out.zip")
    (root / "linked-inside.zip").symlink_to(root / "in.zip")
    (root / "torn.tar").write_bytes(b"torn")
    (root / "nozip").write_bytes((root / "in.zip").read_bytes())
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.zip")
    (root / "folder.png").mkdir()
    turned = Image.new("RGB", (40, 20), COLOURS["red"])
    turned.paste(COLOURS["blue"], (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned.save(root / "turned.jpg", exif=exif, quality=95)
    return base


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    root = folder / "root"
    uris = {
        1: (root / "a.png").as_uri(),
        2: (root / "deep" / "b ü#?.png").as_uri(),
        3: (folder / "outside" / "secret.png").as_uri(),
        4: (root / "link-inside.png").as_uri(),
        5: (root / "link-outside.png").as_uri(),
        6: (root / "linked" / "secret.png").as_uri(),
        7: f"file://{root}/../outside/secret.png",
        8: f"file://{root}/%2e%2e/outside/secret.png",
        9: (root / "secret.txt").as_uri(),
        10: (root / "pipe.png").as_uri(),
        11: (root / "folder.png").as_uri(),
        12: (root / "gone.png").as_uri(),
        13: (folder / "root-not" / "c.png").as_uri(),
        14: f"file://evil.example{root}/a.png",
        15: f"file://{root}/a.png%00.png",
        16: f"https://example.org{root}/a.png",
        17: (root / "broken.png").as_uri(),
        18: (root / "page.jpg").as_uri(),
        19: (root / "turned.jpg").as_uri(),
        20: f"{(root / 'a.png').as_uri()}#page=2",
        21: "file:a.png",
        22: f"{root}/a.png",
        23: "file://[",
        26: f"{(root / 'in.zip').as_uri()}/deep/a%20%C3%BC.png",
        27: f"{(root / 'linked-inside.zip').as_uri()}/deep/a%20%C3%BC.png",
        28: f"{(root / 'in.zip').as_uri()}/broken.png",
        30: f"{(root / 'in.zip').as_uri()}/none.png",
        31: f"{(root / 'in.zip').as_uri()}/a.txt",
        32: f"{(root / 'linked.zip').as_uri()}/deep/a%20%C3%BC.png",
        33: f"{(folder / 'outside' / 'out.zip').as_uri()}/deep/a%20%C3%BC.png",
        34: f"{(root / 'in.zip').as_uri()}/../../outside/out.zip/deep/a%20%C3%BC.png",
        35: f"{(root / 'pipe.zip').as_uri()}/deep/a%20%C3%BC.png",
        36: f"{(root / 'torn.tar').as_uri()}/deep/a%20%C3%BC.png",
        37: f"{(root / 'nozip').as_uri()}/deep/a%20%C3%BC.png",
        38: f"{(root / 'a.png').as_uri()}/deep/a%20%C3%BC.png",
        39: f"{(root / 'in.zip').as_uri()}/deep/a%20%C3%BC.png/b.png",
    }
    chunks = [chunk(number, f"words {number}", uri=uri) for number, uri in uris.items()]
    chunks.append(chunk(24, image=b"", uri=(root / "no-ending").as_uri()))
    chunks.append(chunk(25, image=b"", uri=(folder / "outside" / "secret.png").as_uri()))
    chunks.append(chunk(50, image=picture("green", size=(800, 400)), uri="zip:one"))
    fill(URL, chunks)
    with served(URL, with_settings(roots=(root,), pixels=1_000_000)) as client:
        yield client
    forget(URL)


def thumb(client: Client, number: int, **params: str) -> str:
    return str(client.build_request("GET", f"/v1/thumbs/{number:032x}", params=params).url)


@pytest.mark.parametrize("size", [128, 256, 512])
def test_sizes(client: Client, size: int) -> None:
    """JPEG, no side longer than requested, never larger than the original."""
    answer = client.get(thumb(client, 1, size=str(size)))
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (size, size // 2)
    assert near(answer.content, (5, 5), "red")
    kept = client.get(thumb(client, 50, size=str(size)))
    assert near(kept.content, (5, 5), "green")


def test_caching(client: Client) -> None:
    """304 for clients that have it; another size has another ETag."""
    first = client.get(thumb(client, 2))
    assert first.status_code == 200
    assert "max-age" in first.headers["cache-control"]
    etag = first.headers["etag"]
    again = client.get(thumb(client, 2), headers={"If-None-Match": f'"x", W/{etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = client.get(thumb(client, 2, size="128"), headers={"If-None-Match": etag})
    assert other.status_code == 200
    assert other.headers["etag"] != etag


def test_a_changed_file_is_another_picture(client: Client, folder: Path) -> None:
    path = folder / "root" / "deep" / "b ü#?.png"
    etag = client.get(thumb(client, 2)).headers["etag"]
    before = path.read_bytes()
    path.write_bytes(picture("blue"))
    try:
        assert near(client.get(thumb(client, 2), headers={"If-None-Match": etag}).content, (5, 5), "blue")
    finally:
        path.write_bytes(before)


def test_upright(client: Client) -> None:
    """As its EXIF data say, which the thumbnail does not contain."""
    content = client.get(thumb(client, 19, size="128")).content
    assert Image.open(io.BytesIO(content)).size == (20, 40)
    assert near(content, (10, 5), "blue")
    assert near(content, (10, 35), "red")
    assert not Image.open(io.BytesIO(content)).getexif()


def test_a_picture_of_any_name(client: Client) -> None:
    """The index marks it as one, with an image of no bytes."""
    assert near(client.get(thumb(client, 24)).content, (5, 5), "blue")


def test_a_link_within_the_root_is_followed(client: Client) -> None:
    assert client.get(thumb(client, 4)).status_code == 200


def test_a_member_of_an_archive(client: Client, folder: Path) -> None:
    """It is shown as a file would be; when the archive changes, so does the picture."""
    answer = client.get(thumb(client, 26))
    assert near(answer.content, (5, 5), "green")
    assert client.get(thumb(client, 27)).status_code == 200
    refused(client.get(thumb(client, 28)), 400)
    path = folder / "root" / "in.zip"
    before = path.read_bytes()
    try:
        with ZipFile(path, "w") as packed:
            packed.writestr("else", "")
            packed.writestr("deep/a ü.png", picture("blue"))
        again = client.get(thumb(client, 26), headers={"If-None-Match": answer.headers["etag"]})
        assert near(again.content, (5, 5), "blue")
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("number", [3, *range(5, 17), *range(20, 24), 25, *range(30, 40)])
def test_nothing_else_is_shown(client: Client, number: int) -> None:
    """One error for all of them, which does not reveal which files exist."""
    answer = client.get(thumb(client, number))
    refused(answer, 404, "no picture")
    assert answer.json()["error"]["message"] == f"there is no picture of {number:032x}"


@pytest.mark.parametrize("id", ["none", "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%00", "x" * 500])
def test_only_what_is_indexed(client: Client, id: str) -> None:
    refused(client.get(f"/v1/thumbs/{id}"), 404)


def test_undecodable_images(client: Client) -> None:
    refused(client.get(thumb(client, 17)), 400)
    refused(client.get(thumb(client, 18)), 415, "HTML")
    for size in ("0", "1000", "²", "-1", "a"):
        refused(client.get(thumb(client, 1, size=size)), 400, "size")


def test_hits_link_to_pictures_that_may_be_shown(client: Client) -> None:
    """Symbolic links are resolved when the picture is requested."""
    hits = client.get("/v1/search", params={"q": "words", "k": "100"}).json()["hits"]
    linked = {int(hit["id"], 16) for hit in hits if hit["thumb"]}
    assert {1, 2, 4, 19, 50} <= linked
    assert not linked & {3, 7, 8, 9, 13, 14, 15, 16, 20, 21, 22, 23, 25}


def test_a_bomb_is_refused_by_its_header(client: Client, folder: Path) -> None:
    path = folder / "root" / "a.png"
    before = path.read_bytes()
    path.write_bytes(picture("red", size=(4000, 4000)))
    try:
        refused(client.get(thumb(client, 1)), 413, "4,000 x 4,000")
    finally:
        path.write_bytes(before)


def test_without_roots_no_file_is_shown(folder: Path) -> None:
    with served(URL) as client:
        refused(client.get(thumb(client, 1)), 404)
        assert client.get(thumb(client, 50)).status_code == 200
    with pytest.raises(UsageError, match="not a folder"):
        Settings(roots=(folder / "nowhere",))
