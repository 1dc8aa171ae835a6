"""Fetches images by url, where the settings allow it."""

from __future__ import annotations

import io

from penstock.core.errors import LimitExceeded, ParseError, SourceError
from penstock.server.problems import Problem, bad_request
from penstock.server.settings import Settings
from penstock.support.addresses import public
from penstock.support.fetching import Fetcher, Judge, NotPublic

MAX_SECONDS = 8.0


class ImageFetcher:
    """Only from public addresses, unless `judge` allows others."""

    def __init__(self, settings: Settings, judge: Judge = public) -> None:
        self._allowed = settings.fetch_urls
        self._fetch = Fetcher(
            most=settings.body, seconds=min(MAX_SECONDS, settings.seconds), judge=judge, accept="image/*"
        )

    def __call__(self, url: str) -> bytes:
        """Fetch the bytes at the url. Raises Problem. Blocks: for threads."""
        if not self._allowed:
            raise Problem(403, "forbidden", "image_url: this server does not fetch urls; send the image itself")
        content = io.BytesIO()
        try:
            self._fetch(url, content)
        except NotPublic as error:
            raise Problem(403, "forbidden", f"image_url: {error}") from None
        except LimitExceeded as error:
            raise Problem(413, "too_large", f"image_url: {error}") from None
        except TimeoutError as error:
            raise Problem(504, "timeout", f"image_url: {error}") from None
        except (ParseError, SourceError) as error:
            raise bad_request(f"image_url: {error}") from None
        return content.getvalue()
