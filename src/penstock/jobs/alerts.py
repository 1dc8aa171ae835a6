"""Standing queries: what they are, and what they find among points as these are embedded."""

from __future__ import annotations

import io
import json
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.contracts import MultiEmbedder
from penstock.core.errors import PenstockError, Transient, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import Filter, passes
from penstock.core.records import Dense, MultiVector, Sparse, Vector
from penstock.core.schema import IndexSchema
from penstock.engine.journal import Match
from penstock.engine.work import Embedded, match_size
from penstock.jobs.components import Components, current_ledger, generations, numbered
from penstock.jobs.queries import check_filter
from penstock.jobs.session import Session
from penstock.jobs.snippets import snippet, words_of
from penstock.ledger import Alert, FoundMatch, Ledger
from penstock.support.redaction import hide_secrets

if TYPE_CHECKING:
    import re

    from penstock.jobs.deliver import Deliveries

SCORE = 0.5
"""The least score of a match, where none is named."""
LOOK = 1.0
"""Seconds between two looks whether there are other alerts."""
AGAIN = 60.0
"""Seconds after which an alert whose query could not be embedded is tried again."""
FOREVER = float("inf")
FINDS_NOTHING = "it finds nothing: "
LONGEST = 10_000
"""Characters of a query."""
VECTORS = "vectors"
"""In a ledger's `meta`: the kind and metric of each vector of its index, by name."""


