"""What an index is made of: its named vectors, how its chunks were cut, and the manifest that is kept with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.precision import FP32, PRECISIONS
from penstock.core.records import NOTHING, VECTOR

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""What a vector may be called, so that every store can have a column or field of that name."""
WORDS = "words"
"""What the full text of an index is called in hybrid searches, among its vectors: so none of them may be."""


def parse_named(texts: Sequence[str]) -> str | dict[str, str]:
    """What `dense=M` and others stand for: models by the names of their vectors, or the model that was given alone."""
    named: dict[str, str] = {}
    for text in texts:
        name, sign, model = text.partition("=")
        if not sign or not NAME.fullmatch(name):
            if len(texts) > 1:
                raise UsageError(f"invalid model {text!r} of several: expected NAME=MODEL, such as late=./colbert")
            return text
        if name in named:
            raise UsageError(f"two models {name!r}: {named[name]!r} and {model!r}")
        named[name] = model
    return named


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """One vector space: what must agree between all vectors of one name in an index and every query put to them."""

    model: str
    """The model's name, for people; two specs that differ in nothing else are the same space."""
    dim: int
    fingerprint: str
    """A hash of everything that bears on a vector: weights, pooling, normalization, prompts, preprocessing."""
    kind: str = "Dense"
    """The class of the vectors: `Dense`, `Sparse` or `MultiVector`."""
    metric: str = "cosine"
    precision: str = FP32
    """How the numbers of a MultiVector are kept: `fp32`, `fp16`, `int8` or `bits`. Other kinds are of fp32."""

    def same_space(self, other: VectorSpec) -> bool:
        return not self.differences(other)

    def differences(self, other: VectorSpec) -> list[str]:
        """The fields in which the two are different spaces."""
        fields = ("fingerprint", "dim", "kind", "metric", "precision")
        return [name for name in fields if getattr(self, name) != getattr(other, name)]

    def __str__(self) -> str:
        kind = self.kind if self.precision == FP32 else f"{self.kind}, {self.precision}"
        return f"{self.model} ({self.dim} dimensions, {kind}, {self.metric}, fingerprint {self.fingerprint[:8]})"


@dataclass(frozen=True, slots=True)
class IndexSchema:
    """The named vectors of an index, and what cut its chunks."""

    vectors: Mapping[str, VectorSpec]
    chunking: str = ""
    """For instance `256 tokens`."""
    filterable: bool = True
    """Whether its points are kept so that every store can filter by their metadata. Those of older indexes are not."""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise UsageError("an index has at least one vector a chunk")
        for name in self.vectors:
            if not NAME.fullmatch(name):
                raise UsageError(
                    f"invalid vector name {name!r}: expected lower-case letters, digits and _, at most 32,"
                    " with a letter first"
                )

    @property
    def only(self) -> VectorSpec:
        """The spec of an index that has one vector a chunk. Raises UsageError where it has several."""
        return self.vectors[self.only_name]

    @property
    def only_name(self) -> str:
        if len(self.vectors) > 1:
            raise UsageError(
                f"the index has several vectors a chunk, {', '.join(self.vectors)}: choose one with using=, on the"
                " command line with --using"
            )
        return next(iter(self.vectors))

    def name(self, using: str | None) -> str:
        """The vector that a search uses: the one it names, or the only one."""
        if using is None:
            return self.only_name
        if using not in self.vectors:
            raise UsageError(f"unknown vector {using!r}: the index has {', '.join(self.vectors)}")
        return using

    def same_space(self, other: IndexSchema) -> bool:
        """Whether one index can hold what both describe."""
        return (
            self.chunking == other.chunking
            and self.vectors.keys() == other.vectors.keys()
            and all(spec.same_space(other.vectors[name]) for name, spec in self.vectors.items())
        )

    def __str__(self) -> str:
        single = self.vectors.keys() == {VECTOR}
        vectors = [str(spec) if single else f"{name}: {spec}" for name, spec in self.vectors.items()]
        return "; ".join([*vectors, *([self.chunking] if self.chunking else [])])


def single(spec: VectorSpec, chunking: str = "") -> IndexSchema:
    """The schema of an index with one vector a chunk, under the name that it has where none is given."""
    return IndexSchema({VECTOR: spec}, chunking)


def new_schema(vectors: Mapping[str, VectorSpec], chunking: str) -> IndexSchema:
    """The schema of an index that is to be filled. One of an earlier version may have a vector named `words`."""
    if WORDS in vectors:
        raise UsageError(
            f"invalid vector name {WORDS!r}: in hybrid searches the index's full text is called that; expected another"
            " name"
        )
    return IndexSchema(vectors, chunking)


def to_dict(schema: IndexSchema) -> dict[str, Any]:
    return {
        "vectors": {name: _kept(spec) for name, spec in schema.vectors.items()},
        "chunking": schema.chunking,
        "filterable": schema.filterable,
    }


def from_dict(kept: Mapping[str, Any]) -> IndexSchema:
    """The schema of `to_dict`. Raises ValueError, KeyError, TypeError or AttributeError for what is none."""
    vectors = {name: _spec(spec) for name, spec in kept["vectors"].items()}
    return _schema(vectors, kept["chunking"], kept.get("filterable", False))


def from_space(kept: Mapping[str, Any]) -> IndexSchema:
    """What format 1 kept: one space, its chunking included. Raises as `from_dict` does."""
    spec = dict(kept)
    chunking = spec.pop("chunking", "")
    return _schema({VECTOR: _spec(spec)}, chunking, filterable=False)


def _schema(vectors: Mapping[str, VectorSpec], chunking: Any, filterable: Any) -> IndexSchema:
    if not isinstance(chunking, str) or not isinstance(filterable, bool):
        raise ValueError("invalid chunking or filterable: expected a text, and true or false")
    try:
        return IndexSchema(vectors, chunking, filterable)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _kept(spec: VectorSpec) -> dict[str, Any]:
    """Without the precision that all vectors of earlier versions had, so that these read it."""
    kept = asdict(spec)
    if spec.precision == FP32:
        del kept["precision"]
    return kept


def _spec(kept: Mapping[str, Any]) -> VectorSpec:
    """Somebody else may have written it: its values have the types that all others rely on."""
    spec = VectorSpec(**{name: value for name, value in kept.items() if name != "dtype"})  # of earlier versions
    if type(spec.dim) is not int or not 0 < spec.dim < 1 << 31:
        raise ValueError("invalid dim of a vector: expected a whole number above 0")
    for name in ("model", "fingerprint", "kind", "metric"):
        if not isinstance(getattr(spec, name), str):
            raise ValueError(f"invalid {name} of a vector: expected a text")
    if spec.precision not in PRECISIONS:
        raise ValueError(f"invalid precision of a vector: expected one of {', '.join(PRECISIONS)}")
    return spec


@dataclass(frozen=True, slots=True)
class Manifest:
    """Kept with the index: its schema, which ledgers fill it, and which of its generations is the current one."""

    schema: IndexSchema
    owners: Mapping[str, str] = NOTHING
    """The ledger that fills each namespace. One without a namespace (`""`) has the index to itself."""
    current: int = 0
    """The generation to search: 0 is the base itself; others are `notes_1`, `notes_2`, ... beside `notes`."""
    former: int | None = None
    """The generation that was current before, if it is still kept."""
