"""Headers that every response has, errors and refused connections included."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders

THUMBS = "/v1/thumbs/"

SECURITY: Mapping[str, str] = {
    # What is no page loads nothing and is in no frame; the page has a policy of its own.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(
        f"{name}=()"
        for name in ("camera", "display-capture", "geolocation", "microphone", "midi", "payment", "serial", "usb")
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""What a response has of these itself stays as it is."""
HSTS = "max-age=31536000"
"""A year of https only, once a browser has seen it. Subdomains are not this server's to decide about."""


def secure(headers: MutableHeaders, path: str, *, https: bool, foreign_pages: bool) -> None:
    """Add what is missing. `foreign_pages`: pages of other origins are let in, whose <img> may show thumbnails."""
    if foreign_pages and path.startswith(THUMBS):
        headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin")
    for name, value in SECURITY.items():
        headers.setdefault(name, value)
    if https:
        headers.setdefault("Strict-Transport-Security", HSTS)
