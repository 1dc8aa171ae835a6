"""Files: on this machine and in every store that fsspec knows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode

from penstock.core.contracts import Source, Watch
from penstock.core.errors import SourceError, UsageError
from penstock.core.records import Change, Item, ListingEnd, Unreadable, Upsert
from penstock.registry import scheme
from penstock.sources.files.address import Address
from penstock.sources.files.globs import Selection
from penstock.sources.files.local import LocalTree, path_of, uri_of
from penstock.sources.files.remote import RemoteTree
from penstock.sources.options import FILES

__all__ = ["Files"]


class Tree(Protocol):
    """One root of a Files source."""

    uri: str
    passed_over: Counter[str]
    select_container: Callable[[str], bool] | None

    def check(self) -> None:
        """Raise SourceError unless the root exists."""

    def walk(self) -> Iterator[Upsert | Unreadable]: ...

    def holds(self, uri: str) -> bool:
        """Whether a uri lies at or beneath this root."""

    def passes_over(self, uri: str) -> str:
        """Why a walk leaves alone what is at a uri that the tree holds; nothing where it does not."""

    def lookup(self, uri: str) -> Item | None: ...


class Files(Source):
    """The files beneath one or more roots: a state source.

    A root is a local file or folder, a `file://`, `s3://`, `gs://`, `az://`, `memory://` or any other fsspec
    url, or one file at `https://`. A file named as a root is taken whatever the patterns say. Tars and zips are
    folders: their members are listed, by the same patterns (see `archives`); but not those of archives at `https://`,
    or within another one.

    - `include`, `exclude`: patterns in the manner of .gitignore, from each root down (see `globs`).
    - `hidden`: also files and folders whose name begins with a dot.
    - `follow_links`: as for ripgrep and rsync, symbolic links are left alone unless this says otherwise: a link may
      lead out of the folder, and what it leads to inside would be listed twice. A root may itself be a link.
    - `skip`: local paths that are never listed, such as an index inside its own folder of documents.
    - `storage`: what fsspec's file system takes (`endpoint_url`, `anon`, keys). It never shows in a name.

    Pipes, sockets and devices are left alone. What was left alone in the latest listing is counted in `passed_over`.
    """

    options = FILES

    def __init__(
        self,
        *roots: str | os.PathLike[str],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        hidden: bool = False,
        follow_links: bool = False,
        skip: Sequence[str | os.PathLike[str]] = (),
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        if not roots:
            raise UsageError("no file or folder is named")
        if isinstance(include, str) or isinstance(exclude, str):
            raise UsageError("include and exclude take a list of patterns")
        self._selection = Selection(tuple(include), tuple(exclude), hidden)
        self._follow_links = follow_links
        self._skip = tuple(os.path.abspath(path) for path in skip)
        self._storage = dict(storage or {})
        # Absolute: the name must not depend on the folder in which the process runs.
        self._roots = tuple(dict.fromkeys(_normal(os.fspath(root)) for root in roots))
        self._trees = tuple(self._tree(root) for root in self._roots)

    def without(self, *paths: str | os.PathLike[str]) -> Files:
        """The same source, less these local paths."""
        return Files(
            *self._roots,
            include=self._selection.include,
            exclude=self._selection.exclude,
            hidden=self._selection.hidden,
            follow_links=self._follow_links,
            skip=(*self._skip, *paths),
            storage=self._storage,
        )

    def _tree(self, root: str) -> Tree:
        others = [other for other in self._roots if other != root]
        if not scheme(root):
            # A root inside another one is listed once, by itself.
            skip = [os.path.realpath(path) for path in (*self._skip, *others) if not scheme(path)]
            return LocalTree(root, self._selection, self._follow_links, skip)
        if scheme(root) in ("http", "https"):
            from penstock.sources.files.web import WebFile  # brings http and ssl, which take 20 ms to import

            return WebFile(root)
        return RemoteTree(root, self._selection, [Address(other, {}).uri for other in others], self._storage)

    @property
    def name(self) -> str:
        query = [("include", glob) for glob in sorted(self._selection.include)]
        query += [("exclude", glob) for glob in sorted(self._selection.exclude)]
        query += [(flag, "1") for flag, set_ in self._flags() if set_]
        roots = " ".join(sorted(tree.uri.replace(" ", "%20") for tree in self._trees))
        return f"{roots}?{urlencode(query)}" if query else roots

    def _flags(self) -> list[tuple[str, bool]]:
        return [("hidden", self._selection.hidden), ("follow_links", self._follow_links)]

    def __repr__(self) -> str:
        return f"Files({self.name})"

    @property
    def passed_over(self) -> Counter[str]:
        """The entries that the latest listing left alone: hidden, excluded, link, loop, special."""
        return sum((tree.passed_over for tree in self._trees), Counter())

    def open(self) -> None:
        for tree in self._trees:
            tree.check()

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        self.open()
        complete = True
        for tree in self._trees:
            tree.passed_over.clear()
            tree.select_container = self.select_container
            for change in tree.walk():
                if type(change) is Unreadable and change.listing:
                    complete = False
                yield change
        if complete:
            yield ListingEnd()

    def watch(self) -> Watch | None:
        """Of local roots only; buckets and files on the web tell nobody."""
        from penstock.sources.files.watch import watch

        roots = [tree.root for tree in self._trees if isinstance(tree, LocalTree)]
        return watch(roots, lambda folder: bool(self.passes_over(uri_of(folder)))) if roots else None

    def passes_over(self, uri: str) -> str:
        tree = self._holding(uri)
        return tree.passes_over(uri) if tree else ""

    def lookup(self, uri: str) -> Item | None:
        if (tree := self._holding(uri)) is None:
            raise SourceError(f"not within {self.name}: {uri}")
        return tree.lookup(uri)

    def _holding(self, uri: str) -> Tree | None:
        """The tree that lists it: that of the innermost root."""
        holding = [tree for tree in self._trees if tree.holds(uri)]
        return max(holding, key=lambda tree: len(tree.uri), default=None)


def _normal(root: str) -> str:
    if not root:
        raise UsageError("no file or folder is named")
    kind = scheme(root)
    if kind in ("file", "local"):
        root, kind = path_of(root), ""
    return os.path.abspath(root) if not kind else root
