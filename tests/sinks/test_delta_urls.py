"""Urls of `delta://` that are refused before anything is imported."""

from __future__ import annotations

import pytest

from penstock.core.errors import UsageError
from penstock.sinks.delta import DeltaSink


@pytest.mark.parametrize(
    "url",
    [
        "delta://",
        "delta:///srv/a%20b",
        "delta:///srv/a[1]",
        "delta://x\0y",
        "delta://x?no=option",
        "delta+s3://bucket",
        "delta+ftp://host/path",
        "delta+s3://key:secret@bucket/path",
    ],
)
def test_invalid_urls(url: str) -> None:
    """They are refused before anything is touched, and without a secret in the message."""
    with pytest.raises(UsageError) as raised:
        DeltaSink(url)
    assert "secret" not in str(raised.value)
