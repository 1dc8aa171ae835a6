"""Precisions of token vectors: what an array of each stands for, and how schemas keep them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.core import precision
from penstock.core.errors import SinkError, UsageError
from penstock.core.precision import PRECISIONS
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import manifests

DIM = 128


def units(rows: int) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((rows, DIM), np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


@pytest.mark.parametrize(("name", "least"), [("fp32", 1), ("fp16", 0.999999), ("int8", 0.999), ("bits", 0.75)])
def test_encoded_vectors_stand_for_nearly_the_same(name: str, least: float) -> None:
    values = units(50)
    encoded = precision.encoded(values, name)
    assert encoded.nbytes == values.nbytes * PRECISIONS[name] // 32
    assert encoded.dtype == precision.DTYPES[name]
    again = precision.floats(encoded)
    assert again.dtype == np.float32
    assert np.linalg.norm(again, axis=1) == pytest.approx(1, abs=0.02)
    assert (np.einsum("ij,ij->i", again, values) / np.linalg.norm(again, axis=1)).min() >= least - 1e-6
    kept = precision.from_bytes(precision.to_bytes(encoded), name, DIM)
    assert kept.dtype == encoded.dtype
    np.testing.assert_array_equal(kept, encoded)
    assert precision.encoded(values[:0], name).shape == (0, precision.columns(name, DIM))
    assert precision.floats(encoded[:0]).shape == (0, DIM)


def test_int8_and_bits_are_what_they_are_said_to_be() -> None:
    """127 times the numbers, rounded; a bit for each that is positive, the first one the highest."""
    values = np.array([[1, -1, 0.5, 0, -0.004, 0.004, 0.002, -0.5]], np.float32)
    assert precision.encoded(values, "int8").tolist() == [[127, -127, 64, 0, -1, 1, 0, -64]]
    assert precision.encoded(values, "bits").tolist() == [[0b10100110]]


def test_what_cannot_be_kept_so_is_refused() -> None:
    precision.check("bits", 128, "m", unit=True)
    precision.check("fp16", 100, "m", unit=False)
    with pytest.raises(UsageError, match=r"'int4': expected one of fp32, fp16, int8, bits"):
        precision.known("int4")
    with pytest.raises(UsageError, match="100 dimensions, which 8 does not divide"):
        precision.check("bits", 100, "m", unit=True)
    with pytest.raises(UsageError, match="any length"):
        precision.check("int8", 128, "m", unit=False)


def test_a_manifest_keeps_the_precision() -> None:
    """One without it is written as before, for earlier versions; what they do not know they refuse as newer."""
    spec = VectorSpec("m", DIM, "f" * 32, kind="MultiVector")
    plain, precise = Manifest(single(spec)), Manifest(single(replace(spec, precision="int8")))
    assert not plain.schema.same_space(precise.schema)
    for manifest in (plain, precise):
        assert manifests.from_json(manifests.to_json(manifest), "x://") == manifest
    assert '"penstock": 2' in manifests.to_json(plain)
    assert "precision" not in manifests.to_json(plain)
    assert '"penstock": 3' in manifests.to_json(precise)
    earlier = manifests.to_json(plain).replace('"dim"', '"dtype": "float32", "dim"')
    assert manifests.from_json(earlier, "x://") == plain
    with pytest.raises(SinkError, match="invalid precision"):
        manifests.from_json(manifests.to_json(precise).replace("int8", "int4"), "x://")
