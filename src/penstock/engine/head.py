"""The head of a flow: scan, prepare, embed. It needs a view of the journal, and neither the ledger nor a sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from penstock.core.contracts import Chunker, MultiEmbedder
from penstock.core.metadata import MetadataFunction
from penstock.core.pieces import PieceSize, expected, piece_bytes
from penstock.core.records import Change, Item, Point
from penstock.engine.channel import Channel, ChannelStats
from penstock.engine.classify import ParserCode, built_in
from penstock.engine.control import Control
from penstock.engine.embed import Embed
from penstock.engine.fetch import Fetch
from penstock.engine.incoming import Listen, PutOff, arriving
from penstock.engine.journal import View
from penstock.engine.pack import Packer
from penstock.engine.prepare import Parse, Prepare
from penstock.engine.readback import Move, ReadBack, Refer
from penstock.engine.revise import Revise
from penstock.engine.scan import Queued, Scan
from penstock.engine.seam import Seam
from penstock.engine.stage import Stage
from penstock.engine.work import Document, Embedded, Prepared

READERS = 2
"""Threads that read points of the index back: one may wait for the store while the other sends on."""
LISTED = 256 << 10
"""Bytes of changes that wait, at most, where they are heard of between those of a listing."""
WINDOW = 32
"""Batches' worth of tokens that are sorted by length together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the head of a flow is made of."""

    changes: Iterable[Change]
    parse: Callable[[Item], Parse]
    embedder: MultiEmbedder
    ready: Callable[[], Chunker]
    """Called before anything is read, often: opens model and sink the first time, gives the chunker.
    So a run that finds nothing changed loads no model and no driver."""
    view: View
    run: int
    workers: int
    """Documents that are read at once."""
    id_prefix: bytes = b""
    """What ids begin with: the namespace's."""
    metadata: MetadataFunction | None = None
    """What the user says of a document."""
    since: int = 0
    """The first run that read documents as this one does: those that were read before it are read again."""
    feed: bool = False
    heard: bool = False
    """Some changes are heard of between those of a listing, and are not to wait behind many of these."""
    fetchers: int = 0
    force: bool = False
    """Read every item, whatever the journal knows of it."""
    parser_code: ParserCode = built_in
    fetch: Callable[[Sequence[str]], Sequence[Point]] | None = None
    """Reads points of the index back, where that is possible."""
    fetch_rows: int = 1024
    refer: Callable[[Sequence[Move]], None] | None = None
    """Takes chunks of which the index has the vectors, where it cannot be read from here."""
    admit: Callable[[int], None] | None = None
    withdraw: Callable[[int], None] | None = None
    match: Callable[[list[Embedded]], list[Embedded]] | None = None
    """See Embed."""
    release: Callable[[], None] | None = None
    """Called when the flow fails: `admit` must not wait any longer."""
    stop_source: Callable[[], None] | None = None
    """Has `changes` come to its end, wherever it waits."""

    def watched(self, view: View) -> Head:
        return replace(self, view=view)

    def build(self, seam: Seam, control: Control, share: Callable[[str], int]) -> HeadStages:
        return HeadStages(self, seam, control, share)