class Alerts:
    """The standing queries of an index, kept in its ledger; a run that goes on sees changes within seconds."""

    def __init__(self, state: Path) -> None:
        """`state`: the ledger of generation 0."""
        self._state = state

    def add(
        self,
        query: str,
        score: float = SCORE,
        *,
        name: str | None = None,
        webhook: str | None = None,
        command: str | None = None,
        secret_env: str | None = None,
        where: Mapping[str, Any] | None = None,
        using: str | None = None,
    ) -> Alert:
        """Have runs tell what they embed from now on that scores at least so much.

        `webhook`: a url that is posted to, or `env:NAME`, the environment variable of the run that has it. `command`:
        one that is started, without a shell. `secret_env`: the environment variable that has the secret by which
        messages are signed (PENSTOCK_WEBHOOK_SECRET, if it is set). `where` narrows it, as it does a search.
        """
        from penstock.support.outgoing import check_command, check_webhook  # and ssl, which runs do without

        if not query.strip() or len(query) > LONGEST:
            raise UsageError(f"invalid query: expected a text of at most {LONGEST:,} characters that is not empty")
        if not math.isfinite(score):
            raise UsageError(f"invalid score {score}: expected a number")
        if webhook and command:
            raise UsageError("an alert has a webhook or a command, not both")
        if secret_env and not webhook:
            raise UsageError("secret_env is of a webhook, whose messages it signs")
        if webhook:
            check_webhook(webhook)
        if command:
            check_command(command)
        check_filter(where)
        name = " ".join(query.split())[:60] if name is None else name
        if not name.strip() or not name.isprintable():
            raise UsageError("invalid name of an alert: expected characters that can be shown")
        alert = Alert(
            id=uuid.uuid4().hex,
            name=name,
            query=query,
            score=score,
            using=using,
            where=where,
            webhook=webhook,
            command=command,
            secret=secret_env,
            since=time.time(),
        )
        with self._open() as ledger:
            if kinds := json.loads(ledger.get(VECTORS) or "{}"):
                _vector_name(alert, kinds)
            ledger.add_alert(alert)
        return alert

    def remove(self, name: str) -> None:
        """Remove an alert, with what it has found and not yet delivered."""
        with self._open() as ledger:
            ledger.remove_alert(name)

    def list(self) -> list[Alert]:
        with self._open() as ledger:
            return ledger.alerts()

    def matches(self, number: int = 20) -> Sequence[FoundMatch]:
        """The latest matches, the oldest of them first."""
        with self._open() as ledger:
            return ledger.last_matches(number)

    def _open(self) -> Ledger:
        return Ledger.reader(current_ledger(self._state))


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert, ready to be compared with points."""

    alert: Alert
    vector: Vector
    wanted: Filter | None
    words: re.Pattern[str] | None


class Matcher:
    """Adds to points what the alerts of the ledger find in them. It is called where points are embedded, so the model
    is called by no more threads than it allows."""

    def __init__(self, ledger: Ledger, embedder: MultiEmbedder, schema: IndexSchema) -> None:
        self._ledger, self._embedder, self._schema = ledger, embedder, schema
        self._kinds = {name: (spec.kind, spec.metric) for name, spec in schema.vectors.items()}
        if ledger.get(VECTORS) != (kinds := json.dumps(self._kinds)):
            ledger.set(VECTORS, kinds)
        self._lock = threading.Lock()
        self._look, self._again = 0.0, FOREVER
        self._version: str | None = None
        self._standing: dict[str, list[Standing]] = {}
        """By the name of the vector that they are compared with."""

    def __call__(self, points: list[Embedded]) -> list[Embedded]:
        """Raises Transient where the model is away."""
        for name, several in self._current().items():
            points = self._match(points, name, several)
        return points

    def _current(self) -> Mapping[str, Sequence[Standing]]:
        with self._lock:
            if (now := time.monotonic()) >= self._look:
                if (version := self._ledger.alerts_version) != self._version or now >= self._again:
                    self._again = FOREVER
                    self._standing = self._made()
                    self._version = version
                self._look = now + LOOK
            return self._standing

    def _made(self) -> dict[str, list[Standing]]:
        standing: dict[str, list[Standing]] = {}
        for alert in self._ledger.alerts():
            try:
                name = _vector_name(alert, self._kinds)
                one = Standing(alert, self._vector(alert, name), parse_filter(alert.where), words_of(alert.query))
            except Transient:
                raise
            except Exception as error:  # of a model of the user's as well: it is no reason to stop the run
                self._ledger.note_trouble(alert.id, hide_secrets(f"{FINDS_NOTHING}{error}"))
                self._again = time.monotonic() + AGAIN
            else:
                if alert.trouble.startswith(FINDS_NOTHING):
                    self._ledger.note_trouble(alert.id, "")
                standing.setdefault(name, []).append(one)
        return standing

    def _vector(self, alert: Alert, name: str) -> Vector:
        spec = self._schema.vectors[name]
        space = f"{name} {spec.fingerprint} {spec.kind} {spec.metric} {spec.dim}"
        if kept := self._ledger.query_vector(alert.id, space):
            return _loaded(kept)
        (vector,) = self._embedder.query([alert.query], name)
        self._ledger.keep_query_vector(alert.id, space, _kept(vector))
        return vector

    def _match(self, points: list[Embedded], name: str, several: Sequence[Standing]) -> list[Embedded]:
        import numpy as np

        found = _scores(
            [one.vector for one in several], [one.point.vectors[name] for one in points], self._kinds[name][1]
        )
        least = np.array([one.alert.score for one in several], dtype=np.float64)
        for row, column in zip(*np.nonzero(found >= least), strict=True):
            one, standing = points[row], several[column]
            if standing.wanted is None or passes(one.point.chunk, standing.wanted):
                match = _match(one, standing, float(found[row, column]))
                points[row] = one._replace(matches=(*one.matches, match), nbytes=one.nbytes + match_size(match))
        return points


def _vector_name(alert: Alert, kinds: Mapping[str, Sequence[str]]) -> str:
    """The vector that the alert is compared with, of those kinds and metrics. Raises UsageError where there is none."""
    if alert.using is None and len(kinds) > 1:
        raise UsageError(
            f"the index has several vectors a chunk, {', '.join(kinds)}: choose one with using=, on the"
            " command line with --using"
        )
    name = next(iter(kinds)) if alert.using is None else alert.using
    if name not in kinds:
        raise UsageError(f"unknown vector {name!r}: the index has {', '.join(kinds)}")
    if kinds[name][1] == "l2":
        raise UsageError(
            "the vectors of the index are compared by l2, whose scores each store makes its own way: an alert takes a"
            " model of cosine or dot product"
        )
    return name


def _scores(queries: Sequence[Vector], vectors: Sequence[Vector], metric: str) -> Any:
    """Compare each vector with each query: a row a vector. As a search does, larger is nearer."""
    import numpy as np

    from penstock.sinks.memory import scores, similarity  # numpy, which runs that embed nothing do without

    if isinstance(queries[0], Dense):
        left = np.stack([one.values for one in vectors if isinstance(one, Dense)])
        right = np.stack([one.values for one in queries if isinstance(one, Dense)])
        return similarity(left, right, metric)
    return np.stack([scores(query, vectors, metric) for query in queries], axis=1)


def _match(one: Embedded, standing: Standing, score: float) -> Match:
    chunk, alert, item = one.point.chunk, standing.alert, one.document.item
    key = blake2b("\0".join((alert.id, item.uri, item.fingerprint)).encode(errors="replace"), digest_size=16)
    about = {"page": chunk.page, "headings": chunk.headings, "metadata": dict(chunk.metadata)}
    text = snippet(chunk.text, standing.words)
    return Match(key.hexdigest(), alert.id, item.uri, chunk.id, score, text, json.dumps(about, default=str))


def _kept(vector: Vector) -> bytes:
    import numpy as np

    file = io.BytesIO()
    if isinstance(vector, Sparse):
        np.savez(file, Sparse=vector.values, indices=vector.indices)
    elif isinstance(vector, MultiVector):
        np.savez(file, MultiVector=vector.values)
    else:
        np.savez(file, Dense=vector.values)
    return file.getvalue()


def _loaded(kept: bytes) -> Vector:
    import numpy as np

    with np.load(io.BytesIO(kept), allow_pickle=False) as parts:
        if "Sparse" in parts:
            return Sparse(parts["indices"], parts["Sparse"])
        return MultiVector(parts["MultiVector"]) if "MultiVector" in parts else Dense(parts["Dense"])


@contextmanager
def delivering(session: Session, *, live: bool) -> Iterator[Deliveries | None]:
    """Deliver beside a run of this session; None where there is nothing to deliver, or it is of another generation than
    the current one."""
    ledger = session.components.ledger
    if not session.current or not (live or ledger.alerts()):
        yield None
        return
    from penstock.jobs.deliver import Deliveries  # and ssl, which most runs do without

    take_over_matches(session.components)
    with Deliveries(ledger) as deliveries:
        yield deliveries


def take_over(old: Ledger, new: Ledger) -> None:
    """Have the generation that becomes the current one keep the alerts of the one that was it."""
    if not old.path.exists():
        return
    with Ledger.reader(old.path) as before, Ledger.reader(new.path) as after:
        after.take_over_alerts(before)


def take_over_matches(components: Components) -> None:
    """Deliver what a run on another generation found until it saw that this one is current."""
    for number in generations(components.state):
        if number != (components.generation or 0):
            with suppress(PenstockError), Ledger.reader(numbered(components.state, number)) as other:
                components.ledger.take_over_matches(other)
