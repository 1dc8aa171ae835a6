"""Options of the sources of files. They stand here for the command line, which names them without loading a source."""

from __future__ import annotations

from penstock.core.options import Option

FILES = (
    Option("include", tuple, (), "read only files that match", metavar="GLOB", flag=True),
    Option("exclude", tuple, (), "leave out files that match", metavar="GLOB", flag=True),
    Option("hidden", bool, False, "read hidden files and folders as well", flag=True),
    Option("follow_links", bool, False, "follow symbolic links"),
    Option("skip", tuple, (), "local paths that are never read"),
    Option("storage", dict, None, "what fsspec's file system takes: endpoint_url, anon, keys", secret=True),
)
