"""Tests of `milvus://`, and values that they share."""

from __future__ import annotations

import pytest

from penstock.core.schema import Manifest
from penstock.testing.sink_suite import SinkSuite, respec

KEY = "root:a-secret-42"
MANIFEST = SinkSuite().manifest
SPARSE = Manifest(respec(MANIFEST.schema, kind="Sparse", metric="dot"))


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The error's text: one line without the key."""
    line = str(error.value)
    assert "\n" not in line
    assert KEY not in line
    return line
