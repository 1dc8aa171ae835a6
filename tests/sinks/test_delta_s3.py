"""`delta+s3://` keeps the promises of a sink, in an emulated bucket."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from penstock.core.errors import SinkError, Transient
from penstock.sinks.delta import DeltaSink
from penstock.testing.sink_suite import MakeSink, SinkSuite, holds, point
from tests.s3 import moto

MANIFEST = SinkSuite().manifest
pytest.importorskip("deltalake")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    variables = {"ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "very-secret-key", "REGION": "us-east-1"}
    for name, value in {**variables, "ENDPOINT_URL": server, "ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=server)
    name = f"lake-{time.monotonic_ns()}"
    client.create_bucket(Bucket=name)
    return name


def test_s3(bucket: str) -> None:
    """Written, overwritten, deleted, maintained, read back and dropped, beside another one."""
    with DeltaSink(f"delta+s3://{bucket}/lake/chunks") as sink, sink.generation(1) as beside:
        assert sink.manifest() is None
        sink.open(MANIFEST)
        assert DeltaSink(sink.url).manifest() == MANIFEST
        sink.write([point(n) for n in range(20)])
        sink.flush()
        sink.write([point(n, version=1) for n in range(5)])
        sink.delete([point(19).id])
        holds(sink, [*(point(n, version=1) for n in range(5)), *(point(n) for n in range(5, 19))])
        sink.maintain()
        beside.open(MANIFEST)
        holds(beside, [])
        beside.drop()
        assert beside.manifest() is None
        holds(sink, [*(point(n, version=1) for n in range(5)), *(point(n) for n in range(5, 19))])
        sink.drop()
        assert sink.manifest() is None


class TestDeltaS3(SinkSuite):
    """Two at once, where a commit is a conditional put."""

    @pytest.fixture
    def make_sink(self, bucket: str) -> MakeSink:
        return lambda: DeltaSink(f"delta+s3://{bucket}/chunks")


for _name in [n for n in dir(SinkSuite) if n.startswith("test_")]:
    if _name not in (
        "test_two_write_at_once",
        "test_the_manifest_is_kept",
        "test_deletions",
        "test_named_vectors_come_back",
    ):
        setattr(TestDeltaS3, _name, None)


def test_a_store_that_is_away_is_transient(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told in seconds, without a key; a bucket that does not exist is an error for good."""
    with pytest.raises(SinkError) as raised:
        DeltaSink(f"delta+s3://no-{bucket}/chunks").open(MANIFEST)
    assert not isinstance(raised.value, Transient)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(Transient) as raised:
        DeltaSink(f"delta+s3://{bucket}/chunks").manifest()
    assert time.monotonic() - began < 20
    assert "very-secret-key" not in str(raised.value)
