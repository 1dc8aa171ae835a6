"""Media types of requests' bodies."""

from __future__ import annotations

from starlette.requests import Request

from penstock.server.problems import Problem

JSON = "application/json"


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, *, untyped: bool = False) -> bytearray:
    """The body, which has to be JSON by its type: pages of other origins cannot send that unasked. Raises Problem.

    `untyped`: it may have no type, as clip-retrieval's client sends it.
    """
    if (kind := media_type(request)) != JSON and not (untyped and not kind):
        raise Problem(415, "unsupported_type", f"unsupported Content-Type {kind[:100] or '(none)'}: expected {JSON}")
    content = bytearray()  # grows in place; to join all pieces would take as much memory again, and the loop's time
    async for piece in request.stream():
        content += piece
    return content