class HeadStages:
    """The threads of a head, and the channels between them."""

    def __init__(self, head: Head, seam: Seam, control: Control, share: Callable[[str], int]) -> None:
        room = share("changes")
        self._changes: Channel[Change] = Channel("changes", min(room, LISTED) if head.heard else room)
        self._items: Channel[Document] = Channel("items", share("items"))
        self._fetched: Channel[Document] = Channel("fetched", share("fetched"))
        self._revisions: Channel[Document] = Channel("revisions", share("revisions"))
        self._blocks: Channel[None] = Channel("blocks", share("blocks"))
        self._reads: Channel[list[Move]] = Channel("reads", share("reads"))
        self._chunks: Channel[list[Prepared]] = Channel("chunks", share("chunks"))
        self._channels = (
            *(self._changes, self._items, self._fetched, self._revisions),
            *(self._blocks, self._reads, self._chunks),
        )
        self._unused = [
            *([] if head.feed else [self._changes]),
            *([] if head.fetchers else [self._fetched]),
            *([] if head.feed and head.fetch is not None else [self._revisions]),
        ]
        self.queued = Queued()
        self._release = head.release
        embedder, vectors = head.embedder, head.embedder.describe()
        self._interrupt = embedder.interrupt
        self._stop_source = head.stop_source
        self._packer = Packer(
            self._chunks, window=WINDOW * embedder.batch_tokens, tokens=embedder.batch_tokens, rows=embedder.batch_rows
        )
        read_back = None
        if head.fetch is not None:
            size = PieceSize(vectors, head.fetch_rows, self._reads.capacity // 2)
            read_back = ReadBack(head.fetch, size, self._reads, self._chunks, seam.points, control, self.queued)
        changes: Iterable[Change | None] = head.changes
        self._put_off = put_off = PutOff()
        if head.feed:
            changes = arriving(self._changes, lambda: len(put_off) > 0)
        at_hand = self._fetched if head.fetchers else self._items
        self._scan = Scan(
            changes=changes,
            view=head.view,
            run=head.run,
            feed=head.feed,
            force=head.force,
            parser_code=head.parser_code,
            items=self._items,
            at_hand=at_hand,
            revisions=at_hand if head.fetch is None else self._revisions,
            send=seam.send,
            control=control,
            queued=self.queued,
            since=head.since,
            put_off=put_off,
        )
        revise = None
        if head.fetch is not None:
            size = PieceSize(vectors, head.fetch_rows, piece_bytes(seam.points.capacity))
            revise = Revise(head.fetch, size, head.view, self._revisions, seam.points, seam.send, control)
        refer = None if head.refer is None else Refer(head.refer, seam.send)
        prepare = Prepare(
            parse=head.parse,
            parser_code=head.parser_code,
            ready=head.ready,
            view=head.view,
            id_prefix=head.id_prefix,
            items=at_hand,
            blocks=self._blocks,
            chunks=self._chunks,
            read_back=read_back or refer,
            send=seam.send,
            control=control,
            queued=self.queued,
            metadata=head.metadata,
            revise=revise,
        )
        embed = Embed(
            embedder=embedder,
            packer=self._packer,
            points=seam.points,
            send=seam.send,
            control=control,
            queued=self.queued,
            room=seam.points.capacity // (4 * embedder.workers),
            guess=expected(vectors),
            admit=head.admit,
            withdraw=head.withdraw,
            match=head.match,
        )
        self.source = Stage("scan", 1, self._scan.work, self._listed, control.fail)
        """The stage that waits for the source."""
        self.stages = [self.source]
        if head.feed:
            listen = Listen(head.changes, self._changes, control)
            self.source = Stage("listen", 1, listen.work, self._changes.close, control.fail)
            self.stages.insert(0, self.source)
        if head.fetchers:
            fetch = Fetch(self._items, self._fetched, seam.send, control, self.queued)
            self.stages.append(Stage("fetch", head.fetchers, fetch.work, self._fetched.close, control.fail))
        bodies = deque([prepare.work] * head.workers + [prepare.work_on_revisions] * (revise is not None))
        after = self._chunks.close if read_back is None else self._reads.close
        self.stages.append(Stage("prepare", len(bodies), lambda: bodies.popleft()(), after, control.fail))
        if read_back is not None:
            self.stages.append(Stage("read back", READERS, read_back.work, self._chunks.close, control.fail))
        self.stages.append(Stage("embed", embedder.workers, embed.work, seam.points.close, control.fail))

    def _listed(self) -> None:
        """Nothing more will come from the scan."""
        self._items.close()
        self._revisions.close()

    @property
    def listing(self) -> bool:
        """The source has not named everything yet."""
        return self._scan.listing

    @property
    def unread(self) -> int:
        """Changes that were taken in and not compared yet, and such as were put off."""
        return self._changes.stats().pieces + len(self._put_off)

    def stats(self) -> list[ChannelStats]:
        return [channel.stats() for channel in self._channels if channel not in self._unused]

    def stop(self) -> None:
        """Take in no more, and drop what has not been embedded."""
        self._changes.fail()
        self._items.fail()
        self._fetched.fail()
        self._revisions.fail()
        self._reads.drop()
        self._chunks.drop()
        self._packer.drop()

    def interrupt(self) -> None:
        """Have source and model give up calls that wait for something."""
        self._interrupt()
        if self._stop_source is not None:
            self._stop_source()

    def fail(self) -> None:
        self.interrupt()
        for channel in self._channels:
            channel.fail()
        if self._release is not None:
            self._release()
