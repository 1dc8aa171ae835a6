"""The page for people: static files, read once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from penstock.server.problems import not_found

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""blob: and data: are for pictures that people drop, and thumbnails fetched with a key."""


class PageFiles:
    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        self._files = {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in paths if path.suffix in TYPES}
        self.paths = frozenset(f"/{name}" for name in self._files)

    async def file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            raise not_found("no such page or route")
        content, media_type = self._files[name]
        etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if not_modified(request, etag):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)


def not_modified(request: Request, etag: str) -> bool:
    """Whether the client has this version already."""
    header = request.headers.get("if-none-match", "")
    return header.strip() == "*" or etag in [one.strip().removeprefix("W/") for one in header.split(",")]
