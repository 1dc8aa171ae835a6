"""Pipelines: several pipelines in one process, each in a thread of its own, that share their models."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, cast

from penstock.core.contracts import ModelSpec
from penstock.core.errors import UsageError
from penstock.core.options import Option, nearest
from penstock.display.progress import callback
from penstock.display.several import Displays
from penstock.display.text import document_name
from penstock.embedders.models import DEFAULT
from penstock.embedders.shared import SharedModel
from penstock.engine.progress import Progress, Report
from penstock.jobs.components import Components
from penstock.jobs.live import EVERY, follow
from penstock.jobs.places import Paths, absolute, relative_to
from penstock.jobs.run import Options, run
from penstock.jobs.several import OnFailure, OnProgress, Outcome, Several, Task
from penstock.pipeline import Pipeline
from penstock.settings import OPTIONS, Settings, read_toml
from penstock.sinks.fanout import members
from penstock.support.service_manager import Service, ServiceManager
from penstock.support.sizes import LEAST_BUDGET, parse_budget
from penstock.support.times import parse_time

TABLES = "pipeline"
"""The name of the tables in a file: `[[pipeline]]`."""
OWN = {
    option.name: option
    for option in (
        Option("name", str, None, "what the pipeline is called", expected="a text that is not empty"),
        Option("live", bool, True, "follow the source, where the command is told to follow"),
        Option(
            "every", str, None, "list the whole source so often, too, where it is followed", numeric=True,
            validate=parse_time, expected="a time such as 30s, 10m or 2h",
        ),
    )
}  # fmt: skip
"""The options that a pipeline has among others only."""


@dataclass(frozen=True, slots=True)
class Member:
    """One of several pipelines."""

    pipeline: Pipeline
    live: bool = True
    """It is followed by `watch`."""
    every: float | None = None
    """Seconds between two listings while it is followed, where it has its own."""


class Pipelines:
    """Several pipelines side by side: equal models are loaded once, and one that fails does not end the others.

    >>> outcomes = Pipelines.from_toml("penstock.toml").run()
    >>> outcomes = Pipelines({"handbook": Pipeline(...), "wiki": Pipeline(...)}).watch()

    No two fill the same index, unless each has a namespace of its own. Two models are equal where they have the same
    name, or are the same object. `memory` is that of each pipeline.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        self._begin({name: Member(pipeline) for name, pipeline in pipelines.items()})

    def _begin(self, several: Mapping[str, Member]) -> None:
        if not several:
            raise UsageError("expected at least one pipeline")
        for (one, first), (other, second) in combinations(several.items(), 2):
            _check_apart(one, first.pipeline, other, second.pipeline)
        self._members = dict(several)
        models = {key: SharedModel(pipeline.embedder) for key, pipeline in self._by_model().items()}
        self.models: Mapping[str, SharedModel] = {
            name: models[_identity(member.pipeline.model)] for name, member in several.items()
        }
        """The model of each pipeline, by its name."""

    @classmethod
    def from_toml(cls, path: Paths, *, only: Collection[str] = ()) -> Pipelines:
        """The pipelines that `penstock run penstock.toml` runs, or `only` those of these names. The keys above the
        `[[pipeline]]` tables are the defaults of each table. Of a file without tables the one pipeline has no name."""
        several = _read(path)
        for name in only:
            if name not in several:
                near = nearest(name, several)
                hint = f"did you mean {near!r}? It" if near else "it"
                raise UsageError(f"unknown pipeline {name!r} of {path}: {hint} has {', '.join(several) or 'no tables'}")
        pipelines = cls.__new__(cls)
        pipelines._begin({name: make() for name, make in several.items() if not only or name in only})
        return pipelines

    def __iter__(self) -> Iterator[str]:
        """The names of the pipelines."""
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> Pipeline:
        return self._members[name].pipeline

    def run(
        self,
        progress: OnProgress | bool | None = None,
        *,
        allow_mass_delete: bool = False,
        adopt: bool = False,
        on_failure: OnFailure | None = None,
    ) -> dict[str, Outcome]:
        """Bring each index up to date with its source; what became of each pipeline, by its name.

        `progress`: a function of the name of a pipeline and a moment of its run, or True for a display.
        `on_failure`: a function of a pipeline's name, the error that ended its run, and the seconds until it begins
        again, or None where it does not. `allow_mass_delete`, `adopt`: see Pipeline.run.
        """
        options = Options(allow_mass_delete=allow_mass_delete)

        def once(name: str) -> Task:
            components = self._components(name)
            return Task(name, lambda show, _: run(components, show, options=options, adopt=adopt), components.state)

        return self._work(once, progress, on_failure)

    def watch(
        self,
        progress: OnProgress | bool | None = None,
        *,
        every: float = EVERY,
        allow_mass_delete: bool = False,
        adopt: bool = False,
        on_failure: OnFailure | None = None,
    ) -> dict[str, Outcome]:
        """Bring each index up to date with its source and keep it so, until Ctrl-C; see Pipeline.watch.

        A run that an error ends begins again after a while: at first a second, at most a minute. One whose options
        cannot be carried out ends, and the others go on. A table with `live = false` has its source read once.
        """
        if not any(member.live for member in self._members.values()):
            raise UsageError(f"nothing to follow: {', '.join(self)} have live = false")

        def task(name: str) -> Task:
            components, member = self._components(name), self._members[name]
            seconds = every if member.every is None else member.every

            def work(show: Callable[[Progress], None], service: Service) -> Report:
                if not member.live:
                    return run(components, show, options=Options(allow_mass_delete=allow_mass_delete), adopt=adopt)
                return follow(
                    components,
                    show,
                    every=seconds,
                    allow_mass_delete=allow_mass_delete,
                    adopt=adopt,
                    renew=lambda: self._renewed(name, components),
                    service=service,
                )

            return Task(name, work, components.state, live=member.live)

        return self._work(task, progress, on_failure, ServiceManager())

    def _work(
        self, task: Callable[[str], Task], progress: Any, on_failure: OnFailure | None, service: Service | None = None
    ) -> dict[str, Outcome]:
        with self._watching(progress) as shown:
            return Several([task(name) for name in self], service or Silent(), shown, on_failure).run()

    @contextmanager
    def _watching(self, progress: Any) -> Iterator[OnProgress | None]:
        if progress is True:
            with Displays(self.titles) as shown:
                yield shown.show_of
        else:
            yield cast(OnProgress | None, callback(progress))

    @property
    def titles(self) -> dict[str, str]:
        """What a display calls each pipeline, by its name."""
        titles = {}
        for name, member in self._members.items():
            source = document_name(member.pipeline.source.name)
            titles[name] = f"{name}: {source} → {member.pipeline.sink.url}"
        return titles

    def _renewed(self, name: str, before: Components) -> Components:
        """Components for the generation that is current now: with the shared model, unless that is another one."""
        renewed = self[name].renewed()
        alike = renewed.embedder.describe() == before.embedder.describe()
        return replace(renewed, embedder=before.embedder) if alike else renewed

    def _components(self, name: str) -> Components:
        return replace(self[name].components, embedder=self.models[name].user(name))

    def _by_model(self) -> dict[Hashable, Pipeline]:
        """The first pipeline of each model."""
        found: dict[Hashable, Pipeline] = {}
        for member in self._members.values():
            found.setdefault(_identity(member.pipeline.model), member.pipeline)
        return found


