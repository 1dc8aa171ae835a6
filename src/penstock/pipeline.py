"""Pipeline: what a user composes and runs.

Arguments are specs (a path, a url, a model's name, "256 tokens") or components of one's own; a plain function can be a
parser, a chunker or an embedder.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.chunkers import ChunkSpec
from penstock.compose import Into, SourceSpec, compose, open_index, place_at
from penstock.core.contracts import ModelSpec, MultiEmbedder, Parser, Sink, Source
from penstock.core.errors import UsageError
from penstock.core.generations import RECALL, TOLERANCE
from penstock.core.metadata import MetadataFunction
from penstock.core.retry import MAX_WAIT
from penstock.display.progress import watching
from penstock.display.text import document_name
from penstock.engine.progress import Progress, Report
from penstock.jobs.components import Components, current_ledger
from penstock.jobs.ledgers import remembered
from penstock.jobs.live import EVERY, follow
from penstock.jobs.places import Paths, relative_to
from penstock.jobs.run import Options, retry, run
from penstock.ledger import Ledger
from penstock.settings import MAX_DELETE, MEMORY, Settings, read_toml

OnProgress = Callable[[Progress], None] | bool | None
"""A function that is called now and then with a moment of a run; True shows it."""

if TYPE_CHECKING:
    from penstock.jobs.alerts import Alerts
    from penstock.jobs.documents import DocumentEntry
    from penstock.jobs.explain import Explanation, IndexedChunk
    from penstock.jobs.plan import Plan
    from penstock.jobs.questions import QuestionsSpec
    from penstock.jobs.reindex import Reindexed
    from penstock.jobs.remove import Removed
    from penstock.jobs.verify import Verification


class Pipeline:
    """Source, parsers, chunker, embedder and sink, with a ledger and a memory budget.

    >>> report = Pipeline("docs/", into="lance://./index", memory="256MiB").run()

    - `source`: a path, several, a url, or a Source. Options of the source go along: `include=["*.md"]`.
    - `into`: a sink's url, or a Sink; or several of these, which are filled together.
    - `model`: a sentence-transformers model (hub name or folder), an Embedder, or a function of a list of texts; or a
      mapping of names to these, for several vectors a chunk.
    - `chunk`: `"256 tokens"`, `"1000 characters"`, a Chunker, or a function of a text that gives its parts.
    - `memory`: bytes in flight, at most: `"512MiB"`. Model weights and parsers' native heaps come on top.
    - `state`: the ledger's file; by default one a pipeline under `.penstock/`.
    - `parsers`: your own, by media type: `{"text/x-log": my_parser}`.
    - `metadata`: what each document gets beside its name, folder, size and time: a mapping, in which `from_path` takes
      fields from paths (`"docs/{team}/*"`), or a function of an Item that gives one.
    - `namespace`: for several pipelines that fill one index, each its own part.
    - `max_delete`: the most that a run may take out: a share of the chunks (`"10%"`), or a number of documents.
    """

    def __init__(
        self,
        source: SourceSpec,
        *,
        into: Into,
        model: ModelSpec = None,
        chunk: ChunkSpec = None,
        memory: str | int = MEMORY,
        state: Paths | None = None,
        parsers: Mapping[str, Parser] | None = None,
        metadata: MetadataFunction | Mapping[str, Any] | None = None,
        workers: int | None = None,
        namespace: str = "",
        max_delete: str | int = MAX_DELETE,
        **source_options: Any,
    ) -> None:
        self._components = compose(
            source=source,
            into=into,
            model=model,
            chunk=chunk,
            memory=memory,
            state=state,
            parsers=parsers,
            metadata=metadata,
            workers=workers,
            namespace=namespace,
            max_delete=max_delete,
            **source_options,
        )
        self.model = model
        """As it was given: equal ones are loaded once by Pipelines."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Pipeline:
        return cls(**settings.to_mapping())

    @classmethod
    def from_toml(cls, path: Paths) -> Pipeline:
        """The pipeline that `penstock run penstock.toml` runs. Relative paths are from the folder of that file."""
        values = read_toml(path)
        if "pipeline" in values:
            raise UsageError(f"{path} has tables of pipelines: use Pipelines.from_toml")
        return cls.from_settings(Settings.from_mapping(relative_to(Path(path).parent, values), str(path)))

    @classmethod
    def from_state(cls, path: Paths, **changes: Any) -> Pipeline:
        """The pipeline that a ledger was last filled by; with other settings where some are given."""
        with Ledger.reader(current_ledger(Path(path))) as ledger:
            words = remembered(ledger)
        if not words:
            raise UsageError(f"the pipeline of {path} has components or keys of your own: use its Python object")
        settings = Settings.from_mapping(words, str(path))
        return cls.from_settings(Settings.from_mapping(settings.to_mapping() | changes | {"state": path}, str(path)))

    @property
    def components(self) -> Components:
        """What jobs take."""
        return self._components

    @property
    def source(self) -> Source:
        return self._components.source

    @property
    def sink(self) -> Sink:
        return self._components.base

    @property
    def embedder(self) -> MultiEmbedder:
        return self._components.embedder

    @property
    def ledger(self) -> Ledger:
        return self._components.ledger

    @property
    def alerts(self) -> Alerts:
        """The standing queries of the index: `add`, `list`, `remove` and `matches`. It needs a first run."""
        from penstock.jobs.alerts import Alerts

        return Alerts(self._components.state)

    def run(
        self,
        progress: OnProgress = None,
        *,
        allow_mass_delete: bool = False,
        adopt: bool = False,
        max_wait: float = MAX_WAIT,
        on: str | None = None,
    ) -> Report:
        """Bring the index up to date with the source.

        `progress`: a function that is called now and then, or True for a display at the terminal or in the notebook.
        `adopt`: take over an index that another ledger filled (or this one, before it was lost).
        `max_wait`: for how many seconds a store or model that is away is waited for.
        `on`: a place such as `shards:///srv/work`, where `penstock work` on any machine takes documents and brings what
        it has made of them; this process lists the source and writes to the index.
        """
        place = None if on is None else place_at(on)
        options = Options(allow_mass_delete=allow_mass_delete, max_wait=max_wait, place=place)
        with self._watching(progress) as shown:
            return run(self._components, shown, options=options, adopt=adopt)

    async def arun(self, progress: OnProgress | Callable[[Progress], Awaitable[None]] = None, **options: Any) -> Report:
        """`run` with its options, awaited: in a thread, beside the event loop, on which `progress` is called.

        Cancelling it is as Ctrl-C: what is in flight is written, then CancelledError is raised. A second one gives up.
        """
        import asyncio  # here, as no command needs it
        from queue import SimpleQueue

        from penstock.support.asynchronous import in_thread, on_loop

        loop = asyncio.get_running_loop()
        cancellations: SimpleQueue[None] = SimpleQueue()
        with self._watching(progress) as shown:
            show = on_loop(shown, loop) if shown else None

            def moment(now: Progress) -> None:
                if not cancellations.empty():
                    cancellations.get()
                    raise KeyboardInterrupt
                if show:
                    show(now)

            return await in_thread(lambda: self.run(moment, **options), lambda: cancellations.put(None))

    def watch(
        self,
        progress: OnProgress = None,
        *,
        every: float = EVERY,
        allow_mass_delete: bool = False,
        adopt: bool = False,
    ) -> Report:
        """Bring the index up to date with the source and keep it so, until Ctrl-C.

        Changes are heard of where the source tells them, as local folders do; besides, it is listed whole `every` so
        many seconds. Stores, models and sources that are away are waited for without limit. What a listing lacks beyond
        `max_delete` is held until `penstock approve`; all else goes on.
        """
        with self._watching(progress) as shown:
            return follow(
                self._components,
                shown,
                every=every,
                allow_mass_delete=allow_mass_delete,
                adopt=adopt,
                renew=self.renewed,
            )

    def renewed(self) -> Components:
        """Components for the generation that is current now, as its ledger remembers them, if it does."""
        if self._components.settings is None:
            return self._components
        try:
            return Pipeline.from_state(self._components.state)._components
        except UsageError:
            return self._components

    def retry(self, progress: OnProgress = None, *, max_wait: float = MAX_WAIT) -> Report:
        """Try again everything that is in the ledger as failed or skipped."""
        with self._watching(progress) as shown:
            return retry(self._components, shown, max_wait=max_wait)

    def plan(self) -> Plan:
        """Say what a run would do: new, changed, unchanged and deleted documents, chunks, tokens, time. Embeds
        nothing."""
        from penstock.jobs.plan import plan

        return plan(self._components)

    def verify(
        self,
        *,
        repair: bool = False,
        sample: float = 0.0,
        progress: OnProgress = None,
        allow_mass_delete: bool = False,
    ) -> Verification:
        """Hold source, ledger and index against each other, by ids; of a `sample` (a share of the points) the vectors
        too. `repair` mends what differs, with a run."""
        from penstock.jobs.verify import verify

        with self._watching(progress) as shown:
            return verify(
                self._components, repair=repair, sample=sample, progress=shown, allow_mass_delete=allow_mass_delete
            )

    def reindex(
        self,
        progress: OnProgress = None,
        *,
        least_recall: float = RECALL,
        incomplete: bool = False,
        questions: QuestionsSpec | None = None,
        tolerance: float = TOLERANCE,
        former_model: ModelSpec = None,
    ) -> Reindexed:
        """Build the index that this pipeline describes, with its model and chunks, as a generation beside the current
        one, check that it is complete and searches find what they should, and switch in one step. Searches and runs
        of the old one go on.

        `incomplete`: switch though it lacks documents that the old one has, or most of them. `questions`: do not
        switch if the new one answers these (see `evaluate`) worse than the old one; a loss of nDCG@10 that may be
        chance is let pass up to `tolerance`. `former_model` is that of the old one, where it was an object or
        function of your own.
        """
        from penstock.jobs.reindex import reindex

        required = None
        if questions is not None:
            from penstock.jobs.questions import read_questions
            from penstock.jobs.requirement import Requirement

            required = Requirement(read_questions(questions), lambda url: open_index(url, former_model), tolerance)
        with self._watching(progress) as shown:
            return reindex(self._components, shown, least_recall=least_recall, incomplete=incomplete, required=required)

    def _watching(self, progress: Any) -> AbstractContextManager[Callable[[Progress], None] | None]:
        return watching(progress, f"{document_name(self.source.name)} → {self.sink.url}")

    def documents(
        self, pattern: str | None = None, *, failing: bool = False, missing: bool = False, removed: bool = False
    ) -> Iterator[DocumentEntry]:
        """List the documents of the ledger by uri, in constant memory: those whose names contain or, as a glob, match
        the `pattern`.

        `failing`: those that `retry` would try again. `missing`: those that the source no longer has, or cannot read.
        `removed`: what was removed for good, instead.
        """
        from penstock.jobs import documents as jobs

        with ExitStack() as stack:
            ledger = stack.enter_context(Ledger.reader(current_ledger(self._components.state)))
            if removed:
                yield from jobs.removed(ledger, pattern)
                return
            if missing:
                stack.enter_context(self.source).open()
            missing_from = self.source if missing else None
            yield from jobs.documents(ledger, pattern, failing=failing, missing_from=missing_from)

    def explain(self, name: Paths) -> Explanation:
        """Say whether a document, by its path or uri, is in the index as in the source, or why not."""
        from penstock.jobs.explain import explain

        return explain(self._components, os.fspath(name))

    def chunks(self, name: Paths) -> Iterator[IndexedChunk]:
        """The chunks of a document, by its path or uri, with what the index has of them."""
        from penstock.jobs.explain import chunks

        return chunks(self._components, os.fspath(name))

    def remove(self, *names: Paths, undo: bool = False, dry_run: bool = False, max_wait: float = MAX_WAIT) -> Removed:
        """Take the documents at and beneath these paths or uris out of the index for good: later runs pass them over.

        `undo`: let the next run bring in again what was removed at and beneath them. `dry_run`: say only what would go.
        """
        from penstock.jobs import remove as jobs

        paths = [os.fspath(name) for name in names]
        if undo:
            return jobs.undo(self._components, paths, dry_run=dry_run)
        return jobs.remove(self._components, paths, dry_run=dry_run, max_wait=max_wait)

    def rollback(self) -> str:
        """Make the generation before the current one current again, and keep this one. Gives its url."""
        from penstock.jobs.reindex import rollback

        return rollback(self._components)

    def drop_former(self) -> list[str]:
        """Remove the generation before the current one, and what an unfinished `reindex` left. Gives their urls."""
        from penstock.jobs.reindex import drop

        return drop(self._components)
