"""The ledger's tables, and the steps that bring an older ledger up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

APPLICATION = int.from_bytes(b"pens", "big")
"""Written into the file's header: other programs' databases have a user_version, too."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, status TEXT NOT NULL, space TEXT, report TEXT);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, fingerprint TEXT, state TEXT NOT NULL, seen INTEGER NOT NULL,
    run INTEGER NOT NULL, attempt INTEGER NOT NULL,
    parser TEXT, media_type TEXT, bytes INTEGER, chunks INTEGER, tokens INTEGER);
CREATE TABLE chunks (
    document INTEGER NOT NULL, id BLOB NOT NULL, content INTEGER NOT NULL, digest INTEGER NOT NULL,
    attempt INTEGER NOT NULL, acked INTEGER NOT NULL, PRIMARY KEY (document, id)) WITHOUT ROWID;
CREATE TABLE failures (
    uri TEXT NOT NULL, stage TEXT NOT NULL, place TEXT NOT NULL, cause TEXT NOT NULL, permanent INTEGER NOT NULL,
    attempts INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL, PRIMARY KEY (uri, stage, place)) WITHOUT ROWID;
CREATE TABLE cursors (source TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID;
"""
"""Version 1. A new ledger is made by all steps, one after the other, as an old one is brought up to date."""

MEMBERS = """
CREATE TABLE IF NOT EXISTS members (url TEXT PRIMARY KEY, since INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undeleted (url TEXT NOT NULL, id BLOB NOT NULL, PRIMARY KEY (url, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
    id BLOB NOT NULL, url TEXT NOT NULL, uri TEXT NOT NULL, cause TEXT NOT NULL, PRIMARY KEY (id, url)) WITHOUT ROWID;
"""
"""Of sinks that are filled together: how far each is, what is yet to be deleted from it, and what it cannot take.
Some ledgers of version 1 have these tables."""

FAILURES_BY_ATTEMPT = """
ALTER TABLE failures ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE failures ADD COLUMN run INTEGER NOT NULL DEFAULT 0;
"""
"""What clears a failure is a later attempt, or a later listing, and no clock, which may be set back."""

REMOVALS = """
CREATE TABLE removals (uri TEXT PRIMARY KEY, since REAL NOT NULL, pending INTEGER NOT NULL) WITHOUT ROWID;
"""
"""What was taken out for good: a document, or a folder with all beneath it. Pending until its documents are out."""
PARSER_CODE = """
ALTER TABLE documents ADD COLUMN parser_code TEXT;
"""
"""What documents are read again by when a parser of the user's own has changed."""
ACCEPTED = """
ALTER TABLE failures ADD COLUMN accepted TEXT;
ALTER TABLE failures ADD COLUMN traceback TEXT NOT NULL DEFAULT '';
"""
"""`accepted`: the fingerprint of the document whose failure somebody lives with, '' where it had none."""
NEXT_TRY = """
ALTER TABLE failures ADD COLUMN next REAL NOT NULL DEFAULT 0;
"""
"""When a passing failure is tried again by a run that follows its source."""
REVISION = """
ALTER TABLE documents ADD COLUMN revision TEXT NOT NULL DEFAULT '';
"""
"""The version of a document's metadata, where its source tells it apart from that of the content."""
FRESHNESS = """
ALTER TABLE documents ADD COLUMN searchable REAL;
ALTER TABLE documents ADD COLUMN since_heard REAL;
ALTER TABLE documents ADD COLUMN since_changed REAL;
"""
"""When a document became searchable as it is, and how many seconds that was after it was heard of, and changed."""

ALERTS = """
CREATE TABLE alerts (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, query TEXT NOT NULL, score REAL NOT NULL, vector_name TEXT,
    narrowed TEXT, webhook TEXT, command TEXT, secret TEXT, since REAL NOT NULL,
    space TEXT, vector BLOB, trouble TEXT NOT NULL DEFAULT '',
    matches INTEGER NOT NULL DEFAULT 0, delivered INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
    last REAL, next REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE matches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, alert TEXT NOT NULL, uri TEXT NOT NULL,
    chunk TEXT NOT NULL, score REAL NOT NULL, text TEXT NOT NULL, about TEXT NOT NULL, time REAL NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0);
CREATE INDEX matches_waiting ON matches (alert, attempts, id) WHERE state = 'waiting';
"""
"""Standing queries, with the name of the environment variable of each one's secret; and what they found."""


def _statements(sql: str) -> Callable[[sqlite3.Connection], None]:
    def step(db: sqlite3.Connection) -> None:
        for statement in filter(None, map(str.strip, sql.split(";\n"))):
            db.execute(statement)

    return step


STEPS = (
    _statements(TABLES),
    _statements(MEMBERS + FAILURES_BY_ATTEMPT),
    _statements(REMOVALS + PARSER_CODE + ACCEPTED),
    _statements(NEXT_TRY + REVISION),
    _statements(FRESHNESS + ALERTS),
)
"""STEPS[n] makes version n + 1 of version n."""
VERSION = len(STEPS)


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring a ledger of this version up to date. To be called within a transaction."""
    for step in STEPS[version:]:
        step(db)
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")