class Silent:
    """A service that nobody manages."""

    def ready(self) -> None: ...

    def alive(self) -> None: ...

    def stopping(self) -> None: ...


def _identity(model: ModelSpec) -> Hashable:
    """Equal for models of which one does for all."""
    if model is None or isinstance(model, str | os.PathLike):
        return os.fspath(model or DEFAULT)
    if isinstance(model, Mapping):
        return tuple((name, _identity(one)) for name, one in model.items())
    return model if isinstance(model, Hashable) else id(model)


def _check_apart(one: str, first: Pipeline, other: str, second: Pipeline) -> None:
    """Raise UsageError where two pipelines would be in each other's way."""
    names = f"the pipelines {one!r} and {other!r}"
    spaces = first.components.namespace, second.components.namespace
    mine, others = ({absolute(sink.url) for sink in members(pipeline.sink)} for pipeline in (first, second))
    if (common := mine & others) and not (all(spaces) and spaces[0] != spaces[1]):
        raise UsageError(
            f"{names} fill the same index, {min(common)}: choose another `into` for one of them, or give each a"
            " `namespace` of its own"
        )
    ledgers = [os.path.realpath(pipeline.components.state) for pipeline in (first, second)]
    if ledgers[0] == ledgers[1]:
        raise UsageError(f"{names} have the same ledger, {first.components.state}: choose another `state` for one")


