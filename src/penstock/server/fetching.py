"""Images by url, for who lets the server fetch them."""

from __future__ import annotations

import io

from penstock.core.errors import LimitExceeded, ParseError, SourceError
from penstock.server.problems import Problem
from penstock.server.settings import Settings
from penstock.support import fetching
from penstock.support.fetching import Judge, NotPublic, public

SECONDS = 8.0


class Fetcher:
    def __init__(self, settings: Settings, judge: Judge = public) -> None:
        self._allowed = settings.fetch_urls
        self._fetch = fetching.Fetcher(
            most=settings.body, seconds=min(SECONDS, settings.seconds), judge=judge, accept="image/*"
        )

    def __call__(self, url: str) -> bytes:
        """The bytes at the url. Raises Problem. Blocks: for threads."""
        if not self._allowed:
            raise Problem(403, "forbidden", "image_url: this server fetches nothing; send the image itself")
        into = io.BytesIO()
        try:
            self._fetch(url, into)
        except NotPublic as error:
            raise Problem(403, "forbidden", f"image_url: {error}") from None
        except LimitExceeded as error:
            raise Problem(413, "too_large", f"image_url: {error}") from None
        except TimeoutError as error:
            raise Problem(504, "timeout", f"image_url: {error}") from None
        except (ParseError, SourceError) as error:
            raise Problem(400, "bad_request", f"image_url: {error}") from None
        return into.getvalue()
