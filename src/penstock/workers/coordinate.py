"""The head of a flow whose documents are worked on elsewhere: scan, dispatch, collect.

What the scan finds new or changed goes into shards; what workers make of them crosses the seam as if it had been
embedded here. Vectors that the index has under another name are read back here, as a worker has no index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from penstock.core.pieces import PieceSize
from penstock.core.records import Change, Point
from penstock.engine.channel import Channel, ChannelStats
from penstock.engine.classify import ParserCode, built_in
from penstock.engine.control import Control
from penstock.engine.head import READERS
from penstock.engine.journal import View
from penstock.engine.readback import Move, ReadBack
from penstock.engine.scan import Queued, Scan
from penstock.engine.seam import Seam
from penstock.engine.stage import Stage
from penstock.engine.work import Document, Embedded, Prepared
from penstock.workers.collect import Collector
from penstock.workers.dispatch import Dispatcher, KnowsContents
from penstock.workers.place import Place, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What the head of a flow is made of whose documents are worked on elsewhere."""

    place: Place
    work: Work
    changes: Iterable[Change]
    ready: Callable[[], object]
    """Called before a document is handed out, often: opens the sink the first time."""
    view: KnowsContents
    run: int
    since: int = 0
    force: bool = False
    parser_code: ParserCode = built_in
    fetch: Callable[[Sequence[str]], Sequence[Point]] | None = None
    """Reads points of the index back, where that is possible."""
    fetch_rows: int = 1024
    match: Callable[[list[Embedded]], list[Embedded]] | None = None
    """Adds to points what standing queries find in them."""
    stop_source: Callable[[], None] | None = None
    fetchers: int = 0
    """None fetches here."""

    def watched(self, view: View) -> Elsewhere:
        return replace(self, view=cast(KnowsContents, view))

    def build(self, seam: Seam, control: Control, share: Callable[[str], int]) -> ElsewhereStages:
        return ElsewhereStages(self, seam, control, share)


class ElsewhereStages:
    """The threads of such a head, and the channels between them."""

    def __init__(self, head: Elsewhere, seam: Seam, control: Control, share: Callable[[str], int]) -> None:
        # A document is charged from when it was found until it is done: nothing else of it is here meanwhile.
        self._items: Channel[Document] = Channel("items", share("items") + share("blocks"))
        self._reads: Channel[list[Move]] = Channel("reads", share("reads"))
        self._lost: Channel[list[Prepared]] = Channel("chunks", share("chunks"))
        self.queued = Queued()
        self._stop_source = head.stop_source
        self._scan = Scan(
            changes=head.changes,
            view=head.view,
            run=head.run,
            feed=False,
            force=head.force,
            items=self._items,
            at_hand=self._items,
            revisions=self._items,
            send=seam.send,
            control=control,
            queued=self.queued,
            since=head.since,
            parser_code=head.parser_code,
        )
        dispatcher = Dispatcher(head.place, head.work, head.view, head.ready, control)
        read_back = None
        if head.fetch is not None:
            size = PieceSize(head.work.schema.vectors, head.fetch_rows, self._reads.capacity // 2)
            read_back = ReadBack(head.fetch, size, self._reads, self._lost, seam.points, control, self.queued)
        self._collector = Collector(dispatcher, self._items, read_back, seam, self.queued, head.match)
        self.source = Stage("scan", 1, self._scan.work, self._items.close, control.fail)
        collected = seam.points.close if read_back is None else self._reads.close
        self.stages = [self.source, Stage("collect", 1, self._collector.work, collected, control.fail)]
        if read_back is not None:
            self.stages.append(Stage("read back", READERS, read_back.work, self._lost.close, control.fail))
            self.stages.append(Stage("lose", 1, self._lose, seam.points.close, control.fail))

    def _lose(self) -> None:
        for prepared in self._lost:
            self.queued.add(tokens=-sum(one.length for one in prepared))
            self._collector.lose(prepared)

    @property
    def listing(self) -> bool:
        """The source has not named everything yet."""
        return self._scan.listing

    @property
    def unread(self) -> int:
        return 0

    def stats(self) -> list[ChannelStats]:
        return [channel.stats() for channel in (self._items, self._reads)]

    def stop(self) -> None:
        """Take in no more. What workers have made stays at the place, for the next run."""
        self._items.fail()
        self._reads.drop()

    def interrupt(self) -> None:
        if self._stop_source is not None:
            self._stop_source()

    def fail(self) -> None:
        self.interrupt()
        for channel in (self._items, self._reads, self._lost):
            channel.fail()