# ---------------------------------------------------------------- files


def _read(path: Paths) -> dict[str, Callable[[], Member]]:
    """What makes the pipelines of a file, by their names."""
    defaults = read_toml(path)
    for name, value in defaults.items():
        if name != TABLES and name not in OPTIONS and _is_tables(value):
            raise UsageError(f"{path}: unknown tables [[{name}]]: expected [[{TABLES}]]")
    if TABLES not in defaults:
        settings = _settings(path, defaults, str(path))
        return {"": lambda: Member(Pipeline.from_settings(settings))}
    tables = defaults.pop(TABLES)
    if not tables or not _is_tables(tables):
        raise UsageError(f"{path}: invalid {TABLES}: expected tables, each of which begins with [[{TABLES}]]")
    for name in ("name", "state"):
        if name in defaults:
            raise UsageError(f"{path}: {name} is that of one pipeline: write it into a [[{TABLES}]] table")
    if "source" in defaults and "into" in defaults:
        raise UsageError(
            f"{path}: source and into above the [[{TABLES}]] tables are no pipeline but their defaults: write those of"
            f" each pipeline into its own [[{TABLES}]] table"
        )
    memory = _memory(path, defaults, tables)
    several: dict[str, Callable[[], Member]] = {}
    for number, table in enumerate(tables, 1):
        values = {**defaults, "memory": memory, **table}
        name, make = _member(path, number, values)
        if name in several:
            raise UsageError(f"{path}: two pipelines are called {name!r}: give each a `name` of its own")
        several[name] = make
    return several


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _member(path: Paths, number: int, values: dict[str, Any]) -> tuple[str, Callable[[], Member]]:
    """The name of a pipeline, and what makes it."""
    where = f"{path}: [[{TABLES}]] {number}"
    try:
        own = {name: option.check(values.pop(name)) for name, option in OWN.items() if name in values}
        if own.get("name") == "":
            raise UsageError("invalid name '': expected a text that is not empty")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    settings = _settings(path, values, f"{where} ({own['name']})" if "name" in own else where, also=OWN)
    name = own.get("name") or settings.namespace or _last_part(settings.into[0]) or str(number)
    every, live = own.get("every"), own.get("live", True)
    seconds = None if every is None else parse_time(every)
    return name, lambda: Member(Pipeline.from_settings(settings), live, seconds)


def _settings(path: Paths, values: Mapping[str, Any], where: str, *, also: Collection[str] = ()) -> Settings:
    return Settings.from_mapping(relative_to(os.path.dirname(path), values), where, also=also)


def _last_part(url: str) -> str:
    """What an index is called: `notes` of lance://./notes and of qdrant://host:6333/notes."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def _memory(path: Paths, defaults: dict[str, Any], tables: list[dict[str, Any]]) -> str:
    """The memory of each pipeline that has none of its own: an equal part of what stands above the tables."""
    option = OPTIONS["memory"]
    sharing = sum("memory" not in table for table in tables)
    try:
        size = option.check(defaults.pop("memory", option.default))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    part = parse_budget(size) // max(1, sharing)
    if part < LEAST_BUDGET:
        raise UsageError(
            f"{path}: invalid memory {size!r} of {sharing} pipelines together: expected at least"
            f" {LEAST_BUDGET >> 20}MiB for each"
        )
    return f"{part >> 20}MiB"
